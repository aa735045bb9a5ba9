import gzip
import io
import json
import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import WordEmbedding
from inbedder import tiny
from rich.console import Console

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.evaluation import inbedder_bench, inbedder_speed
from llama_index_instruct.evaluation.embedders import load_embedder
from llama_index_instruct.evaluation.facets import Facet, FacetedCorpus
from llama_index_instruct.evaluation.inbedder_bench import InBedderBench, bench_inbedder, load_wordings
from llama_index_instruct.evaluation.inbedder_speed import RANDOM_CAUSAL, bench_encoder_speed, mixed_texts
from llama_index_instruct.evaluation.report import inbedder_table
from llama_index_instruct.evaluation.triplets import TripletSet, load_triplets, success
from llama_index_instruct.inbedder.embedding import InBedderEmbedding
from llama_index_instruct.inbedder.encoder import AnswerEncoder, EncoderSettings
from llama_index_instruct.models import offline_minilm_path

MOOD, THING = "How does the writer feel?", "Which thing is it about?"
MOODS, THINGS = ("glad", "furious", "calm"), ("printer", "router", "laptop", "phone")
WORDINGS = Path(__file__).parents[2] / "examples" / "data" / "wordings.json"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return str(tiny.save("bert", tmp_path_factory.mktemp("tiny") / "bert"))


def rows(count=6, corpus="shop", facets=("mood", "thing")):
    """Anchor, one of the same mood about another thing, one about the same thing in another mood."""
    questions = {"mood": MOOD, "thing": THING, "place": "Where is it?"}
    made = []
    for n in range(count):
        mood, thing = MOODS[n % 3], THINGS[n % 4]
        made.append(
            {
                "corpus": corpus,
                "facet_a": facets[0],
                "facet_b": facets[1],
                "instruction_a": questions[facets[0]],
                "instruction_b": questions[facets[1]],
                "anchor": f"{thing} {mood} note{n}",
                "same_a": f"{THINGS[(n + 1) % 4]} {mood} note{n + 1}",
                "same_b": f"{thing} {MOODS[(n + 1) % 3]} note{n + 2}",
            }
        )
    return made


