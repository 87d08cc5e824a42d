"""Whom a recommender serves: recall by training frequency of the target, and what it shows at all.

From ranked lists alone, whoever ranked them (TIGER section 1, third contribution: generative
retrieval should recommend infrequent items better).
"""

from collections.abc import Sequence

import numpy as np

from tiger_jax import metrics
from tiger_jax.metrics import RankedItems, flat_histories

# Lowest training frequency of each group; the last has no upper end. In 5-core data with two
# items of each user held out, few items are seen less than three times in training.
BOUNDS = (0, 3, 6, 11, 21, 51)


def training_frequency(training_sequences: Sequence[Sequence[int]], num_items: int) -> np.ndarray:
    """Number of training interactions of each item number, int64 [N + 1]; 0 for padding."""
    _, items_H = flat_histories(training_sequences)
    return np.bincount(items_H, minlength=num_items + 1)


def recall_by_frequency(
    ranked: RankedItems,
    targets: np.ndarray,
    frequency_N: np.ndarray,
    k: int,
    bounds: Sequence[int] = BOUNDS,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Recall@k of users whose target's training frequency lies between two bounds.

    Args:
      ranked: one list a user, [B, R]; R >= k.
      targets: the item to find for each user, [B].
      frequency_N: training interactions of each item number, [N + 1].
      k: length of the list.
      bounds: lowest frequency of each group, ascending from 0 or what is left out.
      seed: of the bootstrap.

    Returns:
      For each group of users that is not empty {"low_frequency", "high_frequency" (None for the
      last), "users", "recall", "low", "high"}: the recall with its 95 % interval over the group's
      users.
    """
    gains_B = metrics.recall_gains(metrics.target_ranks(ranked.top(k), targets), k)
    group_B = np.searchsorted(bounds, frequency_N[targets], side="right") - 1
    generator = np.random.default_rng(seed)
    rows = []
    for group, lowest in enumerate(bounds):
        gains = gains_B[group_B == group]
        if not len(gains):
            continue
        value = float(gains.mean())
        # Resampling users with hits of 0 and 1 is drawing from a binomial distribution.
        resamples = generator.binomial(len(gains), value, 1000) / len(gains)
        low, high = np.percentile(resamples, [2.5, 97.5])
        last = group + 1 == len(bounds)
        rows.append(
            {
                "low_frequency": lowest,
                "high_frequency": None if last else bounds[group + 1] - 1,
                "users": len(gains),
                "recall": value,
                "low": float(low),
                "high": float(high),
            }
        )
    return rows


def coverage(ranked: RankedItems, num_items: int, k: int) -> float:
    """Share of the catalogue that is among the first k results of any user."""
    return metrics.distinct_items(ranked, k) / num_items


def mean_frequency(ranked: RankedItems, frequency_N: np.ndarray, k: int) -> float:
    """Mean training frequency of the items in the first k results of all users: popularity bias.

    Unused slots and invalid IDs do not count.
    """
    items = ranked.top(k).item_numbers
    return float(frequency_N[items[items > 0]].mean())


def concentration(ranked: RankedItems, num_items: int, k: int) -> float:
    """Gini coefficient of how often each item is among the first k results; 0 if all equally often.

    sum_i (2 i - N - 1) x_i / (N sum_i x_i) with x ascending; 1 - 1 / N where one item has all.
    """
    counts_N = np.sort(np.bincount(ranked.top(k).item_numbers.ravel(), minlength=num_items + 1)[1:])
    weights_N = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float(weights_N @ counts_N / (num_items * counts_N.sum()))
