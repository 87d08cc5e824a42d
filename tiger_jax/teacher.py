"""What counts and content expect at every place of the training sequences: soft targets.

A teacher for knowledge distillation (Hinton et al. 2015). It must not know the answer: each user's
own interactions are taken out of the counts before they say what comes next in that sequence. And
it imagines users of its own, whom nobody has counted.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import scipy.sparse
import tqdm

from tiger_jax import baselines, log_linear
from tiger_jax.baselines import ContentCosines, Histories
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.frequency import training_frequency
from tiger_jax.log_linear import Opinions
from tiger_jax.metrics import flat_histories

# Places whose opinions on all items are held at once.
_AT_ONCE = 256
# Weighted counts below are rounding; the least that is counted is 1/6.
_NOTHING = 1e-2


def teach(
    training_sequences: Histories,
    content_embeddings_NE: np.ndarray,
    exponents: dict[str, float],
    num_expected: int,
) -> SoftTargets:
    """The items that the product of opinions expects at every place, histories left out.

    Args:
      training_sequences: item numbers of each user, without validation and test items.
      content_embeddings_NE: [N, E], row i belongs to item number i + 1.
      exponents: of the opinions (`log_linear.counted`).
      num_expected: Q, items to keep of each place.
    """
    opinions = held_out(training_sequences, content_embeddings_NE)
    items, shares = [], []
    for some in tqdm.tqdm([*_batches(training_sequences)], unit="batch", dynamic_ncols=True):
        log_probs_PN = log_linear.log_probabilities(opinions(some), exponents)
        items_PQ, shares_PQ = _expected(log_probs_PN, _histories(some), num_expected)
        items.append(items_PQ)
        shares.append(shares_PQ)
    return SoftTargets(np.concatenate(items), np.concatenate(shares), exponents)


def imagine(
    opinions: Opinions,
    exponents: dict[str, float],
    num_items: int,
    lengths_U: np.ndarray,
    num_expected: int,
    random: np.random.Generator,
) -> SoftTargets:
    """Users who take what the product of opinions expects of them, and what it expects there.

    The first item of each is any of the catalogue, the next ones are drawn from the product, with
    what the user has left out. So it is asked about items that few real users have, and answers
    as it does at test time, by all that was counted.

    Args:
      opinions: of all items (`log_linear.counted`).
      exponents: of the opinions.
      num_items: N.
      lengths_U: items of each user, 1 to N.
      num_expected: Q, items to keep of each place, from which the next one is drawn.
      random: of the draws.
    """
    starts_U = np.cumsum(lengths_U) - lengths_U
    items_P = np.zeros(lengths_U.sum(), np.int32)
    items_P[starts_U] = random.integers(1, num_items + 1, len(lengths_U))
    items_PQ = np.zeros((len(items_P), num_expected), np.int32)
    shares_PQ = np.zeros((len(items_P), num_expected), np.float32)
    with tqdm.tqdm(total=len(items_P), unit="place", dynamic_ncols=True) as progress:
        progress.update(len(lengths_U))
        for length in range(1, lengths_U.max(initial=0)):
            going_on = starts_U[lengths_U > length]
            for first in range(0, len(going_on), _AT_ONCE):
                starts = going_on[first : first + _AT_ONCE]
                histories = [items_P[start : start + length] for start in starts]
                log_probs_BN = log_linear.log_probabilities(opinions(histories), exponents)
                items_BQ, shares_BQ = _expected(log_probs_BN, histories, num_expected)
                places = starts + length
                items_PQ[places], shares_PQ[places] = items_BQ, shares_BQ
                items_P[places] = _drawn(items_BQ, shares_BQ, random)
                progress.update(len(places))
    users = tuple(np.split(items_P, starts_U[1:])) if len(lengths_U) else ()
    return SoftTargets(items_PQ, shares_PQ, exponents, users)


def _drawn(items_BQ: np.ndarray, shares_BQ: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One of each row's items, by their shares."""
    up_to_BQ = np.cumsum(shares_BQ, axis=1, dtype=np.float64)
    drawn_B1 = random.random((len(items_BQ), 1)) * up_to_BQ[:, -1:]
    # The last is what remains, however the sum was rounded.
    chosen_B1 = np.sum(up_to_BQ[:, :-1] <= drawn_B1, axis=1, keepdims=True)
    return np.take_along_axis(items_BQ, chosen_B1, axis=1)[:, 0]