def write(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def loaded(tmp_path, made=None, **options):
    return load_triplets(write(tmp_path / "triplets.jsonl", made or rows()), **options)


def corpus(count=36, name="shop", *, gaps=False):
    texts = [f"{THINGS[n % 4]} {MOODS[n % 3]} word{n}" for n in range(count)]
    moods = np.array(["" if gaps and n % 4 == 0 else MOODS[n % 3] for n in range(count)])
    things = np.array([THINGS[n % 4] for n in range(count)])
    return FacetedCorpus(name, texts, [Facet("thing", THING, things), Facet("mood", MOOD, moods)])


def blind(texts, instruction):
    return np.array(WordEmbedding().get_text_embedding_batch(list(texts)), dtype=np.float32)


def follows(texts, instruction):
    """The vector of the word that answers."""
    answers = {MOOD: MOODS, THING: THINGS}[instruction]
    return blind([next(word for word in text.split() if word in answers) for text in texts], instruction)


def scripted(favours_a, seen=None):
    """Per instruction, how many of the triplets have the anchor at same_a, the next at same_b; the rest are ties."""

    def embed(texts, instruction):
        if seen is not None:
            seen.append(instruction)
        at_a, at_b = favours_a[instruction]
        vectors = np.zeros((len(texts), 2), dtype=np.float32)
        for n in range(len(texts) // 3):
            near = (1, 0) if n < at_a else (0, 1) if n < at_a + at_b else (0, 0)
            vectors[3 * n] = (1, 0)
            for side in (0, 1):
                vectors[3 * n + 1 + side] = (1, 0) if near[side] else (0, 1)
        return vectors

    return embed


@pytest.fixture
def bench(monkeypatch):
    """Run on embedders that are functions, in quiet, without times."""

    def run(triplets, corpora=(), /, wordings=None, rows=2000, seed=0, **embedders):
        # A keyword for a name: "__" stands for a colon, "_" for a slash.
        asked = {name.replace("__", ":").replace("_", "/"): embed for name, embed in embedders.items()}
        monkeypatch.setattr(inbedder_bench, "load_embedder", asked.__getitem__)
        settings = InBedderBench(tuple(asked), rows=rows, seed=seed)
        return bench_inbedder(triplets, corpora, settings, wordings=wordings, speed=False, progress=False)

    return run


# Triplets on disk


def test_triplets_are_read_by_corpus_and_pair_of_facets(tmp_path):
    made = [*rows(3), *rows(2, "market"), *rows(4, facets=("thing", "place")), *rows(1)]
    sets = loaded(tmp_path, made)
    assert [found.name for found in sets] == ["shop:mood/thing", "market:mood/thing", "shop:thing/place"]
    assert [len(found.texts) for found in sets] == [12, 6, 12]
    assert sets[0].texts[:3] == [made[0]["anchor"], made[0]["same_a"], made[0]["same_b"]]
    assert sets[0].texts[9:] == [made[-1]["anchor"], made[-1]["same_a"], made[-1]["same_b"]]
    assert (sets[2].instruction_a, sets[2].instruction_b) == (THING, "Where is it?")


def test_gzip_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "triplets.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n\n".join(json.dumps(row) for row in rows()) + "\n\n")
    assert load_triplets(str(path)) == loaded(tmp_path)


@pytest.mark.parametrize(("per_pair", "kept"), [(1, [1, 1]), (3, [3, 2]), (100, [5, 2]), (None, [5, 2])])
def test_per_pair_keeps_the_first_of_every_pair(tmp_path, per_pair, kept):
    made = [*rows(3), *rows(2, "market"), *rows(5)[3:]]
    every = loaded(tmp_path, made)
    some = loaded(tmp_path, made, per_pair=per_pair)
    assert [len(found.texts) // 3 for found in some] == kept
    assert all(few.texts == all_.texts[: len(few.texts)] for few, all_ in zip(some, every, strict=True))


@pytest.mark.parametrize("per_pair", [0, -1])
def test_no_triplets_per_pair_are_refused(tmp_path, per_pair):
    with pytest.raises(ConfigurationError, match="per_pair"):
        loaded(tmp_path, per_pair=per_pair)


FAULTS = {
    "no JSON": "{'corpus'",
    "no object": "[1]",
    "a field missing": json.dumps({key: value for key, value in rows(1)[0].items() if key != "same_b"}),
    "a number for a text": json.dumps(rows(1)[0] | {"anchor": 5}),
    "a number for a question": json.dumps(rows(1)[0] | {"instruction_a": None}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_file_and_line(tmp_path, fault):
    path = write(tmp_path / "odd.jsonl", rows(2))
    path.write_text(path.read_text() + FAULTS[fault] + "\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"odd\.jsonl, line 3"):
        load_triplets(path)


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe{}", "cut"])
@pytest.mark.parametrize("name", ["odd.jsonl", "odd.jsonl.gz"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    path = tmp_path / name
    if content == "cut":
        whole = json.dumps(rows(1)[0]).encode()
        content = gzip.compress(whole)[:-20] if name.endswith(".gz") else whole[:-20]
    elif content is not None and name.endswith(".gz") and not content.startswith(b"\xff"):
        content = gzip.compress(content)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"odd\.jsonl"):
        load_triplets(path)


def test_one_pair_asked_in_two_ways_is_refused(tmp_path):
    made = rows(4)
    made[2] |= {"instruction_a": "Which mood?"}  # would be asked MOOD, silently
    with pytest.raises(ConfigurationError, match="shop:mood/thing"):
        loaded(tmp_path, made)


# Scores


def test_success_by_hand():
    vectors = np.array(
        [
            [1, 0],
            [0.8, 0.6],
            [0.6, 0.8],
            [0, 1],
            [0.8, 0.6],
            [0.6, 0.8],
            [1, 0],
            [0.6, 0.8],
            [-1, 0],
            [1, 0],
            [0, 1],
            [1, 0],
        ],
        dtype=np.float32,
    )
    assert success(vectors, wants_a=True) == 50.0 and success(vectors, wants_a=False) == 50.0
    assert success(vectors[:3], wants_a=True) == 100.0 and success(vectors[:3], wants_a=False) == 0.0
    assert success(vectors[:9], wants_a=True) == pytest.approx(200 / 3)


@pytest.mark.parametrize("wants_a", [True, False])
def test_a_tie_is_no_success(wants_a):
    tied = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [1, 0], [0, 1], [0, -1]], dtype=np.float32)
    assert success(tied, wants_a=wants_a) == 0.0


def test_scores_against_hand_computation(bench):
    shop = TripletSet("shop:mood/thing", MOOD, THING, [""] * 30)
    # Of ten: 7 right under the first question and 2 ties; 4 right under the second.
    record = bench([shop], scripted=scripted({MOOD: (7, 1), THING: (6, 4)}))
    row = record["triplets"]["shop:mood/thing"]["scripted"]
    assert row == pytest.approx({"a": 70, "b": 40, "mean": 55, "harmonic": 2 * 70 * 40 / 110})
    assert record["means"]["scripted"] == pytest.approx({"triplets mean": 55, "triplets harmonic": 5600 / 110})


@pytest.mark.parametrize("script", [{MOOD: (0, 10), THING: (0, 10)}, {MOOD: (10, 0), THING: (10, 0)}])
def test_the_harmonic_mean_of_nothing_right_is_zero(bench, script):
    record = bench([TripletSet("shop:mood/thing", MOOD, THING, [""] * 30)], scripted=scripted(script))
    row = record["triplets"]["shop:mood/thing"]["scripted"]
    assert row["harmonic"] == 0.0 and row["mean"] == 50.0


def test_a_blind_embedder_scores_fifty_and_one_that_follows_a_hundred(tmp_path, bench):
    record = bench(loaded(tmp_path, rows(11)), blind=blind, follows=follows)
    found = record["triplets"]["shop:mood/thing"]
    assert found["blind"]["mean"] == pytest.approx(50, abs=1e-9)
    assert found["blind"]["a"] + found["blind"]["b"] == pytest.approx(100, abs=1e-9)
    assert found["follows"] == {"a": 100, "b": 100, "mean": 100, "harmonic": 100}


def test_the_real_sentence_encoder_is_blind_but_not_with_a_prefix(tmp_path, bench):
    triplets = loaded(tmp_path, rows(9))
    record = bench(triplets, minilm=load_embedder("minilm"), prefix__minilm=load_embedder("prefix:minilm"))
    row = record["triplets"]["shop:mood/thing"]
    assert row["minilm"]["mean"] == pytest.approx(50, abs=1e-9)
    assert row["minilm"]["a"] + row["minilm"]["b"] == pytest.approx(100, abs=1e-9)


def test_clusters_by_hand(bench):
    """Three tight clusters; the labels of one cluster are mixed."""
    labels = np.array(["x"] * 4 + ["y"] * 4 + ["z"] * 2 + ["x"] * 2)
    texts = [str(n // 4) for n in range(12)]
    shop = FacetedCorpus("shop", texts, [Facet("kind", "Which kind?", labels)])

    def corners(texts, instruction):
        return np.eye(3, dtype=np.float32)[[int(text) for text in texts]]

    record = bench([], [shop], corners=corners)

    def entropy(counts):
        shares = np.array(counts) / sum(counts)
        return -float(np.sum(shares * np.log(shares)))

    classes, clusters = entropy([6, 4, 2]), entropy([4, 4, 4])
    homogeneity = 1 - (4 / 12) * entropy([2, 2]) / classes
    completeness = 1 - (6 / 12) * entropy([4, 2]) / clusters
    expected = 200 * homogeneity * completeness / (homogeneity + completeness)
    assert record["clusters"] == {"shop/kind": {"corners": {"v_measure": pytest.approx(expected)}}}
    assert record["means"] == {"corners": {"clusters v_measure": pytest.approx(expected)}}


def noisy(texts, instruction):
    """Follows, but no two vectors are the same."""
    vectors = follows(texts, instruction) + 0.05 * blind(texts, instruction)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_clusters_follow_the_question_of_every_facet(bench):
    record = bench([], [corpus(), corpus(name="market", gaps=True)], blind=blind, noisy=noisy)
    assert list(record["clusters"]) == ["shop/thing", "shop/mood", "market/thing", "market/mood"]
    for row in record["clusters"].values():
        assert row["noisy"]["v_measure"] == pytest.approx(100) and 0 <= row["blind"]["v_measure"] < 100


def recording(seen, name):
    def embed(texts, instruction):
        seen.append((name, instruction, tuple(texts)))
        return noisy(texts, instruction)

    return embed


def test_drawn_texts_are_the_same_for_all_models(bench):
    seen, shop = [], corpus(gaps=True)
    bench([], [shop], rows=12, one=recording(seen, "one"), two=recording(seen, "two"))
    one, two = ([call[1:] for call in seen if call[0] == name] for name in ("one", "two"))
    assert one == two and [instruction for instruction, _ in one] == [THING, MOOD]
    for (_, texts), facet in zip(one, shop.facets, strict=True):
        at = [shop.texts.index(text) for text in texts]
        assert len(set(at)) == 12 and at == sorted(at) and all(facet.labels[i] for i in at)
    again, other = [], []
    bench([], [shop], rows=12, one=recording(again, "one"))
    bench([], [shop], rows=12, seed=1, one=recording(other, "one"))
    assert [call[1:] for call in again] == one and [call[1:] for call in other] != one


def test_unlabelled_texts_take_no_part(bench):
    seen, shop = [], corpus(gaps=True)
    bench([], [shop], one=recording(seen, "one"))
    assert [len(texts) for _, _, texts in seen] == [36, 27]


def test_the_same_twice(tmp_path, bench):
    def once():
        return bench(loaded(tmp_path), [corpus()], rows=20, seed=3, blind=blind, noisy=noisy)

    assert once() == once()


# The record


def test_the_record_has_exactly_its_shape(tmp_path, bench):
    triplets = loaded(tmp_path, [*rows(4), *rows(4, "market")])
    record = bench(triplets, [corpus()], rows=30, seed=5, blind=blind, noisy=noisy)
    assert list(record) == ["bench", "settings", "triplets", "clusters", "speed", "means"]
    assert record["bench"] == "inbedder" and record["speed"] == {}
    assert json.loads(json.dumps(record))["settings"] == {"models": ["blind", "noisy"], "rows": 30, "seed": 5}
    assert list(record["triplets"]) == ["shop:mood/thing", "market:mood/thing"]
    for row in record["triplets"].values():
        assert list(row) == ["blind", "noisy"]
        assert all(list(scores) == ["a", "b", "mean", "harmonic"] for scores in row.values())
    assert list(record["clusters"]) == ["shop/thing", "shop/mood"]
    assert all(list(scores) == ["v_measure"] for row in record["clusters"].values() for scores in row.values())
    for name, means in record["means"].items():
        assert set(means) == {"triplets mean", "triplets harmonic", "clusters v_measure"}
        for part, measure in (title.split() for title in means):
            values = [row[name][measure] for row in record[part].values()]
            assert means[f"{part} {measure}"] == pytest.approx(sum(values) / len(values))
            assert all(type(value) is float and 0 <= value <= 100 for value in values)


def test_a_model_is_named_by_its_folder(tmp_path, bench):
    record = bench(loaded(tmp_path), _models_first=blind, _models_second_=blind)
    assert list(record["means"]) == ["first", "second"]


def test_folders_of_one_name_are_refused(tmp_path, bench):
    with pytest.raises(ConfigurationError, match="different names"):
        bench(loaded(tmp_path), _one_model=blind, _two_model=blind)


def test_data_of_one_name_is_refused(tmp_path):
    settings = InBedderBench(("minilm",))
    corpus = FacetedCorpus("shop", [], [])
    with pytest.raises(ConfigurationError, match="facets: expected folders of different names, found shop, shop"):
        bench_inbedder([], [corpus, corpus], settings, progress=False)
    found = loaded(tmp_path)
    with pytest.raises(ConfigurationError, match="triplets: expected folders of different names"):
        bench_inbedder([*found, *found], [], settings, progress=False)


def test_a_folder_with_and_without_a_prefix_can_be_compared(tmp_path, bench):
    record = bench(loaded(tmp_path), _models_taught=blind, centered___models_taught=blind, prefix___models_taught=blind)
    assert len(record["means"]) == 3 and "centered:" in list(record["means"])[1]


def test_a_prefix_is_told_in_the_name(tmp_path, bench):
    record = bench(loaded(tmp_path), centered___models_taught=blind)
    assert next(iter(record["means"])).startswith("centered:")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models": ()}, "at least one"),
        ({"models": ("minilm", "minilm")}, "different models"),
        ({"models": ("minilm",), "rows": 9}, "rows: expected 10 or more, found 9"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        InBedderBench(**settings)


# Other wordings

PARAPHRASED = {
    MOOD: {"paraphrases": ["Glad or not?", "Name the mood."], "wrong": ["How many?", "What colour?"]},
    THING: {"paraphrases": ["What thing?", "Name the thing."], "wrong": ["How far?"]},
}


def test_robustness_asks_the_paraphrases_and_the_wrong_questions(bench):
    seen = []
    script = {
        MOOD: (10, 0),
        THING: (0, 10),
        "Glad or not?": (9, 1),  # 90
        "Name the mood.": (5, 5),  # 50
        "What thing?": (3, 7),  # 70
        "Name the thing.": (6, 4),  # 40
        "How many?": (2, 8),  # 20
        "What colour?": (6, 2),  # 60, ties count for nobody
        "How far?": (5, 5),  # 50
    }
    shop = TripletSet("shop:mood/thing", MOOD, THING, [""] * 30)
    record = bench([shop], wordings=PARAPHRASED, scripted=scripted(script, seen))
    assert Counter(seen) == Counter(list(script))
    row = record["robustness"]["shop:mood/thing"]["scripted"]
    assert row == pytest.approx({"paraphrased": 62.5, "worst": 45, "wrong": 45})
    assert record["triplets"]["shop:mood/thing"]["scripted"]["mean"] == 100
    assert record["means"]["scripted"] == pytest.approx(
        {"triplets mean": 100, "triplets harmonic": 100, "robustness paraphrased": 62.5, "robustness wrong": 45}
    )


def test_a_blind_embedder_is_blind_in_all_wordings(tmp_path, bench):
    record = bench(loaded(tmp_path), wordings=PARAPHRASED, blind=blind)
    assert record["robustness"]["shop:mood/thing"]["blind"] == pytest.approx(
        {"paraphrased": 50, "worst": 50, "wrong": 50}
    )


def test_an_instruction_without_wordings_is_named(tmp_path, bench):
    with pytest.raises(ConfigurationError, match="Which thing is it about"):
        bench(loaded(tmp_path), wordings={MOOD: PARAPHRASED[MOOD]}, blind=blind)


def test_the_shipped_wordings_are_five_and_five_all_different():
    wordings = load_wordings(WORDINGS)
    assert len(wordings) == 10
    for question, row in wordings.items():
        assert set(row) == {"paraphrases", "wrong"} and all(len(row[kind]) == 5 for kind in row)
        every = [question, *row["paraphrases"], *row["wrong"]]
        assert len({words.casefold() for words in every}) == 11 and all(words.strip() == words for words in every)
    paraphrases = [words.casefold() for row in wordings.values() for words in row["paraphrases"]]
    wrong = {words.casefold() for row in wordings.values() for words in row["wrong"]}
    asked = {question.casefold() for question in wordings}
    assert len(set(paraphrases)) == 50 and not (set(paraphrases) | asked) & wrong


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '["Q"]',
        '{"Q": 5}',
        '{"Q": {"paraphrases": ["a"]}}',
        '{"Q": {"paraphrases": 5, "wrong": ["b"]}}',
        '{"Q": {"paraphrases": "one string", "wrong": ["b"]}}',
        '{"Q": {"paraphrases": [1], "wrong": ["b"]}}',
        '{"Q": {"paraphrases": [], "wrong": ["b"]}}',
        '{"Q": {"paraphrases": ["a"], "wrong": []}}',
    ],
)
def test_a_fault_in_the_wordings_names_the_file(tmp_path, content):
    path = tmp_path / "odd.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"odd\.json"):
        load_wordings(path)


# Embedders


def test_a_sentence_encoder_does_not_see_the_instruction():
    texts = ["a green river", "winter music", "a green river"]
    embed = load_embedder("minilm")
    vectors = embed(texts, MOOD)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, embed(texts, THING))
    np.testing.assert_array_equal(load_embedder(str(offline_minilm_path()))(texts, MOOD), vectors)
    prefixed = load_embedder("prefix:minilm")(texts, MOOD)
    np.testing.assert_allclose(prefixed, embed([f"{MOOD} {text}" for text in texts], ""), atol=1e-6)
    assert not np.allclose(prefixed, vectors, atol=0.01)


def test_an_inbedder_answers_the_instruction(bert):
    texts = [text for text in tiny.TEXTS if text]
    embed = load_embedder(bert)
    model = InBedderEmbedding(bert, tiny.TOPIC)
    np.testing.assert_allclose(embed(texts, tiny.TOPIC), model.get_text_embedding_batch(texts), atol=1e-6)
    assert not np.allclose(embed(texts, tiny.FEELING), embed(texts, tiny.TOPIC), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(embed(texts, tiny.FEELING), axis=1), 1, atol=1e-5)


def test_a_centered_inbedder_has_the_mean_of_the_texts_at_hand_subtracted(bert):
    texts = [text for text in tiny.TEXTS if text]
    raw = np.array(InBedderEmbedding(bert, tiny.TOPIC, normalize=False).get_text_embedding_batch(texts))
    by_hand = raw - raw.mean(axis=0)
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    embed = load_embedder(f"centered:{bert}")
    np.testing.assert_allclose(embed(texts, tiny.TOPIC), by_hand, atol=1e-4)
    embed(texts[:2], tiny.TOPIC)
    np.testing.assert_allclose(embed(texts, tiny.TOPIC), by_hand, atol=1e-4)  # nothing is remembered


@pytest.mark.parametrize("name", ["", "prefix:", "centered:", "./nowhere", "prefix:./nowhere", "centered:./nowhere"])
def test_a_model_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigurationError, match="model name"):
        load_embedder(name)


@pytest.mark.parametrize(
    "name", ["no-such-model", "centered:no-such-model", "prefix:no-such-model", "prefix:inbedder-minilm"]
)
def test_a_model_of_no_known_kind_is_refused(name):
    with pytest.raises(ConfigurationError, match=name.split(":")[-1]):
        load_embedder(name)


# Speed


def test_mixed_texts_are_short_and_long():
    lengths = [len(text.split()) for text in mixed_texts(192)]
    assert mixed_texts(192) == mixed_texts(192) != mixed_texts(192, seed=1)
    assert min(lengths) >= 3 and max(lengths) <= 200 and 30 <= sum(lengths) / 192 <= 42
    assert min(lengths) < 10 and max(lengths) > 100


@pytest.fixture
def short_texts(monkeypatch):
    """The tiny models read 160 tokens."""
    monkeypatch.setattr(inbedder_speed, "mixed_texts", lambda count: [f"text {n} " * (1 + n % 3) for n in range(count)])


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "qwen2", "t5"])
def test_speed_is_positive(tmp_path, short_texts, family):
    folder = str(tiny.save(family, tmp_path / family))
    before = torch.get_num_threads()
    record = bench_encoder_speed({"mine": folder}, texts=4, rounds=1)
    assert list(record) == [*RANDOM_CAUSAL, "mine"]
    for row in record.values():
        assert list(row) == ["texts_per_cpu_s", "vs_reference"]
        assert all(math.isfinite(value) and value > 0 for value in row.values())
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("name", "tokens"), [("random-llama-6x384", 3), ("random-opt-6x384", 20)])
def test_the_published_procedure_decodes_as_the_authors_do(name, tokens, monkeypatch):
    asked = []
    model, tokenizer = RANDOM_CAUSAL[name]()
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: asked.append(given) or generate(**given))
    encoder = AnswerEncoder(model, tokenizer, "causal", EncoderSettings())
    inbedder_speed.generate_states(encoder.architecture, [[7, 8, 9]] * 33)
    assert [given["max_new_tokens"] for given in asked] == [tokens] * 2
    assert all(given["output_hidden_states"] for given in asked)


