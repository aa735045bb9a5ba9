import pytest

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.models import offline_minilm_path, resolve_model


def test_names_folders_and_hub(tmp_path):
    assert resolve_model("minilm") == str(offline_minilm_path())
    assert (offline_minilm_path() / "config.json").is_file()
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("BAAI/bge-small-en-v1.5") == "BAAI/bge-small-en-v1.5"


@pytest.mark.parametrize("name", ["", "  ", "./nowhere", "/no/such/folder"])
def test_what_cannot_be_found_is_named(name):
    with pytest.raises(ConfigurationError, match="model name"):
        resolve_model(name)
