import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_training import MOOD, MOODS, THING, THINGS, TOKENIZERS, WIDTH, save_tiny, tiny_model, triples, word_vectors
from torch.nn import functional

from llama_index_instruct.embedders.positions import load_tokenizer, longest_prompt
from llama_index_instruct.errors import ConfigurationError, MissingExtraError
from llama_index_instruct.inbedder import trainer, training
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.inbedder.examples import IGNORED, ExampleMaker, collate_causal, collate_masked
from llama_index_instruct.inbedder.model_card import write_model_card
from llama_index_instruct.inbedder.objective import answer_contrast, state_contrast
from llama_index_instruct.inbedder.trainer import AnswerTrainer
from llama_index_instruct.inbedder.training import train_inbedder
from llama_index_instruct.inbedder.training_settings import InBedderTrainingSettings
from llama_index_instruct.inbedder.triples import QATriple
from llama_index_instruct.inbedder.words import english_stopwords

KINDS = {"bert": "masked", "roberta": "masked", "gpt2": "causal", "llama": "causal"}
QUICK = InBedderTrainingSettings(
    bf16=False, batch_size=16, largest_group=8, epochs=10, learning_rate=5e-3, save_steps=7
)
TRIPLES = triples()
families = pytest.mark.parametrize("family", list(KINDS))


@pytest.fixture(autouse=True)
def frozen_words(monkeypatch):
    """The frozen encoder, but for the tests of the real one."""
    monkeypatch.setattr(trainer, "embed_answers", word_vectors)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {family: save_tiny(family, folder / family) for family in TOKENIZERS}


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory):
    """Per family the folder of an uninterrupted training, made when first asked for."""
    done = {}

    def of(family):
        if family not in done:
            folder = tmp_path_factory.mktemp("trained") / family
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trainer, "embed_answers", word_vectors)
                done[family] = train_inbedder(TRIPLES, str(bases[family]), folder, settings=QUICK, data_notes="MIT.")
        return done[family]

    return of


def prepared(family, tmp_path, rows=TRIPLES, **changes):
    settings = replace(QUICK, **changes)
    tokenizer = TOKENIZERS[family]()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = tiny_model(family, tokenizer, dropout=0.0).eval()
    made = AnswerTrainer.prepare(model, tokenizer, KINDS[family], rows, tmp_path, settings, "words")
    return made, model, tokenizer


def examples_of(family, rows, *, masks=3, max_length=256):
    tokenizer = TOKENIZERS[family]()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    maker = ExampleMaker(tokenizer, KINDS[family], max_length=max_length, masks=masks, stopwords=english_stopwords())
    return *maker.make(rows), tokenizer


def filled(triple):
    return f"### Input:\n{triple.paragraph}\n\n### Instruction:\n{triple.question}\n\n### Response:"


def losses(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    return [(int(step), float(loss)) for step, loss in re.findall(r"step (\d+): ([\d.]+)", card)]


def same_weights(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=0.0, atol=0.0, msg=name)


def cosines(rows):
    rows = np.array(rows)
    return rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)


# Training


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_trained_folder_answers_and_embeds(family, tmp_path):
    taught = replace(QUICK, epochs=25, save_steps=1000)
    base = save_tiny(family, tmp_path / "base", dropout=0.0)
    folder = train_inbedder(TRIPLES, str(base), tmp_path / "taught", settings=taught)
    steps = dict(losses(folder))
    assert folder == tmp_path / "taught" and steps[100] < 0.25 * steps[20]
    mood = InBedderEmbedding(str(folder), MOOD, dtype="float32")
    texts = [row.paragraph for row in TRIPLES[::2]]
    for embedding, rows in ((mood, TRIPLES[::2]), (mood.with_instruction(THING), TRIPLES[1::2])):
        answers = np.array([row.answer.removeprefix("the ") for row in rows])
        assert embedding.answer(texts) == answers.tolist()
        near, same = cosines(embedding.get_text_embedding_batch(texts)), np.equal.outer(answers, answers)
        assert near[same].mean() > near[~same].mean() + 0.2


