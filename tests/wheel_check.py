"""Run by `make wheel-check` with the Python of an environment that holds the wheel, its dependencies and nothing else."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

TIMED = """
import sys, time
start = time.perf_counter()
import llama_index_instruct
print(time.perf_counter() - start)
assert "torch" not in sys.modules
"""


def main() -> None:
    # The fastest of three: a busy machine slows some of them, a slow import all.
    seconds = min(float(subprocess.check_output([sys.executable, "-I", "-c", TIMED])) for _ in range(3))
    assert seconds < 1.0, f"import llama_index_instruct: expected under 1 s, found {seconds:.2f}"

    import llama_index_instruct
    from llama_index_instruct.errors import MissingExtraError

    home = Path(llama_index_instruct.__file__).parent
    assert home.is_relative_to(sys.prefix), f"expected the installed package, found {home}"
    imported, waiting, broken = 0, [], []
    for module in pkgutil.walk_packages([str(home)], "llama_index_instruct."):
        try:
            importlib.import_module(module.name)
            imported += 1
        except MissingExtraError as error:
            waiting.append(f"{module.name} [{error.extra}]")
        except ImportError as error:
            broken.append(f"{module.name}: {error}")
    assert not broken, broken
    for name in llama_index_instruct.__all__:
        getattr(llama_index_instruct, name)
    vector = llama_index_instruct.InBedderEmbedding(instruction="Which product is it about?").get_text_embedding(
        "a printer"
    )
    assert any(vector)
    subprocess.run([Path(sys.prefix) / "bin" / "llama-index-instruct", "--help"], check=True, stdout=subprocess.DEVNULL)
    sys.stdout.write(f"{imported} modules imported, waiting for an extra: {waiting or 'none'}; root: {seconds:.2f} s\n")


if __name__ == "__main__":
    main()
