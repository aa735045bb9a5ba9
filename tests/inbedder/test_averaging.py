import pytest
import torch
from inbedder import tiny
from safetensors.torch import load_file

from llama_index_instruct import ConfigurationError, InBedderEmbedding
from llama_index_instruct.inbedder.averaging import average_models
from llama_index_instruct.inbedder.weights import is_quantized

families = pytest.mark.parametrize("family", ["bert", "gpt2"])


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def two(family, tmp_path):
    """Two models of one architecture, the second with every matrix turned over."""
    one, other = tiny.save(family, tmp_path / "one"), tiny.save(family, tmp_path / "other")
    model = tiny.make_model(family, tiny.make_tokenizer(family))
    model.load_state_dict({name: -2 * value for name, value in weights_of(one).items()}, strict=False)
    model.tie_weights()
    model.save_pretrained(other)
    return str(one), str(other)


@families
def test_the_mean_is_the_mean_of_every_weight(family, tmp_path):
    one, other = two(family, tmp_path)
    mean = weights_of(average_models([one, other], tmp_path / "mean", weights=[3, 1]))
    first, second = weights_of(tmp_path / "one"), weights_of(tmp_path / "other")
    assert mean.keys() == first.keys()
    for name, value in mean.items():
        torch.testing.assert_close(value, 0.75 * first[name] + 0.25 * second[name])


@families
def test_without_weights_all_count_alike(family, tmp_path):
    one, other = two(family, tmp_path)
    plain = weights_of(average_models([one, other], tmp_path / "plain"))
    equal = weights_of(average_models([one, other], tmp_path / "equal", weights=[2, 2]))
    assert all(torch.equal(value, equal[name]) for name, value in plain.items())


@families
def test_a_mean_of_one_model_embeds_as_it(family, tmp_path):
    one = tiny.save(family, tmp_path / "one")
    same = average_models([str(one), str(one)], tmp_path / "same")
    vectors = [
        InBedderEmbedding(str(f), "b", dtype="float32", device="cpu").get_text_embedding("a") for f in (one, same)
    ]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)


def test_eight_bits_load_and_can_be_averaged_again(tmp_path):
    one = tiny.save("bert", tmp_path / "one")
    small = average_models([str(one)], tmp_path / "small", eight_bit=True)
    assert is_quantized(str(small)) and not (small / "model.safetensors").exists()
    again = average_models([str(small), str(one)], tmp_path / "again")
    vectors = [
        InBedderEmbedding(str(f), "b", dtype="float32", device="cpu").get_text_embedding("a") for f in (one, again)
    ]
    assert torch.tensor(vectors[0]) @ torch.tensor(vectors[1]) > 0.999


def test_the_card_names_the_parts_and_no_path(tmp_path):
    one, other = two("bert", tmp_path)
    card = (average_models([one, other], tmp_path / "mean", weights=[3, 1]) / "README.md").read_text(encoding="utf-8")
    assert "0.75 of `one`" in card and "0.25 of `other`" in card and str(tmp_path) not in card


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_are_none_are_refused(tmp_path, weights):
    with pytest.raises(ConfigurationError, match="weights: expected 2 numbers above 0"):
        average_models(["one", "other"], tmp_path / "mean", weights=weights)


def test_no_models_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="models: expected at least one"):
        average_models([], tmp_path / "mean")


@pytest.mark.parametrize(
    "changes",
    [{"type_vocab_size": 5}, {"inbedder": {"pooling": "avg_gen", "template": "inbedder", "masks": 5}}],
    ids=["shape", "masks"],
)
def test_models_of_another_kind_are_refused(tmp_path, changes):
    one = tiny.save("bert", tmp_path / "one")
    other = tiny.save("bert", tmp_path / "other", **changes)
    with pytest.raises(ConfigurationError, match="other: expected the architecture, vocabulary and template of"):
        average_models([str(one), str(other)], tmp_path / "mean")


def test_models_with_other_words_are_refused(tmp_path):
    one, other = two("bert", tmp_path)
    tokenizer = tmp_path / "other" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8").replace('"the"', '"xyz"'), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="vocabulary"):
        average_models([one, other], tmp_path / "mean")


def test_an_encoder_decoder_is_refused(tmp_path):
    one = tiny.save("t5", tmp_path / "one")
    with pytest.raises(ConfigurationError, match="found an encoder-decoder"):
        average_models([str(one)], tmp_path / "mean")


def test_weights_of_another_format_are_not_left_behind(tmp_path):
    one = tiny.save("bert", tmp_path / "one")
    small = average_models([str(one)], tmp_path / "small", eight_bit=True)
    with pytest.raises(ConfigurationError, match="expected a new or empty folder"):
        average_models([str(one)], small)


def test_eight_bits_of_a_causal_model_are_refused(tmp_path):
    one = tiny.save("gpt2", tmp_path / "one")
    with pytest.raises(ConfigurationError, match="expected a masked model, found a causal one"):
        average_models([str(one)], tmp_path / "small", eight_bit=True)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        average_models([str(tmp_path / "nowhere")], tmp_path / "mean")
