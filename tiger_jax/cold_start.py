"""Unseen items among a model's recommendations: cold start (TIGER section 4.3, Figure 5).

A model was trained on seen items alone. Rules give unseen ones scores beside them, and a list of K
takes at most a share epsilon of its items from those. Nothing is trained. In this file S is the
number of seen items and U that of unseen ones.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from tiger_jax import metrics
from tiger_jax.baselines import PROFILE_DECAY, PROFILE_LENGTH, best_items, directions
from tiger_jax.data.hold_out import HoldOut
from tiger_jax.metrics import RankedItems
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids.quantizer import Quantizer

# Bounds the memory of [B, R, U], 40 MB of float32 at 50 results and 400 unseen items.
_USERS_AT_ONCE = 512


def most_unseen(share: float, num_results: int, round_up: bool = False) -> int:
    """Most unseen items in a list of K results: floor(epsilon K), or ceil(epsilon K).

    TIGER section 4.3: epsilon "specifies the maximum proportion of unseen items chosen". To the
    letter that is the floor, by which a list of 5 has none at epsilon = 0.1.
    """
    exact = round(share * num_results, 9)  # 0.3 * 10 is no more than 3
    return math.ceil(exact) if round_up else math.floor(exact)


def with_unseen(
    seen: RankedItems, unseen: RankedItems, num_results: int, limit: int
) -> RankedItems:
    """The best of both by score, at most `limit` of them unseen; of equal scores the seen first.

    Args:
      seen, unseen: lists for the same users, best first, [B, any] each.
      num_results: K.
      limit: see `most_unseen`.
    """
    unseen = unseen.top(limit)
    item_numbers_BR = np.concatenate([seen.item_numbers, unseen.item_numbers], axis=1)
    scores_BR = np.concatenate([seen.scores, unseen.scores], axis=1)
    order_BR = np.argsort(-scores_BR, axis=1, kind="stable")[:, :num_results]
    return RankedItems(
        np.take_along_axis(item_numbers_BR, order_BR, axis=1),
        np.take_along_axis(scores_BR, order_BR, axis=1),
    )


def with_new_items(
    recommender: Recommender, quantizer: Quantizer, embeddings_UE: np.ndarray
) -> Recommender:
    """The recommender with unseen items in its trie, and the filters "seen" and "unseen".

    Their codes are those of the frozen quantizer; each takes the next free collision token.

    Args:
      recommender: of a model trained on the seen items.
      quantizer: what made its Semantic IDs.
      embeddings_UE: content embeddings of the unseen items.
    """
    table = recommender.table.with_new_items(quantizer.codes(embeddings_UE), {})
    is_seen_N = np.arange(table.num_items + 1) <= recommender.table.num_items
    grown = recommender.with_table(table, None)
    return grown.with_filters({"seen": is_seen_N, "unseen": ~is_seen_N})


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Seen and unseen items as the rules compare them.

    Attributes:
      shared_SU: how many first codes a seen item shares with an unseen one, int8 [S + 1, U].
      cosines_SU: of their content embeddings around the mean of the seen ones, float32 [S + 1, U].
      num_levels: L.
    """

    shared_SU: np.ndarray
    cosines_SU: np.ndarray
    num_levels: int

    @classmethod
    def of(cls, codes_NL: np.ndarray, embeddings_NE: np.ndarray, num_seen: int) -> "Catalogue":
        """From codes and content embeddings of item number 1 and on, the seen items first."""
        centred_NE = embeddings_NE - embeddings_NE[:num_seen].mean(axis=0)
        directions_NE = directions(centred_NE)
        cosines_SU = directions_NE[:num_seen] @ directions_NE[num_seen:].T
        is_equal_SUL = codes_NL[:num_seen, None] == codes_NL[None, num_seen:]
        shared_SU = np.logical_and.accumulate(is_equal_SUL, axis=-1).sum(axis=-1, dtype=np.int8)
        padding = ((1, 0), (0, 0))
        return cls(
            np.pad(shared_SU, padding),
            np.pad(cosines_SU.astype(np.float32), padding),
            codes_NL.shape[1],
        )

    def share_by_longest_prefix(self) -> list[float]:
        """Share of the unseen items that share 0, 1, ..., L codes, and no more, with a seen one."""
        counts = np.bincount(self.shared_SU.max(axis=0), minlength=self.num_levels + 1)
        return (counts / counts.sum()).tolist()

    def by_prefix(self, penalty: float = np.inf) -> np.ndarray:
        """What an unseen item gets of the score of a seen one by shared codes, [S + 1, U].

        -penalty, in nats, for each level that differs; nothing (-inf) where the first one does.
        With an infinite penalty it is the paper's rule, by which unseen items with the three codes
        of a predicted ID come right behind it; otherwise it backs off to shorter prefixes.
        """
        missing_SU = self.num_levels - self.shared_SU
        loss_SU = np.where(missing_SU > 0, penalty, 0.0) * np.maximum(missing_SU, 1)
        return np.where(self.shared_SU > 0, -loss_SU, -np.inf).astype(np.float32)

    def by_content(self, temperature: float) -> np.ndarray:
        """What an unseen item gets of the score of a seen one with like content, [S + 1, U].

        (cosine - 1) / temperature, in nats: nothing is lost where the contents are equal.
        """
        return (self.cosines_SU - 1) / np.float32(temperature)


