"""Simple recommenders that a model has to beat: popularity, prefixes, counts, content.

They count training sequences and compare content embeddings; nothing is learnt by gradient.
Equal scores rank the lower item number first.
"""

import abc
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse

from tiger_jax.data.sequences import Sequences
from tiger_jax.frequency import training_frequency
from tiger_jax.metrics import RankedItems, flat_histories, ndcg_gains, target_ranks

Histories = Sequence[Sequence[int]]

# Bounds the memory of a batch's scores, [B, N + 1]: 64 MiB of float32.
_SCORES_AT_ONCE = 1 << 24

_MAX_DISTANCE = 3
_BACKWARD = 0.5
# Latest items of a history that count, and what one is worth beside the next.
PROFILE_LENGTH = 6
PROFILE_DECAY = 0.6

# Of CountsWithContent: counts_weight and temperature.
_MIXTURES = tuple(itertools.product((0.1, 0.3, 0.5, 0.7), (0.05, 0.1, 0.2)))

_MIXTURE_USERS = 4096

_TINY = 1e-30


class Baseline(abc.ABC):
    """A recommender that scores every item after every history."""

    num_items: int

    @abc.abstractmethod
    def scores(self, histories: Histories) -> np.ndarray:
        """Score of every item number after each history, float32 [B, N + 1]; more is better."""

    def recommend(
        self,
        users: Sequence[str] | None,
        histories: Histories,
        num_results: int,
        exclude_history: bool = True,
    ) -> RankedItems:
        """The best items after each history, [B, R].

        Args:
          users: raw ids; no baseline looks at them.
          histories: item numbers, oldest first, of any lengths.
          num_results: R.
          exclude_history: whether a history's own items are left out.
        """
        del users
        batches = []
        for rows in _batches(len(histories), self.num_items):
            scores_BN = self.scores(histories[rows])
            if exclude_history:
                scores_BN[flat_histories(histories[rows])] = -np.inf
            batches.append(best_items(scores_BN, num_results))
        return RankedItems(
            np.concatenate([batch.item_numbers for batch in batches]),
            np.concatenate([batch.scores for batch in batches]),
        )


class Popularity(Baseline):
    """Items by their number of training interactions, the same for everyone."""

    def __init__(self, training_sequences: Histories, num_items: int):
        self.num_items = num_items
        self.popularity_N = _popularity(training_sequences, num_items)

    def scores(self, histories: Histories) -> np.ndarray:
        """Number of training interactions, [B, N + 1]."""
        return np.tile(self.popularity_N, (len(histories), 1))


class LastPrefix(Baseline):
    """Items that share the longest Semantic-ID prefix with the last item, popular ones first.

    Args:
      semantic_ids_NI: Semantic-ID table [N + 1, I], row 0 is padding.
    """

    def __init__(self, training_sequences: Histories, semantic_ids_NI: np.ndarray):
        self.num_items = len(semantic_ids_NI) - 1
        self.popularity_N = _popularity(training_sequences, self.num_items)
        self.semantic_ids_NI = np.array(semantic_ids_NI)
        self.semantic_ids_NI[0] = -1  # no item's prefix

    def scores(self, histories: Histories) -> np.ndarray:
        """Parts of the ID shared from the first on; then popularity, [B, N + 1]."""
        semantic_ids_BI = self.semantic_ids_NI[last_items(histories)]
        shared_BN = np.ones((len(histories), self.num_items + 1), bool)
        num_shared_BN = np.zeros(shared_BN.shape, np.float32)
        for codes_N, codes_B in zip(self.semantic_ids_NI.T, semantic_ids_BI.T, strict=True):
            shared_BN &= codes_B[:, None] == codes_N
            num_shared_BN += shared_BN
        return num_shared_BN * (self.popularity_N.max() + 1) + self.popularity_N


class ItemToItem(Baseline):
    """Items by how often they came right after the last item in training; popularity behind."""

    def __init__(self, training_sequences: Histories, num_items: int):
        self.num_items = num_items
        self.popularity_N = _popularity(training_sequences, num_items)
        self.transitions_NN = transition_counts(training_sequences, num_items)

    def scores(self, histories: Histories) -> np.ndarray:
        """Number of transitions from the last item; below them all, popularity, [B, N + 1]."""
        counts_BN = self.transitions_NN[last_items(histories)].toarray()
        return np.where(counts_BN > 0, counts_BN + self.popularity_N.max(), self.popularity_N)


class ContentNeighbours(Baseline):
    """Items by cosine to the last item's content embedding: Semantic_KNN (TIGER section 4.3).

    Args:
      content_embeddings_NE: [N, E], row i belongs to item number i + 1.
    """

    def __init__(self, content_embeddings_NE: np.ndarray):
        self.num_items = len(content_embeddings_NE)
        self.directions_NE = directions(_with_padding_row(content_embeddings_NE))

    def scores(self, histories: Histories) -> np.ndarray:
        """Cosine, [B, N + 1]."""
        return self.directions_NE[last_items(histories)] @ self.directions_NE.T


