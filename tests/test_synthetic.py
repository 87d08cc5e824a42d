"""The generated catalogue: its rules, and that they need a model of the sequence."""

import collections

import numpy as np
import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.data import synthetic
from tiger_jax.data.sequences import build_sequences


@pytest.fixture(scope="module")
def raw():
    return synthetic.generate(1500, 400, seed=0)


@pytest.fixture(scope="module")
def sequences(raw):
    return build_sequences(raw)


@pytest.fixture(scope="module")
def shelf(raw, sequences):
    """Department and place of the shelf of each item number, [N + 1, 2]; (-1, -1) for padding."""
    order = [path for department in _paths() for path in department]
    rows = [
        order.index(raw.metadata[item_id]["categories"][0]) for item_id in sequences.item_ids[1:]
    ]
    return np.array([(-1, -1), *(divmod(row, 9) for row in rows)])


def _paths():
    return [
        [[department, category, name] for category, names in categories.items() for name in names]
        for department, categories in synthetic._DEPARTMENTS.items()
    ]


def recall_at_10(sequences, scores_of):
    """Share of users whose test item is among the ten best that they have not had."""
    histories, targets = sequences.split("test")
    hits = 0
    for history, target in zip(histories, targets, strict=True):
        scores = scores_of(history).astype(float)
        scores[history] = -np.inf
        hits += (scores > scores[target]).sum() < 10
    return hits / len(targets)


def test_equal_seeds_give_equal_data_and_others_do_not(raw):
    again = synthetic.generate(1500, 400, seed=0)
    assert again.metadata == raw.metadata
    np.testing.assert_array_equal(again.items, raw.items)
    np.testing.assert_array_equal(again.timestamps, raw.timestamps)
    other = synthetic.generate(1500, 400, seed=1)
    assert other.metadata != raw.metadata
    assert other.items.tolist() != raw.items.tolist()


def test_shelves_and_brands_are_as_many_as_the_rules_assume():
    assert [len(department) for department in _paths()] == [9, 9, 9, 9]
    assert [len(brands) for brands in synthetic._BRANDS.values()] == [6, 6, 6, 6]
    assert synthetic._DEPARTMENTS.keys() == synthetic._BRANDS.keys()
    for step in synthetic._ROUTINES:
        assert len({step * n % 9 for n in range(9)}) == 9


def test_metadata_is_readable_and_titles_are_distinct(raw):
    titles = [row["title"] for row in raw.metadata.values()]
    assert len(set(titles)) == 400
    for row in raw.metadata.values():
        [[department, _, name]] = row["categories"]
        assert name.removesuffix("s") in row["title"]
        assert row["brand"] is None or row["brand"] in synthetic._BRANDS[department]
        assert row["brand"] is None or row["title"].startswith(row["brand"])
    for field, share in (("brand", synthetic._NO_BRAND), ("price", synthetic._NO_PRICE)):
        missing = sum(row[field] is None for row in raw.metadata.values()) / 400
        assert abs(missing - share) < 4 * (share / 400) ** 0.5


def test_users_have_5_to_20_items_in_time_order_and_none_twice(raw):
    lengths = np.bincount(raw.users)
    assert lengths.min() == 5
    assert lengths.max() == 20
    for user in range(len(raw.user_ids)):
        own = raw.users == user
        assert len(set(raw.items[own].tolist())) == own.sum()
        assert (np.diff(raw.timestamps[own]) >= 0).all()


def test_five_core_keeps_nearly_everything(raw, sequences):
    assert len(sequences.items) > 0.99 * len(raw.items)
    assert sequences.num_items > 0.97 * 400


def test_next_shelf_follows_from_two_items_and_not_from_one(sequences, shelf):
    """Steps between neighbours of one department are those of a routine; two equal in a row."""
    steps, pairs = collections.Counter(), collections.Counter()
    for row in range(sequences.num_users):
        place = shelf[sequences.sequence(row)]
        same = place[1:, 0] == place[:-1, 0]
        step = np.where(same, (place[1:, 1] - place[:-1, 1]) % 9, -1)
        steps.update(step[same].tolist())
        pairs.update(zip(step[:-1].tolist(), step[1:].tolist(), strict=True))
    total = steps.total()
    assert abs(steps[1] / total - 0.5) < 0.05
    assert abs(steps[4] / total - 0.5) < 0.05
    for step, other in ((1, 4), (4, 1)):
        assert pairs[step, step] > 20 * pairs[step, other]


def test_the_quickstarts_baselines_are_weak_and_the_rules_are_strong(sequences, shelf):
    counts = np.bincount(np.concatenate(sequences.training_sequences()), minlength=len(shelf))
    popularity = counts / counts.max()
    assert recall_at_10(sequences, lambda history: popularity) < 0.1

    def same_shelf(history):
        return (shelf == shelf[history[-1]]).all(axis=1) + popularity

    assert recall_at_10(sequences, same_shelf) < 0.1

    def by_the_rules(history):
        place = shelf[history]
        department = np.bincount(place[:, 0]).argmax()
        places = place[place[:, 0] == department, 1]
        steps = np.diff(places) % 9
        step = 1 if (steps == 1).sum() >= (steps == 4).sum() else 4
        following = (department, (places[-1] + step) % 9)
        return (shelf == following).all(axis=1) + popularity

    assert recall_at_10(sequences, by_the_rules) > 0.6


def test_too_small_a_catalogue_is_an_error():
    with pytest.raises(InputError, match="at least 1 user and 36 items"):
        synthetic.generate(10, 35, seed=0)
    with pytest.raises(InputError, match="at least 1 user and 36 items"):
        synthetic.generate(0, 100, seed=0)
    assert len(synthetic.generate(1, 36, seed=0).metadata) == 36
