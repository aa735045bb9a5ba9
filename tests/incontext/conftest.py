from __future__ import annotations

from pathlib import Path

import pytest
from incontext.decoders import DECODERS, EXAMPLES, TOPIC, save

from llama_index_instruct.incontext.embedding import InContextEmbedding


@pytest.fixture(scope="session")
def decoder_folders(tmp_path_factory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("decoders")
    return {name: save(name, parent / name) for name in DECODERS}


@pytest.fixture(scope="session", params=DECODERS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def folder(decoder_folders, name) -> Path:
    return decoder_folders[name]


@pytest.fixture(scope="session")
def embedding(folder) -> InContextEmbedding:
    return InContextEmbedding(str(folder), TOPIC, EXAMPLES, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def llama(decoder_folders) -> InContextEmbedding:
    return InContextEmbedding(str(decoder_folders["llama"]), TOPIC, EXAMPLES, dtype="float32", device="cpu")
