"""What every InContextEmbedding promises, whatever decoder is inside."""

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
import torch
from incontext.decoders import EXAMPLES, FEELING, PASSAGES, QUERIES, SIZE, TOPIC, save, tokenizer_for
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from transformers import AutoModel, AutoTokenizer

from llama_index_instruct import ConfigurationError
from llama_index_instruct.errors import InstructWarning
from llama_index_instruct.incontext.embedding import InContextEmbedding
from llama_index_instruct.incontext.template import TEMPLATES

EXACT = 1e-6
LONG = "The printer jams every morning and nobody answers. " * 40
MALFORMED = {
    "one text": [("a query",)],
    "three texts": [("a", "b", "c")],
    "a string": ["ab"],
    "a string alone": "ab",
    "a number": [("a query", 7)],
    "nothing": [("a query", None)],
    "no pair": [7],
    "half of a surrogate pair": [("a query", "half \ud83d")],
}


def made(folder, task=TOPIC, examples=EXAMPLES, **settings):
    return InContextEmbedding(str(folder), task, examples, **{"dtype": "float32", "device": "cpu"} | settings)


def asked(embedding, queries=QUERIES):
    return np.array(embedding.get_query_embeddings(list(queries)))


def read(embedding, texts=PASSAGES):
    return np.array(embedding.get_text_embedding_batch(list(texts)))


def distance(one, other):
    return np.abs(np.array(one) - np.array(other)).max()


def same(one, other, atol=EXACT):
    np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def prompt_rows(embedding, queries=QUERIES):
    return embedding._tokenizer.queries(list(queries), embedding._head)


def the_long_way(embedding, queries=QUERIES):
    return unit(embedding._encoder.embed(prompt_rows(embedding, queries)))


def literally(folder, texts):
    """One plain forward pass per text, with nothing of ours."""
    body = AutoModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    states = []
    for text in texts:
        ids = list(tokenizer(text)["input_ids"])
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        with torch.inference_mode():
            states.append(body(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].numpy())
    return unit(np.array(states))


def written(embedding, queries=QUERIES):
    template = TEMPLATES[embedding.template]
    before, after = template.head(embedding.task, embedding.shown), template.tail(embedding.task)
    return [before + query + after for query in queries]


def forwarded(embedding, monkeypatch):
    """Shapes of what the body is given from now on."""
    shapes = []
    monkeypatch.setattr(embedding._encoder, "body", Counting(embedding._encoder.body, shapes))
    return shapes


class Counting:
    def __init__(self, body, shapes):
        self.body, self.shapes = body, shapes
        self.device, self.config = body.device, body.config

    def __call__(self, **inputs):
        self.shapes.append(tuple(inputs["input_ids"].shape))
        return self.body(**inputs)


def counted(embedding, monkeypatch):
    """Rows that are embedded from now on, by all models of these weights."""
    calls = []
    embed = embedding._encoder.embed

    def counting(rows, shared=()):
        calls.extend(tuple(row) for row in rows)
        return embed(rows, shared)

    monkeypatch.setattr(embedding._encoder, "embed", counting)
    return calls


# --- the vectors themselves


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_shared_beginning_the_long_way_and_a_plain_forward_agree(folder, template):
    embedding = made(folder, template=template)
    vectors = asked(embedding)
    assert len(embedding._head.shared) > 20
    same(vectors, the_long_way(embedding))
    same(vectors, literally(folder, written(embedding)))


def test_a_beginning_that_is_kept_and_one_computed_anew_give_the_same_bits(folder, monkeypatch):
    kept = made(folder)
    asked(kept)
    shapes = forwarded(kept, monkeypatch)
    for query in QUERIES:
        np.testing.assert_array_equal(kept.get_query_embedding(query), made(folder).get_query_embedding(query))
    assert len(shapes) == len(QUERIES)  # the kept one was not computed again


@pytest.mark.parametrize("examples", [[], EXAMPLES[:1]], ids=["none", "one"])
def test_with_fewer_examples_too(folder, examples):
    embedding = made(folder, examples=examples)
    vectors = asked(embedding)
    same(vectors, the_long_way(embedding))
    same(vectors, literally(folder, written(embedding)))


