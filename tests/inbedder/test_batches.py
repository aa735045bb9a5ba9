import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_index_instruct.inbedder.batches import GroupedBatches

SIZES = st.lists(st.integers(1, 9), max_size=60)
quick = settings(max_examples=60, deadline=None)


def groups_with(sizes):
    groups, at = [], 0
    for size in sizes:
        groups.append(list(range(at, at + size)))
        at += size
    return groups, at


def batches_of(sizes, batch_size, *, seed=0, epoch=0, lengths=None):
    groups, rows = groups_with(sizes)
    made = GroupedBatches(groups, lengths or [1 + (7 * i) % 13 for i in range(rows)], batch_size, seed)
    made.set_epoch(epoch)
    return made


@quick
@given(SIZES, st.integers(1, 12), st.integers(0, 99), st.integers(0, 5))
def test_every_row_comes_once_per_epoch(sizes, batch_size, seed, epoch):
    batches = list(made := batches_of(sizes, batch_size, seed=seed, epoch=epoch))
    assert sorted(i for batch in batches for i in batch) == list(range(sum(sizes)))
    assert len(made) == len(batches) and all(batches)
    assert sum(len(batch) != batch_size for batch in batches) <= 1 and max(map(len, batches), default=1) <= batch_size


@quick
@given(SIZES, st.integers(1, 12), st.integers(0, 99), st.integers(0, 5))
def test_seed_and_epoch_decide_all(sizes, batch_size, seed, epoch):
    made = batches_of(sizes, batch_size, seed=seed, epoch=epoch)
    assert list(made) == list(made) == list(batches_of(sizes, batch_size, seed=seed, epoch=epoch))


def test_another_epoch_or_seed_is_another_order():
    orders = [list(batches_of([4] * 40, 8, seed=s, epoch=e)) for s, e in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))]
    assert len({str(order) for order in orders}) == 5
    assert len({frozenset(map(frozenset, order)) for order in orders}) == 5  # other batches, not only in another order


@quick
@given(st.lists(st.integers(1, 8), min_size=1, max_size=60), st.integers(8, 40), st.integers(0, 9))
def test_groups_stay_together_but_for_one_cut_per_batch(sizes, batch_size, seed):
    groups, _ = groups_with(sizes)
    batches = list(batches_of(sizes, batch_size, seed=seed))
    where = {i: number for number, batch in enumerate(batches) for i in batch}
    parts = [len({where[i] for i in group}) for group in groups]
    assert max(parts) <= 2 and sum(part == 2 for part in parts) <= len(batches) - 1


def test_groups_that_fill_batches_are_never_cut():
    groups, _ = groups_with([4] * 50)
    whole = {frozenset(group) for group in groups}
    for batch in batches_of([4] * 50, 8):
        assert {frozenset(batch[:4]), frozenset(batch[4:])} <= whole


def test_lengths_are_alike_within_a_batch():
    sizes = [2] * 400
    lengths = [10 + (37 * (i // 2)) % 200 for i in range(800)]
    padded = sum(len(b) * max(lengths[i] for i in b) for b in batches_of(sizes, 8, lengths=lengths))
    assert padded < 1.1 * sum(lengths)


def test_long_batches_come_anywhere_in_an_epoch():
    lengths = [10 + i // 2 for i in range(800)]
    means = [sum(lengths[i] for i in b) / len(b) for b in batches_of([2] * 400, 8, lengths=lengths)]
    assert means != sorted(means) and means != sorted(means, reverse=True)
    half = len(means) // 2
    assert abs(sum(means[:half]) / half - sum(means[half:]) / half) < 80


@pytest.mark.parametrize("sizes", [[], [1], [9], [9, 9]])
def test_few_rows(sizes):
    batches = list(batches_of(sizes, 4))
    assert sum(map(len, batches)) == sum(sizes) and len(batches) == -(-sum(sizes) // 4)
