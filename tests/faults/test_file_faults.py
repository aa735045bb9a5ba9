"""F16 to F18: saved transforms and models that are damaged, foreign, dangerous or half written."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from inbedder import tiny
from safetensors.numpy import load_file, save

from llama_index_instruct import GSTransform, InBedderEmbedding, InContextEmbedding
from llama_index_instruct.errors import TransformFileError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@functools.cache
def fitted(seed=0):
    vectors = np.random.default_rng(seed).normal(size=(30, 6))
    return GSTransform.from_labels(vectors, ["a", "b"] * 15, instruction=f"question {seed}")


def assert_same(found, expected):
    assert found.info == expected.info and found.digest == expected.digest
    np.testing.assert_array_equal(found.search, expected.search)


@pytest.fixture
def saved(tmp_path):
    fitted().save_pretrained(tmp_path / "transform")
    return tmp_path / "transform"


def assert_refused(folder):
    with pytest.raises(TransformFileError) as caught:
        GSTransform.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def rewrite(folder, change=lambda tensors: None, **config):
    """Other contents with a checksum that fits them."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    (folder / WEIGHTS).write_bytes(payload := save(tensors))
    told = json.loads((folder / CONFIG).read_text()) | {"sha256": hashlib.sha256(payload).hexdigest(), **config}
    (folder / CONFIG).write_text(json.dumps(told))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_f16_a_flipped_byte_is_found_or_harmless(saved, name):
    path = saved / name
    whole = path.read_bytes()
    refused = 0
    for offset in range(0, len(whole), 97):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x15]) + whole[offset + 1 :])
        try:
            loaded = GSTransform.from_pretrained(saved)
        except TransformFileError as error:
            assert str(saved) in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.layers[0][0], fitted().layers[0][0])
    assert refused or name == CONFIG


def to_double(tensors):
    tensors["search"] = tensors["search"].astype(np.float64)


def to_nan(tensors):
    tensors["layers.0.weight"][0, 0] = np.nan


DAMAGE = {
    "truncated": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
    "empty": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "garbage": lambda folder: (folder / WEIGHTS).write_bytes(b"<html>404</html>"),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no config": lambda folder: (folder / CONFIG).unlink(),
    "foreign config": lambda folder: (folder / CONFIG).write_text('{"in_features": 6, "out_features": 8}'),
    "another transform's weights": lambda folder: (
        fitted(1).save_pretrained(folder.parent / "other"),
        shutil.copy(folder.parent / "other" / WEIGHTS, folder),
    ),
    "NaN": lambda folder: rewrite(folder, to_nan),
    "float64": lambda folder: rewrite(folder, to_double),
    "missing tensor": lambda folder: rewrite(folder, lambda tensors: tensors.pop("layers.0.bias")),
    "config says otherwise": lambda folder: rewrite(folder, input_dimension=7),
    "another format version": lambda folder: rewrite(folder, format_version=2),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_f16_damaged_or_foreign_files(saved, kind):
    assert_same(GSTransform.from_pretrained(saved), fitted())
    DAMAGE[kind](saved)
    assert_refused(saved)


def test_f16_a_transposed_weight_comes_back_exactly(tmp_path):
    weight = np.arange(12, dtype=np.float32).reshape(3, 4).T
    turned = dataclasses.replace(
        fitted(), layers=((weight, np.zeros(4, dtype=np.float32)),), search=np.asfortranarray(weight.T)
    )
    turned.save_pretrained(tmp_path)
    loaded = GSTransform.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.layers[0][0], weight)
    np.testing.assert_array_equal(loaded.search, weight.T)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["alone", CONFIG, WEIGHTS])
def test_f17_a_pickle_in_place_of_a_transform(saved, tmp_path, place):
    trap = tmp_path / "sprung"
    payload = pickle.dumps(Trap(trap))
    offered = tmp_path / "transform.pkl" if place == "alone" else saved
    (offered if place == "alone" else saved / place).write_bytes(payload)
    assert_refused(offered)
    assert not trap.exists()
    pickle.loads(payload)
    assert trap.exists()


def loaders(folder):
    return (
        lambda: InBedderEmbedding(str(folder), "What?", device="cpu"),
        lambda: InContextEmbedding(str(folder), "Find it.", device="cpu"),
    )


def test_f17_a_model_that_brings_code(tmp_path):
    folder, trap = tmp_path / "model", tmp_path / "sprung"
    folder.mkdir()
    code = {"AutoConfig": "trap.TrapConfig", "AutoModel": "trap.Trap", "AutoModelForCausalLM": "trap.Trap"}
    (folder / CONFIG).write_text(json.dumps({"model_type": "trap", "auto_map": code}))
    (folder / "trap.py").write_text(f"from pathlib import Path\nPath({str(trap)!r}).touch()\n")
    for load in loaders(folder):
        with pytest.raises(ValueError, match="trust_remote_code"):
            load()
    assert not trap.exists()


def test_f17_a_model_whose_weights_are_a_pickle(tmp_path):
    folder, trap = tiny.save("gpt2", tmp_path / "model"), tmp_path / "sprung"
    (folder / WEIGHTS).unlink()
    torch.save({"wte.weight": Trap(trap)}, folder / "pytorch_model.bin")
    for load in loaders(folder):
        with pytest.raises(Exception, match=r"(?i)weights.?only|safetensors|torch.load"):
            load()
    assert not trap.exists()


class KilledError(BaseException):
    """Stands for a kill: nothing after it happens."""


ACTS = {"rename": (Path, "rename"), "replace": (Path, "replace"), "sync": (os, "fsync"), "open": (Path, "open")}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("before", [0, 1])
def test_f18_killed_during_a_save(saved, monkeypatch, act, before):
    """The old transform is there whole or the new one is, and the next save cleans up."""
    owner, name = ACTS[act]
    real, calls = getattr(owner, name), []

    def deadly(*args, **kwargs):
        calls.append(name)
        if len(calls) > before:
            raise KilledError
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, deadly)
        if (act, before) == ("rename", 1):
            fitted(1).save_pretrained(saved)
        else:
            with pytest.raises(KilledError):
                fitted(1).save_pretrained(saved)
    committed = act == "replace" or (act, before) == ("rename", 1)
    assert_same(GSTransform.from_pretrained(saved), fitted(1 if committed else 0))
    fitted(2).save_pretrained(saved)
    assert_same(GSTransform.from_pretrained(saved), fitted(2))
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG, WEIGHTS]