def test_passages_are_read_as_they_are(folder, embedding):
    same(read(embedding), literally(folder, PASSAGES))


def test_without_an_end_token_the_last_token_of_the_prompt_is_read(name, tmp_path):
    folder = save(name, tmp_path, tokenizer=tokenizer_for(name, ends=False))
    embedding = made(folder)
    same(asked(embedding), literally(folder, written(embedding)))
    same(read(embedding), literally(folder, PASSAGES))


def test_without_an_end_token_an_empty_passage_has_a_vector_too(name, tmp_path):
    embedding = made(save(name, tmp_path, tokenizer=tokenizer_for(name, ends=False)))
    alone = read(embedding, [""])
    same(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)
    same(read(embedding, ["", *PASSAGES])[:1], alone)


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_alone_in_any_batch_and_in_any_order(folder, embedding, batch_tokens):
    packed = made(folder, batch_tokens=batch_tokens)
    for embed, texts in ((asked, QUERIES), (read, PASSAGES)):
        together = embed(packed, texts)
        assert np.isfinite(together).all()
        same(together, embed(embedding, texts))
        order = np.random.default_rng(0).permutation(len(texts))
        same(embed(packed, [texts[i] for i in order]), together[order])
        same(np.concatenate([embed(packed, [text]) for text in texts]), together)


def test_padding_left_or_right_gives_the_same(folder, embedding):
    left = made(folder, padding="left")
    same(asked(left), asked(embedding))
    same(the_long_way(left), asked(embedding))
    same(read(left), read(embedding))


@pytest.mark.parametrize("padding", ["left", "right"])
def test_rows_that_do_not_begin_with_the_shared_head(folder, padding):
    """Mixed with others, the head itself, and less than the head: every row has the state of its own last token."""
    embedding = made(folder, padding=padding)
    head = list(embedding._head.shared)
    usual = prompt_rows(embedding)
    other = [row[:3] + row[4:] for row in usual]
    rows = [usual[0], head, other[0], head[:-1], usual[1], other[1], head[:1], [*head, head[-1]]]
    expected = np.concatenate([embedding._encoder.embed([row]) for row in rows])
    for shared in (head, head[:5], head[:1], []):
        same(unit(embedding._encoder.embed(rows, shared)), unit(expected))


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_query_that_changes_the_tokens_before_it(name, tmp_path):
    folder = save(name, tmp_path, tokenizer=tokenizer_for(name, composes=True))
    embedding = made(folder, template="bge-en-icl")
    queries = ["\u0338 struck", "ok", "\u0338", "thank you"]
    begins = [
        tuple(row[: len(embedding._head.shared)]) == embedding._head.shared for row in prompt_rows(embedding, queries)
    ]
    assert begins == [False, True, False, True]
    same(asked(embedding, queries), literally(folder, written(embedding, queries)))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("window", [2, 5, 16, 40, 400])
def test_mistral_with_a_sliding_window(tmp_path, window, padding):
    folder = save("mistral", tmp_path, sliding_window=window)
    embedding = made(folder, padding=padding)
    shared = len(embedding._head.shared)
    assert (shared > window) == (window < 400)
    vectors = asked(embedding)
    same(vectors, literally(folder, written(embedding)))
    same(vectors, the_long_way(embedding))
    same(asked(embedding, QUERIES[::-1]), vectors[::-1])
    same(np.concatenate([asked(embedding, [query]) for query in QUERIES]), vectors)
    same(read(embedding), literally(folder, PASSAGES))


def test_qwen_with_a_sliding_window_in_one_layer_only(tmp_path):
    folder = save("qwen2", tmp_path, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    embedding = made(folder)
    assert embedding._encoder.body.config.layer_types == ["full_attention", "sliding_attention"]
    same(asked(embedding), literally(folder, written(embedding)))
    same(the_long_way(embedding), asked(embedding))


def test_a_sliding_window_matters(tmp_path, decoder_folders):
    folder = save("mistral", tmp_path, sliding_window=16)
    assert distance(asked(made(folder)), asked(made(decoder_folders["mistral"]))) > 1e-2


def test_the_beginning_is_computed_once(folder, monkeypatch):
    embedding = made(folder, batch_tokens=4096)
    shapes = forwarded(embedding, monkeypatch)
    queries = ["ok", "thank you", "the laptop"]
    first = asked(embedding, queries)
    rows = prompt_rows(embedding, queries)
    shared = len(embedding._head.shared)
    assert shapes == [(1, shared), (3, max(map(len, rows)) - shared)]
    for _ in range(3):
        same(asked(embedding, queries), first)
    assert shapes[2:] == [shapes[1]] * 3


def test_lists_of_floats_of_length_one(embedding):
    for one in (embedding.get_query_embedding("ok"), *embedding.get_text_embedding_batch(PASSAGES)):
        assert type(one) is list and len(one) == SIZE and all(type(value) is float for value in one)
        assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-5)