@families
def test_the_loss_falls(trained, family):
    steps = dict(losses(trained(family)))
    assert steps[40] < 0.8 * steps[20]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_same_twice(trained, bases, family, tmp_path):
    train_inbedder(TRIPLES, str(bases[family]), tmp_path / "again", settings=QUICK)
    same_weights(trained(family), tmp_path / "again")


@pytest.mark.parametrize(  # before the first checkpoint; just behind one in another epoch; just at one; well behind
    ("family", "dies_at"), [("bert", 3), ("bert", 8), ("bert", 14), ("gpt2", 17)]
)
def test_a_killed_run_goes_on_to_the_same_weights(trained, bases, family, dies_at, tmp_path, monkeypatch):
    compute, seen = AnswerTrainer.compute_loss, []

    def dying(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == dies_at + 1:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(AnswerTrainer, "compute_loss", dying)
    with pytest.raises(KeyboardInterrupt):
        train_inbedder(TRIPLES, str(bases[family]), tmp_path, settings=QUICK)
    assert not (tmp_path / "config.json").exists()
    seen[:] = [1] * 1000
    train_inbedder(TRIPLES, str(bases[family]), tmp_path, settings=QUICK)
    assert len(seen) - 1000 == 40 - dies_at // 7 * 7
    same_weights(trained(family), tmp_path)


def test_without_resume_it_starts_anew(trained, bases, tmp_path):
    train_inbedder(TRIPLES[:16], str(bases["bert"]), tmp_path, settings=replace(QUICK, epochs=7))
    train_inbedder(TRIPLES, str(bases["bert"]), tmp_path, settings=QUICK, resume=False)
    same_weights(trained("bert"), tmp_path)


def test_a_finished_folder_is_not_passed_off_as_trained_on_other_data(bases, tmp_path):
    settings = replace(QUICK, epochs=2)
    train_inbedder(TRIPLES[:16], str(bases["bert"]), tmp_path / "both", settings=settings)
    with contextlib.suppress(ConfigurationError):  # to refuse is as good as to start anew
        train_inbedder(TRIPLES[44:], str(bases["bert"]), tmp_path / "both", settings=settings)
        train_inbedder(TRIPLES[44:], str(bases["bert"]), tmp_path / "second", settings=settings)
        same_weights(tmp_path / "both", tmp_path / "second")


def test_one_checkpoint_is_kept(trained):
    assert sorted(path.name for path in (trained("bert") / "checkpoints").iterdir()) == ["checkpoint-40", "run.txt"]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_under_autocast(bases, family, tmp_path):
    train_inbedder(TRIPLES, str(bases[family]), tmp_path, settings=replace(QUICK, bf16=True, epochs=1))
    weights = load_file(tmp_path / "model.safetensors")
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights.values())


def test_a_bare_encoder_gets_a_head(tmp_path):
    tokenizer = TOKENIZERS["bert"]()
    tiny_model("bert", tokenizer).bert.save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    for name in ("one", "two"):
        train_inbedder(TRIPLES, str(tmp_path / "bare"), tmp_path / name, settings=replace(QUICK, epochs=1))
    same_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("masks", [1, 2])
def test_the_folder_knows_how_many_masks_it_was_trained_with(bases, masks, tmp_path):
    train_inbedder(TRIPLES, str(bases["bert"]), tmp_path, settings=replace(QUICK, masks=masks, epochs=1))
    assert InBedderEmbedding(str(tmp_path), MOOD)._encoder.masks == masks


def test_dropout_is_that_of_the_settings(bases, tmp_path):
    settings = replace(QUICK, dropout=0.3)
    model, _, kind = trainer.load_for_training(str(bases["bert"]), None, settings)
    drops = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert kind == "masked" and drops == {0.3}


# Faults


def test_no_triples(bases, tmp_path):
    with pytest.raises(ConfigurationError, match="triples"):
        train_inbedder([], str(bases["bert"]), tmp_path)


def test_an_encoder_decoder_is_refused(bases, tmp_path):
    with pytest.raises(ConfigurationError, match="causal or masked"):
        train_inbedder(TRIPLES, str(bases["t5"]), tmp_path, settings=QUICK)


