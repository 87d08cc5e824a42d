"""Metrics against values worked by hand, slow references and the statistics of large samples."""

import math

import numpy as np
import pytest

from tiger_jax import metrics
from tiger_jax.metrics import RankedItems

UNUSED = -np.inf


def ranked_items(*lists):
    """Lists of item numbers, best first: 0 is an invalid ID, None an unused slot."""
    items = np.array([[item or 0 for item in row] for row in lists], np.int32)
    scores = [
        [UNUSED if item is None else -float(slot) for slot, item in enumerate(row)] for row in lists
    ]
    return RankedItems(items, np.array(scores, np.float32))


def random_lists(generator, num_users=300, num_items=40, num_results=12):
    """Lists without repeated items, of which some slots hold an invalid ID and some are unused."""
    items = np.stack(
        [generator.permutation(num_items)[:num_results] + 1 for _ in range(num_users)]
    ).astype(np.int32)
    items[generator.random(items.shape) < 0.1] = 0
    scores = -np.sort(generator.random(items.shape), axis=1).astype(np.float32)
    num_used = generator.integers(0, num_results + 1, (num_users, 1))
    unused = np.arange(num_results) >= num_used
    return RankedItems(np.where(unused, 0, items), np.where(unused, UNUSED, scores))


def with_rank(rank, num_results=10):
    """One list whose target, item 1, stands at `rank`; 0 for nowhere."""
    return [1 if slot == rank else 100 + slot for slot in range(1, num_results + 1)]


@pytest.mark.parametrize(
    ("rank", "recall_5", "ndcg_5", "recall_10", "ndcg_10"),
    [
        (1, 1, 1.0, 1, 1.0),
        (2, 1, 0.6309297535714575, 1, 0.6309297535714575),
        (3, 1, 0.5, 1, 0.5),
        (5, 1, 0.38685280723454163, 1, 0.38685280723454163),
        (6, 0, 0.0, 1, 0.3562071871080222),
        (10, 0, 0.0, 1, 0.28906482631788793),
        (0, 0, 0.0, 0, 0.0),
    ],
)
def test_one_user_scores_as_worked_by_hand(rank, recall_5, ndcg_5, recall_10, ndcg_10):
    result = metrics.score(ranked_items(with_rank(rank)), np.array([1]))
    assert result["recall@5"]["value"] == recall_5
    assert result["recall@10"]["value"] == recall_10
    assert result["ndcg@5"]["value"] == pytest.approx(ndcg_5, rel=1e-12)
    assert result["ndcg@10"]["value"] == pytest.approx(ndcg_10, rel=1e-12)


def test_scores_equal_a_slow_reference():
    generator = np.random.default_rng(0)
    ranked = random_lists(generator)
    targets = generator.integers(1, 41, len(ranked))
    result = metrics.score(ranked, targets)
    for k in (5, 10):
        hits, gains = 0, 0.0
        for items, target in zip(ranked.item_numbers.tolist(), targets.tolist(), strict=True):
            if target in items[:k]:
                hits += 1
                gains += 1 / math.log2(items.index(target) + 2)
        assert result[f"recall@{k}"]["value"] == pytest.approx(hits / len(targets))
        assert result[f"ndcg@{k}"]["value"] == pytest.approx(gains / len(targets))


def test_an_invalid_id_keeps_its_place_and_is_a_miss():
    ranks = metrics.target_ranks(ranked_items([0, 7, 0, 8], [0, 0, 0, 0]), np.array([8, 8]))
    assert ranks.tolist() == [4, 0]


def test_lists_shorter_than_the_cutoff_miss_beyond_their_end():
    result = metrics.score(ranked_items([4, 5], [6, None]), np.array([5, 9]))
    assert result["recall@10"]["value"] == result["recall@5"]["value"] == 0.5


@pytest.mark.parametrize("targets", [[0, 1], [1], [[1, 2]]])
def test_targets_that_do_not_fit_are_refused(targets):
    with pytest.raises(ValueError, match="every list needs one target"):
        metrics.target_ranks(ranked_items([1, 2], [2, 1]), np.array(targets))


def test_history_items_are_removed_as_by_a_list_comprehension():
    generator = np.random.default_rng(1)
    ranked = random_lists(generator)
    histories = [
        generator.integers(1, 41, generator.integers(0, 30)).tolist() for _ in range(len(ranked))
    ]
    result = ranked.without(histories)
    assert result.item_numbers.dtype == np.int32
    assert result.scores.dtype == np.float32
    for row, history in enumerate(histories):
        slots = zip(ranked.item_numbers[row].tolist(), ranked.scores[row].tolist(), strict=True)
        kept = [(item, score) for item, score in slots if item not in history]
        kept += [(0, UNUSED)] * (len(ranked.item_numbers[row]) - len(kept))
        assert result.item_numbers[row].tolist() == [item for item, _ in kept]
        assert result.scores[row].tolist() == [score for _, score in kept]


