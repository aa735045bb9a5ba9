import dataclasses
import functools
import hashlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct.errors import InstructError, TransformFileError
from llama_index_instruct.gstransform.contrastive import ContrastiveSettings
from llama_index_instruct.gstransform.storage import read_transform, write_transform
from llama_index_instruct.gstransform.transform import GSTransform

METHODS = ("ridge", "fisher", "contrastive", "contrastive-mlp")
FILES = ["config.json", "model.safetensors"]
D = 6


@functools.cache
def fitted(method="ridge", seed=0, d=D, instruction="How urgent is it?"):
    rng = np.random.default_rng(seed)
    options = None
    if method.startswith("contrastive"):
        options = ContrastiveSettings(epochs=2, dimension=5, hidden=7)
    return GSTransform.from_labels(
        rng.normal(size=(30, d)),
        ["ärgerlich", "calm", None] * 10,
        instruction=instruction,
        method=method,
        settings=options,
        embed_model="words",
        distance="Cosine",
        fingerprint=rng.normal(size=(3, d)).astype(np.float32),
    )


def tensors_of(transform):
    found = {"search": transform.search, "fingerprint": transform.fingerprint}
    for number, (weight, bias) in enumerate(transform.layers):
        found |= {f"weight {number}": weight, f"bias {number}": bias}
    return {name: array for name, array in found.items() if array is not None}


def assert_same(a, b):
    assert a.info == b.info
    mine, others = tensors_of(a), tensors_of(b)
    assert mine.keys() == others.keys()
    for name, array in mine.items():
        assert others[name].dtype == np.float32
        np.testing.assert_array_equal(others[name], array)


def is_one_of(folder, *transforms):
    """Return which of the transforms the folder holds, whole."""
    loaded = GSTransform.from_pretrained(folder)
    [which] = [number for number, transform in enumerate(transforms) if loaded.info == transform.info]
    assert_same(loaded, transforms[which])
    return which


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def plant(folder, payload, shapes=None):
    """Put other weights there, with the checksum that fits."""
    (folder / "model.safetensors").write_bytes(payload)
    edit(folder, sha256=hashlib.sha256(payload).hexdigest(), **({} if shapes is None else {"tensors": shapes}))


def packed(tensors):
    """A safetensors file, written by hand: name -> (dtype, shape, bytes)."""
    head, body = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


@pytest.fixture
def saved(tmp_path):
    fitted().save_pretrained(tmp_path / "t")
    return tmp_path / "t"


# what is saved is what is loaded


@pytest.mark.parametrize("probes", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_loaded_is_saved_bit_for_bit(method, probes, tmp_path):
    transform = fitted(method) if probes else dataclasses.replace(fitted(method), fingerprint=None)
    transform.save_pretrained(str(tmp_path / "a" / "b"))
    loaded = GSTransform.from_pretrained(str(tmp_path / "a" / "b"))
    assert_same(loaded, transform)
    vectors = np.random.default_rng(1).normal(size=(9, D))
    np.testing.assert_array_equal(loaded.transform(vectors), transform.transform(vectors))
    if transform.is_linear:
        np.testing.assert_array_equal(loaded.search_vector(vectors[0]), transform.search_vector(vectors[0]))
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == FILES
    loaded.save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "a" / "b" / name).read_bytes()


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=-1)[::2, ..., ::3],
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "float64": lambda a: a.astype(np.float64),
    "big-endian": lambda a: a.astype(">f4"),
    "read-only": lambda a: np.frombuffer(a.tobytes(), dtype=np.float32).reshape(a.shape),
}


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "float64"])
def test_the_layout_of_weights_does_not_matter(layout, tmp_path):
    plain = fitted()
    laid = LAYOUTS[layout]
    transform = dataclasses.replace(
        plain,
        layers=tuple((laid(weight), bias) for weight, bias in plain.layers),
        search=laid(plain.search),
        fingerprint=laid(plain.fingerprint),
    )
    transform.save_pretrained(tmp_path)
    assert_same(GSTransform.from_pretrained(tmp_path), plain)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), min_size=2, max_size=3), st.sampled_from(sorted(LAYOUTS)))
