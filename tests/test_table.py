"""The semantic-ID table: distinct IDs, both look-ups, health, file; for every ID scheme."""

import functools

import numpy as np
import optax
import pytest

from tiger_jax import make_ids
from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import clustering
from tiger_jax.semantic_ids.table import SemanticIdTable, codes_health

HEADER = {"scheme": "hand", "items_checksum": "0123456789abcdef"}

SCHEMES = {
    "rqvae": functools.partial(
        make_ids.rqvae,
        hidden_sizes=(16,),
        latent_size=4,
        codebook_sizes=(8, 8, 8),
        beta=0.25,
        optimizer=optax.adagrad(0.4),
        max_gradient_norm=1.0,
        batch_size=32,
        num_epochs=20,
    ),
    "rqvae of unequal codebooks": functools.partial(
        make_ids.rqvae,
        hidden_sizes=(16, 8),
        latent_size=4,
        codebook_sizes=(4, 16),
        beta=0.25,
        optimizer=optax.adamw(1e-3),
        batch_size=1024,
        num_epochs=3,
    ),
    "residual": functools.partial(clustering.residual, codebook_sizes=(8, 8, 8)),
    "random": functools.partial(clustering.random, codebook_sizes=(7, 7, 7, 7)),
}


@functools.cache
def embeddings():
    """60 items around 12 centres; the last three are equal, so that their codes collide."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 10))
    embeddings_NE = centres[np.arange(60) % 12] + 0.2 * rng.normal(size=(60, 10))
    embeddings_NE[-2:] = embeddings_NE[-3]
    return embeddings_NE.astype(np.float32)


@functools.cache
def codes_of(scheme, seed=0):
    return SCHEMES[scheme](embeddings(), seed)


def table_of(scheme, seed=0):
    codes = codes_of(scheme, seed)
    make = (
        SemanticIdTable.from_codes
        if codes.has_collision_token
        else SemanticIdTable.from_distinct_codes
    )
    return make(codes.codes_NL, codes.codebook_sizes, HEADER)


every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


@every_scheme
def test_every_item_has_an_id_of_its_own_within_the_codebooks(scheme):
    table = table_of(scheme)
    ids_NI = table.semantic_ids_NI
    assert ids_NI.shape == (61, table.id_length)
    assert ids_NI.dtype == np.int32
    assert len({tuple(row) for row in ids_NI[1:].tolist()}) == 60
    assert (ids_NI >= 0).all()
    assert (ids_NI < np.array(table.codebook_sizes)).all()


@every_scheme
def test_row_zero_is_padding(scheme):
    assert not table_of(scheme).semantic_ids_NI[0].any()


@every_scheme
def test_lookups_are_inverse_of_each_other(scheme):
    table = table_of(scheme)
    numbers = np.arange(1, 61).reshape(4, 15)
    np.testing.assert_array_equal(table.item_numbers(table.semantic_ids_NI[numbers]), numbers)


@every_scheme
def test_lookup_equals_a_dictionary_on_random_ids(scheme):
    table = table_of(scheme)
    item_of = {tuple(row): n for n, row in enumerate(table.semantic_ids_NI.tolist()) if n}
    rng = np.random.default_rng(1)
    rows = table.semantic_ids_NI[rng.integers(1, 61, 2000)]
    # Neighbours of real IDs, codes outside the codebooks among them.
    rows = rows + rng.integers(-1, 2, rows.shape) * (rng.random(rows.shape) < 0.3)
    expected = [item_of.get(tuple(row), 0) for row in rows.tolist()]
    assert 0 < np.count_nonzero(expected) < 2000
    np.testing.assert_array_equal(table.item_numbers(rows), expected)


@every_scheme
def test_save_and_load_give_an_equal_table(scheme, tmp_path):
    table = table_of(scheme)
    table.save(tmp_path / "semantic_ids.npz")
    loaded = SemanticIdTable.load(tmp_path / "semantic_ids.npz", HEADER["items_checksum"])
    np.testing.assert_array_equal(loaded.semantic_ids_NI, table.semantic_ids_NI)
    assert loaded.codebook_sizes == table.codebook_sizes
    assert loaded.header == table.header
    assert loaded.checksum() == table.checksum()


@every_scheme
def test_equal_seeds_give_equal_codes_and_others_do_not(scheme):
    codes_NL = codes_of(scheme).codes_NL
    np.testing.assert_array_equal(codes_NL, SCHEMES[scheme](embeddings(), 0).codes_NL)
    assert (codes_NL != codes_of(scheme, seed=1).codes_NL).any()


@every_scheme
def test_equal_items_have_equal_codes_unless_codes_are_distinct(scheme):
    codes = codes_of(scheme)
    equal = (codes.codes_NL[-3:] == codes.codes_NL[-1]).all()
    assert equal == codes.has_collision_token


@every_scheme
def test_health_equals_counting_by_hand(scheme):
    codes = codes_of(scheme)
    tuples = [tuple(row) for row in codes.codes_NL.tolist()]
    health = table_of(scheme).health()
    assert health["unique"] == len(set(tuples))
    assert health["collisions"] == 60 - len(set(tuples))
    assert health["largest_bucket"] == max(tuples.count(row) for row in tuples)
    assert health["codes_used"] == [len(set(level)) for level in zip(*tuples, strict=True)]


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if codes_of(name).has_collision_token])
def test_order_of_items_changes_only_the_collision_token(scheme):
    codes = codes_of(scheme)
    order = np.random.default_rng(2).permutation(60)
    table = table_of(scheme)
    shuffled = SemanticIdTable.from_codes(codes.codes_NL[order], codes.codebook_sizes, HEADER)
    ids_NI, shuffled_NI = table.semantic_ids_NI[1:], shuffled.semantic_ids_NI[1:]
    np.testing.assert_array_equal(shuffled_NI[:, :-1], ids_NI[order, :-1])
    assert {tuple(row) for row in shuffled_NI.tolist()} == {tuple(row) for row in ids_NI.tolist()}


def test_collision_token_counts_in_item_order():
    table = SemanticIdTable.from_codes([[1, 2], [0, 0], [1, 2], [1, 1], [1, 2]], (2, 3), HEADER)
    expected = [[0, 0, 0], [1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 1, 0], [1, 2, 2]]
    np.testing.assert_array_equal(table.semantic_ids_NI, expected)
    assert table.codebook_sizes == (2, 3, 256)
    assert table.header["has_collision_token"]


def test_all_zero_id_is_the_item_that_has_it_and_not_padding():
    table = SemanticIdTable.from_codes([[1, 1], [0, 0]], (2, 2), HEADER)
    assert table.item_numbers(np.zeros(3, int)) == 2


def test_health_of_a_catalogue_worked_by_hand():
    health = codes_health(np.array([[0, 1], [0, 1], [0, 2], [3, 1], [0, 1]]), (4, 4))
    assert health == {
        "codebook_usage": [0.5, 0.5],
        "codes_used": [2, 2],
        "unique": 3,
        "collisions": 2,
        "largest_bucket": 3,
    }


def test_lookup_where_the_product_of_sizes_exceeds_64_bits():
    rng = np.random.default_rng(3)
    sizes = (2**31 - 1,) * 6
    # Two values a level: IDs differ in the first, the last, or any other part.
    codes_NL = rng.choice([0, 2**31 - 2], (300, 6))
    table = SemanticIdTable.from_codes(codes_NL, sizes, HEADER)
    ids_NI = table.semantic_ids_NI
    np.testing.assert_array_equal(table.item_numbers(ids_NI[1:]), np.arange(1, 301))
    absent = ids_NI[1:].copy()
    absent[:, 2] = 5
    assert not table.item_numbers(absent).any()


def test_lookup_of_a_million_items():
    codes_NL = np.stack(np.unravel_index(np.arange(10**6) * 16, (256, 256, 256)), axis=1)
    table = SemanticIdTable.from_distinct_codes(codes_NL[::-1], (256, 256, 256), HEADER)
    np.testing.assert_array_equal(
        table.item_numbers(table.semantic_ids_NI[1:]), np.arange(1, 10**6 + 1)
    )


def test_too_many_equal_codes_name_the_prefix():
    codes_NL = np.array([[1, 1]] * 2 + [[7, 3]] * 5)
    with pytest.raises(InputError, match=r"5 items share the codes \(7, 3\).*only 4"):
        SemanticIdTable.from_codes(codes_NL, (8, 8), HEADER, collision_size=4)
    SemanticIdTable.from_codes(codes_NL, (8, 8), HEADER, collision_size=5)


def test_equal_ids_name_both_items():
    with pytest.raises(InputError, match=r"items number 2 and 4 have the same ID \(1, 0\)"):
        SemanticIdTable.from_distinct_codes([[0, 0], [1, 0], [1, 1], [1, 0]], (2, 2), HEADER)


@pytest.mark.parametrize("code", [-1, 3])
def test_code_outside_its_codebook_names_item_and_level(code):
    with pytest.raises(InputError, match=rf"item number 2: code {code} at level 1"):
        SemanticIdTable.from_codes([[0, 0], [0, code]], (2, 3), HEADER)


def test_codes_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"shape \(1, 2\)"):
        SemanticIdTable.from_codes([[0, 0]], (2, 3, 4), HEADER)


def test_table_of_other_items_is_refused(tmp_path):
    table_of("random").save(tmp_path / "semantic_ids.npz")
    with pytest.raises(InputError, match=r"semantic_ids\.npz: made for other items"):
        SemanticIdTable.load(tmp_path / "semantic_ids.npz", "another checksum")


def test_damaged_and_missing_files_say_what_to_run(tmp_path):
    path = tmp_path / "semantic_ids.npz"
    with pytest.raises(InputError, match=r"tiger_jax\.make_ids"):
        SemanticIdTable.load(path)
    table_of("random").save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"tiger_jax\.make_ids"):
        SemanticIdTable.load(path)


def test_checksum_changes_with_any_code_and_any_size():
    codes_NL = [[0, 1], [1, 0]]
    checksums = {
        SemanticIdTable.from_distinct_codes(codes, sizes, HEADER).checksum()
        for codes, sizes in [
            (codes_NL, (2, 2)),
            (codes_NL[::-1], (2, 2)),
            (codes_NL, (2, 3)),
        ]
    }
    assert len(checksums) == 3


def test_table_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        table_of("random").semantic_ids_NI[1, 0] = 0
