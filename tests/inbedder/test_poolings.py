"""Every pooling against a slow literal reading of its definition, one text at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CAUSAL, FEELING, LAYERS, MASKED, PATTERN, TEXTS

from llama_index_instruct import ConfigurationError
from llama_index_instruct.embedders.positions import load_tokenizer
from llama_index_instruct.inbedder.encoder import AnswerEncoder, EncoderSettings
from llama_index_instruct.inbedder.loading import load_model
from llama_index_instruct.inbedder.words import stopword_ids

DECODED = ("avg_gen", "last_gen")
LAYER_NUMBERS = (0, 1, LAYERS, -1)
STEPS = (1, 2, 5)
MOST = 5


def kind_of(name):
    return "causal" if name in CAUSAL else "masked" if name in MASKED else "seq2seq"


@dataclass
class Loaded:
    """A model for the encoder, and the same weights once more for the reference, which never stops early."""

    name: str
    kind: str
    model: Any
    endless: Any
    tokenizer: Any
    ends: set[int]
    outputs: dict[tuple[str, int], Any] = field(default_factory=dict)

    def encoder(self, **settings) -> AnswerEncoder:
        return AnswerEncoder(self.model, self.tokenizer, self.kind, EncoderSettings(**settings))

    def prompt(self, text, masks=3) -> torch.Tensor:
        filled = PATTERN.replace("{instruction}", FEELING).replace("{input}", text)
        if self.kind == "masked":
            filled += self.tokenizer.mask_token * masks
        return torch.tensor([self.tokenizer(filled)["input_ids"]])

    def generated(self, text, steps):
        if (text, steps) not in self.outputs:
            self.outputs[text, steps] = self._generated(self.prompt(text), steps)
        return self.outputs[text, steps]

    def _generated(self, ids, steps):
        return self.endless.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=steps,
            do_sample=False,
            output_hidden_states=True,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=self.tokenizer.pad_token_id,
        )


def load(name, folder):
    kind = kind_of(name)
    model, endless = (load_model(str(folder), kind, dtype=torch.float32).eval() for _ in range(2))
    tokenizer = load_tokenizer(str(folder))
    ends = {tokenizer.eos_token_id} - {None}
    if kind != "masked":
        endless.generation_config.eos_token_id = endless.config.eos_token_id = None
        ends |= make_some_texts_end_early(name, kind, model, endless, tokenizer)
        model.generation_config.eos_token_id = sorted(ends)
    return Loaded(name, kind, model, endless, tokenizer, ends)


def answer_tokens(loaded, text, steps=MOST):
    return loaded.generated(text, steps).sequences[0, -steps:].tolist()


def make_some_texts_end_early(name, kind, model, endless, tokenizer):
    """Tokens declared as ends so that one text ends at once, another later, a third never."""
    plain = Loaded(name, kind, model, endless, tokenizer, set())
    said = [answer_tokens(plain, text) for text in TEXTS]
    best: tuple[int, set[int]] = (0, set())
    words = sorted({token for tokens in said for token in tokens})
    for one in words:
        for other in words:
            lengths = {next((i for i, t in enumerate(tokens) if t in (one, other)), 9) for tokens in said}
            score = len(lengths) + 3 * (0 in lengths) + 3 * (9 in lengths)
            best = max(best, (score, {one, other}), key=lambda pair: pair[0])
    return best[1]


@pytest.fixture(scope="session")
def models(folders):
    return {name: load(name, folder) for name, folder in folders.items()}


@pytest.fixture
def loaded(models, name):
    return models[name]


def at_first_end(tokens, ends):
    """The predicted tokens up to and with the first end token."""
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    return tokens


def literal(loaded, text, pooling, layer, steps, dropped=frozenset(), masks=3):
    return READERS[loaded.kind](loaded, text, pooling, layer, steps, dropped, masks).numpy()


def literal_causal(loaded, text, pooling, layer, steps, dropped, masks):
    output = loaded.generated(text, steps)
    count = loaded.prompt(text).shape[1]
    prompt = output.hidden_states[0][layer][0]
    assert prompt.shape[0] == count
    if pooling == "first_gen":
        return prompt[count - 1]
    if pooling == "avg_prompt":
        return prompt[: count - 1].mean(dim=0)
    if pooling == "expected_answer":
        return torch.softmax(output.logits[0][0], dim=0) @ loaded.endless.get_output_embeddings().weight
    tokens = at_first_end(output.sequences[0, count:].tolist(), loaded.ends)
    unwanted = set(loaded.tokenizer.all_special_ids) | loaded.ends | dropped
    fed = {j: output.hidden_states[j][layer][0, -1] for j in range(1, steps)}
    kept = [fed[j] for j in range(1, len(tokens)) if tokens[j] not in unwanted]
    if not kept and 1 in fed:
        kept = [fed[1]]
    if pooling == "last_gen":
        return kept[-1] if kept else prompt[count - 1]
    return torch.stack([prompt[count - 1], *kept]).mean(dim=0)


def literal_seq2seq(loaded, text, pooling, layer, steps, dropped, masks):
    output = loaded.generated(text, steps)
    states = [step[layer][0, -1] for step in output.decoder_hidden_states]
    if pooling == "first_gen":
        return states[0]
    if pooling == "avg_prompt":
        return output.encoder_hidden_states[layer][0].mean(dim=0)
    if pooling == "expected_answer":
        return torch.softmax(output.logits[0][0], dim=0) @ loaded.endless.get_output_embeddings().weight
    tokens = at_first_end(output.sequences[0, 1:].tolist(), loaded.ends)
    unwanted = set(loaded.tokenizer.all_special_ids) | loaded.ends | dropped
    kept = [states[j] for j, token in enumerate(tokens) if token not in unwanted] or [states[0]]
    return kept[-1] if pooling == "last_gen" else torch.stack(kept).mean(dim=0)


def literal_masked(loaded, text, pooling, layer, steps, dropped, masks):
    ids = loaded.prompt(text, masks)
    with torch.no_grad():
        output = loaded.endless(input_ids=ids, output_hidden_states=True)
    states, tokens = output.hidden_states[layer][0], ids[0].tolist()
    at = [i for i, token in enumerate(tokens) if token == loaded.tokenizer.mask_token_id]
    assert len(at) == masks
    if pooling == "first_gen":
        return states[at[0]]
    if pooling == "last_gen":
        return states[at[-1]]
    if pooling == "avg_gen":
        return states[at].mean(dim=0)
    if pooling == "expected_answer":
        words = loaded.endless.get_output_embeddings().weight.detach()
        return torch.softmax(output.logits[0, at[0]], dim=0) @ words
    return states[[i for i in range(len(tokens) - 1) if i not in at]].mean(dim=0)


READERS = {"causal": literal_causal, "seq2seq": literal_seq2seq, "masked": literal_masked}


def checked(loaded, pooling, layer, steps, **settings):
    encoder = loaded.encoder(pooling=pooling, layer=layer, max_new_tokens=steps, **settings)
    dropped = frozenset()
    if settings.get("dropped_words"):
        dropped = stopword_ids(loaded.tokenizer, settings["dropped_words"])
    with torch.no_grad():
        masks = settings.get("masks", 3)
        expected = [literal(loaded, text, pooling, layer, steps, dropped, masks) for text in TEXTS]
    found = encoder.embed(TEXTS, FEELING)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(encoder.embed(TEXTS[-1:], FEELING)[0], expected[-1], atol=2e-5)
    return found


@pytest.mark.parametrize("layer", LAYER_NUMBERS)
@pytest.mark.parametrize("pooling", ["first_gen", "avg_prompt"])
def test_poolings_of_one_forward_pass(loaded, pooling, layer):
    checked(loaded, pooling, layer, steps=1)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("layer", LAYER_NUMBERS)
@pytest.mark.parametrize("pooling", DECODED)
@pytest.mark.parametrize("name", [*CAUSAL, "t5"], indirect=True)
def test_poolings_over_answers(loaded, pooling, layer, steps):
    checked(loaded, pooling, layer, steps)


@pytest.mark.parametrize("layer", LAYER_NUMBERS)
@pytest.mark.parametrize("pooling", DECODED)
@pytest.mark.parametrize("name", MASKED, indirect=True)
def test_poolings_over_masks(loaded, pooling, layer):
    checked(loaded, pooling, layer, steps=1)


def test_the_expected_answer(loaded):
    checked(loaded, "expected_answer", -1, steps=1)


@pytest.mark.parametrize("layer", [0, 1, LAYERS])
def test_the_expected_answer_has_no_layer(loaded, layer):
    with pytest.raises(ConfigurationError, match=f"layer: expected -1 with pooling 'expected_answer', found {layer}"):
        loaded.encoder(pooling="expected_answer", layer=layer)


@pytest.mark.parametrize("masks", [1, 2, 5])
@pytest.mark.parametrize("pooling", ["first_gen", "avg_gen", "last_gen", "avg_prompt", "expected_answer"])
@pytest.mark.parametrize("name", MASKED, indirect=True)
def test_any_number_of_masks(loaded, pooling, masks):
    checked(loaded, pooling, -1, steps=1, masks=masks)


@pytest.mark.parametrize("name", [*CAUSAL, "t5"])
def test_answers_of_these_tests_end_at_once_later_and_never(models, name):
    """Without this the tests above would prove less than they say."""
    one = models[name]
    lengths = Counter(len(at_first_end(answer_tokens(one, text), one.ends)) for text in TEXTS)
    never = sum(not one.ends & set(answer_tokens(one, text)) for text in TEXTS)
    assert lengths[1] and never and len(lengths) > 1


@pytest.mark.parametrize("name", [*CAUSAL, "t5"])
def test_decoding_says_what_generate_says(models, name):
    one = models[name]
    answers = one.encoder(max_new_tokens=5).answer(TEXTS, FEELING)
    for text, answer in zip(TEXTS, answers, strict=True):
        tokens = at_first_end(answer_tokens(one, text), one.ends)
        unwanted = set(one.tokenizer.all_special_ids) | one.ends
        assert answer == one.tokenizer.decode([token for token in tokens if token not in unwanted]).strip()


@pytest.mark.parametrize("name", MASKED, indirect=True)
def test_a_masked_model_answers_with_the_likeliest_word_at_every_mask(loaded):
    for text, answer in zip(TEXTS, loaded.encoder().answer(TEXTS, FEELING), strict=True):
        ids = loaded.prompt(text)
        with torch.no_grad():
            logits = loaded.endless(input_ids=ids).logits[0]
        tokens = logits[ids[0] == loaded.tokenizer.mask_token_id].argmax(dim=-1).tolist()
        tokens = at_first_end(tokens, {loaded.tokenizer.sep_token_id})
        kept = [token for token, _ in groupby(tokens) if token not in loaded.tokenizer.all_special_ids]
        assert answer == loaded.tokenizer.decode(kept).strip()


def frequent_words(loaded, count):
    """Words that single tokens of the answers spell, frequent ones first."""
    found = Counter()
    for text in TEXTS:
        for token in answer_tokens(loaded, text):
            word = loaded.tokenizer.decode([token]).strip()
            if token not in loaded.ends and word.isalnum():
                found[word] += 1
    return tuple(word for word, _ in found.most_common(count))


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("pooling", DECODED)
@pytest.mark.parametrize("name", [*CAUSAL, "t5"])
def test_positions_that_predict_stopwords_are_skipped(models, name, pooling, count):
    one = models[name]
    words = frequent_words(one, count)
    assert words
    filtered = checked(one, pooling, -1, 5, dropped_words=words)
    plain = one.encoder(pooling=pooling, max_new_tokens=5).embed(TEXTS, FEELING)
    assert count == 1 or np.abs(filtered - plain).max() > 1e-3


@pytest.mark.parametrize("name", [*CAUSAL, "t5"])
def test_stopwords_do_not_move_the_first_state_and_are_left_out_of_answers(models, name):
    one = models[name]
    words = frequent_words(one, 2)
    plain, filtered = one.encoder(max_new_tokens=5), one.encoder(max_new_tokens=5, dropped_words=words)
    np.testing.assert_array_equal(filtered.embed(TEXTS, FEELING), plain.embed(TEXTS, FEELING))
    dropped = stopword_ids(one.tokenizer, words) | one.ends | set(one.tokenizer.all_special_ids)
    answers = filtered.answer(TEXTS, FEELING)
    assert answers != plain.answer(TEXTS, FEELING)
    for text, answer in zip(TEXTS, answers, strict=True):
        tokens = at_first_end(answer_tokens(one, text), one.ends)
        assert answer == one.tokenizer.decode([token for token in tokens if token not in dropped]).strip()


@pytest.mark.parametrize("name", CAUSAL)
def test_first_gen_is_the_state_that_generate_begins_with(models, name):
    one = models[name]
    found = one.encoder(pooling="first_gen", max_new_tokens=20).embed(TEXTS[:1], FEELING)[0]
    with torch.no_grad():
        states = one.generated(TEXTS[0], 3).hidden_states[0][-1][0, -1]
    np.testing.assert_allclose(found, states.numpy(), atol=1e-6)


@pytest.mark.parametrize("pooling", ["first_gen", "avg_prompt", "expected_answer"])
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_poolings_that_need_no_answer_do_not_decode(models, name, pooling, monkeypatch):
    encoder = models[name].encoder(pooling=pooling)
    monkeypatch.setattr(encoder.architecture, "decoded", None)
    assert np.isfinite(encoder.embed(TEXTS, FEELING)).all()


# A share of the prompt beside the answer


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


ONE_PASS = [
    *((name, "first_gen") for name in CAUSAL),
    *((name, p) for name in MASKED for p in ("avg_gen", "first_gen")),
]


@pytest.mark.parametrize(("name", "pooling"), ONE_PASS, indirect=["name"])
def test_a_share_of_the_prompt_is_added_to_the_answer(loaded, pooling):
    answers, prompts = (loaded.encoder(pooling=p).embed(TEXTS, FEELING) for p in (pooling, "avg_prompt"))
    blended = loaded.encoder(pooling=pooling, prompt_share=0.7).embed(TEXTS, FEELING)
    np.testing.assert_allclose(blended, unit(answers) + 0.7 * unit(prompts), atol=1e-5)


@pytest.mark.parametrize("name", MASKED, indirect=True)
def test_a_model_says_what_share_it_was_made_for(loaded, monkeypatch):
    monkeypatch.setattr(loaded.model.config, "inbedder", {"prompt_share": 0.7}, raising=False)
    assert loaded.encoder().prompt_share == 0.7
    assert loaded.encoder(prompt_share=0.0).prompt_share == 0.0
    assert loaded.encoder(pooling="avg_prompt").prompt_share == 0.0


@pytest.mark.parametrize(
    ("name", "pooling"), [("bert", "expected_answer"), ("gpt2", "avg_gen"), ("t5", "first_gen")], indirect=["name"]
)
def test_where_one_pass_does_not_give_both_a_share_is_refused(loaded, pooling):
    with pytest.raises(ConfigurationError, match=f"prompt_share: expected 0 with pooling '{pooling}'"):
        loaded.encoder(pooling=pooling, prompt_share=0.5)