def test_without_normalisation_the_direction_is_the_same(folder, embedding):
    raw = made(folder, normalize=False)
    assert np.abs(np.linalg.norm(asked(raw), axis=1) - 1.0).max() > 0.1
    same(unit(asked(raw)), asked(embedding))
    same(unit(read(raw)), read(embedding))


def test_task_examples_and_queries_all_matter(embedding):
    vectors = asked(embedding)
    for other in (embedding.with_task(FEELING, EXAMPLES), embedding.with_task(TOPIC, EXAMPLES[:1])):
        assert np.abs(asked(other) - vectors).max(axis=1).min() > 1e-3
    swapped = embedding.with_task(TOPIC, EXAMPLES[::-1])
    assert distance(asked(swapped), vectors) > 1e-3
    assert all(distance(vectors[i], vectors[j]) > 1e-3 for i in range(len(vectors)) for j in range(i))


def test_no_callback_manager_is_llamaindex_s_own(folder):
    assert made(folder, callback_manager=None).callback_manager is not None


def test_no_texts_have_no_vectors(embedding):
    assert embedding.get_query_embeddings([]) == embedding.get_text_embedding_batch([]) == []


async def test_sync_and_async_agree(embedding):
    queries, passages = asked(embedding), read(embedding)
    same(await asyncio.gather(*map(embedding.aget_query_embedding, QUERIES)), queries)
    same(await asyncio.gather(*map(embedding.aget_text_embedding, PASSAGES)), passages)
    same(await embedding.aget_text_embedding_batch(PASSAGES), passages)
    same([embedding.get_query_embedding(query) for query in QUERIES], queries)
    same([embedding.get_text_embedding(text) for text in PASSAGES], passages)
    assert await embedding.aget_text_embedding_batch([]) == []


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_texts_longer_than_the_table_of_positions(decoder_folders, name):
    """A model with learned positions has a last one: longer texts are cut or refused, they do not crash inside it."""
    embedding = made(decoder_folders[name], examples=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InstructWarning)
        for embed in (asked, read):
            try:
                vectors = embed(embedding, [LONG, "ok"])
            except ConfigurationError:
                continue
            assert np.isfinite(vectors).all()


# --- copies, threads, tasks


@pytest.mark.parametrize(
    "clone",
    [
        lambda one: InContextEmbedding.from_dict(json.loads(json.dumps(one.to_dict()))),
        lambda one: InContextEmbedding.from_json(one.to_json()),
        lambda one: pickle.loads(pickle.dumps(one)),
        copy.deepcopy,
        copy.copy,
    ],
    ids=["dict", "json", "pickle", "deepcopy", "copy"],
)
@pytest.mark.filterwarnings("ignore:.*lost their end")
def test_copies_give_the_same_vectors(folder, clone, caplog):
    embedding = made(folder, template="plain", padding="left", query_tokens=9, passage_tokens=7, embed_batch_size=3)
    other = clone(embedding)
    assert other.to_dict() == embedding.to_dict()
    assert other.embed_batch_size == 3 and other.shown == embedding.shown
    same(asked(other), asked(embedding))
    same(read(other), read(embedding))
    other.task = FEELING
    assert embedding.task == TOPIC and distance(asked(other), asked(embedding)) > 1e-3
    # transformers reports the language-model head that it leaves out; LlamaIndex must not report lost settings
    assert not [record for record in caplog.records if not record.name.startswith("transformers")]


