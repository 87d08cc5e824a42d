"""Prefix examples, length groups and epochs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiger_jax.artifacts import InputError
from tiger_jax.data import examples, reviews
from tiger_jax.data.sequences import Sequences, build_sequences


def sequences_of(lists):
    """Sequences of the given item numbers."""
    lengths = [len(items) for items in lists]
    num_items = max(itertools.chain(*lists))
    return Sequences(
        user_ids=tuple(f"u{row}" for row in range(len(lists))),
        item_ids=("", *(f"i{number}" for number in range(1, num_items + 1))),
        items=np.array(list(itertools.chain(*lists)), np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        header={},
    )


def as_pairs(made):
    """Examples as (user, history, target), those with many targets one by one."""
    counts = np.ones(len(made), int) if made.num_targets is None else made.num_targets
    return [
        (int(user), made.items[last - length : target].tolist(), int(made.items[target]))
        for user, last, length, count in zip(
            made.user_rows, made.targets, made.lengths, counts, strict=True
        )
        for target in range(last - count + 1, last + 1)
    ]


def test_every_prefix_of_a_training_sequence_is_an_example():
    made = examples.prefix_examples(sequences_of([[1, 2, 3, 4, 5], [6, 7, 8], [2, 1, 9, 9]]), 2)
    # The last two of each are held out: [1, 2, 3], [6], [2, 1].
    assert as_pairs(made) == [(0, [1], 2), (0, [1, 2], 3), (2, [2], 1)]


@pytest.mark.parametrize("make", examples.KINDS.values())
def test_imagined_users_are_users_of_whom_nothing_is_held_out(make):
    real, imagined = [[1, 2, 3, 4, 5], [6, 7, 8]], [[9, 1, 2], [3], [4, 5]]
    made = make(sequences_of(real), 2, [np.array(items, np.int32) for items in imagined])
    # The same as of users who have two more items to be held out.
    alike = make(sequences_of(real + [[*items, 1, 1] for items in imagined]), 2)
    assert as_pairs(made) == as_pairs(alike)
    assert {user for user, _, _ in as_pairs(made)} == {0, 2, 4}


@pytest.mark.parametrize(
    ("name", "count"), [("beauty", 131413), ("sports", 189543), ("toys", 109361)]
)
def test_number_of_examples_of_the_paper_datasets(amazon_data, name, count):
    sequences = build_sequences(reviews.read_raw(amazon_data / name))
    made = examples.prefix_examples(sequences, 20)
    assert len(made) == count
    assert made.lengths.max() == 20


@settings(deadline=None)
@given(st.lists(st.integers(3, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_sequences_hold_each_pair_once_with_half_a_history_at_least(sizes, max_history):
    # Each item is a number of its own, so that a pair is known by its target.
    bounds = np.cumsum([0, *sizes])
    lists = [list(range(low + 1, high + 1)) for low, high in itertools.pairwise(bounds)]
    lists = [[*items, 1, 1] for items in lists]  # the last two are held out
    sequences = sequences_of(lists)
    expected = {
        pair[2]: pair for pair in as_pairs(examples.prefix_examples(sequences, max_history))
    }
    made = examples.sequence_examples(sequences, max_history)
    assert made.lengths.max() <= max_history
    pairs = as_pairs(made)
    assert sorted(pair[2] for pair in pairs) == sorted(expected)
    for user, history, target in pairs:
        whole_user, whole_history, _ = expected[target]
        assert user == whole_user
        assert history == whole_history[len(whole_history) - len(history) :]
        place = target - 1 - bounds[user]
        if len(lists[user]) - 2 <= max_history + 1:
            assert len(history) == place
        assert len(history) >= min(place, (max_history + 1) // 2)


lengths_lists = st.lists(st.integers(1, 12), min_size=1, max_size=80)


@settings(deadline=None, max_examples=150)
@given(lengths_lists, st.integers(1, 16), st.integers(1, 5), st.sampled_from([1, 2, 4]))
def test_epochs_keep_to_the_groups_and_repeat_no_example(lengths, batch_size, groups, multiple):
    lengths = np.array(lengths)
    batch_size *= multiple
    made = examples.length_groups(lengths, batch_size, groups, multiple)
    assert made.batch_size == batch_size
    assert len(made.sizes) <= groups
    assert all(size % multiple == 0 for size in made.sizes)
    assert list(made.capacities) == sorted(made.capacities, reverse=True)
    plan = examples.epoch_plan(lengths, made, seed=3, epoch=5)
    assert plan.shape == (max(len(lengths) // batch_size, 1), batch_size)
    first = 0
    for capacity, size in zip(made.capacities, made.sizes, strict=True):
        assert lengths[plan[:, first : first + size]].max(initial=0) <= capacity
        first += size
    if len(lengths) >= batch_size:
        assert len(np.unique(plan)) == plan.size


def brute_force_items(lengths, batch_size, num_groups):
    """Least room for items over all choices of at most `num_groups` capacities."""
    longest = lengths.max()
    num_batches = len(lengths) // batch_size
    best = np.inf
    for count in range(num_groups):
        for shorter in itertools.combinations(range(1, longest), count):
            bounds = [0, *shorter, longest]
            slots = [int(np.ceil((lengths > low).sum() / num_batches)) for low in bounds[:-1]] + [0]
            slots[0] = batch_size
            rooms = zip(bounds[1:], slots[:-1], slots[1:], strict=True)
            best = min(best, sum(cap * (many - fewer) for cap, many, fewer in rooms))
    return best


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4])
def test_length_groups_have_the_least_padding(num_groups):
    lengths = np.minimum(np.random.default_rng(1).geometric(0.3, 500), 9)
    made = examples.length_groups(lengths, 50, num_groups)
    items_per_batch = np.dot(made.capacities, made.sizes)
    assert items_per_batch == brute_force_items(lengths, 50, num_groups)


def test_epochs_differ_and_depend_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(1, 9, 200)
    groups = examples.length_groups(lengths, 32, 3)
    plans = [
        examples.epoch_plan(lengths, groups, *which) for which in [(0, 0), (0, 1), (1, 0), (0, 0)]
    ]
    assert (plans[0] == plans[3]).all()
    assert (plans[0] != plans[1]).any()
    assert (plans[0] != plans[2]).any()


def test_all_examples_are_seen_over_the_epochs():
    lengths = np.random.default_rng(0).integers(1, 9, 61)
    groups = examples.length_groups(lengths, 16, 3)
    seen = [examples.epoch_plan(lengths, groups, 0, epoch) for epoch in range(30)]
    assert len(np.unique(seen)) == 61


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(3, 12), min_size=1, max_size=80), st.integers(1, 6))
def test_packed_rows_hold_what_fits_and_repeat_no_example(sizes, num_rows):
    sizes = np.array(sizes)
    made = examples.packing(sizes, num_rows)
    plan = examples.packed_plan(sizes, made, seed=3, epoch=5)
    assert plan.shape == (max(sizes.sum() // (made.room * num_rows), 1), num_rows * made.most)
    rows = plan.reshape(-1, made.most)
    taken = rows[rows >= 0]
    assert len(np.unique(taken)) == len(taken) > 0
    assert np.where(rows >= 0, sizes[rows], 0).sum(axis=1).max() <= sizes.max()
    # Nothing stands behind a gap.
    assert (np.diff((rows >= 0).astype(int), axis=1) <= 0).all()


def test_packed_rows_are_nearly_full_and_leave_nothing_out_for_long():
    """Lengths as of the paper's datasets: 1 to 20 items of four tokens and a user's."""
    sizes = 1 + 4 * np.minimum(np.random.default_rng(0).geometric(0.16, 3000), 20)
    made = examples.packing(sizes, 6)
    assert made == examples.Packing(room=81, num_rows=6, most=16)
    plans = [examples.packed_plan(sizes, made, *which) for which in [(0, 0), (0, 1), (1, 0)]]
    for plan in plans:
        tokens = np.where(plan >= 0, sizes[plan], 0).sum()
        assert tokens > 0.97 * plan.shape[0] * 6 * 81
    assert (plans[0] == examples.packed_plan(sizes, made, 0, 0)).all()
    assert (plans[0] != plans[1]).any()
    assert (plans[0] != plans[2]).any()
    seen = [examples.packed_plan(sizes, made, 0, epoch) for epoch in range(10)]
    assert set(np.unique(seen)) == set(range(-1, 3000))


def test_batch_size_must_fit_the_devices():
    with pytest.raises(ValueError, match="batch size 10 is not a multiple of 4"):
        examples.length_groups(np.ones(20, int), 10, 2, multiple=4)


def test_users_of_three_items_leave_nothing_to_train_on():
    sequences = Sequences(
        ("ann", "bob"),
        ("", "a", "b", "c"),
        np.array([1, 2, 3, 3, 2, 1], np.int32),
        np.array([0, 3, 6]),
        {},
    )
    for train_on in ("prefixes", "sequences"):
        with pytest.raises(InputError, match="nothing to train on: no user has two items before"):
            examples.of(sequences, train_on, 20, is_causal=True)