def test_a_missing_extra_is_told_and_exists(bases, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="llama-index-instruct") as caught:
        train_inbedder(TRIPLES, str(bases["bert"]), tmp_path, settings=QUICK)
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    assert re.search(rf"^{caught.value.extra} = \[.*accelerate", extras, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, 0)
            for name in ("epochs", "batch_size", "learning_rate", "scale", "masks", "max_length", "save_steps")
        ],
        *[(name, -0.1) for name in ("answer_weight", "contrast_weight", "state_weight", "weight_decay", "warmup")],
        ("largest_group", -1),
        ("learning_rate", float("nan")),
        ("dropout", 1.5),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=name):
        InBedderTrainingSettings(**{name: value})


@pytest.mark.parametrize("family", ["roberta", "bert", "gpt2"])
def test_texts_longer_than_the_model_reads_lose_their_end(family, tmp_path):
    # RoBERTa counts positions from 2 on: 256 of them are two fewer to read.
    save_tiny(family, tmp_path / "base", positions=120)
    rows = [replace(row, paragraph=row.paragraph + " paper ink" * 200) for row in TRIPLES[:16]]
    train_inbedder(rows, str(tmp_path / "base"), tmp_path / "out", settings=replace(QUICK, epochs=1))
    assert (tmp_path / "out" / "model.safetensors").exists()


# Examples, token by token


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("masks", [1, 3, 5])
def test_masked_prompts_end_with_masks_and_labels_stand_there(family, masks):
    rows = [*TRIPLES[:6], QATriple("short", "What?", "paper ink ringtone keyboard screen signal")]
    examples, answers, tokenizer = examples_of(family, rows, masks=masks)
    step = collate_masked(examples, tokenizer.pad_token_id)
    longest = max(map(len, (example.prompt for example in examples)))
    assert step["input_ids"].shape == (7, longest) and step["labels"].shape == step["answer_at"].shape == (7, masks)
    for row, triple in enumerate(rows):
        prompt = tokenizer(filled(triple), add_special_tokens=False)["input_ids"]
        whole = [tokenizer.cls_token_id, *prompt, *[tokenizer.mask_token_id] * masks, tokenizer.sep_token_id]
        ids, mask = step["input_ids"][row].tolist(), step["attention_mask"][row].tolist()
        assert ids == whole + [tokenizer.pad_token_id] * (longest - len(whole))
        assert mask == [1] * len(whole) + [0] * (longest - len(whole))
        at = step["answer_at"][row].tolist()
        assert at == [i for i, token in enumerate(ids) if token == tokenizer.mask_token_id]
        word = tokenizer(triple.answer.removeprefix("the "), add_special_tokens=False)["input_ids"]
        assert step["labels"][row].tolist() == (word + [tokenizer.sep_token_id] * masks)[:masks]
        assert answers[step["answer_ids"][row]] == triple.answer


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_causal_labels_are_what_follows_each_position(family):
    rows = [*TRIPLES[:6], QATriple("short", "What?", "paper ink ringtone keyboard screen signal")]
    examples, answers, tokenizer = examples_of(family, rows)
    step = collate_causal(examples, tokenizer.pad_token_id)
    longest = step["input_ids"].shape[1]
    for row, triple in enumerate(rows):
        prompt = tokenizer(filled(triple))["input_ids"]
        assert (prompt[0] == tokenizer.bos_token_id) == (family == "llama")
        ids, mask = step["input_ids"][row].tolist(), step["attention_mask"][row].tolist()
        count = int((step["labels"][row] != IGNORED).sum())
        labels, at = step["labels"][row, :count].tolist(), step["answer_at"][row, :count].tolist()
        padding = longest - len(prompt) - count
        assert ids == [tokenizer.pad_token_id] * padding + prompt + labels
        assert mask == [0] * padding + [1] * (len(prompt) + count)
        assert at == [padding + len(prompt) - 1 + i for i in range(count)]
        assert [ids[i + 1] for i in at] == labels and labels[-1] == tokenizer.eos_token_id
        assert step["labels"][row, count:].eq(IGNORED).all()
        assert tokenizer.decode(labels[:-1]).strip() == triple.answer.removeprefix("the ")
        assert answers[step["answer_ids"][row]] == triple.answer


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_causal_answer_is_spelled_as_inside_the_line(family):
    # Where a tokenizer puts a space in front of every string, " happy" alone would begin with a token that is only a space.
    examples, _, tokenizer = examples_of(family, TRIPLES)
    for example, triple in zip(examples, TRIPLES, strict=True):
        line = tokenizer(f"{filled(triple)} {triple.answer.removeprefix('the ')}")["input_ids"]
        assert example.prompt + example.answer[:-1] == line


