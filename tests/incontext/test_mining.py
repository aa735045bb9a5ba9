"""Pairs and passages -> rows: what is drawn, what is never drawn, and what a teacher is asked."""

import random

import numpy as np
import pytest
from datasets import Dataset
from fakes import WordEmbedding
from incontext.sentence_encoders import save_sentence_encoder
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from messages import make_nodes
from sentence_transformers import SentenceTransformer
from sentence_transformers import util as st_util

from llama_index_instruct import ConfigurationError, MarginRule, MiningSettings, TeacherError, mine_hard_negatives
from llama_index_instruct.incontext import mining
from llama_index_instruct.incontext.choosing import default_rule
from llama_index_instruct.incontext.margins import NAIVE
from llama_index_instruct.incontext.mined import read_mined

MOODS = ("happy glad", "angry furious", "calm quiet")
THINGS = ("printer ink", "router signal", "laptop screen", "phone ringtone", "watch strap")
PASSAGES = [f"note {m}{t} {mood} {thing}" for m, mood in enumerate(MOODS) for t, thing in enumerate(THINGS)]
PAIRS = [(text.partition(" ")[2], text) for text in PASSAGES[:10]]
TWO = MiningSettings(num_negatives=2, sample_from=2, sampling="top")


class Teacher:
    """Scores by a rule from texts to a number, and remembers who was asked about."""

    def __init__(self, rule=None, fails_after=None):
        self.rule = rule or (lambda query, passage: random.Random(query + passage).random())
        self.fails_after = fails_after
        self.asked = []

    def __call__(self, query, passages):
        if len(self.asked) == self.fails_after:
            raise RuntimeError("the teacher is gone")
        self.asked.append(query)
        return [self.rule(query, passage) for passage in passages]


def mine(pairs=PAIRS, passages=PASSAGES, **given):
    given.setdefault("rule", NAIVE)
    if "teacher" not in given:
        given.setdefault("embed_model", WordEmbedding())
    return mine_hard_negatives(pairs, passages, progress=False, **given)


def adds_up(report):
    return report.candidates == report.kept + sum(report.removed.values())


# the same negatives as sentence-transformers


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_sentence_encoder(tmp_path_factory.mktemp("models") / "encoder"))


@pytest.fixture(scope="module")
def theirs(encoder):
    return SentenceTransformer(encoder, device="cpu")


@pytest.fixture(scope="module")
def ours(encoder):
    return HuggingFaceEmbedding(encoder, device="cpu")


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"relative_margin": 0.02},
        {"absolute_margin": 0.03},
        {"relative_margin": 0.01, "absolute_margin": 0.02},
        {"max_score": 0.975},
        {"min_score": 0.95},
        {"skip_top": 4},
        {"relative_margin": 0.02, "max_score": 0.975, "min_score": 0.93, "skip_top": 3},
    ],
    ids=str,
)
def test_the_same_rows_as_sentence_transformers(ours, theirs, limits):
    pairs = [*PAIRS, (PAIRS[0][0], PASSAGES[11]), (PAIRS[3][0], PASSAGES[1]), (PAIRS[0][0], PASSAGES[12])]
    expected = st_util.mine_hard_negatives(
        Dataset.from_dict({"query": [query for query, _ in pairs], "positive": [text for _, text in pairs]}),
        theirs,
        corpus=PASSAGES,
        range_min=limits.get("skip_top", 0),
        range_max=len(PASSAGES),
        num_negatives=3,
        sampling_strategy="top",
        output_format="n-tuple",
        output_scores=True,
        verbose=False,
        **{name: value for name, value in limits.items() if name != "skip_top"},
    ).to_dict()
    settings = MiningSettings(lexical=0, dense=len(PASSAGES), num_negatives=3, sample_from=3, sampling="top")
    found = mine(pairs, embed_model=ours, rule=MarginRule(**limits), settings=settings).to_dataset().to_dict()
    np.testing.assert_allclose(found.pop("scores"), expected.pop("scores"), atol=1e-5)
    assert found == expected and found["query"]