def test_eight_threads_at_once(embedding):
    models = [embedding, embedding.with_task(FEELING), embedding.with_task(TOPIC)]
    expected = [asked(model) for model in models]
    passages = read(embedding)

    def work(number):
        model = models[number % 3]
        one = model.get_query_embedding(QUERIES[number % len(QUERIES)])
        return asked(model), read(model), one

    with ThreadPoolExecutor(8) as pool:
        for number, (queries, texts, one) in enumerate(pool.map(work, range(24))):
            same(queries, expected[number % 3])
            same(texts, passages)
            same(one, expected[number % 3][number % len(QUERIES)])


def test_another_task_has_other_queries_and_the_same_passages_and_weights(folder, embedding):
    before = asked(embedding)
    other = embedding.with_task(FEELING, [("ok", "calm")])
    assert other._encoder is embedding._encoder
    assert (other.task, other.shown) == (FEELING, (("ok", "calm"),))
    assert (embedding.task, list(embedding.shown)) == (TOPIC, EXAMPLES)
    assert np.abs(asked(other) - before).max(axis=1).min() > 1e-3
    same(asked(other), asked(made(folder, FEELING, [("ok", "calm")])))
    same(read(other), read(embedding))
    same(asked(embedding), before)


def test_task_and_examples_can_be_assigned(folder, llama):
    other = llama.with_task(TOPIC, EXAMPLES)
    other.task = FEELING
    same(asked(other), asked(llama.with_task(FEELING, EXAMPLES)))
    other.examples = EXAMPLES[:1]
    assert list(other.shown) == EXAMPLES[:1]
    same(asked(other), asked(llama.with_task(FEELING, EXAMPLES[:1])))
    other.examples = []
    other.task = TOPIC
    same(asked(other), asked(llama.with_task(TOPIC)))
    same(read(other), read(llama))


def test_the_list_of_examples_is_ours(llama):
    given = list(EXAMPLES)
    other = llama.with_task(TOPIC, given)
    expected = asked(other)
    given.clear()
    assert other.examples == EXAMPLES
    same(asked(copy.copy(other)), expected)


@pytest.mark.parametrize("examples", [(("ok", "calm"),), [["ok", "calm"]]], ids=["tuple", "lists"])
@pytest.mark.parametrize("how", ["constructor", "with_task", "assignment"])
def test_examples_may_be_any_sequence_of_pairs(decoder_folders, llama, how, examples):
    if how == "constructor":
        embedding = made(decoder_folders["llama"], examples=examples)
    elif how == "with_task":
        embedding = llama.with_task(TOPIC, examples)
    else:
        embedding = llama.with_task(TOPIC)
        embedding.examples = examples
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin = InContextEmbedding.from_dict(json.loads(embedding.to_json()))
    assert twin.to_dict() == embedding.to_dict()
    assert embedding.examples == [("ok", "calm")]
    same(asked(twin), asked(embedding))


# --- refusals and warnings


@pytest.mark.parametrize("examples", MALFORMED.values(), ids=MALFORMED)
def test_malformed_examples_are_refused_by_the_constructor(decoder_folders, examples):
    with pytest.raises(ConfigurationError, match="example"):
        made(decoder_folders["llama"], examples=examples)


@pytest.mark.parametrize("examples", [None, 7])
def test_examples_that_are_no_sequence_are_refused(decoder_folders, llama, examples):
    with pytest.raises(ConfigurationError, match="examples"):
        made(decoder_folders["llama"], examples=examples)
    with pytest.raises(ConfigurationError, match="examples"):
        llama.with_task(TOPIC, examples)


@pytest.mark.parametrize("examples", MALFORMED.values(), ids=MALFORMED)
def test_malformed_examples_are_refused_for_another_task(llama, examples):
    with pytest.raises(ConfigurationError, match="example"):
        llama.with_task(TOPIC, examples)


@pytest.mark.parametrize("examples", MALFORMED.values(), ids=MALFORMED)
def test_malformed_examples_cannot_be_assigned(llama, examples):
    other = llama.with_task(TOPIC, EXAMPLES)
    with pytest.raises(ConfigurationError, match="example"):
        other.examples = examples
    assert other.examples == EXAMPLES
    same(asked(other), asked(llama))


