"""F31 to F33, F37 to F39, and F29 where a model runs: odd texts, little memory, half precision and copies."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from inbedder import tiny
from incontext import decoders

from llama_index_instruct import ConfigurationError, InBedderEmbedding, InContextEmbedding, InstructWarning

ODD = ["\x00\x01\x02", "مرحبا \u202e order", "🙂" * 50, "e\u0301\ufeff", "\U0010ffff"]
TEXTS = list(tiny.TEXTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("models")
    return {"inbedder": tiny.save("opt", parent / "a"), "incontext": decoders.save("llama", parent / "b")}


@pytest.fixture(scope="module", params=["inbedder", "incontext"])
def new_model(request, folders):
    """Makes models of one kind, with settings of their own."""
    kind = InBedderEmbedding if request.param == "inbedder" else InContextEmbedding

    def made(asked=tiny.FEELING, **settings):
        return kind(str(folders[request.param]), asked, **{"device": "cpu", "dtype": "float32", **settings})

    return made


@pytest.fixture(scope="module")
def model(new_model):
    return new_model()


def assert_unit(vectors):
    np.testing.assert_allclose(np.linalg.norm(np.array(vectors), axis=1), 1.0, atol=1e-6)


def replace_forward(model, monkeypatch, before):
    """Let ``before`` see the token ids of every batch that goes through the model."""
    inbedder = isinstance(model, InBedderEmbedding)
    owner, method = (model.encoder.architecture, "embed") if inbedder else (model._encoder, "_forward")
    forward = getattr(owner, method)

    def watched(rows, *rest):
        before(rows)
        return forward(rows, *rest)

    monkeypatch.setattr(owner, method, watched)


async def test_f29_an_embedding_thread_stops_at_the_next_batch(new_model, monkeypatch):
    model = new_model(batch_tokens=1)
    begun, go_on, batches = threading.Event(), threading.Event(), []

    def waiting(rows):
        batches.append(len(rows))
        begun.set()
        go_on.wait(20)

    replace_forward(model, monkeypatch, waiting)
    task = asyncio.ensure_future(model.aget_text_embedding_batch([f"text {number}" for number in range(8)]))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    # The next call waits for its turn, and so for the end of the one that was cancelled.
    await asyncio.to_thread(model.get_text_embedding, "next")
    assert len(batches) == 2


@pytest.mark.parametrize("asked", ["", "  \n", "\x00\x01"], ids=repr)
def test_f31_an_instruction_without_words(new_model, asked):
    with pytest.raises(ConfigurationError, match=r"(instruction|task): expected"):
        new_model(asked)


def test_f31_texts_without_words_have_a_vector(model):
    assert_unit(model.get_text_embedding_batch(["", " \n\t", "\x00\x01"]))


@pytest.mark.parametrize("text", ["a" * 1_000_000, "word " * 20_000], ids=["one run", "words"])
def test_f32_a_long_text_loses_its_end_and_says_so(model, text, monkeypatch):
    lengths = []
    replace_forward(model, monkeypatch, lambda rows: lengths.extend(map(len, rows)))
    with pytest.warns(InstructWarning, match="1 of 2 texts") as caught:
        vectors = model.get_text_embedding_batch(["ok", text])
    assert len(caught) == 1 and max(lengths) <= tiny.POSITIONS
    assert_unit(vectors)
    np.testing.assert_allclose(vectors[0], model.get_text_embedding("ok"), atol=1e-5)


def test_f32_what_closes_a_prompt_is_kept(new_model, monkeypatch):
    model, rows = new_model(), []
    replace_forward(model, monkeypatch, rows.extend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InstructWarning)
        for query in ("ok", "word " * 1000):
            model.get_query_embedding(query)
    short, long = map(list, rows)
    assert len(long) > len(short) and long[-4:] == short[-4:]


@pytest.mark.parametrize("wrong", [None, b"bytes", 7, ["list"]], ids=repr)
async def test_f33_what_is_no_text(model, wrong):
    start = time.perf_counter()
    for call in (model.get_text_embedding, model.get_query_embedding):
        with pytest.raises((TypeError, ConfigurationError), match="expected a string"):
            call(wrong)
    for call in (model.aget_text_embedding, model.aget_query_embedding):
        with pytest.raises((TypeError, ConfigurationError), match="expected a string"):
            await call(wrong)
    assert time.perf_counter() - start < 4.0  # peers try again for 8 s a call


def test_f33_half_a_surrogate_pair_is_named_with_its_place(model):
    with pytest.raises(ConfigurationError, match="text 1: expected valid Unicode"):
        model.get_text_embedding_batch(["ok", "half \ud83d of a pair"])


def test_f33_odd_characters_have_vectors(model):
    vectors = model.get_text_embedding_batch([*ODD, "ok"])
    assert_unit(vectors)
    np.testing.assert_allclose([model.get_text_embedding(text) for text in ODD], vectors[:-1], atol=1e-5)


def limited(largest, sizes):
    """Memory for so many rows at a time."""

    def check(rows):
        sizes.append(len(rows))
        if len(rows) > largest:
            raise torch.OutOfMemoryError("out of memory")

    return check


def test_f37_a_batch_that_does_not_fit_is_halved(new_model, monkeypatch):
    model, sizes = new_model(batch_tokens=4096), []
    texts = [f"{text} {number}" for number in range(3) for text in TEXTS]
    expected = model.get_text_embedding_batch(texts)
    replace_forward(model, monkeypatch, limited(4, sizes))
    np.testing.assert_allclose(model.get_text_embedding_batch(texts), expected, atol=1e-5)
    assert max(sizes) > 4


def test_f37_one_text_that_does_not_fit_is_an_error(new_model, monkeypatch):
    model = new_model()
    replace_forward(model, monkeypatch, limited(0, []))
    with pytest.raises(torch.OutOfMemoryError):
        model.get_text_embedding_batch(["ok", "thank you"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_f38_half_precision_gives_whole_vectors(new_model, model, dtype):
    vectors = new_model(dtype=dtype).get_text_embedding_batch(TEXTS)
    assert all(type(value) is float for vector in vectors for value in vector)
    assert_unit(vectors)
    cosines = np.sum(np.array(vectors) * np.array(model.get_text_embedding_batch(TEXTS)), axis=1)
    assert cosines.min() > 0.97


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "dictionary": lambda model: type(model).from_dict(json.loads(json.dumps(model.to_dict()))),
}


@pytest.mark.parametrize("way", COPIES)
def test_f39_a_copied_model_gives_the_same_vectors(model, way):
    twin = COPIES[way](model)
    np.testing.assert_allclose(twin.get_text_embedding_batch(TEXTS), model.get_text_embedding_batch(TEXTS), atol=1e-6)
    np.testing.assert_allclose(twin.get_query_embedding("ok"), model.get_query_embedding("ok"), atol=1e-6)
    assert "key" not in model.to_dict()