# what is drawn


def test_the_same_seed_draws_the_same_rows():
    drawn = {seed: mine(settings=MiningSettings(seed=seed)).rows for seed in (0, 1)}
    assert mine(settings=MiningSettings(seed=0)).rows == drawn[0] != drawn[1]


def test_a_querys_draw_does_not_depend_on_the_others():
    alone = [row for pair in PAIRS for row in mine([pair]).rows]
    assert mine().rows == alone and mine(PAIRS[::-1]).rows == alone[::-1]


def test_blocks_of_queries_change_nothing(monkeypatch):
    whole = mine().rows
    monkeypatch.setattr(mining, "BLOCK", 3)
    assert mine().rows == whole


def test_negatives_are_drawn_from_the_best_survivors_highest_score_first():
    rule = MarginRule(max_score=0.8)
    best = mine(rule=rule, settings=MiningSettings(num_negatives=6, sample_from=6, sampling="top")).rows
    drawn = mine(rule=rule, settings=MiningSettings(num_negatives=3, sample_from=6)).rows
    for row, top in zip(drawn, best, strict=True):
        assert set(row.negatives) < set(top.negatives) and max(top.scores[1:]) <= 0.8
        assert list(row.scores[1:]) == sorted(row.scores[1:], reverse=True)
    assert any(row.negatives != top.negatives[:3] for row, top in zip(drawn, best, strict=True))


def test_known_positives_are_never_negatives():
    pairs = [("printer", text) for text in PASSAGES[:4]] + PAIRS[4:]
    rows = mine(pairs, settings=MiningSettings(num_negatives=8, sample_from=8)).rows
    assert [row.positive for row in rows] == [text for _, text in pairs]
    for row in rows:
        assert not {text for query, text in pairs if query == row.query} & set(row.negatives)


def test_the_margin_lies_below_the_lowest_of_a_querys_positives():
    scores = {"a1": 0.9, "a2": 0.5, "b1": 0.6, "b2": 0.4, "b3": 0.3}
    teacher = Teacher(lambda query, passage: scores[passage.split()[0]])
    texts = [f"{name} printer" for name in scores]
    found = mine([("printer", text) for text in texts[:2]], texts, teacher=teacher, rule="topk-marginpos", settings=TWO)
    assert [row.negatives for row in found.rows] == [(texts[3], texts[4])] * 2
    assert [row.scores for row in found.rows] == [(0.9, 0.4, 0.3), (0.5, 0.4, 0.3)]


def test_equal_texts_count_once():
    doubled = [*PASSAGES, *PASSAGES[::-1]]
    assert mine([*PAIRS, *PAIRS], doubled).rows == mine().rows


def test_without_passages_the_positives_are_searched():
    rows = mine(passages=None).rows
    assert {text for row in rows for text in row.negatives} <= {text for _, text in PAIRS} and len(rows) == 10


def test_positives_outside_the_passages_are_searched_too():
    (row,) = mine([("printer", "a printer of its own")], PASSAGES[:4]).rows
    assert row.positive == "a printer of its own" and set(row.negatives) == set(PASSAGES[:4])


def test_texts_nodes_and_indexes_give_the_same(index):
    nodes = make_nodes()
    texts = [node.text for node in nodes]
    pairs = [(f"{node.metadata['thing']} {node.metadata['mood']}", node.text) for node in nodes[:3]]
    settings = MiningSettings(dense=90, lexical=0)
    rows = mine(pairs, texts, settings=settings).rows
    for given in (nodes, VectorStoreIndex(nodes, embed_model=WordEmbedding()), index):
        found = mine(pairs, given, settings=settings).rows
        assert [row.negatives for row in found] == [row.negatives for row in rows]