@families
def test_names_of_special_tokens_in_data_are_plain_characters(family):
    rows = [QATriple("a [MASK] <mask> </s> <|endoftext|> b", "[SEP]?", "[SEP] </s> <|endoftext|>")]
    examples, _, tokenizer = examples_of(family, rows)
    ends = {"bert": 1, "roberta": 1, "gpt2": 0, "llama": 0}[family]
    opens = 0 if family == "gpt2" else 1
    plain = examples[0].prompt[opens : len(examples[0].prompt) - (3 + ends if ends else 0)]
    assert not set(plain) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    answer = examples[0].answer if KINDS[family] == "masked" else examples[0].answer[:-1]
    assert not set(answer) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


@families
def test_long_texts_keep_question_and_cue(family):
    row = replace(TRIPLES[0], paragraph="paper ink signal " * 100)
    (example,), _, tokenizer = examples_of(family, [row], max_length=90)
    assert len(example.prompt) <= 90
    read = tokenizer.decode(example.prompt).lower().replace(" ", "")
    assert "howdoesthewriterfeel?" in read and "response:" in read and "papersignal" not in read
    assert read.count("paperinksignal") >= 3


def test_equal_answers_share_a_number_and_spelling_tells_them_apart():
    rows = [QATriple("a", "b", answer) for answer in ("ink", "the ink", "ink", "Ink")]
    examples, answers, _ = examples_of("bert", rows)
    assert [example.answer_id for example in examples] == [0, 1, 0, 2] and answers == ["ink", "the ink", "Ink"]
    assert examples[0].answer == examples[1].answer


# The loss


