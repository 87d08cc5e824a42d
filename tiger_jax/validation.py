"""What training looks at now and then: recommendations for users of the validation split."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tiger_jax import guard_rails, metrics
from tiger_jax.data.sequences import Sequences
from tiger_jax.model.model import TigerModel
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids.table import SemanticIdTable


def sampled_users(
    sequences: Sequences, num_users: int
) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Raw ids, histories and targets of users of the validation split; of all where 0.

    The same users for every seed and run, so that their numbers can be compared.
    """
    histories, targets = sequences.split("validation")
    rows = np.random.default_rng(0).permutation(len(targets))[: num_users or None]
    users = [sequences.user_ids[row] for row in rows]
    return users, [histories[row] for row in rows], targets[rows]


def make_validation(
    model: TigerModel,
    table: SemanticIdTable,
    sequences: Sequences,
    max_history: int,
    num_users: int,
    num_beams: int,
) -> Callable[[dict], dict[str, Any]]:
    """params -> metrics of the validation split on a fixed sample of users, and the guard rails.

    Args:
      model: the network and its vocabulary.
      table: the items' Semantic IDs.
      sequences: the users' items.
      max_history: items of a history that the model sees, the latest ones.
      num_users: size of the sample; 0 for all.
      num_beams: width of the beam.
    """
    users, histories, targets = sampled_users(sequences, num_users)
    first_codes = table.semantic_ids_NI[:, 0]
    bigram_loss = guard_rails.bigram_first_code_loss(
        sequences.training_sequences(),
        np.array([history[-1] for history in histories]),
        targets,
        first_codes,
        table.codebook_sizes[0],
    )
    recommender = Recommender(model, None, table, max_history=max_history, num_beams=num_beams)
    validation_losses = guard_rails.make_validation_losses(
        model,
        recommender.encoder_tokens(users, histories),
        model.vocabulary.tokens(table.semantic_ids_NI[targets]),
    )

    def validate(params):
        ranked = recommender.with_params(params).recommend(
            users, histories, num_beams, exclude_history=False
        )
        losses, losses_without_encoder = validation_losses(params)
        return {
            **metrics.values(ranked, targets),
            "without_history": metrics.values(ranked.without(histories), targets),
            "losses": losses,
            "losses_without_encoder": losses_without_encoder,
            "bigram_first_code_loss": bigram_loss,
            "distinct_items": metrics.distinct_items(ranked, 10),
        }

    return validate


def summary(step: int, train_losses: list[float], validation: dict) -> str:
    """The line that a training prints of a validation."""
    train_text = " ".join(f"{loss:.2f}" for loss in train_losses)
    losses = " ".join(f"{loss:.2f}" for loss in validation["losses"])
    return (
        f"step {step}: loss {train_text}, validation {losses}, "
        f"recall@10 {validation['recall@10']:.4f}, ndcg@10 {validation['ndcg@10']:.4f}, "
        f"without history {validation['without_history']['recall@10']:.4f} "
        f"{validation['without_history']['ndcg@10']:.4f}, "
        f"distinct items {validation['distinct_items']}"
    )