def test_the_vectors_of_an_index_are_not_computed_again(index):
    model = WordEmbedding()
    mine([(node.text, node.text) for node in make_nodes()[:3]], index, embed_model=model)
    assert model.calls == 3  # the queries


def test_what_was_mined_can_be_read_again(tmp_path):
    found = mine(PAIRS[:2], ["", " ", *PASSAGES[:4]])
    found.save(tmp_path / "rows.jsonl")
    assert read_mined(tmp_path / "rows.jsonl") == found.rows


def test_the_hybrid_teacher_scores_between_both_searches():
    similar, hybrid = (
        mine(PAIRS[:1], teacher=name, embed_model=WordEmbedding()).rows for name in ("similarity", "hybrid")
    )
    assert hybrid[0].scores[0] == pytest.approx((similar[0].scores[0] + 1.0) / 2)


# the report


@pytest.mark.parametrize("rule", ["adaptive", "topk", "topk-shifted", "topk-abs", "topk-marginpos", "topk-percpos"])
def test_the_report_adds_up(rule):
    pairs = [*PAIRS, (PAIRS[0][0], PASSAGES[12])]
    found = mine(pairs, embed_model=WordEmbedding(), teacher=Teacher(), rule=rule)
    report = found.report
    assert adds_up(report) and report.queries == 10 and report.candidates == 10 * 15 - 11
    assert report.rows == len(found.rows) and report.rows + report.dropped == 11


def test_pairs_with_too_few_survivors_are_dropped_and_counted():
    teacher = Teacher(lambda query, passage: 0.1 if "laptop" in query else 0.9 if "laptop" in passage else 0.5)
    found = mine(teacher=teacher, rule=MarginRule(max_score=0.4), settings=TWO, embed_model=WordEmbedding())
    assert found.report.rows == 2 and found.report.dropped == 8
    assert {row.query for row in found.rows} == {query for query, _ in PAIRS if "laptop" in query}


def test_a_pair_whose_positive_has_no_score_is_dropped():
    teacher = Teacher(lambda query, passage: np.nan if passage == PASSAGES[0] else 0.5)
    found = mine(teacher=teacher, settings=TWO, embed_model=WordEmbedding())
    assert found.report.dropped == 1 and PASSAGES[0] not in {text for row in found.rows for text in row.negatives}
    assert found.report.removed == {"no_score": 14 + 9}


# logits


def test_rows_keep_logits_and_the_rule_sees_their_logistic():
    logits = {"a": 3.0, "b": 2.9, "c": 0.0, "d": -5.0}
    teacher = Teacher(lambda query, passage: logits[passage.split()[0]])
    texts = [f"{name} printer" for name in logits]
    settings = MiningSettings(num_negatives=2, sample_from=2, sampling="top", logits=True)
    found = mine([("printer", texts[0])], texts, teacher=teacher, rule="topk-percpos", settings=settings)
    assert found.rows[0].negatives == (texts[2], texts[3]) and found.rows[0].scores == (3.0, 0.0, -5.0)


@pytest.mark.parametrize("high", ["a printer", "b printer"])
def test_a_relative_margin_needs_a_known_scale(high):
    teacher = Teacher(lambda query, passage: 3.0 if passage == high else 0.5)
    with pytest.raises(ConfigurationError, match=r"relative_margin: expected scores in \[-1, 1\].*logits=True"):
        mine([("printer", "a printer")], ["b printer"], teacher=teacher, rule="topk-percpos")


# the checkpoint


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path):
    whole = mine(teacher=Teacher(), settings=TWO, embed_model=WordEmbedding())
    settings = {"settings": TWO, "embed_model": WordEmbedding(), "checkpoint": tmp_path / "kept"}
    with pytest.raises(RuntimeError, match="the teacher is gone"):
        mine(teacher=Teacher(fails_after=4), **settings)
    resumed = Teacher()
    assert mine(teacher=resumed, **settings) == whole
    assert resumed.asked == [query for query, _ in PAIRS[4:]]


