"""Every ID scheme, and what holds for all of them."""

import functools

import numpy as np
import optax
import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import schemes
from tiger_jax.semantic_ids.quantizer import BLOCK, Quantizer
from tiger_jax.semantic_ids.table import SemanticIdTable

HEADER = {"scheme": "hand", "items_checksum": "0123456789abcdef"}

# One optimizer without clipping, so that a case is compiled once for all its seeds.
AUTOENCODER = {
    "hidden_sizes": (16,),
    "latent_size": 6,
    "codebook_sizes": (8, 8, 8),
    "beta": 0.25,
    "optimizer": optax.adamw(1e-3),
    "batch_size": 32,
    "num_epochs": 10,
}
# A case a scheme, and more where a scheme has forms.
CASES = {
    "rqvae": functools.partial(schemes.rqvae, **AUTOENCODER),
    "rqvae of six levels of unequal codebooks": functools.partial(
        schemes.rqvae, **AUTOENCODER | {"codebook_sizes": (4, 8, 16, 4, 8, 16)}
    ),
    "rqvae with a shared codebook": functools.partial(
        schemes.rqvae, **AUTOENCODER | {"codebook_sizes": (24, 24, 24)}, shared_codebook=True
    ),
    "rqvae of a sample": functools.partial(schemes.rqvae, **AUTOENCODER, sample_items=40),
    "vqvae": functools.partial(schemes.vqvae, **AUTOENCODER),
    "lsh": functools.partial(schemes.lsh, num_hyperplanes=3, num_levels=4),
    "random": functools.partial(schemes.random, codebook_sizes=(7, 7, 7, 7)),
    "hierarchical": functools.partial(schemes.hierarchical, codebook_sizes=(4, 4, 4)),
    "residual": functools.partial(schemes.residual, codebook_sizes=(8, 8, 8)),
    "text": functools.partial(schemes.text, order="random"),
}


def test_every_scheme_has_a_case():
    assert {case.func for case in CASES.values()} == set(schemes.SCHEMES)


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
    return CASES[scheme](embeddings(), seed)


def table_of(scheme, seed=0):
    return codes_of(scheme, seed).table(HEADER)


every_scheme = pytest.mark.parametrize("scheme", CASES)


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
    np.testing.assert_array_equal(codes_NL, CASES[scheme](embeddings(), 0).codes_NL)
    assert (codes_NL != codes_of(scheme, seed=1).codes_NL).any()


@every_scheme
def test_equal_items_have_equal_codes_unless_codes_are_distinct(scheme):
    codes = codes_of(scheme)
    equal = (codes.codes_NL[-3:] == codes.codes_NL[-1]).all()
    assert equal == codes.has_collision_token == (codes.quantizer is not None)


@every_scheme
def test_health_equals_counting_by_hand(scheme):
    codes = codes_of(scheme)
    tuples = [tuple(row) for row in codes.codes_NL.tolist()]
    health = table_of(scheme).health()
    assert health["unique"] == len(set(tuples))
    assert health["collisions"] == 60 - len(set(tuples))
    assert health["largest_bucket"] == max(tuples.count(row) for row in tuples)
    assert health["codes_used"] == [len(set(level)) for level in zip(*tuples, strict=True)]


# Of codes that several items may share; the others make an ID of its own for each item.
shared_codes = pytest.mark.parametrize(
    "scheme", [name for name in CASES if name not in ("random", "text")]
)


@shared_codes
def test_order_of_items_changes_only_the_collision_token(scheme):
    codes = codes_of(scheme)
    assert codes.has_collision_token
    order = np.random.default_rng(2).permutation(60)
    table = table_of(scheme)
    shuffled = SemanticIdTable.from_codes(codes.codes_NL[order], codes.codebook_sizes, HEADER)
    ids_NI, shuffled_NI = table.semantic_ids_NI[1:], shuffled.semantic_ids_NI[1:]
    np.testing.assert_array_equal(shuffled_NI[:, :-1], ids_NI[order, :-1])
    assert {tuple(row) for row in shuffled_NI.tolist()} == {tuple(row) for row in ids_NI.tolist()}


