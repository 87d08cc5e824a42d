"""The training loop of the ID schemes that learn a network: RQ-VAE and VQ-VAE.

Whole rounds of epochs run on the device (`rqvae.train_epochs`); between them dead codes are
restarted and health is measured.
"""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from tqdm import tqdm

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import clustering
from tiger_jax.semantic_ids import rqvae as rq
from tiger_jax.semantic_ids.journal import Journal
from tiger_jax.semantic_ids.quantizer import Quantizer
from tiger_jax.semantic_ids.table import codes_health


def train(
    embeddings_NE: np.ndarray,
    seed: int,
    network: rq.RqVae,
    *,
    beta: float,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_epochs: int,
    max_gradient_norm: float | None,
    start_items: int | None,
    epochs_per_round: int,
    restart: bool,
    journal: Journal | None,
) -> tuple[Quantizer, Sequence[dict]]:
    """Trains a network and freezes it; for the arguments see `schemes.rqvae`.

    A training that was killed goes on from its journal to the same result bit by bit: shuffles
    depend on the key in the state, restarts on (seed, epoch) alone.

    Returns:
      What gives items their codes, and health after each round, oldest first.
    """
    x_NE, statistics = rq.standardize(embeddings_NE)
    if max_gradient_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(max_gradient_norm), optimizer)

    # The final codes will be computed in float32, and health is theirs.
    exact = network.clone(dtype="float32")

    init_key, start_key, shuffle_key, restart_key = jax.random.split(jax.random.key(seed), 4)
    parameters = network.init(init_key, x_NE[:1])["params"]
    state = rq.TrainState(parameters, optimizer.init(parameters), shuffle_key)
    rows = []
    if journal is not None:
        state, rows = journal.resume(state)
    if not rows:
        start_rows = jax.random.permutation(shuffle_key, len(x_NE))[:start_items]
        _require_items(len(start_rows), network)
        parameters = rq.start_codebooks(parameters, x_NE[start_rows], start_key, network=network)
        state = rq.TrainState(parameters, optimizer.init(parameters), shuffle_key)

    first_epoch = rows[-1]["epoch"] if rows else 0
    with tqdm(total=num_epochs, initial=first_epoch, unit="epoch", disable=None) as progress:
        for epoch in range(first_epoch, num_epochs, epochs_per_round):
            if restart and epoch:
                key = jax.random.fold_in(restart_key, epoch)
                parameters = rq.restart_dead_codes(state.parameters, x_NE, key, network=network)
                state = state._replace(parameters=parameters)
            state, losses = rq.train_epochs(
                state,
                x_NE,
                network=network,
                optimizer=optimizer,
                beta=beta,
                batch_size=min(batch_size, len(x_NE)),
                num_epochs=min(epochs_per_round, num_epochs - epoch),
            )
            codes_NL, measures = rq.measure(
                state.parameters, x_NE, statistics["std"], network=exact
            )
            row = {
                "epoch": min(epoch + epochs_per_round, num_epochs),
                **codes_health(np.asarray(codes_NL), network.codebook_sizes),
                **{name: np.asarray(value).tolist() for name, value in (losses | measures).items()},
            }
            _require_finite_loss(row)
            rows = [*rows, row]
            if journal is not None:
                journal.add(rows, state)
            usage = "/".join(f"{share:.0%}" for share in row["codebook_usage"])
            progress.set_postfix(loss=f"{row['loss']:.1f}", use=usage, unique=row["unique"])
            progress.update(row["epoch"] - progress.n)
    kind = "parts" if network.in_parts else "residual"
    return Quantizer(kind, rq.flatten(state.parameters, statistics, network)), rows


def _require_items(num_items: int, network: rq.RqVae) -> None:
    """Codebooks start on items; a shared one takes only its share of them at each level."""
    sizes = network.codebook_sizes
    clustering.require_items(
        num_items, (-(-sizes[0] // len(sizes)),) if network.shared_codebook else sizes
    )


def _require_finite_loss(row: dict) -> None:
    if not np.isfinite(row["loss"]):
        raise InputError(
            f"the loss is no longer finite after epoch {row['epoch']}; lower the learning rate or "
            "clip gradients (max_gradient_norm)"
        )
