"""Eight-bit weights: how far they may be off, and that a saved model is the widened one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import FEELING, TEXTS, make_tokenizer

from llama_index_instruct import ConfigurationError
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.inbedder.loading import load_model
from llama_index_instruct.inbedder.weights import (
    QUANTIZED_FILE,
    dequantize,
    is_quantized,
    load_quantized,
    quantize,
    save_quantized,
)

numbers = st.floats(-1e4, 1e4, width=32, allow_nan=False)
matrices = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=5)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(matrices)
def test_every_entry_of_a_matrix_is_off_by_half_a_step_at_most(values):
    weight = torch.tensor(values)
    packed = quantize({"w": weight})
    assert packed["w"].dtype == torch.int8 and packed["w.scale"].shape == (len(values), 1)
    back = dequantize(packed, torch.float32)["w"]
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    assert torch.isfinite(back).all()
    # Scales are float16: one part in 2048 of the largest entry, and rows below its range lose what they have.
    assert ((back - weight).abs() <= 0.5 * step * (1 + 2**-10) + 4e-6).all()


@pytest.mark.parametrize("largest", [1e-1, 1e-3, 1e-4, 1e-5, 1e-6])
def test_small_rows_keep_their_shape(largest):
    weight = torch.linspace(-largest, largest, 64)[None, :]
    back = dequantize(quantize({"w": weight}), torch.float32)["w"]
    assert float((back - weight).abs().max()) <= 0.02 * largest


def test_rows_of_zeros_stay_zeros():
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    assert not dequantize(quantize({"w": weight}), torch.float32)["w"][0].any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=1, max_size=9))
def test_vectors_are_kept_in_half_precision(values):
    vector = torch.tensor(values)
    packed = quantize({"b": vector})
    assert set(packed) == {"b"}
    assert torch.equal(dequantize(packed, torch.float32)["b"], vector.half().float())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(matrices)
def test_quantising_what_was_quantised_changes_little(values):
    once = dequantize(quantize({"w": torch.tensor(values)}), torch.float32)["w"]
    twice = dequantize(quantize({"w": once}), torch.float32)["w"]
    assert ((twice - once).abs() <= once.abs().amax(dim=1, keepdim=True) / 127 + 4e-6).all()


@pytest.fixture
def plain(folders, request):
    return load_model(str(folders[request.param]), "masked", dtype=torch.float32).eval()


@pytest.mark.parametrize("plain", ["bert", "roberta"], indirect=True)
def test_a_saved_model_is_the_widened_one(plain, tmp_path):
    save_quantized(plain, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert is_quantized(str(folder)) and not is_quantized(str(tmp_path))
    loaded = load_quantized(str(folder), torch.float32).eval()
    expected = dequantize(quantize(plain.state_dict()), torch.float32)
    found = loaded.state_dict()
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    stored = load_file(folder / QUANTIZED_FILE)
    assert not any("decoder.weight" in key for key in stored)
    ids = torch.arange(5, 15)[None, :]
    with torch.no_grad():
        plain.load_state_dict(expected)
        assert torch.allclose(loaded(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("plain", ["bert", "roberta"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_in_another_number_format(plain, tmp_path, dtype):
    save_quantized(plain, tmp_path)
    loaded = load_quantized(str(tmp_path), dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


@pytest.mark.parametrize("plain", ["bert", "roberta"], indirect=True)
def test_an_embedding_of_eight_bit_weights(plain, folders, tmp_path):
    name = plain.config.model_type
    save_quantized(plain, tmp_path)
    make_tokenizer(name).save_pretrained(tmp_path)
    narrow = InBedderEmbedding(str(tmp_path), FEELING, dtype="float32", device="cpu")
    wide = InBedderEmbedding(str(folders[name]), FEELING, dtype="float32", device="cpu")
    for one, other in zip(
        narrow.get_text_embedding_batch(list(TEXTS)), wide.get_text_embedding_batch(list(TEXTS)), strict=True
    ):
        assert torch.tensor(one) @ torch.tensor(other) > 0.9


def damaged(folder, change):
    weights = load_file(folder / QUANTIZED_FILE)
    change(weights)
    save_file(weights, folder / QUANTIZED_FILE, metadata={"format": "pt"})


def first_matrix(weights):
    return next(key for key in sorted(weights) if "attention" in key and key + ".scale" in weights)


@pytest.mark.parametrize("plain", ["bert"], indirect=True)
def test_missing_weights(plain, tmp_path):
    save_quantized(plain, tmp_path)
    damaged(tmp_path, lambda weights: weights.pop("cls.predictions.bias"))
    with pytest.raises(ConfigurationError, match=r"weights missing \['cls.predictions"):
        load_quantized(str(tmp_path), torch.float32)


@pytest.mark.parametrize("plain", ["bert"], indirect=True)
def test_unexpected_weights(plain, tmp_path):
    save_quantized(plain, tmp_path)
    damaged(tmp_path, lambda weights: weights.update(other=torch.zeros(3)))
    with pytest.raises(ConfigurationError, match=r"unexpected \['other'\]"):
        load_quantized(str(tmp_path), torch.float32)


@pytest.mark.parametrize("plain", ["bert"], indirect=True)
def test_weights_of_another_shape(plain, tmp_path):
    save_quantized(plain, tmp_path)

    def halve(weights):
        key = first_matrix(weights)
        weights[key] = weights[key][:, : weights[key].shape[1] // 2].contiguous()

    damaged(tmp_path, halve)
    with pytest.raises(ConfigurationError):
        load_quantized(str(tmp_path), torch.float32)


@pytest.mark.parametrize("plain", ["bert"], indirect=True)
def test_a_matrix_without_its_scale(plain, tmp_path):
    save_quantized(plain, tmp_path)
    damaged(tmp_path, lambda weights: weights.pop(first_matrix(weights) + ".scale"))
    with pytest.raises(ConfigurationError):
        load_quantized(str(tmp_path), torch.float32)
