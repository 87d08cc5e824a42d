"""What becomes of the invalid IDs in a ranked list (TIGER section 4.5).

An ID that no item has is item 0 with a finite score. Either it is left out, or an item of similar
meaning stands in. Searching wider for more valid ones is the recommender's part.
"""

import jax
import numpy as np

from tiger_jax.metrics import RankedItems
from tiger_jax.semantic_ids.trie import Trie


def without_invalid_ids(ranked: RankedItems) -> RankedItems:
    """The same lists less their invalid IDs; unused slots fill up."""
    order_BM = np.argsort(ranked.item_numbers == 0, axis=1, kind="stable")
    item_numbers_BM = np.take_along_axis(ranked.item_numbers, order_BM, axis=1)
    scores_BM = np.take_along_axis(ranked.scores, order_BM, axis=1)
    return RankedItems(item_numbers_BM, np.where(item_numbers_BM > 0, scores_BM, -np.inf))


def match_prefixes(ranked: RankedItems, semantic_ids_BMI: np.ndarray, trie: Trie) -> RankedItems:
    """The same lists with an item for each invalid ID, in its place and with its score.

    From best to worst, an invalid ID is replaced by one item: of those that share its longest
    prefix, the first in the order of IDs that neither a valid ID of the list nor an earlier
    replacement has named. Where all of them are named, the prefix is shortened by one code, and
    so on. It remains invalid if its first code leads to no such item.

    The paper leaves the rule open. With one item for each ID every valid ID keeps its place, so
    that no list gets worse by it.

    Args:
      ranked: item 0 with a finite score where an ID is invalid.
      semantic_ids_BMI: the IDs; those of unused slots do not matter.
      trie: the catalogue.
    """
    first_BMI, end_BMI = map(np.asarray, _rows_by_prefix(trie, semantic_ids_BMI))
    items_N = np.asarray(trie.items_N)
    item_numbers_BM = ranked.item_numbers.copy()
    invalid_BM = ranked.used & (ranked.item_numbers == 0)
    for user in np.flatnonzero(invalid_BM.any(axis=1)):
        named = set(item_numbers_BM[user].tolist())
        for slot in np.flatnonzero(invalid_BM[user]):
            ranges = zip(first_BMI[user, slot, ::-1], end_BMI[user, slot, ::-1], strict=True)
            sharing = (int(items_N[row]) for first, end in ranges for row in range(first, end))
            item_number = next((item for item in sharing if item not in named), 0)
            item_numbers_BM[user, slot] = item_number
            named.add(item_number)
    return RankedItems(item_numbers_BM, ranked.scores)


@jax.jit
def _rows_by_prefix(trie, semantic_ids_BMI):
    return trie.rows_by_prefix(semantic_ids_BMI)
