from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from llama_index_instruct.inbedder.embedding import InBedderEmbedding


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("tiny")
    return {name: tiny.save(name, parent / name) for name in tiny.ARCHITECTURES}


@pytest.fixture(scope="session", params=tiny.ARCHITECTURES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def folder(folders, name) -> Path:
    return folders[name]


@pytest.fixture(scope="session")
def embedding(folder) -> InBedderEmbedding:
    return InBedderEmbedding(str(folder), tiny.FEELING, dtype="float32", device="cpu", max_new_tokens=5)