def test_invalid_ids_stay_when_the_history_is_padded_with_zeros():
    result = ranked_items([3, 0, 5]).without([[0, 0, 3]])
    assert result.item_numbers.tolist() == [[0, 5, 0]]
    assert result.used.tolist() == [[True, True, False]]


def test_top_cuts_lists():
    top = ranked_items([3, 4, 5], [6, None, None]).top(2)
    assert top.item_numbers.tolist() == [[3, 4], [6, 0]]
    assert top.used.tolist() == [[True, True], [True, False]]


def test_intervals_agree_with_the_normal_approximation_of_many_users():
    num_users = 20_000
    generator = np.random.default_rng(2)
    ranks = np.where(generator.random(num_users) < 0.1, generator.integers(1, 11, num_users), 0)
    items = np.where(ranks[:, None] == np.arange(1, 11), 1, 2).astype(np.int32)
    ranked = RankedItems(items, np.zeros(items.shape, np.float32))
    result = metrics.score(ranked, np.ones(num_users, np.int32))
    for k in (5, 10):
        for name, gains in (("recall", metrics.recall_gains), ("ndcg", metrics.ndcg_gains)):
            gain = gains(ranks, k)
            deviation = gain.std() / math.sqrt(num_users)
            interval = result[f"{name}@{k}"]
            # A percentile of 1,000 resamples is itself uncertain by 0.085 deviations.
            assert interval["low"] == pytest.approx(
                gain.mean() - 1.96 * deviation, abs=0.3 * deviation
            )
            assert interval["high"] == pytest.approx(
                gain.mean() + 1.96 * deviation, abs=0.3 * deviation
            )


def test_intervals_agree_with_resampling_the_users_themselves():
    generator = np.random.default_rng(3)
    ranks = generator.choice([0, 1, 4, 9], size=60, p=[0.4, 0.3, 0.2, 0.1])
    ranked = ranked_items(*[with_rank(rank) for rank in ranks])
    interval = metrics.score(ranked, np.ones(60, np.int32))["ndcg@10"]
    gains = metrics.ndcg_gains(ranks, 10)
    means = gains[generator.integers(0, 60, (20_000, 60))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    assert interval["low"] == pytest.approx(low, abs=0.3 * means.std())
    assert interval["high"] == pytest.approx(high, abs=0.3 * means.std())


@pytest.mark.parametrize(("rank", "value"), [(0, 0.0), (1, 1.0)])
def test_the_interval_of_equal_users_is_a_point(rank, value):
    ranked = ranked_items(*[with_rank(rank)] * 50)
    for interval in metrics.score(ranked, np.ones(50, np.int32)).values():
        assert interval == {"value": value, "low": value, "high": value}


def test_intervals_depend_on_the_seed_alone():
    ranked = ranked_items(*[with_rank(rank) for rank in [0, 1, 4, 9] * 5])
    targets = np.ones(20, np.int32)
    assert metrics.score(ranked, targets, seed=1) == metrics.score(ranked, targets, seed=1)
    assert metrics.score(ranked, targets, seed=1) != metrics.score(ranked, targets, seed=2)


def test_invalid_id_rate_counts_used_slots_only():
    ranked = ranked_items([0, 1, 2, 0], [3, None, None, None])
    assert metrics.invalid_id_rate(ranked, 4) == 2 / 5
    assert metrics.invalid_id_rate(ranked, 1) == 1 / 2
    assert metrics.invalid_id_rate(ranked_items([None, None]), 2) == 0.0


def test_distinct_items_count_neither_invalid_ids_nor_what_lies_beyond_k():
    assert metrics.distinct_items(ranked_items([1, 2, 9], [2, 0, 8], [3, None, None]), 2) == 3


def test_entropy_of_equally_frequent_categories_is_their_number_of_bits():
    categories = np.array([-1, 0, 1, 2, 3, 0, 0, 0])
    assert metrics.category_entropy(ranked_items([1, 2, 3, 4]), categories, 4) == 2.0
    assert metrics.category_entropy(ranked_items([1, 2, 3, 4]), categories, 2) == 1.0
    assert metrics.category_entropy(ranked_items([1, 5, 6, 7]), categories, 4) == 0.0
    assert metrics.category_entropy(ranked_items([0, None]), categories, 2) == 0.0


def test_entropy_equals_a_slow_reference():
    generator = np.random.default_rng(4)
    ranked = random_lists(generator)
    categories = generator.integers(-1, 5, 41)
    entropies = []
    for items in ranked.item_numbers[:, :10].tolist():
        found = [categories[item] for item in items if item and categories[item] >= 0]
        shares = [found.count(category) / len(found) for category in set(found)]
        if found:
            entropies.append(-sum(share * math.log2(share) for share in shares))
    assert metrics.category_entropy(ranked, categories, 10) == pytest.approx(np.mean(entropies))
