"""TIGER and what counts, content and SASRec say of every item, as one recommender.

They meet twice. Their product (`log_linear.py`) is the prior that the beam follows beside the model
(`model/prior.py`), so that it finds what either would; and what it finds is ranked by the product
of all opinions, the model's among them. How much each counts, `fuse.py` chooses.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tiger_jax import artifacts, checkpoints, log_linear, saved_run
from tiger_jax.baselines import Histories, best_items
from tiger_jax.data import content
from tiger_jax.data.sequences import Sequences
from tiger_jax.log_linear import Opinions
from tiger_jax.metrics import RankedItems
from tiger_jax.recommender import Recommender
from tiger_jax.requests import InRawIds, ItemPrior
from tiger_jax.sasrec import TRAIN as TRAIN_SASREC
from tiger_jax.sasrec import SasRec

MODEL = "model"
_FUSE = "python -m tiger_jax.fuse"
# What a saved choice has to say of itself.
_SAVED = ("prior", "prior_weight", "prior_items", "num_beams", "exponents", "sasrec")
_SAVED += ("step", "checkpoint", "table", "sequences", "content", "sasrec_checkpoint")

# Histories whose opinions on all items are held at once.
_AT_ONCE = 256
# Of a candidate's mixed probability; what the model gives below cannot be told from rounding.
_RESOLUTION = 1e-5


@dataclasses.dataclass(frozen=True)
class Fusion:
    """What counts how much.

    Attributes:
      prior: exponents of the opinions in the prior along the trie.
      prior_weight: of the prior in the mixture that the beam follows; below 1.
      prior_items: items of a history with a prior, the likeliest ones.
      num_beams: candidates of a user that are ranked, if not more are asked for.
      exponents: of the opinions in the final ranking, and of the model's log p.
    """

    prior: Mapping[str, float]
    prior_weight: float
    prior_items: int
    num_beams: int
    exponents: Mapping[str, float]

    def __post_init__(self):
        artifacts.require_shares_below_one(prior_weight=self.prior_weight)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What the beam found, and what is thought of it.

    Attributes:
      mixed: the items, by the mixture of model and prior.
      names: of the opinions, the model's first.
      opinions_BMK: on each; 0 in unused slots.
    """

    mixed: RankedItems
    names: tuple[str, ...]
    opinions_BMK: np.ndarray

    def ranked_by(self, exponents: Mapping[str, float]) -> RankedItems:
        """The candidates by the sum of exponent x opinion, equal ones in the mixture's order."""
        exponents_K = np.array([exponents.get(name, 0.0) for name in self.names])
        scores_BM = np.where(self.mixed.used, self.opinions_BMK @ exponents_K, -np.inf)
        order_BM = np.argsort(-scores_BM, axis=1, kind="stable")
        return RankedItems(
            np.take_along_axis(self.mixed.item_numbers, order_BM, axis=1),
            np.take_along_axis(scores_BM, order_BM, axis=1).astype(np.float32),
        )


