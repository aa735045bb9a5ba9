"""Words beside vectors: what they tell reaches the query vector, and nothing but the vector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_selection import unit_rows

from llama_index_instruct import ConfigurationError, DimensionMismatchError
from llama_index_instruct.refinement.agreement import agreement
from llama_index_instruct.refinement.changes import STIFFNESS
from llama_index_instruct.refinement.joint import FULLY_TURNED, QUERY_WORD_WEIGHT, WORD_WEIGHT, JointSpace
from llama_index_instruct.refinement.rounds import RefinementRounds
from llama_index_instruct.refinement.settings import MAX_ANGLE
from llama_index_instruct.refinement.solvers import DOUBTFUL_AGREEMENT
from llama_index_instruct.refinement.words import WordRows, read_words

NOUNS = ["printer", "router", "tablet", "monitor", "keyboard", "invoice", "cable", "battery"]


def scene(seed=0, n=60, d=96):
    """Passages of no order that vectors can see; the relevant ones say "refund" in words of their own."""
    rng = np.random.default_rng(seed)
    query = unit_rows(seed, 1, d)[0]
    rows = query + 0.8 * unit_rows(seed + 1, n, d)
    rows = rows[np.argsort(-(rows @ query) / np.linalg.norm(rows, axis=1))]
    relevant = rng.random(n) < 0.4
    texts = [
        f"{rng.choice(NOUNS)} and {rng.choice(NOUNS)} {'refunded' if yes else 'broken'} {rng.choice(NOUNS)}"
        for yes in relevant
    ]
    return query, rows / np.linalg.norm(rows, axis=1, keepdims=True), relevant.astype(float), texts


def judged_rounds(query, rows, relevance, words, judged=20):
    rounds = RefinementRounds(query, rows, judged=judged, rounds=2, words=words)
    while len(picks := rounds.next_rows()):
        rounds.record(picks, relevance[picks])
    return rounds


def ranked_right(scores, wanted):
    """The area under the ROC curve."""
    return (scores[wanted][:, None] > scores[~wanted][None, :]).mean()


def test_the_space_is_vectors_and_words_side_by_side():
    query, rows, _, texts = scene()
    words = read_words("refund", texts)
    space = JointSpace(query, rows, words)
    mixed = (rows @ query + WORD_WEIGHT * QUERY_WORD_WEIGHT * words.texts @ words.query) / np.sqrt(
        (1 + WORD_WEIGHT**2) * (1 + QUERY_WORD_WEIGHT**2 * words.query @ words.query)
    )
    np.testing.assert_allclose(space.candidates @ space.query, mixed, atol=1e-5)


def agreed(refined, relevance):
    return agreement(relevance, refined.foretold)


def literal_vector(query, rows, words, solution, lowered):
    """The ridge regression by gradient descent, the query's own words left out as far as it is not turned."""
    d = len(query)
    own = np.concatenate([query, QUERY_WORD_WEIGHT * words.query])
    own /= np.linalg.norm(own)
    along = own @ solution
    share = max(1 - np.arccos(along) / FULLY_TURNED, 0.0) * along
    told = np.array([WORD_WEIGHT * row @ (solution[d:] - share * own[d:]) for row in words.texts])
    wanted, change = told - told.mean() + np.sqrt(1 + WORD_WEIGHT**2) * lowered, np.zeros(d)
    for _ in range(20_000):
        change -= 0.01 * (rows.T @ (rows @ change - wanted) + STIFFNESS * change)
    return solution[:d] + change


@pytest.mark.parametrize("turned", [0.2, 0.9])
def test_the_query_vector_by_gradient_descent(turned):
    query, rows, _, texts = scene(d=40)
    words = read_words("refund", texts)
    space = JointSpace(query, rows, words)
    aside = unit_rows(7, 1, len(space.query))[0]
    aside -= (aside @ space.query) * space.query
    solution = np.cos(turned) * space.query + np.sin(turned) * aside / np.linalg.norm(aside)
    lowered = np.zeros(60)
    lowered[3] = -0.2
    expected = literal_vector(query, rows, words, solution, lowered)
    np.testing.assert_allclose(space.query_vector(solution, lowered), expected, atol=1e-6)


def test_the_query_vector_ranks_the_candidates_as_the_space_does():
    query, rows, _, texts = scene(d=384)
    texts[10:20] = ["alone" + "x" * i for i in range(10)]
    space = JointSpace(query, rows, read_words("refund", texts))
    aside = unit_rows(7, 1, len(space.query))[0]
    aside -= (aside @ space.query) * space.query
    solution = np.cos(0.7) * space.query + np.sin(0.7) * aside / np.linalg.norm(aside)
    found = rows @ space.query_vector(solution, np.zeros(60))
    assert np.corrcoef(space.candidates @ solution, found)[0, 1] > 0.99
    # What all gain alike is left out: on the whole they stay as high as their vectors alone have them.
    assert abs(found.mean() - rows.mean(axis=0) @ solution[:384]) < 0.02