class ContentCosines:
    """Cosine between the mean content of a profile and every item's.

    Args:
      content_embeddings_NE: [N, E], row i belongs to item number i + 1.
    """

    def __init__(self, content_embeddings_NE: np.ndarray):
        centred_NE = content_embeddings_NE - content_embeddings_NE.mean(axis=0)
        self.centred_NE = _with_padding_row(centred_NE)
        self.directions_NE = directions(self.centred_NE)

    def __call__(self, profile_BN: scipy.sparse.csr_array) -> np.ndarray:
        """[B, N + 1]."""
        return directions(profile_BN @ self.centred_NE) @ self.directions_NE.T


class CountsWithContent(Baseline):
    """Co-occurrence near the last items, mixed with content similarity: the honest yardstick.

    Counts: pairs of a training sequence at distance k = 1, 2, 3 count 1 / k forward and
    0.5 / k backward; each item's row is divided by the square root of its sum.
    Profile: the last six items of the history weigh 0.6^age.
    Score: counts_weight * counts + (1 - counts_weight) * softmax(cosine / temperature), both
    summing to one over the items, where anything was counted near the profile; the cosine is that
    between the profile's mean of the centred content embeddings and each item's, and 0 to all after
    an empty history.

    Args:
      content_embeddings_NE: [N, E], row i belongs to item number i + 1.
      counts_weight: between 0 and 1.
      temperature: of the softmax over items.
    """

    def __init__(
        self,
        training_sequences: Histories,
        content_embeddings_NE: np.ndarray,
        counts_weight: float,
        temperature: float,
    ):
        self.num_items = len(content_embeddings_NE)
        self.counts_weight = counts_weight
        self.temperature = temperature
        self.cosines = ContentCosines(content_embeddings_NE)
        self.counts_NN = by_root_of_sum(neighbour_counts(training_sequences, self.num_items))

    def scores(self, histories: Histories) -> np.ndarray:
        """The mixture, [B, N + 1]; sums to one over the items, without counts to less."""
        counts_BN, cosines_BN = self.parts(histories)
        return _mixture(counts_BN, cosines_BN, self.counts_weight, self.temperature)

    def parts(self, histories: Histories) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the counts, all 0 where there are none, and cosines; both [B, N + 1]."""
        profile_BN = recency_profile(histories, self.num_items)
        return shares_near(profile_BN, self.counts_NN), self.cosines(profile_BN)


def choose_mixture(
    training_sequences: Histories,
    content_embeddings_NE: np.ndarray,
    histories: Histories,
    targets: np.ndarray,
) -> tuple[float, float]:
    """The (counts_weight, temperature) of CountsWithContent with the best NDCG@10.

    Args:
      histories: of validation users; their own items are removed from the lists.
      targets: the validation items that follow, [B]; never those of the test split.
    """
    baseline = CountsWithContent(training_sequences, content_embeddings_NE, *_MIXTURES[0])
    ndcg_sums = np.zeros(len(_MIXTURES))
    for rows in _batches(len(histories), baseline.num_items):
        counts_BN, cosines_BN = baseline.parts(histories[rows])
        seen = flat_histories(histories[rows])
        for number, mixture in enumerate(_MIXTURES):
            scores_BN = _mixture(counts_BN, cosines_BN, *mixture)
            scores_BN[seen] = -np.inf
            ranks = target_ranks(best_items(scores_BN, 10), targets[rows])
            ndcg_sums[number] += ndcg_gains(ranks, 10).sum()
    return _MIXTURES[ndcg_sums.argmax()]


def choose_counts(sequences: Sequences, content_embeddings_NE: np.ndarray) -> dict[str, float]:
    """Weights of CountsWithContent by name, chosen on a sample of the validation users."""
    histories, targets = sequences.split("validation")
    step = -(-len(histories) // _MIXTURE_USERS)
    counts_weight, temperature = choose_mixture(
        sequences.training_sequences(), content_embeddings_NE, histories[::step], targets[::step]
    )
    return {"counts_weight": counts_weight, "temperature": temperature}


def transition_counts(
    sequences: Histories, num_items: int, max_distance: int = 1, backward: float = 0.0
) -> scipy.sparse.csr_array:
    """Weighted counts of "this item (row), then that one (column)", float32 [N + 1, N + 1].

    A pair of a sequence at distance k = 1, ..., max_distance counts 1 / k from the earlier item
    to the later one, and backward / k the other way.
    """
    rows_H, items_H = flat_histories(sequences)
    shape = (num_items + 1, num_items + 1)
    counts_NN = scipy.sparse.csr_array(shape, dtype=np.float32)
    for distance in range(1, max_distance + 1):
        same_user = rows_H[distance:] == rows_H[:-distance]
        pairs = items_H[:-distance][same_user], items_H[distance:][same_user]
        weights = np.full(len(pairs[0]), 1 / distance, np.float32)
        counts_NN += scipy.sparse.csr_array((weights, pairs), shape=shape)
    return counts_NN + backward * counts_NN.T


def neighbour_counts(sequences: Histories, num_items: int) -> scipy.sparse.csr_array:
    """The counts of `CountsWithContent`, not divided by anything yet, float32 [N + 1, N + 1]."""
    return transition_counts(sequences, num_items, _MAX_DISTANCE, _BACKWARD)


def by_root_of_sum(counts_NM: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Counts, each row divided by the square root of its sum."""
    row_sums_N = np.maximum(counts_NM.sum(axis=1), _TINY)
    return scipy.sparse.diags_array(row_sums_N**-0.5) @ counts_NM


