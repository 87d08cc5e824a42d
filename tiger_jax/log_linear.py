"""Opinions on every item multiplied: co-occurrence, content, popularity, and whoever joins them.

p(item) is proportional to exp of the sum of exponent x opinion, a product of experts. The few
exponents are those of the greatest likelihood on validation users. Where a sum of distributions
(`baselines.CountsWithContent`) takes what any one part likes, a product wants all of them to agree.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tiger_jax import baselines
from tiger_jax.artifacts import InputError
from tiger_jax.baselines import Baseline, CountsWithContent, Histories
from tiger_jax.data.sequences import Sequences
from tiger_jax.metrics import flat_histories

# Histories -> {name: opinion on every item number, [B, N + 1]}; column 0 means nothing.
Opinions = Callable[[Histories], dict[str, np.ndarray]]

# A rough guess, whose best items a first fit is made on.
FIRST = {"co_occurrence": 0.5, "content": 6.0, "popularity": 0.2, "transitions": 0.2}

# Share of co-occurrences that counts as none.
_NONE = 0.01
_PENALTY = 1e-4
_MOST_STEPS = 50
_TOLERANCE = 1e-7  # nats
_AT_ONCE = 256


def counted(training_sequences: Histories, content_embeddings_NE: np.ndarray) -> Opinions:
    """What counting training sequences and comparing content say.

    co_occurrence: log of the share of co-occurrences near the last items, as CountsWithContent
      counts them, plus 0.01; content: its cosine; popularity: log of 1 + training interactions;
      transitions: log of 1 + how often the item came right after the last one.
    """
    counts = CountsWithContent(training_sequences, content_embeddings_NE, 0.5, 1.0)
    popularity_N = baselines.Popularity(training_sequences, counts.num_items).popularity_N
    transitions_NN = baselines.transition_counts(training_sequences, counts.num_items)

    def opinions(histories: Histories) -> dict[str, np.ndarray]:
        transitions_BN = transitions_NN[baselines.last_items(histories)].toarray()
        return of_counts(*counts.parts(histories), popularity_N, transitions_BN)

    return opinions


def of_counts(
    shares_BN: np.ndarray,
    cosines_BN: np.ndarray,
    popularity: np.ndarray,
    transitions_BN: np.ndarray,
) -> dict[str, np.ndarray]:
    """The opinions of `counted` by name, of what was counted; popularity [N + 1] or [B, N + 1]."""
    return {
        "co_occurrence": np.log(shares_BN + _NONE),
        "content": cosines_BN,
        "popularity": np.broadcast_to(np.log1p(popularity), shares_BN.shape),
        "transitions": np.log1p(transitions_BN),
    }


class LogLinear(Baseline):
    """A product of opinions as a distribution over the items.

    Args:
      opinions: of all items.
      exponents: of the opinions by name; others do not count.
      num_items: N.
    """

    def __init__(self, opinions: Opinions, exponents: Mapping[str, float], num_items: int):
        self.opinions, self.exponents, self.num_items = opinions, exponents, num_items

    def scores(self, histories: Histories) -> np.ndarray:
        """log p(item) in nats, [B, N + 1]; -inf for item 0."""
        return log_probabilities(self.opinions(histories), self.exponents)


def of_counts_and_content(
    sequences: Sequences, content_embeddings_NE: np.ndarray, num_users: int = 4096, seed: int = 0
) -> LogLinear:
    """The product of what `counted` says; no model takes part.

    Args:
      sequences: counted are those of the training split.
      content_embeddings_NE: [N, E], row i belongs to item number i + 1.
      num_users: size of the random sample of validation users that the exponents are fitted on; 0
        for all.
      seed: of the sample.
    """
    _, _, histories, targets = sequences.sampled_split("validation", num_users, seed)
    opinions = counted(sequences.training_sequences(), content_embeddings_NE)
    exponents = choose_exponents(opinions, histories, targets, tuple(FIRST))
    return LogLinear(opinions, exponents, sequences.num_items)


def log_probabilities(
    opinions: Mapping[str, np.ndarray], exponents: Mapping[str, float]
) -> np.ndarray:
    """log p of every item number, float32 [B, N + 1]; -inf for item 0."""
    scores_BN = sum(exponent * opinions[name] for name, exponent in exponents.items())
    scores_BN[:, 0] = -np.inf
    scores_BN -= scores_BN.max(axis=1, keepdims=True)
    scores_BN -= np.log(np.exp(scores_BN).sum(axis=1, keepdims=True))
    return scores_BN.astype(np.float32)


def choose_exponents(
    opinions: Opinions,
    histories: Histories,
    targets: np.ndarray,
    names: Sequence[str],
    num_candidates: int = 100,
) -> dict[str, float]:
    """Exponents of the greatest likelihood among the items that `FIRST` ranks highest.

    Twice: the second fit is made on the best items of the first.

    Args:
      opinions: of all items.
      histories: of validation users; their own items are left out.
      targets: the validation items that follow, [B]; never those of the test split.
      names: of the opinions that take part.
      num_candidates: how many items of each user the target has to stand out of.

    Raises:
      InputError: no target is among them, so that nothing can be fitted.
    """
    exponents = {name: FIRST.get(name, 1.0) for name in names}
    for _ in range(2):
        batches = []
        for first in range(0, len(targets), _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            found = opinions(histories[rows])
            scores_BN = log_probabilities(found, exponents)
            scores_BN[flat_histories(histories[rows])] = -np.inf
            items_BM = baselines.best_items(scores_BN, num_candidates).item_numbers
            chosen_BMK = of_candidates(found, names, items_BM)
            batches.append((chosen_BMK, items_BM == targets[rows, None], items_BM > 0))
        chosen_BMK, is_target_BM, is_used_BM = map(np.concatenate, zip(*batches, strict=True))
        if not is_target_BM.any():
            raise InputError(
                f"of {len(targets):,} validation users none took one of the {num_candidates} items "
                "that counts and content expect, so that their weights cannot be chosen; take more "
                "users (num_users)"
            )
        fitted = fit(chosen_BMK, is_target_BM, is_used_BM)
        exponents = dict(zip(names, fitted.tolist(), strict=True))
    return exponents


def of_candidates(
    opinions: Mapping[str, np.ndarray], names: Sequence[str], items_BM: np.ndarray
) -> np.ndarray:
    """Opinions on some items of each user, [B, M, K]; 0 on item 0."""
    chosen = [np.take_along_axis(opinions[name], items_BM, axis=1) for name in names]
    return np.where((items_BM > 0)[..., None], np.stack(chosen, axis=-1), 0)


def fit(opinions_BMK: np.ndarray, is_target_BM: np.ndarray, is_used_BM: np.ndarray) -> np.ndarray:
    """Exponents that make the targets likeliest among their users' candidates, [K].

    The conditional logit of McFadden (1974): softmax of opinions x exponents over M candidates, by
    Newton's method on the mean of -log p(target), with a slight penalty that keeps the exponents
    of equal opinions apart. Users whose target is no candidate say nothing.

    Args:
      opinions_BMK: on each candidate; finite.
      is_target_BM: at most one a user.
      is_used_BM: whether there is a candidate.
    """
    knows_B = is_target_BM.any(axis=1)
    exponents_K = np.zeros(opinions_BMK.shape[-1])
    if not knows_B.any():
        return exponents_K
    # In units of their own spread, or the penalty would depend on the unit.
    x_BMK = opinions_BMK[knows_B].astype(np.float64)
    is_target_BM, is_used_BM = is_target_BM[knows_B], is_used_BM[knows_B]
    x_BMK -= x_BMK.mean(axis=1, keepdims=True)
    spread_K = np.maximum(x_BMK.std(axis=(0, 1)), np.finfo(np.float32).tiny)
    x_BMK /= spread_K
    target_BK = x_BMK[is_target_BM]

    def loss_and_p(exponents_K):
        scores_BM = np.where(is_used_BM, x_BMK @ exponents_K, -np.inf)
        scores_BM -= scores_BM.max(axis=1, keepdims=True)
        p_BM = np.exp(scores_BM)
        totals_B1 = p_BM.sum(axis=1, keepdims=True)
        target_B = scores_BM[is_target_BM]
        loss = (np.log(totals_B1[:, 0]) - target_B).mean()
        return loss + _PENALTY / 2 * exponents_K @ exponents_K, p_BM / totals_B1

    loss, p_BM = loss_and_p(exponents_K)
    for _ in range(_MOST_STEPS):
        mean_BK = np.einsum("BM,BMK->BK", p_BM, x_BMK)
        gradient_K = (mean_BK - target_BK).mean(axis=0) + _PENALTY * exponents_K
        centred_BMK = x_BMK - mean_BK[:, None]
        hessian_KK = np.einsum("BM,BMK,BMJ->KJ", p_BM, centred_BMK, centred_BMK, optimize=True)
        hessian_KK = hessian_KK / len(p_BM) + _PENALTY * np.eye(len(exponents_K))
        step_K = np.linalg.solve(hessian_KK, gradient_K)
        before, size = loss, 1.0
        while True:
            loss, p_BM = loss_and_p(exponents_K - size * step_K)
            if loss <= before or size < _TOLERANCE:
                break
            size /= 2
        exponents_K = exponents_K - size * step_K
        if before - loss < _TOLERANCE:
            break
    return exponents_K / spread_K
