"""Verb 2: content embeddings of a prepared folder -> a semantic-ID table in ids/<name>.

An ID scheme is a function (embeddings_NE, seed, ...) -> `Codes` that a gin file chooses. Here are
the training loop of the one that learns, and what all share: checks before and after, the files.
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.semantic_ids import clustering
from tiger_jax.semantic_ids import rqvae as rq
from tiger_jax.semantic_ids.table import Codes, SemanticIdTable, codes_health

_EXAMPLES = """
python -m tiger_jax.make_ids --gin_file=gin/dataset/beauty.gin --gin_file=gin/ids/rqvae.gin
python -m tiger_jax.make_ids --gin_file=gin/dataset/toys.gin --gin_file=gin/ids/residual.gin --seed=1
python -m tiger_jax.make_ids --gin_file=gin/experiment/quickstart.gin --gin.NUM_EPOCHS=50 --json
"""  # noqa: E501


def make_ids(
    folder: str,
    ids: str,
    scheme: Callable[..., Codes],
    seed: int = 0,
    min_codebook_usage: float = 0.5,
    configuration: str = "",
) -> dict[str, Any]:
    """Gives every item of a prepared folder a distinct Semantic ID.

    Writes folder/ids/<ids>: semantic_ids.npz; where the scheme learns, <scheme>.npz,
    by which new items get codes; metrics.jsonl, the health while training; config.gin.

    Args:
      folder: prepared folder with content embeddings.
      ids: name of the IDs to make.
      scheme: the ID scheme, chosen by a file of gin/ids.
      seed: of all that is drawn.
      min_codebook_usage: share of each codebook that must be in use at the end; with less it has
        collapsed, and nothing is written.
      configuration: gin text of all that was set, saved beside the IDs.

    Returns:
      Health of the IDs (`codes_health`), explained_variance, seconds, and the table's header.

    Raises:
      InputError: unusable embeddings, a collapsed codebook, too many items with equal codes.
    """
    embeddings_NE, source = content.load_embeddings(folder)
    content.require_usable(embeddings_NE, f"{folder}: content embeddings")
    started = time.monotonic()
    codes = scheme(embeddings_NE, seed)
    header = {
        "scheme": scheme.__name__,
        "ids": ids,
        "seed": seed,
        "dataset": source.get("dataset"),
        "encoder": source["encoder"],
        "text_fields": source["text_fields"],
        "items_checksum": source["items_checksum"],
        "embeddings_checksum": source["checksum"],
        "parameters_checksum": artifacts.checksum(*codes.parameters.values()),
        "provenance": artifacts.provenance(),
    }
    make_table = (
        SemanticIdTable.from_codes
        if codes.has_collision_token
        else SemanticIdTable.from_distinct_codes
    )
    table = make_table(codes.codes_NL, codes.codebook_sizes, header)
    health = {**table.health(), "explained_variance": codes.explained_variance}
    _require_no_collapse(health, codes.codebook_sizes, min_codebook_usage)
    target = pathlib.Path(folder) / "ids" / ids
    _write(target, table, codes, health, configuration)
    usage = " ".join(f"{share:.0%}" for share in health["codebook_usage"])
    print(
        f"{target}: {table.num_items:,} items, codes in use by level: {usage}, "
        f"{health['unique']:,} different tuples of codes, {health['collisions']:,} collisions"
    )
    return {**health, "seconds": round(time.monotonic() - started, 1), **table.header}


def rqvae(
    embeddings_NE: np.ndarray,
    seed: int,
    *,
    hidden_sizes: tuple[int, ...],
    latent_size: int,
    codebook_sizes: tuple[int, ...],
    beta: float,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_epochs: int,
    max_gradient_norm: float | None = None,
    start_items: int | None = None,
    epochs_per_round: int = 10,
    restart: bool = True,
) -> Codes:
    """ID scheme: trains an RQ-VAE (TIGER sections 3.1 and 4).

    Args:
      embeddings_NE: content embeddings.
      seed: of the parameters, the k-means start, the shuffles and the restarts.
      hidden_sizes: widths of the encoder's hidden layers.
      latent_size: width of the latent.
      codebook_sizes: number of codes of each level.
      beta: weight of the commitment term.
      optimizer: turns gradients into updates.
      batch_size: items of an update; all where there are fewer.
      num_epochs: passes over the items.
      max_gradient_norm: gradients are clipped to this global norm; None: not at all.
      start_items: items whose latents k-means clusters to start the codebooks; None: all.
      epochs_per_round: epochs in one call of the device, between which health is measured.
      restart: whether dead codes are put onto residuals of items after each round but the last.

    Raises:
      InputError: fewer items than codes, or the loss stops being finite.
    """
    codebook_sizes = tuple(codebook_sizes)
    x_NE, statistics = rq.standardize(embeddings_NE)
    network = rq.RqVae(x_NE.shape[1], tuple(hidden_sizes), latent_size, codebook_sizes)
    if max_gradient_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(max_gradient_norm), optimizer)

    init_key, start_key, shuffle_key, restart_key = jax.random.split(jax.random.key(seed), 4)
    parameters = network.init(init_key, x_NE[:1])["params"]
    start_rows = jax.random.permutation(shuffle_key, len(x_NE))[:start_items]
    clustering.require_items(len(start_rows), codebook_sizes)
    parameters = rq.start_codebooks(parameters, x_NE[start_rows], start_key, network=network)
    state = rq.TrainState(parameters, optimizer.init(parameters), shuffle_key)

    history = []
    with tqdm(total=num_epochs, unit="epoch", disable=None) as progress:
        for epoch in range(0, num_epochs, epochs_per_round):
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
                state.parameters, x_NE, statistics["std"], network=network
            )
            row = {
                "epoch": min(epoch + epochs_per_round, num_epochs),
                **codes_health(np.asarray(codes_NL), codebook_sizes),
                **{name: np.asarray(value).tolist() for name, value in (losses | measures).items()},
            }
            _require_finite_loss(row)
            history.append(row)
            usage = "/".join(f"{share:.0%}" for share in row["codebook_usage"])
            progress.set_postfix(loss=f"{row['loss']:.1f}", use=usage, unique=row["unique"])
            progress.update(row["epoch"] - progress.n)
    return Codes(
        np.asarray(codes_NL),
        codebook_sizes,
        explained_variance=row["explained_variance"],
        parameters=rq.flatten(state.parameters, statistics),
        history=history,
    )


def _require_finite_loss(row: dict) -> None:
    if not np.isfinite(row["loss"]):
        raise InputError(
            f"the loss is no longer finite after epoch {row['epoch']}; lower the learning rate or "
            "clip gradients (max_gradient_norm)"
        )


def _require_no_collapse(
    health: dict, codebook_sizes: tuple[int, ...], min_codebook_usage: float
) -> None:
    for level, usage in enumerate(health["codebook_usage"]):
        if usage < min_codebook_usage:
            raise InputError(
                f"codebook {level} has collapsed: {health['codes_used'][level]} of its "
                f"{codebook_sizes[level]} codes are in use, less than min_codebook_usage = "
                f"{min_codebook_usage:.0%}; train for more epochs, clip gradients, restart dead "
                "codes, or lower codebook_sizes"
            )


def _write(
    folder: pathlib.Path, table: SemanticIdTable, codes: Codes, health: dict, configuration: str
) -> None:
    """The table comes last: it vouches for the parameters by their checksum."""
    rows = [*codes.history, {"final": True, **health}]
    _write_text(folder / "config.gin", configuration)
    _write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if codes.parameters:
        scheme = table.header["scheme"]
        artifacts.save_arrays(folder / f"{scheme}.npz", scheme, table.header, **codes.parameters)
    table.save(folder / "semantic_ids.npz")


def _write_text(path: pathlib.Path, text: str) -> None:
    with artifacts.atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(make_ids, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.make_ids import main

    main()