@pytest.mark.parametrize("task", ["", " \n", None, 7, "half \ud83d"])
def test_a_task_that_is_no_sentence_is_refused(decoder_folders, llama, task):
    with pytest.raises(ConfigurationError, match="task"):
        made(decoder_folders["llama"], task)
    with pytest.raises(ConfigurationError, match="task"):
        llama.with_task(task)
    other = llama.with_task(TOPIC, EXAMPLES)
    with pytest.raises(ConfigurationError, match="task"):
        other.task = task
    assert other.task == TOPIC
    same(asked(other), asked(llama))


def test_a_task_that_is_too_long_is_refused(decoder_folders):
    with pytest.raises(ConfigurationError, match="task: expected at most 60 tokens, found 'feel feel"):
        made(decoder_folders["llama"], "feel " * 60, [], example_tokens=60)
    embedding = made(decoder_folders["llama"], examples=[], example_tokens=60)
    with pytest.raises(ConfigurationError, match="task: expected at most 60 tokens"):
        embedding.with_task("feel " * 60)
    with pytest.raises(ConfigurationError, match="task: expected at most 60 tokens"):
        embedding.task = "feel " * 60
    assert embedding.task == TOPIC
    same(asked(embedding), asked(made(decoder_folders["llama"], examples=[])))


def test_examples_that_do_not_fit_are_announced_where_the_caller_stands(decoder_folders):
    path, few = str(decoder_folders["llama"]), {"example_tokens": 90, "dtype": "float32", "device": "cpu"}
    expected = "1 of 2 examples do not fit example_tokens=90 and are left out"
    with pytest.warns(InstructWarning, match=expected) as at_first:
        embedding = InContextEmbedding(path, TOPIC, EXAMPLES, **few)
    with pytest.warns(InstructWarning, match=expected) as at_another:
        other = embedding.with_task(FEELING, EXAMPLES)
    with pytest.warns(InstructWarning, match=expected) as at_assignment:
        other.task = TOPIC
    for model in (embedding, other):
        assert list(model.shown) == EXAMPLES[:1] and model.examples == EXAMPLES
        assert model.to_payload()["examples"] == 1
    same(asked(other), asked(made(path, examples=EXAMPLES[:1])))
    for caught in (at_first, at_another, at_assignment):
        assert [one.filename for one in caught] == [__file__]