def test_speed_of_models_that_do_not_answer_is_left_out(bert, short_texts):
    assert list(bench_encoder_speed({"minilm": "minilm"}, texts=2, rounds=1)) == [*RANDOM_CAUSAL]


def test_speed_of_a_folder_that_does_not_answer_is_left_out(short_texts):
    assert list(bench_encoder_speed({"model": str(offline_minilm_path())}, texts=2, rounds=1)) == [*RANDOM_CAUSAL]


def test_speed_in_the_record_is_of_the_models_that_answer(tmp_path, bert, short_texts, monkeypatch):
    quick = partial(bench_encoder_speed, texts=3, rounds=1)
    monkeypatch.setattr(inbedder_bench, "bench_encoder_speed", quick)
    monkeypatch.setattr(inbedder_bench, "load_embedder", lambda name: blind)
    settings = InBedderBench(("minilm", "prefix:minilm", bert))
    record = bench_inbedder(loaded(tmp_path), [], settings, progress=False)
    assert list(record["speed"]) == [*RANDOM_CAUSAL, "bert"] and record["speed"]["bert"]["texts_per_cpu_s"] > 0


# The tables


def printed(record):
    console = Console(file=io.StringIO(), width=160)
    inbedder_table(record, console)
    return console.file.getvalue()


