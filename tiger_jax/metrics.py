"""Ranked items, and what they are worth: recall, NDCG, invalid IDs, diversity, intervals.

It knows nothing of who ranked the items, nor of users beyond their rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

CUTOFFS = (5, 10)

_NUM_RESAMPLES = 1000
_INTERVAL_PERCENT = 95


@dataclasses.dataclass(frozen=True)
class RankedItems:
    """What every recommender answers: a list of items for each user, best first.

    Attributes:
      item_numbers: int32 [B, R]; 0 where the slot holds no item.
      scores: float32 [B, R]; -inf marks an unused slot, so that item 0 with a finite score is
        an invalid ID (TIGER section 4.5). Unused slots come last.
    """

    item_numbers: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.item_numbers)

    @property
    def used(self) -> np.ndarray:
        """Slots that hold an item or an invalid ID, bool [B, R]."""
        return np.isfinite(self.scores)

    def top(self, num_results: int) -> "RankedItems":
        """The first `num_results` of each list."""
        return RankedItems(self.item_numbers[:, :num_results], self.scores[:, :num_results])

    def without(self, histories: Sequence[Sequence[int]]) -> "RankedItems":
        """The same lists less each user's own history; the order stays, unused slots fill up.

        Args:
          histories: B lists of item numbers, of any lengths.
        """
        rows_H, items_H = flat_histories(histories)
        width = max(self.item_numbers.max(initial=0), items_H.max(initial=0)) + 1
        keys_BR = np.arange(len(self))[:, None] * width + self.item_numbers
        removed_BR = np.isin(keys_BR, rows_H * width + items_H) & (self.item_numbers > 0)
        order_BR = np.argsort(removed_BR, axis=1, kind="stable")
        kept_BR = ~np.take_along_axis(removed_BR, order_BR, axis=1)
        item_numbers_BR = np.take_along_axis(self.item_numbers, order_BR, axis=1)
        scores_BR = np.take_along_axis(self.scores, order_BR, axis=1)
        return RankedItems(
            np.where(kept_BR, item_numbers_BR, 0).astype(np.int32),
            np.where(kept_BR, scores_BR, -np.inf).astype(np.float32),
        )


def flat_histories(histories: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ragged histories of B users -> (rows, item numbers), int64 [H], H interactions in all."""
    lengths_B = np.fromiter((len(history) for history in histories), np.int64, len(histories))
    items_H = np.concatenate([np.zeros(0, np.int64), *histories]).astype(np.int64)
    return np.repeat(np.arange(len(histories)), lengths_B), items_H


def target_ranks(ranked: RankedItems, targets: np.ndarray) -> np.ndarray:
    """Rank of each user's target in the list, 1 for the first; 0 where it is not there; [B].

    An invalid ID keeps its place in the list and is never a target.

    Raises:
      ValueError: the number of targets is not the number of lists, or a target is no item.
    """
    targets = np.asarray(targets)
    if targets.shape != (len(ranked),) or (targets < 1).any():
        raise ValueError("every list needs one target, an item number from 1 on")
    hits_BR = ranked.item_numbers == targets[:, None]
    return np.where(hits_BR.any(axis=1), hits_BR.argmax(axis=1) + 1, 0)


def recall_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 where the target is among the first k, else 0; Recall@k is the mean over users."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def ndcg_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(rank + 1) within the first k, else 0; the mean is NDCG@k with one target a user."""
    return recall_gains(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)


def score(ranked: RankedItems, targets: np.ndarray, seed: int = 0) -> dict[str, dict[str, float]]:
    """Recall and NDCG at 5 and 10, each with its 95 % bootstrap interval.

    The intervals are percentiles over 1,000 resamples of the users. Every metric is the mean of
    a gain that depends on the rank alone, so drawing users with replacement is drawing the
    histogram of ranks from a multinomial distribution.

    Args:
      ranked: one list a user, [B, R].
      targets: the item to find for each user, [B].
      seed: seed of the resamples.

    Returns:
      {"recall@5": {"value", "low", "high"}, "ndcg@5": ..., "recall@10": ..., "ndcg@10": ...}
    """
    deepest = max(CUTOFFS)
    ranks = target_ranks(ranked.top(deepest), targets)
    counts = np.bincount(ranks, minlength=deepest + 1)
    generator = np.random.default_rng(seed)
    resampled_counts = generator.multinomial(len(ranks), counts / len(ranks), _NUM_RESAMPLES)
    tail = (100 - _INTERVAL_PERCENT) / 2
    result = {}
    for k in CUTOFFS:
        for name, gains in (("recall", recall_gains), ("ndcg", ndcg_gains)):
            gain_by_rank = gains(np.arange(deepest + 1), k)
            resamples = resampled_counts @ gain_by_rank / len(ranks)
            low, high = np.percentile(resamples, [tail, 100 - tail])
            value = counts @ gain_by_rank / len(ranks)
            result[f"{name}@{k}"] = {"value": float(value), "low": float(low), "high": float(high)}
    return result


def values(ranked: RankedItems, targets: np.ndarray) -> dict[str, float]:
    """Recall and NDCG as `score` has them, without the intervals."""
    return {name: each["value"] for name, each in score(ranked, targets).items()}


def invalid_id_rate(ranked: RankedItems, k: int) -> float:
    """Share of invalid IDs among the first k results of all users (TIGER section 4.5, Fig. 6)."""
    top = ranked.top(k)
    invalid = top.used & (top.item_numbers == 0)
    return float(invalid.sum() / max(top.used.sum(), 1))


def distinct_items(ranked: RankedItems, k: int) -> int:
    """Number of different items in the first k results of all users."""
    items = np.unique(ranked.top(k).item_numbers)
    return int(np.count_nonzero(items))


def category_entropy(ranked: RankedItems, item_categories: np.ndarray, k: int) -> float:
    """Entropy@k in bits (base 2) of the categories in a list's first k items, mean over users.

    The diversity measure of TIGER section 4.3, Table 3, which does not state its base.

    Args:
      ranked: [B, R]; users without any item of known category do not count.
      item_categories: category of each item number, int [N + 1]; negative where unknown.
      k: length of the list.
    """
    categories_BR = np.where(ranked.item_numbers > 0, item_categories[ranked.item_numbers], -1)
    rows, slots = np.nonzero(categories_BR[:, :k] >= 0)
    if rows.size == 0:
        return 0.0
    num_categories = item_categories.max() + 1
    pairs, counts = np.unique(
        rows * num_categories + categories_BR[rows, slots], return_counts=True
    )
    shares = counts / np.bincount(rows)[pairs // num_categories]
    return float(-np.sum(shares * np.log2(shares)) / np.unique(rows).size)