def test_nothing_is_announced_when_all_fits(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedding = made(folder)
        asked(embedding)
        read(embedding)


@pytest.mark.parametrize("wrong", [None, 7, b"bytes", ["list"], "half \ud83d of a pair", "\udc00"])
async def test_what_is_no_text_is_refused(llama, wrong):
    for call in (llama.get_text_embedding, lambda text: llama.get_text_embedding_batch(["ok", text])):
        with pytest.raises(ConfigurationError, match=r"text \d: expected"):
            call(wrong)
    for call in (llama.get_query_embedding, lambda text: llama.get_query_embeddings(["ok", text])):
        with pytest.raises(ConfigurationError, match=r"query \d: expected"):
            call(wrong)
    with pytest.raises(ConfigurationError, match="text 0: expected"):
        await llama.aget_text_embedding(wrong)
    with pytest.raises(ConfigurationError, match="query 0: expected"):
        await llama.aget_query_embedding(wrong)
    assert len(llama.get_query_embedding("ok")) == SIZE


@pytest.mark.parametrize(
    "field, value",
    [
        ("template", "icl"),
        ("padding", "middle"),
        ("query_tokens", 0),
        ("passage_tokens", 0),
        ("example_tokens", 7),
        ("batch_tokens", 0),
        ("dtype", "float64"),
        ("pooling", "last"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(decoder_folders, field, value):
    with pytest.raises(ConfigurationError, match=field):
        made(decoder_folders["llama"], **{field: value})


def test_the_model_cannot_be_exchanged(llama):
    with pytest.raises(ConfigurationError, match="model_name: the weights are loaded"):
        llama.model_name = "other"


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\x00", "\ufeff", "e\u0301" * 3, "\U0010ffff", "🙂" * 5])
def test_odd_texts_have_vectors_of_length_one_and_leave_others_alone(embedding, text):
    for embed, others in ((asked, QUERIES), (read, PASSAGES)):
        vectors = embed(embedding, [text, *others])
        same(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        same(vectors[1:], embed(embedding, others))


def test_what_tracing_shows(llama):
    payload = llama.to_payload()
    assert (payload["task"], payload["examples"]) == (TOPIC, 2)
    json.dumps(payload)


# --- inside LlamaIndex


async def test_a_cache_shared_by_tasks_queries_and_passages_does_not_collide(folder, embedding, monkeypatch):
    texts = PASSAGES[:3]
    cached = made(folder, embeddings_cache=SimpleKVStore())
    models = [cached, cached.with_task(FEELING, EXAMPLES), cached.with_task(TOPIC)]
    expected = [
        asked(embedding.with_task(task, examples), texts)
        for task, examples in ((TOPIC, EXAMPLES), (FEELING, EXAMPLES), (TOPIC, []))
    ]
    passages = read(embedding, texts)
    calls = counted(cached, monkeypatch)
    for _ in range(2):
        for model, queries in zip(models, expected, strict=True):
            same(read(model, texts), passages)
            for i, text in enumerate(texts):
                same(model.get_query_embedding(text), queries[i])
                same(await model.aget_query_embedding(text), queries[i])
                same(model.get_text_embedding(text), passages[i])
                same(await model.aget_text_embedding(text), passages[i])
    assert len(calls) == len(set(calls)) == len(texts) * (1 + len(models))


@pytest.mark.filterwarnings("ignore:.*lost their end")
def test_a_shared_cache_follows_assignments_and_settings(decoder_folders, llama):
    store = SimpleKVStore()
    folder = decoder_folders["llama"]
    for settings in (
        {},
        {"normalize": False},
        {"template": "plain"},
        {"query_tokens": 2, "passage_tokens": 2},
        {"padding": "left"},
    ):
        plain, cached = made(folder, **settings), made(folder, embeddings_cache=store, **settings)
        for _ in range(2):
            same([cached.get_query_embedding(query) for query in QUERIES], asked(plain), 1e-5)
            same(read(cached), read(plain), 1e-5)
    cached = made(folder, embeddings_cache=store)
    for name, value in (("task", FEELING), ("examples", EXAMPLES[:1]), ("task", TOPIC), ("normalize", False)):
        setattr(cached, name, value)
        plain = made(folder, cached.task, cached.examples, normalize=cached.normalize)
        same([cached.get_query_embedding(query) for query in QUERIES], asked(plain), 1e-5)
        same(read(cached), read(plain), 1e-5)


async def test_in_a_vector_store_index(embedding):
    nodes = [TextNode(text=text, id_=str(i)) for i, text in enumerate(PASSAGES)]
    retriever = VectorStoreIndex(nodes, embed_model=embedding).as_retriever(similarity_top_k=3)
    for query in QUERIES[:3]:
        scores = read(embedding) @ np.array(embedding.get_query_embedding(query))
        best = [str(i) for i in np.argsort(-scores)[:3]]
        for hits in (retriever.retrieve(query), await retriever.aretrieve(query)):
            assert [hit.node.node_id for hit in hits] == best
            assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:3], abs=1e-5)


def test_a_pipeline_and_its_cache(llama, monkeypatch):
    cache = IngestionCache()

    def run(model):
        documents = [Document(text=text, id_=str(i)) for i, text in enumerate(PASSAGES)]
        return IngestionPipeline(transformations=[model], cache=cache).run(documents=documents)

    first = run(llama)
    same([node.embedding for node in first], read(llama))
    calls = counted(llama, monkeypatch)
    assert [node.embedding for node in run(llama)] == [node.embedding for node in first]
    assert not calls
    same([node.embedding for node in run(llama.with_task(FEELING))], read(llama))


@pytest.mark.parametrize("entrance", ["aget_text_embedding", "aget_query_embedding", "aget_text_embedding_batch"])
async def test_the_event_loop_is_not_blocked(llama, monkeypatch, entrance):
    embed = llama._encoder.embed

    def slow(rows, shared=()):
        time.sleep(0.15)
        return embed(rows, shared)

    monkeypatch.setattr(llama._encoder, "embed", slow)
    task = asyncio.create_task(getattr(llama, entrance)(["ok"] if entrance.endswith("batch") else "ok"))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.005)
        ticks += 1
    await task
    assert ticks >= 5
