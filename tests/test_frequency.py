"""Recall by frequency, coverage, popularity and concentration of lists, worked by hand."""

import numpy as np
import pytest

from tiger_jax import frequency, metrics
from tiger_jax.metrics import RankedItems

# Item 1 is seen four times in training, 2 once, 3 twice, 4 never.
FREQUENCY_N = frequency.training_frequency([[1, 1, 2], [1, 3], [3, 1]], 4)
# The last list holds an invalid ID and an unused slot.
LISTS = RankedItems(
    np.array([[1, 2, 3], [1, 3, 2], [4, 1, 2], [1, 0, 0]], np.int32),
    np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1], [3, 2, -np.inf]], np.float32),
)


def test_frequencies_are_counts_of_the_training_sequences():
    assert FREQUENCY_N.tolist() == [0, 4, 1, 2, 0]


def test_recall_of_each_group_by_hand():
    rows = frequency.recall_by_frequency(
        LISTS, np.array([2, 2, 4, 1]), FREQUENCY_N, 2, (0, 1, 2, 3)
    )
    assert [(row["low_frequency"], row["high_frequency"], row["users"]) for row in rows] == [
        (0, 0, 1),
        (1, 1, 2),
        (3, None, 1),
    ]
    assert [row["recall"] for row in rows] == [1, 0.5, 1]
    assert all(0 <= row["low"] <= row["recall"] <= row["high"] <= 1 for row in rows)


def random_lists(num_users=500, num_items=40):
    generator = np.random.default_rng(0)
    items = np.argsort(generator.random((num_users, num_items)), axis=1)[:, :10] + 1
    scores = np.tile(np.arange(10, 0, -1, dtype=np.float32), (num_users, 1))
    return RankedItems(items.astype(np.int32), scores), generator.integers(1, 41, num_users)


def test_groups_together_have_the_recall_of_all_users():
    ranked, targets = random_lists()
    frequency_N = np.random.default_rng(1).integers(0, 60, 41)
    rows = frequency.recall_by_frequency(ranked, targets, frequency_N, 10)
    assert sum(row["users"] for row in rows) == len(targets)
    recall = sum(row["users"] * row["recall"] for row in rows) / len(targets)
    assert recall == pytest.approx(metrics.score(ranked, targets)["recall@10"]["value"])


def test_the_interval_of_one_group_is_that_of_the_metric():
    """Up to the chance of 1,000 resamples, within a tenth of its width."""
    ranked, targets = random_lists()
    row = frequency.recall_by_frequency(ranked, targets, np.zeros(41, int), 10)[0]
    known = metrics.score(ranked, targets)["recall@10"]
    width = known["high"] - known["low"]
    assert (row["low"], row["high"]) == pytest.approx((known["low"], known["high"]), abs=width / 10)


def test_coverage_and_popularity_by_hand():
    assert frequency.coverage(LISTS, 4, 1) == 2 / 4
    assert frequency.coverage(LISTS, 4, 3) == 1
    # 1 2 | 1 3 | 4 1 | 1
    assert frequency.mean_frequency(LISTS, FREQUENCY_N, 2) == (4 + 1 + 4 + 2 + 0 + 4 + 4) / 7


def test_concentration_at_its_limits_and_by_hand():
    same = RankedItems(np.ones((5, 1), np.int32), np.ones((5, 1), np.float32))
    each = RankedItems(np.arange(1, 5, dtype=np.int32)[:, None], np.ones((4, 1), np.float32))
    assert frequency.concentration(same, 4, 1) == 1 - 1 / 4
    assert frequency.concentration(each, 4, 1) == 0
    # 3 2 2 1 times; mean absolute difference over all pairs 12 / 16, half of it over the mean 2.
    lists = RankedItems(np.array([[1, 2], [1, 3], [1, 2], [3, 4]], np.int32), np.ones((4, 2)))
    assert frequency.concentration(lists, 4, 2) == pytest.approx(12 / 16 / 2 / 2)