@settings(max_examples=60, deadline=None)
def test_any_array_comes_back(tmp_path_factory, seed, shape, layout):
    folder = tmp_path_factory.mktemp("any")
    array = (np.random.default_rng(seed).normal(size=shape) * 10.0 ** (seed % 60 - 30)).astype(np.float32)
    write_transform(folder, {"seed": seed}, {"w": LAYOUTS[layout](array), "v": array})
    config, tensors = read_transform(folder)
    assert config["seed"] == seed
    for found in tensors.values():
        assert found.dtype == np.float32 and found.shape == array.shape
        np.testing.assert_array_equal(found, array)
    shutil.rmtree(folder)


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=8), st.floats(0, 1e6), max_size=3))
@settings(max_examples=40, deadline=None)
def test_any_words_come_back(tmp_path_factory, text, labels):
    folder = tmp_path_factory.mktemp("words")
    info = dataclasses.replace(fitted().info, instruction=text, embed_model=text, labels=labels)
    dataclasses.replace(fitted(), info=info).save_pretrained(folder)
    assert GSTransform.from_pretrained(folder).info == info
    shutil.rmtree(folder)


def test_half_a_surrogate_pair_comes_back_or_is_named(tmp_path):
    info = dataclasses.replace(fitted().info, instruction="urgent \ud83d?", labels={"\udc00": 1.0, "b": 2.0})
    try:
        dataclasses.replace(fitted(), info=info).save_pretrained(tmp_path)
    except InstructError:
        return
    assert GSTransform.from_pretrained(tmp_path).info.labels.keys() == info.labels.keys()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["weight", "losses"])
def test_what_cannot_be_loaded_is_not_saved(bad, where, saved):
    weight, bias = fitted().layers[0]
    if where == "weight":
        weight = np.where(np.eye(*weight.shape, dtype=bool), np.float32(bad), weight)
        transform = dataclasses.replace(fitted(), layers=((weight, bias),))
    else:
        info = dataclasses.replace(fitted().info, losses={"validation": [1.0, bad]})
        transform = dataclasses.replace(fitted(), info=info)
    with pytest.raises(InstructError):
        transform.save_pretrained(saved)
    assert_same(GSTransform.from_pretrained(saved), fitted())
    assert sorted(path.name for path in saved.iterdir()) == FILES


def test_a_seed_from_numpy_can_be_saved(tmp_path):
    rng = np.random.default_rng(0)
    transform = GSTransform.from_labels(rng.normal(size=(6, 2)), ["a", "b"] * 3, seed=np.int64(3))
    transform.save_pretrained(tmp_path)
    assert GSTransform.from_pretrained(tmp_path).info.seed == 3


def test_the_config_can_be_read_by_people(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["format"] == "llama_index_instruct.GSTransform" and config["format_version"] == 1
    assert config["sha256"] == hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert (config["input_dimension"], config["output_dimension"]) == (D, 8)
    assert (config["instruction"], config["embed_model"], config["distance"]) == (
        "How urgent is it?",
        "words",
        "Cosine",
    )
    assert config["labels"] == {"calm": 10.0, "ärgerlich": 10.0} and config["normalized"] is True
    assert config["tensors"]["fingerprint"] == [3, D]
    assert "ärgerlich" in (saved / "config.json").read_text(encoding="utf-8")


# F16: damaged, foreign, incomplete


def test_a_flipped_byte_anywhere_is_found(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    for offset in range(0, len(whole), 97):
        for mask in (0xFF, 0x01):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :])
            with pytest.raises(TransformFileError) as caught:
                GSTransform.from_pretrained(saved)
            assert str(path) in str(caught.value)
    path.write_bytes(whole)
    assert_same(GSTransform.from_pretrained(saved), fitted())


def swapped(data):
    half = len(data) // 2
    return data[half:] + data[:half]


@pytest.mark.parametrize("honest", [False, True], ids=["old checksum", "new checksum"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data + data,
        lambda data: (2**40).to_bytes(8, "little") + data[8:],
        lambda data: (2**64 - 1).to_bytes(8, "little") + data[8:],
        swapped,
        lambda data: b"<!DOCTYPE html><title>404</title>",
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        lambda data: b"PK\x03\x04" + data,
    ],
)
def test_damaged_weights_are_refused(damage, honest, saved):
    path = saved / "model.safetensors"
    data = damage(path.read_bytes())
    if honest:
        plant(saved, data)
    else:
        path.write_bytes(data)
    with pytest.raises(TransformFileError) as caught:
        GSTransform.from_pretrained(saved)
    assert str(path) in str(caught.value)


