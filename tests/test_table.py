"""The semantic-ID table: distinct IDs, both look-ups, health, file."""

import numpy as np
import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids.table import SemanticIdTable, codes_health

HEADER = {"scheme": "hand", "items_checksum": "0123456789abcdef"}


def drawn_table():
    """60 items with IDs of their own."""
    codes_NL = np.column_stack(np.unravel_index(np.arange(0, 240, 4), (7, 7, 7)))
    return SemanticIdTable.from_distinct_codes(codes_NL, (7, 7, 7), HEADER)


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
    drawn_table().save(tmp_path / "semantic_ids.npz")
    with pytest.raises(InputError, match=r"semantic_ids\.npz: made for other items"):
        SemanticIdTable.load(tmp_path / "semantic_ids.npz", "another checksum")


def test_damaged_and_missing_files_say_what_to_run(tmp_path):
    path = tmp_path / "semantic_ids.npz"
    with pytest.raises(InputError, match=r"tiger_jax\.make_ids"):
        SemanticIdTable.load(path)
    drawn_table().save(path)
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
        drawn_table().semantic_ids_NI[1, 0] = 0