def with_history(
    seen: RankedItems, histories: Sequence[Sequence[int]], weight: float
) -> RankedItems:
    """The lists, and behind them the six latest items of each history with weight * 0.6^age.

    As scores, so their logarithms. For `candidates`: what is like the items that a user had is
    a candidate, too.
    """
    shape = (len(seen), PROFILE_LENGTH)
    items_BR, scores_BR = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
    for row, history in enumerate(histories):
        latest = history[: -PROFILE_LENGTH - 1 : -1]
        items_BR[row, : len(latest)] = latest
        scores_BR[row, : len(latest)] = math.log(weight) + np.arange(len(latest)) * math.log(
            PROFILE_DECAY
        )
    return RankedItems(
        np.concatenate([seen.item_numbers, items_BR], axis=1),
        np.concatenate([seen.scores, scores_BR], axis=1),
    )


def candidates(
    seen: RankedItems, affinity_SU: np.ndarray, num_results: int, bonus: float = 0.0
) -> RankedItems:
    """Unseen items by max over the results s of score(s) + affinity(s, u), the best of each user.

    Args:
      seen: lists of seen items, [B, R].
      affinity_SU: in nats, [S + 1, U]; -inf where a seen item says nothing of an unseen one.
      num_results: length of the lists.
      bonus: is added to all scores, so that they compare with those of seen items.
    """
    num_seen, num_unseen = len(affinity_SU) - 1, affinity_SU.shape[1]
    scores_BU = np.empty((len(seen), num_unseen), np.float32)
    for first in range(0, len(seen), _USERS_AT_ONCE):
        rows = slice(first, first + _USERS_AT_ONCE)
        affinity_BRU = affinity_SU[seen.item_numbers[rows]]
        scores_BU[rows] = (seen.scores[rows, :, None] + affinity_BRU).max(axis=1)
    best = best_items(np.pad(scores_BU + bonus, ((0, 0), (1, 0))), num_results)
    is_item_BR = best.item_numbers > 0
    return RankedItems(
        np.where(is_item_BR, best.item_numbers + num_seen, 0).astype(np.int32), best.scores
    )


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Users of a split, what they had and what they wanted.

    Attributes:
      users: raw ids.
      histories: seen items, oldest first.
      targets: [B].
      num_seen: items from 1 to this one are seen.
      unseen_share: share of all the split's users whose target is unseen.
    """

    users: Sequence[str]
    histories: Sequence[np.ndarray]
    targets: np.ndarray
    num_seen: int
    unseen_share: float

    @classmethod
    def of(cls, hold_out: HoldOut, split: str, num_others: int, seed: int) -> "Wanted":
        """All users of a split who want an unseen item, and a random sample of the others.

        Args:
          hold_out, split: see `HoldOut.examples`.
          num_others: size of the sample; 0 for all.
          seed: of the sample.
        """
        users, histories, targets = hold_out.examples(split)
        is_unseen = targets > len(hold_out.seen)
        others = np.flatnonzero(~is_unseen)
        if num_others:
            others = np.random.default_rng(seed).permutation(others)[:num_others]
        rows = np.sort(np.concatenate([np.flatnonzero(is_unseen), others]))
        return cls(
            [users[row] for row in rows],
            [histories[row] for row in rows],
            targets[rows],
            len(hold_out.seen),
            float(is_unseen.mean()),
        )

    def gains(self, ranked: RankedItems, k: int) -> np.ndarray:
        """1 where the target is among the first K, else 0, [B]; their mean is Recall@K."""
        return metrics.recall_gains(metrics.target_ranks(ranked, self.targets), k)

    def means(self, values_B: np.ndarray) -> dict[str, dict[str, float]]:
        """Means over all users of the split, and over those whose target is unseen.

        Returns:
          {"all": {"value", "error"}, "unseen": ...}; the error is half the 95 % interval.
        """
        is_unseen = self.targets > self.num_seen
        groups = [values_B[is_unseen], values_B[~is_unseen]]
        means = [group.mean() if len(group) else 0.0 for group in groups]
        errors = [1.96 * group.std() / max(len(group), 1) ** 0.5 for group in groups]
        weights = (self.unseen_share, 1 - self.unseen_share)
        return {
            "all": {
                "value": float(np.dot(weights, means)),
                "error": float(np.hypot(*np.multiply(weights, errors))),
            },
            "unseen": {"value": float(means[0]), "error": float(errors[0])},
        }


@dataclasses.dataclass(frozen=True)
class Rule:
    """How unseen items get their scores.

    Attributes:
      name: one of `RULES`.
      bonus: nats that are added to all of them.
      penalty: of `shorter prefixes`, see `Catalogue.by_prefix`.
      temperature: of `like content`, see `Catalogue.by_content`.
      history_weight: of `like content`, see `with_history`.
    """

    name: str
    bonus: float = 0.0
    penalty: float = math.inf
    temperature: float = 0.1
    history_weight: float = 1.0


THREE_CODES = "three codes"
SHORTER_PREFIXES = "shorter prefixes"
OWN_IDS = "own IDs"
LIKE_CONTENT = "like content"

_BONUSES = (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
# The settings of each rule that are tried, all but the bonus; the paper's has none.
RULES = {
    THREE_CODES: [Rule(THREE_CODES)],
    SHORTER_PREFIXES: [Rule(SHORTER_PREFIXES, penalty=p) for p in (0.25, 0.5, 1.0, 2.0, 3.0)],
    OWN_IDS: [Rule(OWN_IDS)],
    LIKE_CONTENT: [
        Rule(LIKE_CONTENT, temperature=temperature, history_weight=weight)
        for temperature, weight in itertools.product((0.03, 0.05, 0.1), (0.1, 0.3, 1.0, 3.0))
    ],
}
# What a rule may cost all users at most, as a share of their Recall@10 without unseen items.
MOST_COST = 0.02
SHARES = tuple(tenth / 10 for tenth in range(11))
_K = 10


@dataclasses.dataclass(frozen=True)
class Found:
    """What a model found for the users of a split.

    Attributes:
      wanted: who they are.
      catalogue: of the split.
      seen: the best seen items, log p, [B, R]; none of the history.
      own: the best unseen items by the log p of their own IDs, [B, R].
    """

    wanted: Wanted
    catalogue: Catalogue
    seen: RankedItems
    own: RankedItems

    @classmethod
    def search(
        cls, recommender: Recommender, wanted: Wanted, catalogue: Catalogue, num_results: int
    ) -> "Found":
        """Searches twice: among the seen items, and among the unseen ones.

        Args:
          recommender: of `with_new_items`.
          wanted, catalogue: see the class.
          num_results: R.
        """
        lists = (
            recommender.recommend(
                wanted.users, wanted.histories, num_results, exclude_history=True, filter=name
            )
            for name in ("seen", "unseen")
        )
        return cls(wanted, catalogue, *lists)

    def unseen(self, rule: Rule) -> RankedItems:
        """The best unseen items by a rule, as many as the model's own."""
        num_results = self.own.item_numbers.shape[1]
        if rule.name == OWN_IDS:
            return RankedItems(self.own.item_numbers, self.own.scores + rule.bonus)
        if rule.name == LIKE_CONTENT:
            sources = with_history(self.seen, self.wanted.histories, rule.history_weight)
            affinity_SU = self.catalogue.by_content(rule.temperature)
        else:
            sources, affinity_SU = self.seen, self.catalogue.by_prefix(rule.penalty)
        return candidates(sources, affinity_SU, num_results, rule.bonus)

    def ranked(
        self, unseen: RankedItems, k: int, share: float, round_up: bool = False
    ) -> RankedItems:
        """Lists of K with at most a share of them unseen."""
        return with_unseen(self.seen, unseen, k, most_unseen(share, k, round_up))

    def choose(self, rules: Sequence[Rule]) -> Rule:
        """The rule and bonus with the best Recall@10 on unseen targets that cost others little.

        Best: the mean over epsilon = 0.1, 0.2, ..., 1. Little: at none of them all users lose more
        than `MOST_COST`. Where all cost more, the cheapest.

        Args:
          rules: of one name, without bonus; the paper's own has no bonus and no choice.
        """
        without = self._recalls(self.own, (0.0,))["all"][0]
        best, best_worth = None, (-math.inf, -math.inf)
        for rule in rules:
            found = self.unseen(rule)
            for bonus in (0.0,) if rule.name == THREE_CODES else _BONUSES:
                shifted = RankedItems(found.item_numbers, found.scores + np.float32(bonus))
                recalls = self._recalls(shifted, SHARES[1:])
                cost = without - min(recalls["all"])
                worth = (min(MOST_COST * without - cost, 0.0), np.mean(recalls["unseen"]))
                if worth > best_worth:
                    best, best_worth = dataclasses.replace(rule, bonus=bonus), worth
        return best

    def _recalls(self, unseen: RankedItems, shares: Sequence[float]) -> dict[str, list[float]]:
        """Recall@10 of all users, and of those whose target is unseen, for each epsilon."""
        means = [
            self.wanted.means(self.wanted.gains(self.ranked(unseen, _K, share), _K))
            for share in shares
        ]
        return {group: [mean[group]["value"] for mean in means] for group in ("all", "unseen")}