def _expected(
    log_probs_PN: np.ndarray, histories: Histories, num_expected: int
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest items that the histories lack, [P, Q], and their probabilities among them.

    Probabilities are 0 where no history, or no item, is to learn from.
    """
    log_probs_PN[flat_histories(histories)] = -np.inf
    expected = baselines.best_items(log_probs_PN, num_expected)
    is_taught_P = np.array([len(history) > 0 for history in histories]) & expected.used[:, 0]
    best_P1 = np.where(is_taught_P[:, None], expected.scores[:, :1], 0.0)
    shares_PQ = np.exp(expected.scores - best_P1) * is_taught_P[:, None]
    return expected.item_numbers, shares_PQ / np.maximum(shares_PQ.sum(axis=1, keepdims=True), 1.0)


def held_out(training_sequences: Histories, content_embeddings_NE: np.ndarray) -> Opinions:
    """Opinions at every place of training sequences, given what stands before it there.

    Training sequences -> those of `log_linear.counted` after each of their histories, [P, N + 1],
    as if the user had never been counted: among a user's own counts the next item would stand out.
    """
    num_items = len(content_embeddings_NE)
    cosines = ContentCosines(content_embeddings_NE)
    near_NN = baselines.neighbour_counts(training_sequences, num_items)
    next_NN = baselines.transition_counts(training_sequences, num_items)
    popularity_N = training_frequency(training_sequences, num_items).astype(np.float32)

    def opinions_held_out(sequences: Histories) -> dict[str, np.ndarray]:
        # Each user's items get numbers of their own, G in all: what is counted among those
        # numbers is the user's own.
        own, items_G = _own_numbers(sequences)
        num_own = len(items_G) - 1
        item_GN = scipy.sparse.csr_array(
            (np.ones(len(items_G), np.float32), (np.arange(len(items_G)), items_G)),
            shape=(len(items_G), num_items + 1),
        )

        def left(counts_NN, own_GG):
            counts_GN = counts_NN[items_G] - own_GG @ item_GN
            counts_GN.data[counts_GN.data < _NOTHING] = 0
            return counts_GN

        near_GN = left(near_NN, baselines.neighbour_counts(own, num_own))
        next_GN = left(next_NN, baselines.transition_counts(own, num_own))
        own_histories = _histories(own)
        profile_PG = baselines.recency_profile(own_histories, num_own)
        popularity_PN = np.tile(popularity_N, (len(own_histories), 1))
        all_items = [items for items in sequences for _ in items]
        np.subtract.at(popularity_PN, flat_histories(all_items), 1)
        return log_linear.of_counts(
            baselines.shares_near(profile_PG, baselines.by_root_of_sum(near_GN)),
            cosines(profile_PG @ item_GN),
            popularity_PN,
            next_GN[baselines.last_items(own_histories)].toarray(),
        )

    return opinions_held_out


def _own_numbers(sequences: Histories) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences in numbers from 1 on that no two users share, and the item of each, 0 of 0."""
    rows_H, items_H = flat_histories(sequences)
    pairs_2G, numbers_H = np.unique(np.stack([rows_H, items_H]), axis=1, return_inverse=True)
    ends = np.cumsum([len(items) for items in sequences])[:-1]
    return np.split(numbers_H.ravel() + 1, ends), np.concatenate([[0], pairs_2G[1]])


def _histories(sequences: Histories) -> list[np.ndarray]:
    """What stands before each place of the sequences, one after another."""
    return [items[:place] for items in sequences for place in range(len(items))]


def _batches(sequences: Histories) -> Iterator[Histories]:
    """Some sequences at a time, of not many more than `_AT_ONCE` places together."""
    starts = np.cumsum([0, *(len(items) for items in sequences)])[:-1]
    firsts = [*np.unique(starts // _AT_ONCE, return_index=True)[1], len(sequences)]
    for first, last in itertools.pairwise(firsts):
        yield sequences[first:last]