@shared_codes
def test_saved_quantizer_gives_every_item_its_codes_again_however_they_are_cut(scheme, tmp_path):
    codes = codes_of(scheme)
    codes.quantizer.save(tmp_path / "quantizer.npz", HEADER)
    quantizer = Quantizer.load(tmp_path / "quantizer.npz", codes.quantizer.checksum())
    order = np.random.default_rng(3).permutation(60)
    for rows in (np.arange(60), order, order[:7], np.tile(order, BLOCK // 60 + 1)):
        np.testing.assert_array_equal(quantizer.codes(embeddings()[rows]), codes.codes_NL[rows])


@shared_codes
def test_quantizer_refuses_other_encoders_and_what_is_not_finite(scheme):
    quantizer = codes_of(scheme).quantizer
    with pytest.raises(InputError, match="11 wide, but those that the codes were made from 10"):
        quantizer.codes(np.zeros((5, 11)))
    embeddings_NE = embeddings().copy()
    embeddings_NE[17, 3] = np.nan
    with pytest.raises(InputError, match="row 17 "):
        quantizer.codes(embeddings_NE)


@shared_codes
def test_similar_items_share_more_codes_than_others(scheme):
    """TIGER section 3.1 asks that of a Semantic ID."""
    codes_NL = codes_of(scheme).codes_NL[:57]
    centre_N = np.arange(57) % 12
    equal_NN = (codes_NL[:, None] == codes_NL).mean(axis=-1)
    same_NN = (centre_N[:, None] == centre_N) & ~np.eye(57, dtype=bool)
    assert equal_NN[same_NN].mean() > 1.5 * equal_NN[centre_N[:, None] != centre_N].mean()


def test_another_quantizer_than_the_tables_is_refused(tmp_path):
    codes_of("residual").quantizer.save(tmp_path / "quantizer.npz", HEADER)
    with pytest.raises(InputError, match="not the quantiser that made the table"):
        Quantizer.load(tmp_path / "quantizer.npz", codes_of("rqvae").quantizer.checksum())


def test_lsh_codes_equal_the_papers_sum_over_hyperplanes():
    codes = codes_of("lsh")
    w_LHE = codes.quantizer.arrays["hyperplanes"].astype(np.float64)
    for x_E, code_L in zip(embeddings(), codes.codes_NL, strict=True):
        sums = [sum(2**i * (w_E @ x_E > 0) for i, w_E in enumerate(w_HE)) for w_HE in w_LHE]
        assert sums == code_L.tolist()


def test_lsh_has_a_collision_token_only_if_items_collide():
    apart_NE = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    codes = schemes.lsh(apart_NE, 0, num_hyperplanes=8, num_levels=4)
    assert not codes.has_collision_token
    assert codes.table(HEADER).id_length == 4
    apart_NE[7] = apart_NE[3]
    codes = schemes.lsh(apart_NE, 0, num_hyperplanes=8, num_levels=4)
    assert codes.has_collision_token
    assert codes.table(HEADER).id_length == 5


def test_text_is_the_integer_in_pieces_of_two_digits():
    codes = schemes.text(np.zeros((7391, 1)), 0, order="appearance")
    assert codes.codebook_sizes == (111, 111)
    assert codes.codes_NL[7391 - 1].tolist() == [11 + 73, 11 + 91]
    assert codes.codes_NL[739 - 1].tolist() == [11 + 73, 1 + 9]
    assert codes.codes_NL[7 - 1].tolist() == [1 + 7, 0]
    assert codes.codes_NL[100 - 1].tolist() == [11 + 10, 1 + 0]


def test_text_in_order_of_appearance_lets_neighbours_share_pieces_and_random_does_not():
    shared = {}
    for order in ("appearance", "random"):
        codes_NL = schemes.text(np.zeros((9000, 1)), 0, order=order).codes_NL
        shared[order] = (codes_NL[1000:-1, 0] == codes_NL[1001:, 0]).mean()
    assert shared["appearance"] > 0.98
    assert shared["random"] < 0.02
    with pytest.raises(InputError, match="choose random or appearance"):
        schemes.text(np.zeros((9, 1)), 0, order="alphabet")


def test_vqvae_quantises_each_part_by_itself():
    codes = codes_of("vqvae")
    assert codes.quantizer.kind == "parts"
    assert [codes.quantizer.arrays[f"codebook_{i}"].shape for i in range(3)] == [(8, 2)] * 3
    with pytest.raises(InputError, match="latent_size=7 cannot be cut into 3 equal parts"):
        schemes.vqvae(embeddings(), 0, **AUTOENCODER | {"latent_size": 7})


def test_shared_codebook_is_one():
    arrays = codes_of("rqvae with a shared codebook").quantizer.arrays
    np.testing.assert_array_equal(arrays["codebook_0"], arrays["codebook_2"])
    with pytest.raises(InputError, match="a shared codebook has one size"):
        schemes.rqvae(
            embeddings(), 0, **AUTOENCODER | {"codebook_sizes": (4, 8)}, shared_codebook=True
        )


def test_hierarchical_codes_are_the_nearest_centroids_below_their_prefix():
    codes = codes_of("hierarchical")
    arrays = codes.quantizer.arrays
    for x_E, code_L in zip(embeddings() - arrays["mean"], codes.codes_NL, strict=True):
        node = 0
        for level, code in enumerate(code_L.tolist()):
            distance_C = ((arrays[f"codebook_{level}"][node] - x_E) ** 2).sum(axis=-1)
            assert distance_C[code] == pytest.approx(distance_C.min(), abs=1e-5)
            node = 4 * node + code


def test_hierarchical_with_room_for_all_tells_all_different_items_apart():
    codes = schemes.hierarchical(embeddings(), 0, codebook_sizes=(8, 64))
    assert len(np.unique(codes.codes_NL, axis=0)) == 58
    assert codes.explained_variance == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("sizes", [4, (), (0, 4), ("a",), (4.0,)])
@pytest.mark.parametrize("scheme", ["rqvae", "random", "hierarchical", "residual"])
def test_codebook_sizes_are_numbers_of_codes(scheme, sizes):
    with pytest.raises(InputError, match=r"^codebook_sizes=.*: give a size for each"):
        CASES[scheme](embeddings(), 0, codebook_sizes=sizes)


def test_an_rqvae_may_have_no_hidden_layer():
    codes = CASES["rqvae"](embeddings(), 0, hidden_sizes=())
    assert set(codes.quantizer.arrays) < set(CASES["rqvae"](embeddings(), 0).quantizer.arrays)


def test_more_random_ids_than_a_number_counts_are_refused():
    with pytest.raises(InputError, match="give fewer levels"):
        schemes.random(np.zeros((5, 1)), 0, codebook_sizes=(256,) * 8)


@pytest.mark.parametrize(
    ("scheme", "settings", "message"),
    [
        ("rqvae", {"num_epochs": 0}, "num_epochs is 0; give 1 or more"),
        # As gin has them when somebody writes 1e2, 64 or None.
        ("rqvae", {"num_epochs": 1e2}, "num_epochs is 100.0, no whole number; give 1 or more"),
        ("rqvae", {"batch_size": None}, "batch_size is None, no whole number; give 1 or more"),
        ("rqvae", {"latent_size": True}, "latent_size is True, no whole number; give 1 or more"),
        ("rqvae", {"hidden_sizes": 64}, r"hidden_sizes=64: give a size for each level"),
        ("rqvae", {"sample_items": 0}, "sample_items is 0; give 1 or more"),
        ("rqvae", {"start_items": -5}, "start_items is -5; give 1 or more"),
        # The first would change nothing, the second learn backwards.
        ("rqvae", {"max_gradient_norm": 0.0}, "max_gradient_norm=0.0: more than 0, or None"),
        ("rqvae", {"max_gradient_norm": -1.0}, "max_gradient_norm=-1.0: more than 0, or None"),
        ("residual", {"sample_items": -1}, "sample_items is -1; give 1 or more"),
        ("residual", {"num_iterations": -1}, "num_iterations is -1; give 0 or more"),
        ("lsh", {"num_hyperplanes": 0}, "num_hyperplanes is 0; give 1 or more"),
        ("lsh", {"num_hyperplanes": 31}, "num_hyperplanes=31: at most 30"),
        (
            "hierarchical",
            {"codebook_sizes": (8, 16384, 16384)},
            r"clusters take .* GiB; give fewer",
        ),
    ],
)
def test_settings_that_make_no_ids_are_refused(scheme, settings, message):
    with pytest.raises(InputError, match=message):
        CASES[scheme](embeddings(), 0, **settings)
