"""How various recommendations are, by categories of their items (TIGER section 4.3, Tables 3, 4).

A temperature draws items instead of taking the best; `beam.Sampling` says how. What a category is,
the items' own paths say; nothing is trained.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tiger_jax import metrics
from tiger_jax.metrics import RankedItems
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids import inspection

ENTROPY_CUTOFFS = (10, 20, 50)
RECALL_CUTOFF = 10

# A category that fewer results have is not named among the common ones.
_COMMON = 0.1
_MOST_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Categories:
    """A category for every item.

    Attributes:
      names: of the categories, the most frequent first.
      category_N: number of each item number's category, int64 [N + 1]; -1 where unknown.
    """

    names: Sequence[str]
    category_N: np.ndarray

    @classmethod
    def of_items(cls, rows: Sequence[dict[str, Any]]) -> "Categories":
        """The second level below what all items share, such as Hair Care > Styling Products.

        The paper's names (Table 4: Skin Eyes, Tools Nail) are of this level on Beauty.

        Args:
          rows: metadata of item number 1 first; the first path of `categories` counts.
        """
        paths_N = [row["categories"][0] if row.get("categories") else [] for row in rows]
        depth = inspection.category_depth(paths_N)
        names, category_N = inspection.categories_at(paths_N, depth + 1)
        if not names:
            names, category_N = inspection.categories_at(paths_N, depth)
        return cls(names, np.concatenate([[-1], category_N]))

    def common(self, ranked: RankedItems, k: int) -> list[tuple[str, float]]:
        """Categories of at least a tenth of all first k results, five at most (Table 4).

        Returns:
          (name, share of the results whose category is known), the most common first.
        """
        items = ranked.top(k).item_numbers
        known = self.category_N[items[items > 0]]
        counts = Counter(known[known >= 0].tolist())
        shares = [(self.names[number], n / counts.total()) for number, n in counts.most_common()]
        return [(name, share) for name, share in shares if share >= _COMMON][:_MOST_NAMED]


@dataclasses.dataclass(frozen=True)
class Audience:
    """Users whose recommendations are looked at.

    Attributes:
      users: raw ids.
      histories: item numbers, oldest first.
      targets: the items that followed, [B].
    """

    users: Sequence[str]
    histories: Sequence[np.ndarray]
    targets: np.ndarray

    def taken(self, rows: np.ndarray) -> "Audience":
        """Some of the users."""
        return Audience(
            [self.users[row] for row in rows],
            [self.histories[row] for row in rows],
            self.targets[rows],
        )

    def recommended(
        self,
        recommender: Recommender,
        num_results: int,
        temperature: float | Sequence[float] | None,
        seed: int,
    ) -> RankedItems:
        """Lists less the histories' items: the best where the temperature is None, else drawn."""
        return recommender.recommend(
            self.users,
            self.histories,
            num_results,
            exclude_history=True,
            temperature=temperature,
            seed=seed,
        )


def diversity(ranked: RankedItems, targets: np.ndarray, category_N: np.ndarray) -> dict[str, float]:
    """Entropy@10, 20 and 50 in bits, the mean over users; beside them what they cost: Recall@10."""
    ranks = metrics.target_ranks(ranked, targets)
    return {
        **{
            f"entropy@{k}": metrics.category_entropy(ranked, category_N, k) for k in ENTROPY_CUTOFFS
        },
        f"recall@{RECALL_CUTOFF}": float(metrics.recall_gains(ranks, RECALL_CUTOFF).mean()),
        f"distinct@{RECALL_CUTOFF}": metrics.distinct_items(ranked, RECALL_CUTOFF),
    }


def temperatures_of_levels(
    first: float, later: float, num_levels: int, id_length: int
) -> list[float]:
    """One for each part of an ID; a collision token means nothing and is drawn at 1.

    Args:
      first: of the first level, the coarse meaning.
      later: of the other levels, the finer one.
      num_levels: L.
      id_length: I, L or one more.
    """
    return [first, *[later] * (num_levels - 1), *[1.0] * (id_length - num_levels)]
