"""The last level's codes shared out among the items of a prefix."""

import itertools

import numpy as np
import optax
import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import schemes
from tiger_jax.semantic_ids.balance import balanced_codes


def embeddings(num_items=60):
    """Items close together, some of them equal."""
    embeddings_NE = np.random.default_rng(0).normal(size=(num_items, 6)).astype(np.float32)
    embeddings_NE[-4:] = embeddings_NE[:4]
    return embeddings_NE


def test_each_prefix_has_the_cheapest_of_all_assignments():
    """Against all of them, five codes to at most four items."""
    random = np.random.default_rng(1)
    codebook_CZ = random.normal(size=(5, 2))
    prefix_N = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
    residuals_NZ = random.normal(size=(10, 2))
    residuals_NZ[1] = residuals_NZ[0]
    distance_NC = ((residuals_NZ[:, None] - codebook_CZ) ** 2).sum(axis=-1)
    nearest_N = distance_NC.argmin(axis=1)
    codes_NL = np.column_stack([prefix_N % 2, prefix_N // 2, nearest_N])
    found_NL = balanced_codes(codes_NL, residuals_NZ, codebook_CZ)
    np.testing.assert_array_equal(found_NL[:, :2], codes_NL[:, :2])
    for prefix in range(4):
        rows = np.flatnonzero(prefix_N == prefix)
        cheapest = min(
            itertools.permutations(range(5), len(rows)),
            key=lambda codes, rows=rows: distance_NC[rows, codes].sum(),
        )
        assert tuple(found_NL[rows, 2]) == cheapest
    assert (found_NL != codes_NL).any()


def test_more_items_than_codes_use_each_equally():
    codes_NL = np.zeros((7, 2), int)
    residuals_NZ = np.random.default_rng(2).normal(size=(7, 3))
    found_NL = balanced_codes(codes_NL, residuals_NZ, np.random.default_rng(3).normal(size=(3, 3)))
    counts = np.bincount(found_NL[:, 1], minlength=3)
    assert counts.max() == 3
    assert counts.sum() == 7


def test_a_balanced_cascade_has_no_collisions_and_says_what_it_explains():
    settings = {"codebook_sizes": (3, 3, 32)}
    nearest = schemes.residual(embeddings(), 0, **settings)
    balanced = schemes.residual(embeddings(), 0, **settings, balance=True)
    alone_N = np.array(
        [(nearest.codes_NL == row).all(axis=1).sum() == 1 for row in nearest.codes_NL]
    )
    assert not alone_N.all()
    np.testing.assert_array_equal(balanced.codes_NL[:, :2], nearest.codes_NL[:, :2])
    table = balanced.table({})
    assert table.health()["collisions"] == 0
    assert table.header["balanced"]
    arrays = balanced.quantizer.arrays
    made_NE = arrays["mean"] + sum(
        arrays[f"codebook_{level}"][balanced.codes_NL[:, level]] for level in range(3)
    )
    error, spread = ((embeddings() - made_NE) ** 2).sum(), embeddings().var(axis=0).sum()
    assert balanced.explained_variance == pytest.approx(1 - error / spread / 60, abs=1e-5)
    assert balanced.explained_variance < nearest.explained_variance


def test_a_networks_reconstruction_is_what_its_training_measured():
    settings = {
        "hidden_sizes": (8,),
        "latent_size": 3,
        "codebook_sizes": (4, 4),
        "beta": 0.25,
        "optimizer": optax.adamw(1e-3),
        "batch_size": 32,
        "num_epochs": 2,
    }
    codes = schemes.rqvae(embeddings(), 0, **settings)
    made_NE = codes.quantizer.reconstruction(codes.codes_NL)
    error, spread = ((embeddings() - made_NE) ** 2).sum(), embeddings().var(axis=0).sum()
    assert codes.explained_variance == pytest.approx(1 - error / spread / 60, abs=1e-5)
    with pytest.raises(InputError, match="balance is for residual cascades"):
        schemes.vqvae(embeddings(), 0, **settings | {"latent_size": 4}, balance=True)
    with pytest.raises(InputError, match="dtype='float16': choose float32 or bfloat16"):
        schemes.rqvae(embeddings(), 0, **settings, dtype="float16")
