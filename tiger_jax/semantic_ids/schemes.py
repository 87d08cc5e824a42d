"""The ID schemes: each a function (embeddings_NE, seed, ...) -> `Codes` that a gin file chooses.

What makes IDs of codes is the table; what runs a scheme on a prepared folder, `make_ids`.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
import optax

from tiger_jax.artifacts import InputError, require_at_least
from tiger_jax.semantic_ids import clustering, training
from tiger_jax.semantic_ids import rqvae as rq
from tiger_jax.semantic_ids.balance import balanced_codes
from tiger_jax.semantic_ids.journal import Journal
from tiger_jax.semantic_ids.quantizer import Quantizer
from tiger_jax.semantic_ids.table import Codes

# Digits of a word piece of `text`.
_PIECE = 2
# Of a code of `lsh`, which are 32-bit integers.
_MOST_BITS = 30
# Of the centroids of `hierarchical`.
_MOST_BYTES = 8 << 30


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
    sample_items: int | None = None,
    epochs_per_round: int = 10,
    restart: bool = True,
    shared_codebook: bool = False,
    in_parts: bool = False,
    balance: bool = False,
    dtype: str = "float32",
    journal: Journal | None = None,
) -> Codes:
    """Trains an RQ-VAE (TIGER sections 3.1 and 4).

    Args:
      embeddings_NE: content embeddings, in memory or a map of a file.
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
      sample_items: number of items to train on, drawn at random; None: all.
      epochs_per_round: epochs in one call of the device, between which health is measured.
      restart: whether dead codes are put onto residuals of items after each round but the last.
      shared_codebook: whether all levels choose from one codebook, section 3.1's alternative.
      in_parts: whether the latent is quantised in parts; see `vqvae`.
      balance: whether items of one prefix share the last level's codes out among them, each as near
        to its own as that allows (`balance.balanced_codes`): fewer collisions.
      dtype: float32, or bfloat16 for what the network's matrix products multiply while it is
        trained; sums, codebooks and the final codes are float32.
      journal: keeps the health, and the state in case the training is killed.

    Raises:
      InputError: fewer items than codes, balance of parts, an unknown dtype, or the loss stops
        being finite.
    """
    codebook_sizes = _checked_sizes("codebook_sizes", codebook_sizes)
    hidden_sizes = _checked_sizes("hidden_sizes", hidden_sizes, least=0)
    require_at_least(1, num_epochs=num_epochs, batch_size=batch_size, latent_size=latent_size)
    require_at_least(1, epochs_per_round=epochs_per_round)
    if start_items is not None:
        require_at_least(1, start_items=start_items)
    if max_gradient_norm is not None and not max_gradient_norm > 0:
        raise InputError(f"max_gradient_norm={max_gradient_norm}: more than 0, or None")
    if shared_codebook and len(set(codebook_sizes)) > 1:
        raise InputError(f"codebook_sizes={codebook_sizes}: a shared codebook has one size")
    if in_parts and latent_size % len(codebook_sizes):
        raise InputError(
            f"latent_size={latent_size} cannot be cut into {len(codebook_sizes)} equal parts; "
            "choose a multiple"
        )
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype={dtype!r}: choose float32 or bfloat16")
    if in_parts and balance:
        raise InputError("balance is for residual cascades; parts have no last level")
    network = rq.RqVae(
        embeddings_NE.shape[1],
        hidden_sizes,
        latent_size,
        codebook_sizes,
        in_parts,
        shared_codebook,
        dtype,
    )
    quantizer, history = training.train(
        _sample(embeddings_NE, sample_items, seed),
        seed,
        network,
        beta=beta,
        optimizer=optimizer,
        batch_size=batch_size,
        num_epochs=num_epochs,
        max_gradient_norm=max_gradient_norm,
        start_items=start_items,
        epochs_per_round=epochs_per_round,
        restart=restart,
        journal=journal,
    )
    codes = Codes(
        quantizer.codes(embeddings_NE),
        codebook_sizes,
        explained_variance=history[-1]["explained_variance"],
        quantizer=quantizer,
        history=history,
    )
    return _balanced(codes, embeddings_NE) if balance else codes


def vqvae(
    embeddings_NE: np.ndarray, seed: int, *, journal: Journal | None = None, **settings
) -> Codes:
    """Trains a VQ-VAE (TIGER section 3.1, "Other alternatives", and appendix A).

    The RQ-VAE's network and loss, with the latent cut into as many parts as there are codebooks,
    each quantised by itself: no hierarchy, no code coarser than another.

    Args:
      embeddings_NE: content embeddings.
      seed: of all that is drawn.
      journal: see `rqvae`.
      **settings: the further arguments of `rqvae`.
    """
    return rqvae(embeddings_NE, seed, in_parts=True, journal=journal, **settings)


def lsh(embeddings_NE: np.ndarray, seed: int, *, num_hyperplanes: int, num_levels: int) -> Codes:
    """SimHash: on which side of random hyperplanes an embedding lies (TIGER section 4.2).

    c_d = sum_i 2^(i-1) [w_i . x > 0] with h hyperplanes w_i of its own for each of m levels. There
    is a collision token only if items do collide.

    Args:
      embeddings_NE: content embeddings.
      seed: of the hyperplanes, drawn from the standard normal distribution.
      num_hyperplanes: h; a level has 2^h codes.
      num_levels: m.

    Raises:
      InputError: no hyperplane or level, or more hyperplanes than a code has bits.
    """
    require_at_least(1, num_hyperplanes=num_hyperplanes, num_levels=num_levels)
    if num_hyperplanes > _MOST_BITS:
        raise InputError(f"num_hyperplanes={num_hyperplanes}: at most {_MOST_BITS}")
    shape = (num_levels, num_hyperplanes, embeddings_NE.shape[1])
    hyperplanes_LHE = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    quantizer = Quantizer("hyperplanes", {"hyperplanes": hyperplanes_LHE})
    codes_NL = quantizer.codes(embeddings_NE)
    return Codes(
        codes_NL,
        (2**num_hyperplanes,) * num_levels,
        has_collision_token=len(np.unique(codes_NL, axis=0)) < len(codes_NL),
        quantizer=quantizer,
    )


def random(embeddings_NE: np.ndarray, seed: int, *, codebook_sizes: tuple[int, ...]) -> Codes:
    """Distinct tuples drawn at random, blind to content (TIGER section 4.2).

    Args:
      embeddings_NE: content embeddings, of which only the number counts.
      seed: of the draw.
      codebook_sizes: number of codes of each part of an ID.

    Raises:
      InputError: more items than tuples, or more tuples than a number of 63 bits counts.
    """
    codebook_sizes = _checked_sizes("codebook_sizes", codebook_sizes)
    num_items, num_ids = len(embeddings_NE), math.prod(codebook_sizes)
    if num_items > num_ids:
        raise InputError(
            f"{num_items} items, but only {num_ids} different IDs of sizes {codebook_sizes}; "
            "give larger codebooks or more levels"
        )
    if num_ids > np.iinfo(np.int64).max:
        raise InputError(
            f"{num_ids:.3g} IDs of sizes {codebook_sizes} are more than numbers count here; "
            "give fewer levels"
        )
    drawn_N = np.random.default_rng(seed).choice(num_ids, num_items, replace=False)
    codes_NL = np.column_stack(np.unravel_index(drawn_N, codebook_sizes))
    return Codes(codes_NL, codebook_sizes, has_collision_token=False)


def hierarchical(
    embeddings_NE: np.ndarray,
    seed: int,
    *,
    codebook_sizes: tuple[int, ...],
    num_iterations: int = 50,
) -> Codes:
    """k-means within every cluster of the level above (TIGER section 3.1; DSI's identifiers).

    A code means something only below its prefix: code 3 of two clusters has nothing in common.

    Args:
      embeddings_NE: content embeddings.
      seed: of the k-means starts.
      codebook_sizes: number of clusters in a cluster of the level above; what is larger than the
        clusters left to divide stays unused.
      num_iterations: of Lloyd's algorithm.

    Raises:
      InputError: fewer items than clusters of the first level, or too many clusters in all.
    """
    codebook_sizes = _checked_sizes("codebook_sizes", codebook_sizes)
    require_at_least(0, num_iterations=num_iterations)
    clustering.require_items(len(embeddings_NE), codebook_sizes[:1])
    num_bytes = math.prod(codebook_sizes) * embeddings_NE.shape[1] * 4
    if num_bytes > _MOST_BYTES:
        raise InputError(
            f"codebook_sizes={codebook_sizes}: the centroids of all {math.prod(codebook_sizes):,} "
            f"clusters take {num_bytes / 2**30:,.0f} GiB; give fewer"
        )
    mean_E = embeddings_NE.mean(axis=0)
    centred_NE = embeddings_NE - mean_E
    centroids = clustering.hierarchical_kmeans(
        centred_NE, codebook_sizes, jax.random.key(seed), num_iterations
    )
    books = {f"codebook_{level}": book_PCE for level, book_PCE in enumerate(centroids)}
    quantizer = Quantizer("tree", {"mean": mean_E, **books})
    codes_NL = quantizer.codes(embeddings_NE)
    node_N = np.zeros(len(codes_NL), np.int64)
    for level, size in enumerate(codebook_sizes[:-1]):
        node_N = node_N * size + codes_NL[:, level]
    leaf_NE = centroids[-1][node_N, codes_NL[:, -1]]
    return Codes(
        codes_NL,
        codebook_sizes,
        explained_variance=float(clustering.explained_variance(centred_NE, leaf_NE)),
        quantizer=quantizer,
    )


def residual(
    embeddings_NE: np.ndarray,
    seed: int,
    *,
    codebook_sizes: tuple[int, ...],
    num_iterations: int = 50,
    sample_items: int | None = None,
    balance: bool = False,
) -> Codes:
    """Residual k-means on the content embeddings themselves: the RQ-VAE without its network.

    Args:
      embeddings_NE: content embeddings, in memory or a map of a file.
      seed: of the k-means start.
      codebook_sizes: number of codes of each level.
      num_iterations: of Lloyd's algorithm.
      sample_items: number of items to cluster, drawn at random; None: all.
      balance: see `rqvae`.
    """
    sample_NE = _sample(embeddings_NE, sample_items, seed)
    codebook_sizes = _checked_sizes("codebook_sizes", codebook_sizes)
    require_at_least(0, num_iterations=num_iterations)
    clustering.require_items(len(sample_NE), codebook_sizes)
    mean_E = sample_NE.mean(axis=0)
    codebooks_LCE, codes_NL = clustering.residual_kmeans(
        sample_NE - mean_E, codebook_sizes, jax.random.key(seed), num_iterations
    )
    quantized_NE = sum(book_CE[codes_NL[:, i]] for i, book_CE in enumerate(codebooks_LCE))
    books = {f"codebook_{level}": np.asarray(book) for level, book in enumerate(codebooks_LCE)}
    quantizer = Quantizer("residual", {"mean": mean_E, **books})
    codes = Codes(
        quantizer.codes(embeddings_NE),
        codebook_sizes,
        explained_variance=float(clustering.explained_variance(sample_NE - mean_E, quantized_NE)),
        quantizer=quantizer,
    )
    return _balanced(codes, embeddings_NE) if balance else codes


def text(embeddings_NE: np.ndarray, seed: int, *, order: str) -> Codes:
    """Integers cut into word pieces, as P5 writes items (TIGER section 4.1 and appendix D).

    Every item gets an integer from 1 on. Its decimal digits are cut from the left into pieces of
    two, the last of which may be one digit, as in P5's own example: item 7391 is read as 73|91.
    All integers of a catalogue become equally long: behind the last piece of a shorter one stands
    the piece that means "no more digits". Codes: 0 no more digits, 1 to 10 one digit, 11 to 110
    two digits.

    Args:
      embeddings_NE: content embeddings, of which only the number counts.
      seed: of the random order.
      order: "random", as the paper does; or "appearance", as P5's own preprocessing did: integers
        in order of first appearance in the sequences, so that neighbours in a test sequence share
        their first pieces. That leaks the test items; it is here to show it.

    Raises:
      InputError: another order.
    """
    if order not in ("random", "appearance"):
        raise InputError(f"order={order!r}: choose random or appearance")
    # Item numbers are given in order of first appearance.
    integers_N = np.arange(1, len(embeddings_NE) + 1)
    if order == "random":
        integers_N = np.random.default_rng(seed).permutation(integers_N)
    num_pieces = -(-len(str(len(integers_N))) // _PIECE)
    codes_NL = np.array([_word_pieces(str(integer), num_pieces) for integer in integers_N.tolist()])
    return Codes(codes_NL, (1 + 10 + 10**_PIECE,) * num_pieces, has_collision_token=False)


def _checked_sizes(name: str, sizes: Sequence[int], least: int = 1) -> tuple[int, ...]:
    """InputError unless they are whole numbers above 0, at least so many of them."""
    is_some = isinstance(sizes, Sequence) and len(sizes) >= least
    if not is_some or not all(type(size) is int and size > 0 for size in sizes):
        raise InputError(f"{name}={sizes!r}: give a size for each level, such as (256, 256, 256)")
    return tuple(sizes)


def _word_pieces(digits: str, num_pieces: int) -> list[int]:
    """Code of each piece of a number; see `text`."""
    pieces = [digits[first : first + _PIECE] for first in range(0, len(digits), _PIECE)]
    codes = [1 + int(piece) + (10 if len(piece) == _PIECE else 0) for piece in pieces]
    return codes + [0] * (num_pieces - len(codes))


def _balanced(codes: Codes, embeddings_NE: np.ndarray) -> Codes:
    """Codes of a residual cascade with the last level shared out."""
    quantizer = codes.quantizer
    codebook_CZ = quantizer.arrays[f"codebook_{len(codes.codebook_sizes) - 1}"]
    residuals_NZ = quantizer.last_residuals(embeddings_NE)
    codes_NL = balanced_codes(codes.codes_NL, residuals_NZ, codebook_CZ)
    explained_variance = clustering.explained_variance(
        embeddings_NE, quantizer.reconstruction(codes_NL)
    )
    return dataclasses.replace(
        codes,
        codes_NL=codes_NL,
        explained_variance=float(explained_variance),
        is_balanced=True,
    )


def _sample(embeddings_NE: np.ndarray, num_items: int | None, seed: int) -> np.ndarray:
    """Rows to train on, float32; in file order, which a memory map reads fastest."""
    if num_items is not None:
        require_at_least(1, sample_items=num_items)
        if num_items < len(embeddings_NE):
            rows = np.random.default_rng(seed).choice(len(embeddings_NE), num_items, replace=False)
            embeddings_NE = embeddings_NE[np.sort(rows)]
    return np.asarray(embeddings_NE, np.float32)


# In the order of the README; `make_ids --list` prints their names.
SCHEMES = (rqvae, vqvae, lsh, random, hierarchical, residual, text)