@pytest.fixture
def kept(tmp_path):
    """What is needed to mine again from a checkpoint."""
    given = {"checkpoint": tmp_path / "kept", "embed_model": WordEmbedding(), "settings": TWO}
    mine(teacher=Teacher(), **given)
    return given


@pytest.mark.parametrize(
    "changed", [{"rule": "adaptive"}, {"settings": MiningSettings(seed=4)}, {"pairs": PAIRS[::-1]}], ids=str
)
def test_another_rule_or_draw_asks_the_teacher_nothing(kept, changed):
    teacher = Teacher(fails_after=0)
    found = mine(teacher=teacher, **kept | changed)
    assert found == mine(teacher=Teacher(), **kept | {"checkpoint": None} | changed)


class Other(Teacher):
    pass


@pytest.mark.parametrize(
    "changed",
    [
        {"teacher": Other()},
        {"passages": PASSAGES[:12]},
        {"settings": MiningSettings(lexical=3)},
        {"embed_model": WordEmbedding(model_name="other")},
    ],
    ids=["teacher", "corpus", "candidates", "model"],
)
def test_another_teacher_or_search_asks_anew(kept, changed):
    given = {"teacher": Teacher()} | kept | changed
    mine(**given)
    assert len(given["teacher"].asked) == 10


def test_queries_without_all_scores_are_asked_again(tmp_path):
    given = {"checkpoint": tmp_path / "kept", "embed_model": WordEmbedding(), "settings": TWO}
    mine(teacher=Teacher(lambda query, passage: np.nan if query == PAIRS[3][0] else 0.5), **given)
    again = Teacher(lambda query, passage: 0.5)
    mine(teacher=again, **given)
    assert again.asked == [PAIRS[3][0]]


# what is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pairs": []}, "pairs: expected at least one query with its positive"),
        ({"passages": "a text"}, "passages: expected texts, nodes or an index, found str"),
        ({"passages": iter(PASSAGES)}, "passages: expected texts, nodes or an index, found list_iterator"),
        ({"passages": ["a", 3]}, "passages: expected texts or nodes, found int at place 1"),
        ({"passages": [TextNode(text="a"), "b"]}, "passages: expected texts or nodes, found TextNode at place 0"),
        ({"teacher": "similarity"}, "teacher: 'similarity' expects an embedding model"),
        ({"teacher": "cosine"}, "teacher: expected 'similarity', 'hybrid'"),
        ({"rule": "nearest"}, "rule: expected a MarginRule or one of"),
        ({"teacher": Teacher(), "rule": "adaptive"}, "max_positive_similarity: expected an embedding model"),
    ],
)
def test_what_cannot_be_mined_is_named(given, said):
    with pytest.raises(ConfigurationError, match=f"^{said}"):
        mine(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lexical": -1}, "lexical: expected 0 or more, found -1"),
        ({"dense": -1}, "dense: expected 0 or more, found -1"),
        ({"num_negatives": 0}, "num_negatives: expected 1 or more, found 0"),
        ({"num_negatives": 5, "sample_from": 4}, "sample_from: expected num_negatives=5 or more, found 4"),
        ({"sampling": "best"}, "sampling: expected 'random' or 'top', found 'best'"),
    ],
)
def test_settings_out_of_range_are_named(given, said):
    with pytest.raises(ConfigurationError, match=f"^{said}$"):
        MiningSettings(**given)


def test_too_few_scores_are_the_teachers_error():
    with pytest.raises(TeacherError, match="expected 15 scores, found 1"):
        mine(teacher=lambda query, passages: [0.5], embed_model=WordEmbedding())


@pytest.mark.parametrize(
    ("by_search", "embeds", "rule"),
    [(True, True, "adaptive"), (False, True, "verdict"), (False, False, "topk-percpos")],
)
def test_the_rule_fits_the_teacher_unless_another_is_asked_for(by_search, embeds, rule):
    assert default_rule(by_search=by_search, embeds=embeds) == rule