def own_tensors(folder):
    _, tensors = read_transform(folder)
    return {name: ("F32", list(array.shape), array.tobytes()) for name, array in tensors.items()}


def shapes_of(tensors):
    return {name: shape for name, (_, shape, _) in tensors.items()}


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "U8", "BOOL"])
def test_weights_of_another_type_are_refused(dtype, saved):
    tensors = own_tensors(saved)
    _, shape, _ = tensors["layers.0.weight"]
    width = {"F64": 8, "I64": 8, "I32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)
    tensors["layers.0.weight"] = dtype, shape, b"\0" * (width * shape[0] * shape[1])
    plant(saved, packed(tensors))
    with pytest.raises(TransformFileError) as caught:
        GSTransform.from_pretrained(saved)
    assert str(saved / "model.safetensors") in str(caught.value)


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.0.bias", "search", "fingerprint"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(name, bad, saved):
    tensors = own_tensors(saved)
    dtype, shape, raw = tensors[name]
    tensors[name] = dtype, shape, raw[:-4] + np.float32(bad).tobytes()
    plant(saved, packed(tensors))
    with pytest.raises(TransformFileError, match=f"model.safetensors: NaN or infinity in tensor '{name}'"):
        GSTransform.from_pretrained(saved)


def without(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def renamed(old, new):
    return lambda tensors: {new if name == old else name: tensor for name, tensor in tensors.items()}


def reshaped(name, shape):
    return lambda tensors: tensors | {name: ("F32", shape, b"\0" * (4 * math.prod(shape)))}


MISFITS = {
    "no weight": without("layers.0.weight"),
    "no bias": without("layers.0.bias"),
    "nothing": lambda tensors: {},
    "second layer only": renamed("layers.0.weight", "layers.1.weight"),
    "other names": renamed("layers.0.weight", "encoder.weight"),
    "bias too short": reshaped("layers.0.bias", [7]),
    "bias of two axes": reshaped("layers.0.bias", [1, 8]),
    "weight of one axis": reshaped("layers.0.weight", [48]),
    "weight of three axes": reshaped("layers.0.weight", [8, 6, 1]),
    "weight of another size": reshaped("layers.0.weight", [8, 7]),
    "search of another size": reshaped("search", [8, 6]),
    "search of one axis": reshaped("search", [6]),
    "fingerprint of another size": reshaped("fingerprint", [3, 7]),
    "a second layer that does not fit": lambda tensors: (
        tensors | {"layers.1.weight": ("F32", [2, 7], b"\0" * 56), "layers.1.bias": ("F32", [2], b"\0" * 8)}
    ),
}


@pytest.mark.parametrize("told", [True, False], ids=["config says so", "config says otherwise"])
@pytest.mark.parametrize("name", MISFITS)
def test_tensors_that_do_not_fit_are_refused(name, told, saved):
    tensors = MISFITS[name](own_tensors(saved))
    plant(saved, packed(tensors), shapes_of(tensors) if told else None)
    with pytest.raises(TransformFileError) as caught:
        GSTransform.from_pretrained(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("other", [{"seed": 1}, {"d": 5}, {"method": "fisher"}, {"method": "contrastive-mlp"}])
def test_a_file_of_another_transform_is_refused(name, other, saved, tmp_path):
    fitted(**other).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / name, saved / name)
    with pytest.raises(TransformFileError, match="belongs to another transform") as caught:
        GSTransform.from_pretrained(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"\xff\xfe{}", "not a JSON file"),
        (b"\x80\x04K\x01.", "not a JSON file"),
        (b"[]", "not the config of a GSTransform"),
        (b"null", "not the config of a GSTransform"),
        (b'"llama_index_instruct.GSTransform"', "not the config of a GSTransform"),
        (b"{}", "not the config of a GSTransform"),
        (b'{"in_features": 6, "out_features": 8, "bias": false}', "not the config of a GSTransform"),
        (b"[" * 100_000, "config.json"),
        (b'{"format_version": ' + b"1" * 5000 + b"}", "config.json"),
    ],
)
def test_a_config_of_something_else_is_refused(text, words, saved):
    (saved / "config.json").write_bytes(text)
    with pytest.raises(TransformFileError, match=words) as caught:
        GSTransform.from_pretrained(saved)
    assert str(saved / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other.Adapter"}, "not the config of a GSTransform"),
        ({"format_version": 2}, "expected format version 1, found 2; update this package"),
        ({"format_version": "1"}, "found '1'"),
        ({"format_version": None}, "format version"),
        ({"sha256": None}, "checksum"),
        ({"tensors": {}}, "disagree on the tensors"),
        ({"tensors": None}, "disagree on the tensors"),
        ({"input_dimension": 7}, r"config says \(7, 8\)"),
        ({"output_dimension": "8"}, "config says"),
    ],
)
def test_a_config_that_says_otherwise_is_refused(changes, words, saved):
    edit(saved, **changes)
    with pytest.raises(TransformFileError, match=words) as caught:
        GSTransform.from_pretrained(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("field", [*GSTransform.from_labels(np.eye(2), ["a", "b"]).info.__dataclass_fields__])
def test_a_config_with_a_field_missing_is_refused(field, saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    del config[field]
    (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(TransformFileError, match=field):
        GSTransform.from_pretrained(saved)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("normalized", "no"),
        ("normalized", None),
        ("scale", "x"),
        ("scale", None),
        ("scale", 0.0),
        ("scale", math.nan),
        ("scale", math.inf),
        ("distance", 3),
    ],
)
def test_a_field_that_changes_results_must_make_sense(field, value, saved):
    edit(saved, **{field: value})
    with pytest.raises(TransformFileError, match=field):
        GSTransform.from_pretrained(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, saved):
    (saved / name).unlink()
    with pytest.raises(TransformFileError) as caught:
        GSTransform.from_pretrained(saved)
    assert str(saved / name) in str(caught.value)
    (saved / name).mkdir()
    with pytest.raises(TransformFileError) as caught:
        GSTransform.from_pretrained(saved)
    assert str(saved / name) in str(caught.value)


def test_a_folder_that_is_none_is_named(saved, tmp_path):
    for path in (tmp_path / "nowhere", tmp_path, saved / "model.safetensors"):
        with pytest.raises(TransformFileError) as caught:
            GSTransform.from_pretrained(path)
        assert str(path) in str(caught.value)


def test_a_file_in_the_place_of_the_folder_is_kept(saved):
    with pytest.raises((InstructError, OSError)):
        fitted().save_pretrained(saved / "config.json")
    assert_same(GSTransform.from_pretrained(saved), fitted())


# F17: nothing is ever executed


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("place", ["alone", "model.safetensors", "config.json", "honest"])
@pytest.mark.parametrize("protocol", [0, 5])
def test_a_pickle_is_refused_unopened(place, protocol, saved, tmp_path):
    trap = tmp_path / "trap"
    payload = pickle.dumps(Bomb(trap), protocol=protocol)
    offered = saved
    if place == "alone":
        offered = tmp_path / "transform.pkl"
        offered.write_bytes(payload)
    elif place == "honest":
        plant(saved, payload)
    else:
        (saved / place).write_bytes(payload)
    with pytest.raises(TransformFileError) as caught:
        GSTransform.from_pretrained(offered)
    assert str(offered) in str(caught.value)
    assert not trap.exists()
    pickle.loads(payload).close()
    assert trap.exists()


# F18: killed while saving


class KilledError(BaseException):
    pass


class Killer:
    """Ends a save just before its k-th act on the disk, as a kill would: nothing after it happens."""

    def __init__(self, monkeypatch):
        self.after, self.acts = None, []
        for owner, name in (
            (Path, "mkdir"),
            (Path, "open"),
            (Path, "rename"),
            (Path, "replace"),
            (Path, "rmdir"),
            (os, "fsync"),
            (os, "open"),
            (shutil, "rmtree"),
        ):
            monkeypatch.setattr(owner, name, self.watched(name, getattr(owner, name)))

    def watched(self, name, act):
        @functools.wraps(act)
        def watch(*args, **kwargs):
            if self.after is not None:
                if len(self.acts) == self.after:
                    raise KilledError
                self.acts.append(name)
            return act(*args, **kwargs)

        return watch

    def save(self, transform, folder, after):
        self.after, self.acts = after, []
        try:
            transform.save_pretrained(folder)
            return True
        except KilledError:
            return False
        finally:
            self.after = None


def test_killed_before_any_act_the_old_or_the_new_is_there(tmp_path, monkeypatch):
    old, new, third = fitted(), fitted("fisher", 1, instruction="new"), fitted("contrastive", 2, instruction="third")
    killer = Killer(monkeypatch)
    held = []
    for after in range(100):
        folder = tmp_path / str(after)
        old.save_pretrained(folder)
        done = killer.save(new, folder, after)
        held.append(is_one_of(folder, old, new))
        assert held[-1] == ("rename" in killer.acts)
        third.save_pretrained(folder)
        assert_same(GSTransform.from_pretrained(folder), third)
        assert sorted(path.name for path in folder.iterdir()) == FILES
        if done:
            break
    assert done and held == sorted(held) and 5 < sum(held) < len(held) - 5


def test_a_first_save_that_is_killed_leaves_nothing_or_all(tmp_path, monkeypatch):
    killer = Killer(monkeypatch)
    loaded = 0
    for after in range(100):
        folder = tmp_path / str(after)
        done = killer.save(fitted(), folder, after)
        try:
            assert_same(GSTransform.from_pretrained(folder), fitted())
            loaded += 1
        except TransformFileError:
            assert "rename" not in killer.acts
        if done:
            break
    assert done and 5 < loaded < after


def test_killed_between_the_two_files_the_new_one_is_there(saved, monkeypatch):
    new, replaced = fitted("fisher", 1, instruction="new"), []
    real = Path.replace

    def only_once(self, target):
        if replaced:
            raise KilledError
        replaced.append(Path(target).name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", only_once)
    with pytest.raises(KilledError):
        new.save_pretrained(saved)
    monkeypatch.undo()
    assert replaced == ["model.safetensors"]
    assert is_one_of(saved, fitted(), new) == 1
    shutil.copytree(saved, saved.parent / "copy")
    assert is_one_of(saved.parent / "copy", fitted(), new) == 1
    fitted().save_pretrained(saved)
    assert is_one_of(saved, fitted(), new) == 0
    assert sorted(path.name for path in saved.iterdir()) == FILES


def test_a_full_disk_leaves_the_old_one(saved, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted("fisher", 1).save_pretrained(saved)
    monkeypatch.undo()
    assert_same(GSTransform.from_pretrained(saved), fitted())


def test_a_reader_during_a_save_sees_the_old_or_the_new(saved, monkeypatch):
    new = fitted("fisher", 1, instruction="new")
    real = Path.read_bytes

    def then_saved(self):
        found = real(self)
        monkeypatch.setattr(Path, "read_bytes", real)
        new.save_pretrained(saved)
        return found

    monkeypatch.setattr(Path, "read_bytes", then_saved)
    assert is_one_of(saved, fitted(), new) in (0, 1)


# One process that has everything imported forks a child per kill: fifty kills cost what five fresh interpreters would.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from llama_index_instruct.gstransform.storage import read_transform, write_transform

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(0)

def save(number):
    write_transform(folder, {"number": number}, {"w": np.full((200, 200), number), "b": np.full(number % 7 + 1, number)})

save(0)
seen, middle = set(), 0
until = time.monotonic() + 40
turn = 0
# A busy machine may need more kills than an idle one until enough of them were of some use.
while turn < rounds or ((len(seen) <= 20 or middle <= 5) and time.monotonic() < until):
    turn += 1
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        number = 1000 * turn
        save(number)
        os.write(told, b".")
        while True:
            number += 1
            save(number)
    os.read(heard, 1)
    os.close(heard)
    os.close(told)
    time.sleep(0.03 * chance.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    middle += sorted(path.name for path in folder.iterdir()) != ["config.json", "model.safetensors"]
    config, tensors = read_transform(folder)
    number = config["number"]
    assert (tensors["w"] == number).all() and tensors["b"].shape == (number % 7 + 1,), config
    seen.add(number)
save(-1)
assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
assert read_transform(folder)[0]["number"] == -1
print(len(seen), middle)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_any_moment_a_whole_transform_is_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), "60"], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    different, in_the_middle = map(int, done.stdout.split())
    assert different > 20 and in_the_middle > 5