def test_the_tables_have_a_column_per_model(tmp_path, bench):
    record = bench(loaded(tmp_path), [corpus()], wordings=None, blind=blind, noisy=noisy)
    record["speed"] = {"noisy": {"texts_per_cpu_s": 123.4, "vs_reference": 1.256}}
    said = printed(record)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    mean = record["triplets"]["shop:mood/thing"]["noisy"]["mean"]
    assert ["shop:mood/thing", "50.0", f"{mean:.1f}"] in lines and ["mean", "50.0", f"{mean:.1f}"] in lines
    for name, row in record["clusters"].items():
        assert [name, *(f"{row[model]['v_measure']:.1f}" for model in ("blind", "noisy"))] in lines
    assert "noisy: 123 texts per CPU second, 1.26 of the reference" in said
    assert "wordings" not in said and "wrong questions" not in said


def test_the_tables_of_other_wordings(tmp_path, bench):
    said = " ".join(printed(bench(loaded(tmp_path), wordings=PARAPHRASED, blind=blind)).split())
    assert "under other wordings" in said and "under wrong questions" in said and "v-measure" not in said


def test_a_record_of_nothing_prints_nothing(bench):
    record = bench([], wordings={}, blind=blind)
    assert record["triplets"] == record["clusters"] == record["robustness"] == {} and record["means"] == {"blind": {}}
    assert printed(record) == ""


@pytest.mark.parametrize("name", ["[red]", "taught[/bold]"])
def test_brackets_in_names_are_kept(tmp_path, bench, name):
    record = bench(loaded(tmp_path, rows(6, corpus=name)), blind=blind)
    for part in (record["means"], record["triplets"][f"{name}:mood/thing"]):
        part[name] = part.pop("blind")
    record["speed"] = {name: {"texts_per_cpu_s": 1.0, "vs_reference": 1.0}}
    said = printed(record)
    assert f"{name}:mood/thing" in said and f"{name}: 1 texts per CPU second" in said
    assert said.count(name) == 3