@families
def test_padding_changes_no_state(family, tmp_path):
    made, model, _tokenizer = prepared(family, tmp_path)
    rows = sorted(made.train_dataset, key=len)
    chosen = [rows[0], rows[-1], rows[30]]
    with torch.no_grad():
        states, scores = trainer.answer_states(model, KINDS[family], made.data_collator(chosen))
        for i, example in enumerate(chosen):
            alone, alone_scores = trainer.answer_states(model, KINDS[family], made.data_collator([example]))
            width = alone.shape[1]
            torch.testing.assert_close(states[i, :width], alone[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(scores[i, :width], alone_scores[0], rtol=1e-4, atol=1e-5)


@families
def test_rows_read_in_parts_have_the_states_of_rows_read_together(family, tmp_path, monkeypatch):
    made, model, _tokenizer = prepared(family, tmp_path)
    rows = [QATriple("paper " * words, "b", "ink") for words in (3, 1, 9, 4, 1, 6, 2)]
    step = made.data_collator(examples_of(family, rows)[0])
    assert step["attention_mask"].sum(dim=1).unique().numel() == 6
    with torch.no_grad():
        together = trainer.answer_states(model, KINDS[family], step)
        monkeypatch.setattr(trainer, "CPU_ROWS", 2)
        in_parts = trainer.answer_states(model, KINDS[family], step)
    for whole, parts in zip(together, in_parts, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


GISTS = [QATriple(text, "b", text, is_gist=True) for text in ("paper ink", "signal cable", "ringtone call")]


@families
def test_the_words_of_a_gist_are_not_learnt(family):
    rows = [QATriple("paper ink", "b", "ink"), GISTS[0], QATriple("paper ink", "b", "paper ink")]
    (spoken, gist, repeated), answers, _ = examples_of(family, rows)
    assert set(gist.answer) == {IGNORED} and IGNORED not in spoken.answer and IGNORED not in repeated.answer
    assert gist.prompt == spoken.prompt and answers[gist.answer_id] == "paper ink"


@families
def test_gists_teach_their_embedding_alone(family, tmp_path):
    made, model, _tokenizer = prepared(family, tmp_path, contrast_weight=0.0, state_weight=0.0)
    some = [*triples()[:3], *GISTS]
    examples = examples_of(family, some)[0]
    with torch.no_grad():
        mixed, spoken = (made.compute_loss(model, made.data_collator(rows)) for rows in (examples, examples[:3]))
        assert made.compute_loss(model, made.data_collator(examples[3:])) == 0.0
    torch.testing.assert_close(mixed, spoken, rtol=1e-4, atol=1e-5)


@families
def test_gradients_of_gists_alone_are_finite(family, tmp_path):
    made, model, _tokenizer = prepared(family, tmp_path, GISTS)
    loss = made.compute_loss(model, made.data_collator(made.train_dataset))
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@families
def test_a_cpu_trains_without_fused_attention_and_does_not_save_so(family, tmp_path):
    model, _, _ = trainer.load_for_training(str(save_tiny(family, tmp_path / "base")), None, QUICK)
    assert model.config._attn_implementation == "eager"
    model.save_pretrained(tmp_path / "saved")
    assert "eager" not in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")


@families
def test_the_answer_term_is_the_mean_over_all_answer_tokens(family, tmp_path):
    made, model, _tokenizer = prepared(family, tmp_path, contrast_weight=0.0, state_weight=0.0)
    rows = [made.train_dataset[i] for i in (0, 1, 17, 30)]
    wanted = []
    with torch.no_grad():
        found = made.compute_loss(model, made.data_collator(rows))
        for example in rows:
            if KINDS[family] == "masked":
                logits = model(torch.tensor([example.prompt])).logits[0]
                begin = len(example.prompt) - 4
            else:
                logits = model(torch.tensor([example.prompt + example.answer])).logits[0]
                begin = len(example.prompt) - 1
            for i, token in enumerate(example.answer):
                wanted.append(-functional.log_softmax(logits[begin + i], dim=0)[token])
    torch.testing.assert_close(found, torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)


@families
def test_the_terms_are_weighted_and_read_what_the_embedding_reads(family, tmp_path):
    rows = TRIPLES[:12]
    weights = {"answer_weight": 0.5, "contrast_weight": 2.0, "state_weight": 3.0, "scale": 7.0}
    made, model, tokenizer = prepared(family, tmp_path, rows, **weights)
    step = made.data_collator(made.train_dataset)
    with torch.no_grad():
        loss, outputs = made.compute_loss(model, step, return_outputs=True)
        _, scores = trainer.answer_states(model, KINDS[family], step)
        answer = functional.cross_entropy(scores.flatten(0, 1), step["labels"].flatten(), ignore_index=IGNORED)
        expected = scores[:, 0].softmax(dim=1) @ model.get_output_embeddings().weight
    targets = word_vectors([row.answer for row in rows], "words", WIDTH).float()
    states = outputs["states"]
    apart = (state_contrast(states, targets, 7.0) + state_contrast(expected, targets, 7.0)) / 2
    torch.testing.assert_close(loss, 0.5 * answer + 2.0 * answer_contrast(states, targets, 7.0) + 3.0 * apart)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    embedding = InBedderEmbedding(str(tmp_path / "saved"), MOOD, normalize=False, dtype="float32")
    vectors = embedding.get_text_embedding_batch([row.paragraph for row in rows[::2]])
    np.testing.assert_allclose(vectors, states[::2].numpy(), rtol=1e-3, atol=1e-4)
    direct = InBedderEmbedding(
        str(tmp_path / "saved"), THING, normalize=False, dtype="float32", pooling="expected_answer"
    )
    vectors = direct.get_text_embedding_batch([row.paragraph for row in rows[1::2]])
    np.testing.assert_allclose(vectors, expected[1::2].numpy(), rtol=1e-3, atol=1e-4)


@families
def test_gradients_are_finite_also_in_batches_of_one(family, tmp_path):
    made, model, _ = prepared(family, tmp_path)
    for size in (1, 2, 12):
        model.zero_grad()
        made.compute_loss(model, made.data_collator(made.train_dataset[:size])).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)


def test_roberta_reads_two_positions_fewer_than_its_table(tmp_path):
    made, model, tokenizer = prepared("roberta", tmp_path)
    window = longest_prompt(model.config, tokenizer)
    assert window == 254
    example = replace(made.train_dataset[0], prompt=[0, *[50] * (window - 5), *[4] * 3, 2])
    with torch.no_grad():
        states, _ = trainer.answer_states(model, "masked", made.data_collator([example, made.train_dataset[1]]))
    assert states.isfinite().all()
    assert (model.roberta.embeddings.position_embeddings.padding_idx, tokenizer.pad_token_id) == (1, 1)


# The frozen encoder


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder") / "tiny-encoder"
    words = StaticEmbedding(TOKENIZERS["bert"]().backend_tokenizer, embedding_dim=24)
    SentenceTransformer(modules=[words], device="cpu").save(str(folder))
    return folder


@pytest.mark.parametrize("width", [24, 40])
def test_answers_are_embedded_and_turned_into_the_width_of_the_model(sentence_encoder, width, monkeypatch):
    monkeypatch.undo()
    answers = [*MOODS, *THINGS]
    vectors = trainer.embed_answers(answers, str(sentence_encoder), width)
    plain = trainer.embed_answers(answers, str(sentence_encoder), 24)
    assert vectors.shape == (len(answers), width) and vectors.dtype == torch.float16
    np.testing.assert_allclose(vectors.float() @ vectors.float().T, plain.float() @ plain.float().T, atol=3e-3)
    np.testing.assert_array_equal(vectors, trainer.embed_answers(answers, str(sentence_encoder), width))
    assert trainer.embed_answers(answers, str(sentence_encoder), 8).shape == (len(answers), 8)


def test_training_with_a_real_encoder(bases, sentence_encoder, tmp_path, monkeypatch):
    monkeypatch.undo()
    settings = replace(QUICK, epochs=1)
    train_inbedder(TRIPLES, str(bases["bert"]), tmp_path / "out", encoder=str(sentence_encoder), settings=settings)
    assert "`tiny-encoder`" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


# The model card


def test_the_card_names_base_data_licences_and_settings(trained):
    card = (trained("bert") / "README.md").read_text(encoding="utf-8")
    assert "`bert`" in card and "MIT." in card and 'model_name="bert"' in card
    counts = dict(re.findall(r"\| (letters|calls|unnamed) \| (\d+) \|", card))
    assert {name: int(n) for name, n in counts.items()} == {"letters": 36, "calls": 24}
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    assert InBedderTrainingSettings(**settings) == QUICK


def test_without_licences_the_card_says_so(tmp_path):
    write_model_card(tmp_path, "org/base", "enc", [QATriple("a", "b", "c")] * 1200, {}, [], "")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "licences of the sources were not given" in card and "| unnamed | 1,200 |" in card and "not logged" in card


def test_the_card_names_a_hub_base_with_its_owner(tmp_path):
    write_model_card(tmp_path, "FacebookAI/roberta-large", "enc", [QATriple("a", "b", "c")], {}, [], "")
    assert "`FacebookAI/roberta-large`" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("logged", [1, 2, 8, 9, 23, 100])
def test_the_card_shows_each_step_once_from_first_to_last(tmp_path, logged):
    log = [{"step": 20 * (i + 1), "loss": 5.0 / (i + 1)} for i in range(logged)] + [{"step": 9999, "train_loss": 1.0}]
    write_model_card(tmp_path, "base", "enc", [QATriple("a", "b", "c")], {}, log, "")
    steps = [step for step, _ in losses(tmp_path)]
    assert steps == sorted(set(steps)) and steps[0] == 20 and steps[-1] == 20 * logged and len(steps) <= 17


def test_the_tokenizer_is_saved_too(trained):
    assert load_tokenizer(str(trained("bert"))).get_vocab() == TOKENIZERS["bert"]().get_vocab()
