"""Who may import whom: a module imports only from layers below its own, and rooms of one layer not each other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llama_index_instruct"
LAYERS = [
    {"arithmetic", "errors", "spans", "text"},
    {"embedders", "files", "models", "queries", "ranges", "rows", "steps", "teacher", "training_runs", "vectors"},
    {"inbedder", "gstransform", "refinement", "incontext"},
    {"evaluation"},
    {"cli", "__init__"},
]
# Numerics: arrays in, arrays out.
NUMERICS = (
    "arithmetic.py",
    "gstransform/classes.py",
    "gstransform/fisher.py",
    "gstransform/fitting.py",
    "gstransform/info.py",
    "gstransform/neighbours.py",
    "gstransform/ridge.py",
    "rows.py",
    "gstransform/searching.py",
    "gstransform/storage.py",
    "refinement/objectives.py",
    "refinement/agreement.py",
    "refinement/changes.py",
    "refinement/joint.py",
    "refinement/lowering.py",
    "refinement/words.py",
    "refinement/logistic.py",
    "refinement/settings.py",
    "refinement/solvers.py",
    "refinement/selection.py",
    "refinement/rounds.py",
)
FRAMEWORKS = {"llama_index", "qdrant_client", "torch", "transformers", "sentence_transformers", "openai"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def room(name):
    return name.split(".")[1] if "." in name else "__init__"


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path):
        if name.split(".")[0] != "llama_index_instruct":
            continue
        other = room(name)
        if other != own:
            assert layer(other) < layer(own), f"{path.name} imports {name}"
            assert other != "__init__", f"{path.name} imports the package root"


@pytest.mark.parametrize("name", NUMERICS)
def test_numerics_know_no_framework(name):
    assert not {module.split(".")[0] for module in imported(PACKAGE / name)} & FRAMEWORKS


def test_no_module_is_two_rooms():
    long = {str(p.relative_to(PACKAGE)): n for p in modules() if (n := len(p.read_text().splitlines())) > 400}
    assert not long
