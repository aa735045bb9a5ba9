"""One battery for seven architectures: what every InBedderEmbedding promises, whatever model is inside."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from tiny import FEELING, LAYERS, LITERAL, SIZE, TEXTS, TOPIC, save

from llama_index_instruct import ConfigurationError
from llama_index_instruct.errors import InstructWarning
from llama_index_instruct.inbedder.embedding import InBedderEmbedding

POOLINGS = ("first_gen", "avg_gen", "last_gen", "avg_prompt", "expected_answer")
LONG = " ".join(f"{text} number {i}." for i, text in enumerate(TEXTS * 20))


def made(folder, instruction=FEELING, **settings):
    return InBedderEmbedding(str(folder), instruction, **{"dtype": "float32", "device": "cpu"} | settings)


def rows(embedding, texts=TEXTS):
    return np.array(embedding.get_text_embedding_batch(list(texts)))


def token_ids(embedding, texts):
    return embedding.encoder.prompts.encode(list(texts), [embedding.instruction] * len(texts))[0]


def tokenizer_of(embedding):
    return embedding.encoder.architecture.tokenizer


def squeezed(text):
    return "".join(text.lower().split())


def distance(one, other):
    return np.abs(np.array(one) - np.array(other)).max()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("batch_tokens", [100, 4096])
def test_alone_in_any_batch_and_in_any_order(folder, pooling, batch_tokens):
    embedding = made(folder, pooling=pooling, max_new_tokens=4, batch_tokens=batch_tokens)
    together = rows(embedding)
    assert np.isfinite(together).all()
    order = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_allclose(rows(embedding, [TEXTS[i] for i in order]), together[order], atol=1e-5)
    if batch_tokens == 4096:
        np.testing.assert_allclose([embedding.get_text_embedding(text) for text in TEXTS], together, atol=1e-5)


def test_lists_of_floats_of_length_one(embedding):
    for one in (embedding.get_query_embedding(TEXTS[0]), *embedding.get_text_embedding_batch(list(TEXTS))):
        assert type(one) is list and len(one) == SIZE and all(type(value) is float for value in one)
        assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)


def test_without_normalisation_the_direction_is_the_same(embedding, folder):
    raw = rows(made(folder, normalize=False))
    assert np.abs(np.linalg.norm(raw, axis=1) - 1.0).max() > 0.1
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), rows(embedding), atol=1e-5)


def test_texts_differ_in_their_vectors(embedding):
    vectors = rows(embedding)
    for i in range(len(TEXTS)):
        for j in range(i):
            assert distance(vectors[i], vectors[j]) > 1e-3


async def test_sync_and_async_agree(embedding):
    batch = rows(embedding)
    np.testing.assert_allclose(await embedding.aget_text_embedding_batch(list(TEXTS)), batch, atol=1e-5)
    alone = await asyncio.gather(*map(embedding.aget_text_embedding, TEXTS))
    np.testing.assert_allclose(alone, batch, atol=1e-5)
    queries = await asyncio.gather(*map(embedding.aget_query_embedding, TEXTS))
    np.testing.assert_allclose(queries, batch, atol=1e-5)
    assert embedding.get_text_embedding_batch([]) == await embedding.aget_text_embedding_batch([]) == []


def test_no_texts_have_no_answers(embedding):
    assert embedding.answer([]) == []


def test_a_query_is_read_as_a_text(embedding):
    np.testing.assert_allclose([embedding.get_query_embedding(text) for text in TEXTS], rows(embedding), atol=1e-5)


def test_a_query_instruction_moves_queries_only(embedding):
    split = embedding.with_instruction(FEELING, query_instruction=TOPIC)
    topic = embedding.with_instruction(TOPIC)
    np.testing.assert_allclose(rows(split), rows(embedding), atol=1e-6)
    query = split.get_query_embedding(TEXTS[0])
    assert distance(query, topic.get_query_embedding(TEXTS[0])) < 1e-5
    assert distance(query, embedding.get_query_embedding(TEXTS[0])) > 1e-3


def test_another_instruction_gives_other_vectors_from_the_same_weights(embedding, folder):
    other = embedding.with_instruction(TOPIC)
    assert other.encoder is embedding.encoder
    assert (embedding.instruction, other.instruction) == (FEELING, TOPIC)
    before, after = rows(embedding), rows(other)
    assert np.abs(before - after).max(axis=1).min() > 1e-3
    np.testing.assert_allclose(after, rows(made(folder, TOPIC)), atol=1e-5)
    np.testing.assert_allclose(rows(embedding), before, atol=1e-6)


def test_a_new_instruction_can_be_assigned(embedding):
    other = embedding.with_instruction(TOPIC)
    other.instruction = FEELING
    np.testing.assert_allclose(rows(other), rows(embedding), atol=1e-6)


@pytest.mark.parametrize(
    "clone",
    [
        lambda one: InBedderEmbedding.from_dict(json.loads(json.dumps(one.to_dict()))),
        lambda one: InBedderEmbedding.from_json(one.to_json()),
        lambda one: pickle.loads(pickle.dumps(one)),
        copy.deepcopy,
        copy.copy,
    ],
    ids=["dict", "json", "pickle", "deepcopy", "copy"],
)
def test_copies_give_the_same_vectors(folder, clone, caplog):
    embedding = made(
        folder,
        TOPIC,
        query_instruction=FEELING,
        pooling="avg_gen",
        layer=1,
        max_new_tokens=3,
        extra_stopwords=["the"],
        embed_batch_size=3,
    ).centered_on(TEXTS[:3])
    other = clone(embedding)
    assert other.to_dict() == embedding.to_dict()
    assert other.embed_batch_size == 3
    np.testing.assert_allclose(rows(other), rows(embedding), atol=1e-6)
    assert distance(other.get_query_embedding("ok"), embedding.get_query_embedding("ok")) < 1e-6
    assert not caplog.records


def test_eight_threads_at_once(embedding):
    expected = {question: rows(embedding.with_instruction(question)) for question in (FEELING, TOPIC)}
    models = [embedding.with_instruction(question) for question in (FEELING, TOPIC)]

    def work(number):
        model = models[number % 2]
        answers = model.answer(list(TEXTS[:2]))
        return model.instruction, rows(model), model.get_query_embedding(TEXTS[number % len(TEXTS)]), answers

    answers = {model.instruction: model.answer(list(TEXTS[:2])) for model in models}
    with ThreadPoolExecutor(8) as pool:
        for number, (question, vectors, query, said) in enumerate(pool.map(work, range(16))):
            np.testing.assert_allclose(vectors, expected[question], atol=1e-5)
            np.testing.assert_allclose(query, expected[question][number % len(TEXTS)], atol=1e-5)
            assert said == answers[question]


@pytest.mark.parametrize("pooling", [None, "avg_gen"])
@pytest.mark.parametrize("max_length", [96, None])
def test_long_texts_keep_instruction_and_answer_cue(folder, embedding, pooling, max_length):
    short = made(folder, max_length=max_length, pooling=pooling, max_new_tokens=4)
    limit = short.encoder.max_length
    with pytest.warns(InstructWarning, match=f"1 of 2 texts.*{limit} tokens"):
        vectors = rows(short, ["ok", LONG])
    assert np.isfinite(vectors).all()
    assert distance(vectors[0], short.get_text_embedding("ok")) < 1e-5
    (row,) = token_ids(short, [LONG])
    (bare,) = token_ids(short, [""])
    assert limit - 4 <= len(row) <= limit
    tokenizer = tokenizer_of(short)
    unknown = {tokenizer.unk_token_id} if tokenizer.unk_token != tokenizer.eos_token else set()
    special = set(tokenizer.all_special_ids) - unknown
    assert [token for token in row if token in special] == [token for token in bare if token in special]
    read = squeezed(tokenizer.decode([token for token in row if token not in special]))
    assert read.startswith(squeezed("### Input:\nThe printer jams"))
    assert read.endswith(squeezed(f"\n\n### Instruction:\n{FEELING}\n\n### Response:"))


async def test_a_cut_text_is_announced_from_every_entrance(folder):
    short = made(folder, max_length=96)
    calls = (
        lambda: short.get_text_embedding(LONG),
        lambda: short.get_query_embedding(LONG),
        lambda: short.answer([LONG]),
    )
    for call in calls:
        with pytest.warns(InstructWarning, match="1 of 1 texts"):
            call()
    with pytest.warns(InstructWarning, match="1 of 1 texts"):
        await short.aget_text_embedding(LONG)


def test_an_instruction_that_does_not_fit(embedding):
    wordy = embedding.with_instruction("feel " * 400)
    with pytest.raises(ConfigurationError, match="instruction: expected at most"):
        wordy.get_text_embedding("ok")
    assert len(embedding.get_text_embedding("ok")) == SIZE


@pytest.mark.parametrize("text", [LITERAL, "</s>", "<mask>", "[MASK]", "<pad>", "<|endoftext|>", "<extra_id_0>"])
def test_names_of_special_tokens_in_a_text_are_plain_characters(embedding, text):
    tokenizer = tokenizer_of(embedding)
    unknown = {tokenizer.unk_token_id} if tokenizer.unk_token != tokenizer.eos_token else set()
    special = set(tokenizer.all_special_ids) - unknown
    row, bare = token_ids(embedding, [text, ""])
    assert [token for token in row if token in special] == [token for token in bare if token in special]


def test_names_of_special_tokens_do_not_disturb_the_batch(embedding):
    texts = [LITERAL, *TEXTS, "ok </s> <pad> ok <mask> [PAD]"]
    vectors = rows(embedding, texts)
    np.testing.assert_allclose([embedding.get_text_embedding(text) for text in texts], vectors, atol=1e-5)
    np.testing.assert_allclose(vectors[1 : 1 + len(TEXTS)], rows(embedding), atol=1e-5)


def test_slot_names_in_a_text_are_plain_characters(embedding):
    text = "{instruction} and {input} and {0} and {} and %s"
    (row,) = token_ids(embedding, [text])
    read = squeezed(tokenizer_of(embedding).decode(row))
    assert squeezed("{instruction} and {input} and") in read
    assert read.count(squeezed(FEELING)) == 1


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\x00", "\ufeff", "e\u0301" * 3, "\U0010ffff", "🙂" * 5])
def test_odd_texts_have_finite_vectors_of_length_one(embedding, text):
    vectors = rows(embedding, [text, *TEXTS])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(vectors[1:], rows(embedding), atol=1e-5)


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", ["list"], "half \ud83d of a pair", "\udc00"])
async def test_what_is_no_text_is_refused(embedding, wrong):
    for call in (
        embedding.get_text_embedding,
        embedding.get_query_embedding,
        lambda text: embedding.get_text_embedding_batch(["ok", text]),
        lambda text: embedding.answer(["ok", text]),
    ):
        with pytest.raises(ConfigurationError, match=r"text \d: expected"):
            call(wrong)
    for acall in (embedding.aget_text_embedding, embedding.aget_query_embedding):
        with pytest.raises(ConfigurationError, match="text 0: expected"):
            await acall(wrong)
    assert len(embedding.get_text_embedding("ok")) == SIZE


@pytest.mark.parametrize("wrong", [None, 7, "half \ud83d of a pair"])
def test_what_is_no_text_is_not_centred_on(embedding, wrong):
    with pytest.raises(ConfigurationError, match="text 1: expected"):
        embedding.centered_on(["ok", wrong])


def test_an_unknown_argument_is_refused(folder):
    with pytest.raises(ConfigurationError, match=r"unknown argument 'pool_ing'.*pooling"):
        made(folder, pool_ing="first_gen")


@pytest.mark.parametrize("instruction", ["", "  \n"])
def test_an_empty_instruction_is_refused(folder, embedding, instruction):
    with pytest.raises(ConfigurationError, match="instruction: expected a question"):
        made(folder, instruction)
    with pytest.raises(ConfigurationError, match="instruction: expected a question"):
        embedding.with_instruction(instruction)


def test_an_empty_instruction_cannot_be_assigned(embedding):
    other = embedding.with_instruction(TOPIC)
    with pytest.raises(ConfigurationError, match="instruction: expected a question"):
        other.instruction = " "
    np.testing.assert_allclose(rows(other), rows(embedding.with_instruction(TOPIC)), atol=1e-6)


def test_an_instruction_of_half_a_surrogate_pair_is_refused(embedding):
    with pytest.raises(ConfigurationError, match="instruction"):
        embedding.with_instruction("how \ud83d?").get_text_embedding("ok")


@pytest.mark.parametrize("layer", [-2, LAYERS + 1])
def test_a_layer_the_model_does_not_have_is_refused(folder, layer):
    with pytest.raises(ConfigurationError, match=f"layer: expected -1 or 0 to {LAYERS}, found {layer}"):
        made(folder, layer=layer)


@pytest.mark.parametrize("template", ["{input}", "{input} {instruction} {input}", "what"])
def test_a_template_without_its_slots_is_refused(folder, template):
    with pytest.raises(ConfigurationError, match="template: expected"):
        made(folder, template=template)


def test_another_template_gives_other_vectors(folder, embedding):
    other = made(folder, template="Q: {instruction}\nT: {input}\nA:")
    assert np.abs(rows(other) - rows(embedding)).max(axis=1).min() > 1e-3


def counted(embedding, monkeypatch):
    calls = []
    embed = embedding.encoder.embed

    def counting(texts, instruction):
        calls.extend((text, instruction) for text in texts)
        return embed(texts, instruction)

    monkeypatch.setattr(embedding.encoder, "embed", counting)
    return calls


async def test_a_cache_shared_by_instructions_and_roles_does_not_collide(folder, embedding, monkeypatch):
    store = SimpleKVStore()
    feeling = made(folder, FEELING, embeddings_cache=store)
    topic = feeling.with_instruction(TOPIC)
    split = feeling.with_instruction(FEELING, query_instruction=TOPIC)
    calls = counted(feeling, monkeypatch)
    expected = {FEELING: rows(embedding), TOPIC: rows(embedding.with_instruction(TOPIC))}
    for _ in range(2):
        np.testing.assert_allclose(rows(feeling), expected[FEELING], atol=1e-5)
        np.testing.assert_allclose(rows(topic), expected[TOPIC], atol=1e-5)
        np.testing.assert_allclose(rows(split), expected[FEELING], atol=1e-5)
        for i, text in enumerate(TEXTS):
            np.testing.assert_allclose(split.get_query_embedding(text), expected[TOPIC][i], atol=1e-5)
            np.testing.assert_allclose(await split.aget_query_embedding(text), expected[TOPIC][i], atol=1e-5)
            np.testing.assert_allclose(await split.aget_text_embedding(text), expected[FEELING][i], atol=1e-5)
    assert len(calls) == len(set(calls)) == 2 * len(TEXTS)


def test_a_shared_cache_tells_settings_apart(folder):
    store = SimpleKVStore()
    settings = (
        {},
        {"pooling": "avg_prompt"},
        {"layer": 1},
        {"normalize": False},
        {"template": "Q: {instruction}\nT: {input}\nA:"},
    )
    for one in settings:
        plain = rows(made(folder, **one))
        np.testing.assert_allclose(rows(made(folder, embeddings_cache=store, **one)), plain, atol=1e-5)
    cached = made(folder, embeddings_cache=store)
    centred = cached.centered_on(TEXTS)
    assert distance(rows(cached), rows(centred)) > 1e-3
    cached.instruction = TOPIC
    np.testing.assert_allclose(rows(cached), rows(made(folder, TOPIC)), atol=1e-5)


def test_a_pipeline_and_its_cache(embedding, monkeypatch):
    cache = IngestionCache()

    def run(model):
        documents = [Document(text=text, id_=str(i)) for i, text in enumerate(TEXTS) if text]
        return IngestionPipeline(transformations=[model], cache=cache).run(documents=documents)

    first = run(embedding)
    calls = counted(embedding, monkeypatch)
    again = run(embedding)
    assert not calls
    assert [node.embedding for node in again] == [node.embedding for node in first]
    topic = embedding.with_instruction(TOPIC)
    others = run(topic)
    assert len(calls) == len(first) == len(TEXTS) - 1
    for one, other in zip(first, others, strict=True):
        text = one.get_content(MetadataMode.EMBED)
        assert distance(one.embedding, embedding.get_text_embedding(text)) < 1e-5
        assert distance(other.embedding, topic.get_text_embedding(text)) < 1e-5


async def test_in_a_vector_store_index(embedding):
    nodes = [TextNode(text=text, id_=str(i)) for i, text in enumerate(TEXTS) if text]
    retriever = VectorStoreIndex(nodes, embed_model=embedding).as_retriever(similarity_top_k=3)
    for node in nodes:
        for hits in (retriever.retrieve(node.text), await retriever.aretrieve(node.text)):
            assert len(hits) == 3
            assert hits[0].node.node_id == node.node_id and hits[0].score == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("entrance", ["aget_text_embedding", "aget_query_embedding", "aget_text_embedding_batch"])
async def test_the_event_loop_is_not_blocked(folders, monkeypatch, entrance):
    embedding = made(folders["bert"])
    embed = embedding.encoder.embed

    def slow(texts, instruction):
        time.sleep(0.15)
        return embed(texts, instruction)

    monkeypatch.setattr(embedding.encoder, "embed", slow)
    asked = ["ok"] if entrance.endswith("batch") else "ok"
    task = asyncio.create_task(getattr(embedding, entrance)(asked))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.005)
        ticks += 1
    await task
    assert ticks >= 5


def test_answers_are_the_same_every_time_alone_and_in_a_batch(embedding):
    said = embedding.answer(list(TEXTS))
    assert len(said) == len(TEXTS) and all(type(answer) is str for answer in said)
    assert any(said)
    assert embedding.answer(list(TEXTS)) == said
    assert [embedding.answer([text])[0] for text in TEXTS] == said
    assert embedding.answer(list(reversed(TEXTS))) == said[::-1]


def test_answers_hang_on_the_instruction(embedding):
    assert embedding.with_instruction(TOPIC).answer(list(TEXTS)) != embedding.answer(list(TEXTS))


def test_centred_vectors(folder):
    plain = made(folder, normalize=False)
    centred = plain.centered_on(TEXTS)
    assert centred.encoder is plain.encoder and not plain.centers and list(centred.centers) == [FEELING]
    raw = rows(plain)
    np.testing.assert_allclose(rows(centred), raw - raw.mean(axis=0), atol=1e-5)
    expected = (raw[0] - raw.mean(axis=0)) / np.linalg.norm(raw[0] - raw.mean(axis=0))
    unit = made(folder, centers=centred.centers)
    np.testing.assert_allclose(unit.get_query_embedding(TEXTS[0]), expected, atol=1e-5)
    topic = centred.with_instruction(TOPIC)
    np.testing.assert_allclose(rows(topic), rows(plain.with_instruction(TOPIC)), atol=1e-5)


def test_centring_twice_is_centring_once(folder):
    once = made(folder).centered_on(TEXTS[:4])
    twice = once.centered_on(TEXTS[:4])
    np.testing.assert_allclose(rows(twice), rows(once), atol=1e-5)


def test_queries_and_texts_are_centred_each_on_their_own(folder):
    split = made(folder, FEELING, query_instruction=TOPIC, normalize=False)
    centred = split.centered_on(TEXTS)
    assert set(centred.centers) == {FEELING, TOPIC}
    queries = np.array([split.get_query_embedding(text) for text in TEXTS])
    np.testing.assert_allclose(
        [centred.get_query_embedding(text) for text in TEXTS], queries - queries.mean(axis=0), atol=1e-5
    )


def test_centring_on_nothing_is_refused(embedding):
    with pytest.raises(ConfigurationError, match="centered_on: expected at least one text"):
        embedding.centered_on([])


def test_what_tracing_shows(embedding):
    payload = embedding.to_payload()
    assert payload["instruction"] == FEELING and payload["pooling"] in POOLINGS
    json.dumps(payload)


def test_nothing_is_warned_about(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows(made(folder, max_new_tokens=2))


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_an_answer_to_a_prompt_that_fills_the_window(folders, name):
    full = made(folders[name], pooling="avg_gen", max_length=1000, max_new_tokens=20)
    with pytest.warns(InstructWarning, match="lost their end"):
        vector = full.get_text_embedding(LONG)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    with pytest.warns(InstructWarning, match="lost their end"):
        full.answer([LONG])


def test_a_decoder_with_fewer_layers_than_the_encoder(tmp_path):
    folder = save("t5", tmp_path, num_layers=3, num_decoder_layers=1)
    assert len(made(folder, layer=3, pooling="avg_prompt").get_text_embedding("ok")) == SIZE
    with pytest.raises(ConfigurationError, match="layer: expected -1 or 0 to 1, found 3"):
        made(folder, layer=3, pooling="first_gen").get_text_embedding("ok")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_states_narrower_than_the_hidden_size(tmp_path, pooling):
    """OPT-350m projects its last states to a smaller size."""
    folder = save("opt", tmp_path, word_embed_proj_dim=16)
    embedding = made(folder, pooling=pooling, max_new_tokens=2)
    assert np.linalg.norm(embedding.get_text_embedding("ok")) == pytest.approx(1.0, abs=1e-5)
