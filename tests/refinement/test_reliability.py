import math

import numpy as np
import pytest
from messages import THINGS
from test_solvers import problem

from llama_index_instruct import ConfigurationError, RefinementRetriever, estimate_judge_error, refine_query
from llama_index_instruct.arithmetic import sigmoid
from llama_index_instruct.refinement.reliability import ERRORS, LIKELY, likeliest_error


def judgements(error, queries=150, seed=0, slope=1.5):
    """Logits that foretell with the given sharpness, and answers of a judge that errs as often as said."""
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.normal(size=(queries, 20)) - 0.5
    relevant = rng.random((queries, 20)) < sigmoid(slope * logits + 0.3)
    return logits, (relevant ^ (rng.random((queries, 20)) < error)).astype(float)


@pytest.mark.parametrize("error", [0.0, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_found_again(error, seed):
    found = likeliest_error(*judgements(error, seed=seed))
    assert found.error == pytest.approx(error, abs=0.03)
    assert found.low <= found.error <= found.high
    assert (found.judgements, found.queries) == (3000, 150)


def test_fewer_queries_say_less():
    many, few = (likeliest_error(*judgements(0.1, queries=count)) for count in (300, 20))
    assert few.high - few.low > 2 * (many.high - many.low)


def test_the_grid_has_the_literal_minimum():
    """Each error with its best slope and offset, by brute force over both."""
    logits, answers = judgements(0.15, queries=15)
    z, y = logits.ravel(), answers.ravel()
    losses = []
    for error in ERRORS[::10]:
        best = math.inf
        for log_slope in np.linspace(-1.5, 2.0, 36):
            for offset in np.linspace(-2.0, 2.0, 41):
                yes = error + (1 - 2 * error) * sigmoid(np.exp(log_slope) * z + offset)
                likely = np.where(y == 1.0, yes, 1 - yes)
                loss = -np.log(np.maximum(likely, 1e-9)).sum()
                best = min(best, loss + 0.5 * (log_slope**2 + offset**2))
        losses.append(best)
    found = likeliest_error(logits, answers)
    assert abs(found.error - ERRORS[::10][int(np.argmin(losses))]) <= 0.05
    likely = ERRORS[::10][np.array(losses) < min(losses) + LIKELY - 0.3]
    assert found.low - 0.01 <= likely.min() and likely.max() <= found.high + 0.01


def test_a_judge_is_found_out_from_its_traces(index):
    def judge_that_errs(share):
        rng = np.random.default_rng(1)
        return lambda query, passages: [float(("grateful" in text) ^ (rng.random() < share)) for text in passages]

    found = []
    for share in (0.0, 0.2):
        retriever = RefinementRetriever(index, judge=judge_that_errs(share), lexical=False)
        traces = [retriever.refine(f"refund {thing} filler{n} filler{n + 5}") for thing in THINGS for n in range(6)]
        known = [judged for trace in traces for judged in trace.judgements if not math.isnan(judged.foretold)]
        found.append(estimate_judge_error(traces))
        assert found[-1].judgements == len(known) > 500
    assert found[0].high < 0.1 < found[1].error < 0.3


def test_without_foretold_answers_there_is_no_estimate(index):
    trace = RefinementRetriever(index, judge=lambda query, passages: [1.0] * len(passages)).refine("refund printer")
    assert not trace.changed and all(math.isnan(judged.foretold) for judged in trace.judgements)
    with pytest.raises(ConfigurationError, match="some hundreds of queries"):
        estimate_judge_error([trace])


def test_what_is_foretold_belongs_to_the_passage_it_is_said_of():
    query, passages, relevance = problem()
    whole = refine_query(query, passages, relevance).foretold
    assert np.isfinite(whole).all()
    rows = np.vstack([passages[:3], np.zeros((1, 48)), passages[3:], passages[:1]])
    told = np.concatenate([relevance[:3], [1.0], relevance[3:], [np.nan]])
    among = refine_query(query, rows, told).foretold
    np.testing.assert_allclose(among[[0, 1, 2, *range(4, 21)]], whole, atol=1e-9)
    assert np.isnan(among[[3, 21]]).all()
    assert np.isnan(refine_query(query, passages, relevance, method="kl").foretold).all()