def shares_near(
    profile_BN: scipy.sparse.csr_array, counts_NM: scipy.sparse.csr_array
) -> np.ndarray:
    """Shares of the counts near a history's last items, [B, M]; zeros where nothing was counted."""
    counts_BM = (profile_BN @ counts_NM).toarray()
    return counts_BM / np.maximum(counts_BM.sum(axis=1, keepdims=True), _TINY)


def best_items(scores_BN: np.ndarray, num_results: int) -> RankedItems:
    """The items of highest score, equal scores by item number; [B, N + 1] -> [B, R].

    Column 0 is padding and never returned; a score of -inf leaves an item out.
    """
    num_users, num_columns = scores_BN.shape
    num_found = min(num_results, num_columns - 1)
    scores_BN = scores_BN[:, 1:]
    threshold_B1 = -np.partition(-scores_BN, num_found - 1, axis=1)[:, num_found - 1 : num_found]
    rows, items = np.nonzero(scores_BN >= threshold_B1)
    order = np.lexsort((items, -scores_BN[rows, items], rows))
    first_B = np.searchsorted(rows, np.arange(num_users))
    chosen_BR = order[first_B[:, None] + np.arange(num_found)]
    scores_BR = np.full((num_users, num_results), -np.inf, np.float32)
    scores_BR[:, :num_found] = scores_BN[rows[chosen_BR], items[chosen_BR]]
    item_numbers_BR = np.zeros((num_users, num_results), np.int32)
    item_numbers_BR[:, :num_found] = items[chosen_BR] + 1
    item_numbers_BR[np.isneginf(scores_BR)] = 0
    return RankedItems(item_numbers_BR, scores_BR)


def _batches(num_users: int, num_items: int) -> Iterator[slice]:
    """Rows of a batch whose scores fit the memory set aside for them; of no users one, empty."""
    size = max(1, _SCORES_AT_ONCE // (num_items + 1))
    for start in range(0, max(1, num_users), size):
        yield slice(start, start + size)


def _popularity(training_sequences: Histories, num_items: int) -> np.ndarray:
    """Number of interactions of each item number, float32 [N + 1]."""
    return training_frequency(training_sequences, num_items).astype(np.float32)


def last_items(histories: Histories) -> np.ndarray:
    """Last item of each history, int64 [B]; 0 for an empty one."""
    return np.array([history[-1] if len(history) else 0 for history in histories], np.int64)


def recency_profile(histories: Histories, num_items: int) -> scipy.sparse.csr_array:
    """Weight 0.6^age of the last six items of each history, float32 [B, N + 1]."""
    newest_first = [history[: -PROFILE_LENGTH - 1 : -1] for history in histories]
    rows_H, items_H = flat_histories(newest_first)
    ages_H = np.arange(len(rows_H)) - np.searchsorted(rows_H, rows_H)
    weights_H = (PROFILE_DECAY**ages_H).astype(np.float32)
    shape = (len(histories), num_items + 1)
    return scipy.sparse.csr_array((weights_H, (rows_H, items_H)), shape=shape)


def _mixture(
    counts_BN: np.ndarray, cosines_BN: np.ndarray, counts_weight: float, temperature: float
) -> np.ndarray:
    content_BN = np.exp((cosines_BN - 1) / temperature)
    content_BN[:, 0] = 0
    content_BN *= (1 - counts_weight) / content_BN.sum(axis=1, keepdims=True)
    return counts_weight * counts_BN + content_BN


def _with_padding_row(embeddings_NE: np.ndarray) -> np.ndarray:
    """[N, E] -> [N + 1, E]: the row of an item number is that number."""
    return np.pad(embeddings_NE, ((1, 0), (0, 0)))


def directions(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their lengths; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, _TINY)