class FusedRecommender(InRawIds):
    """A recommender that follows a model and a prior and ranks by all opinions.

    Args:
      recommender: TIGER's.
      opinions: of every item.
      fusion: what counts how much.
    """

    def __init__(self, recommender: Recommender, opinions: Opinions, fusion: Fusion):
        self.recommender, self.opinions, self.fusion = recommender, opinions, fusion

    @property
    def item_ids(self) -> Sequence[str]:
        """Raw ids by item number."""
        return self.recommender.item_ids

    @property
    def item_number(self) -> Mapping[str, int]:
        """Raw id -> item number."""
        return self.recommender.item_number

    def recommend(
        self,
        users: Sequence[str | None] | None,
        histories: Histories,
        num_results: int,
        exclude_history: bool = True,
        filter: str | Sequence[str | None] | None = None,
        temperature: float | Sequence[float] | None = None,
        seed: int | Sequence[int] = 0,
    ) -> RankedItems:
        """As `Recommender.recommend`; scores order the items of one list and mean no more.

        Raises:
          InputError: a filter or a temperature is given, which only the model's own search knows.
        """
        del seed
        names = [filter] if filter is None or isinstance(filter, str) else filter
        if temperature is not None or any(name is not None for name in names):
            raise artifacts.InputError(
                "a fusion has neither filters nor draws; ask without filter and temperature"
            )
        self.recommender.checked(users, histories, num_results)
        num_candidates = max(num_results, self.fusion.num_beams)
        num_candidates = min(num_candidates, self.recommender.max_beams)
        found = self.candidates(users, histories, num_candidates, exclude_history)
        return found.ranked_by(self.fusion.exponents).top(num_results)

    def candidates(
        self,
        users: Sequence[str | None] | None,
        histories: Histories,
        num_candidates: int,
        exclude_history: bool = True,
    ) -> Candidates:
        """The items that a beam along model and prior finds."""
        batches = []
        for first in range(0, max(1, len(histories)), _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            some = None if users is None else users[rows]
            batches.append(self._some(some, histories[rows], num_candidates, exclude_history))
        return Candidates(
            RankedItems(
                np.concatenate([found.mixed.item_numbers for found in batches]),
                np.concatenate([found.mixed.scores for found in batches]),
            ),
            batches[0].names,
            np.concatenate([found.opinions_BMK for found in batches]),
        )

    def _some(self, users, histories, num_candidates, exclude_history) -> Candidates:
        opinions = self.opinions(histories)
        fusion = self.fusion
        log_prior_BN = log_linear.log_probabilities(opinions, fusion.prior)
        likeliest = best_items(log_prior_BN, fusion.prior_items)
        prior_BQ = np.exp(likeliest.scores)
        prior = ItemPrior(likeliest.item_numbers, prior_BQ, fusion.prior_weight)
        mixed = self.recommender.recommend(
            users, histories, num_candidates, exclude_history, prior=prior
        )
        # Of the mixture, what the prior has not brought is the model's.
        brought_BN = np.zeros(log_prior_BN.shape)
        np.put_along_axis(brought_BN, likeliest.item_numbers, prior_BQ, axis=1)
        brought_BN *= fusion.prior_weight
        mixed_BM = np.exp(mixed.scores, dtype=np.float64)
        own_BM = mixed_BM - np.take_along_axis(brought_BN, mixed.item_numbers, axis=1)
        own_BM = np.maximum(own_BM, _RESOLUTION * mixed_BM) / (1 - fusion.prior_weight)
        own_BM = np.log(np.where(mixed.used, own_BM, 1.0))
        others_BMK = log_linear.of_candidates(opinions, tuple(opinions), mixed.item_numbers)
        opinions_BMK = np.concatenate([own_BM[..., None], others_BMK], axis=-1)
        return Candidates(mixed, (MODEL, *opinions), opinions_BMK)


def path_of(folder: str | os.PathLike, run: str, name: str) -> pathlib.Path:
    """Where a choice is saved with a run."""
    return pathlib.Path(folder, "runs", run, "fusions", f"{name}.json")


def load_opinions(folder: str | os.PathLike, sequences: Sequences, sasrec: str = "") -> Opinions:
    """The opinions of counts and content, from training sequences alone, and of a run of SASRec.

    Args:
      folder: the prepared folder.
      sequences: its sequences.
      sasrec: name of a run of tiger_jax.train_sasrec, whose log p is one more; none if empty.
    """
    embeddings_NE, _ = content.load_embeddings(folder)
    counted = log_linear.counted(sequences.training_sequences(), embeddings_NE)
    if not sasrec:
        return counted
    run_folder = pathlib.Path(folder, "runs", sasrec)
    saved_run.require_interactions(run_folder, sequences, TRAIN_SASREC)
    network = SasRec.load(folder, sasrec, sequences)

    def opinions(histories: Histories) -> dict[str, np.ndarray]:
        log_probs_BN = network.scores(histories)
        log_probs_BN[:, 0] = 0
        return {**counted(histories), "sasrec": log_probs_BN}

    return opinions


def provenance(
    folder: str | os.PathLike, run: str, recommender: Recommender, sequences: Sequences, sasrec: str
) -> dict[str, Any]:
    """What a choice holds for: checkpoints, Semantic IDs, sequences and content."""
    of_sasrec = ""
    if sasrec:
        checkpoint_folder = pathlib.Path(folder, "runs", sasrec, "checkpoints")
        step = checkpoints.best_step(checkpoint_folder)
        of_sasrec = checkpoints.identity(checkpoint_folder, step)
    return {
        "step": recommender.step,
        "checkpoint": checkpoints.identity(
            checkpoints.folder_of(pathlib.Path(folder, "runs", run)), recommender.step
        ),
        "table": recommender.table.checksum(),
        "sequences": sequences.checksum(),
        "content": content.load_embeddings(folder)[1]["checksum"],
        "sasrec_checkpoint": of_sasrec,
    }


def load(
    folder: str | os.PathLike, run: str, name: str, recommender: Recommender, sequences: Sequences
) -> FusedRecommender:
    """The fusion of that name that was chosen for a run.

    Raises:
      InputError: none was, or for other checkpoints, another table, other sequences or content.
    """
    path = path_of(folder, run, name)
    saved = artifacts.load_json(path, _FUSE, _SAVED)
    for fact, value in provenance(folder, run, recommender, sequences, saved["sasrec"]).items():
        if saved[fact] != value:
            raise artifacts.InputError(
                f"{path}: chosen for {fact} {saved[fact]}, but it is {value} now; choose again with"
                f" {_FUSE}"
            )
    with artifacts.refusing_damage(path, "run's", _FUSE):
        fusion = Fusion(**{field.name: saved[field.name] for field in dataclasses.fields(Fusion)})
    return FusedRecommender(recommender, load_opinions(folder, sequences, saved["sasrec"]), fusion)