def test_texts_of_no_shared_word_are_neither_favoured_nor_penalised():
    query, rows, _, texts = scene()
    texts[::2] = [f"{i:05d}" for i in range(30)]
    space = JointSpace(query, rows, read_words("zebra", texts))
    ratio = (space.candidates @ space.query) / (rows @ query)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_the_querys_own_words_turn_nothing_by_themselves():
    query, rows, _, texts = scene(d=384)
    words = read_words("printer refunded cable", texts)
    said = np.random.default_rng(1).choice([0.0, 1.0], size=60)
    hardly = judged_rounds(query, rows, said, words).refine(doubted_angle=1e-3, lowering=0.0)
    assert agreed(hardly, said[judged_rounds(query, rows, said, words).judged_rows]) < DOUBTFUL_AGREEMENT
    assert 0.0 < hardly.angle < 0.01
    still = judged_rounds(query, rows, said, words).refine(doubted_angle=0.0, lowering=0.0)
    assert not still.moved and still.angle == 0.0 and "no turn" in still.reason
    space = JointSpace(query, rows, words)
    np.testing.assert_allclose(space.query_vector(space.query, np.zeros(60)), space.query[:384], atol=1e-7)


def test_opposite_answers_turn_opposite_ways():
    query, rows, relevance, texts = scene(d=384)
    words = read_words("printer refunded cable", texts)
    forth, back = (
        judged_rounds(query, rows, said, words).refine(max_angle=0.05).vector - query
        for said in (relevance, 1 - relevance)
    )
    assert forth @ back < 0.0


def test_no_turn_allowed_towards_answers_in_doubt_still_lowers_what_was_rejected():
    query, rows, _, texts = scene(2)
    said = np.random.default_rng(2).choice([0.0, 1.0], size=60)
    rounds = judged_rounds(query, rows, said, read_words("refund", texts))
    refined = rounds.refine(doubted_angle=0.0)
    assert agreed(refined, rounds.relevance) < DOUBTFUL_AGREEMENT
    assert refined.moved and refined.angle > 0.0 and not refined.reason


def test_a_vector_that_cannot_turn_is_not_said_to_have_moved():
    words = read_words("a", ["a b", "a c"])
    rounds = RefinementRounds([1.0], [[1.0], [2.0]], judged=2, rounds=1, words=words)
    rounds.record(rounds.next_rows(), np.array([1.0, 0.0]))
    refined = rounds.refine()
    assert not refined.moved and refined.angle == 0.0 and refined.reason


def test_what_only_words_tell_reaches_the_passages_nobody_judged():
    lifts = {"words": [], "vectors": []}
    for seed in range(12):
        query, rows, relevance, texts = scene(seed)
        for name, words in (("words", read_words("money back", texts)), ("vectors", None)):
            rounds = judged_rounds(query, rows, relevance, words)
            rest = np.setdiff1d(np.arange(60), rounds.judged_rows)
            scores = rows[rest] @ rounds.refine().vector
            wanted = relevance[rest] == 1.0
            lifts[name].append(ranked_right(scores, wanted))
    # Among passages nobody judged: chance without words.
    assert np.mean(lifts["words"]) > 0.9 and np.mean(lifts["vectors"]) < 0.65


@pytest.mark.parametrize("method", ["kl", "rocchio"])
def test_published_methods_read_no_words(method):
    query, rows, relevance, texts = scene()
    with pytest.raises(ConfigurationError, match="words: go with method 'logistic'"):
        judged_rounds(query, rows, relevance, read_words("refund", texts)).refine(method)


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_angle_is_bounded_and_a_silent_teacher_changes_nothing(seed):
    query, rows, _, texts = scene(seed, n=25, d=16)
    said = np.random.default_rng(seed).choice([0.0, 0.4, 1.0, np.nan], size=25)
    words = read_words("refund", texts)
    refined = judged_rounds(query, rows, said, words).refine()
    assert np.isfinite(refined.vector).all() and refined.angle <= MAX_ANGLE + 1e-9
    assert np.arccos(min(refined.vector @ query, 1.0)) == pytest.approx(refined.angle, abs=1e-3)
    silent = judged_rounds(query, rows, np.ones(25), words).refine()
    assert not silent.moved and silent.angle == 0.0
    np.testing.assert_array_equal(silent.vector, query.astype(np.float32))


def test_words_that_tell_nothing_cost_little():
    found = {"alone": [], "beside": []}
    for seed in range(12):
        query, rows, _, _ = scene(seed)
        relevance = (rows @ unit_rows(seed + 5, 1, 96)[0] > 0.05).astype(float)
        for name, words in (("alone", None), ("beside", WordRows(np.zeros(60), np.eye(60)))):
            vector = judged_rounds(query, rows, relevance, words).refine().vector
            found[name].append(ranked_right(rows @ vector, relevance == 1.0))
    assert np.mean(found["alone"]) > 0.7 and np.mean(found["beside"]) > np.mean(found["alone"]) - 0.05


def test_words_of_other_texts_are_refused():
    query, rows, _, texts = scene()
    with pytest.raises(DimensionMismatchError, match="words: expected those of 59 candidates, found 60"):
        RefinementRounds(query, rows[:59], judged=5, rounds=1, words=read_words("refund", texts))
