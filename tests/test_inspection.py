"""Measures of a table, against values worked by hand and against brute force."""

import itertools

import numpy as np
import pytest

from tiger_jax.semantic_ids import inspection

PATHS = [
    ["Beauty", "Hair", "Combs"],
    ["Beauty", "Hair", "Combs"],
    ["Beauty", "Skin", "Face"],
    ["Beauty", "Makeup", "Face"],
    ["Beauty", "Hair"],
    [],
]


def test_entropy_is_log2_of_codes_used_alike_and_0_of_one_code():
    codes_NL = np.array([[0, 5, 0], [1, 5, 0], [2, 5, 0], [3, 5, 1]])
    share = 0.25
    uneven = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    assert inspection.code_entropies(codes_NL) == pytest.approx([2.0, 0.0, uneven])


def test_bucket_sizes_count_tuples_by_their_items():
    codes_NL = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1], [1, 1]])
    assert inspection.bucket_sizes(codes_NL) == {1: 2, 2: 1, 3: 1}


def test_coarse_categories_are_the_first_that_tell_items_apart():
    assert inspection.category_depth(PATHS) == 1
    assert inspection.category_depth([["A"], ["B"], ["B"]]) == 0
    assert inspection.category_depth([["A", "B"]] * 3) == 1
    # One item in another department does not make the departments telling.
    assert inspection.category_depth([*PATHS * 5, ["Books", "Novels"]]) == 1
    assert inspection.category_depth([[], []]) == 0


def test_categories_are_numbered_by_frequency_and_named_apart():
    names, category_N = inspection.categories_at(PATHS, 1)
    assert names == ["Hair", "Makeup", "Skin"]
    assert category_N.tolist() == [0, 0, 2, 1, 0, -1]
    names, category_N = inspection.categories_at(PATHS, 2)
    assert names == ["Combs", "Makeup > Face", "Skin > Face"]
    assert category_N.tolist() == [0, 0, 2, 1, -1, -1]


def test_counts_of_categories_by_code():
    counts = inspection.category_counts(np.array([0, 0, 2, 2]), np.array([1, 1, 0, -1]), 3, 2)
    assert counts.tolist() == [[0, 2], [0, 0], [1, 0]]


def test_likeness_of_four_items_by_hand():
    codes_NL = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
    embeddings_NE = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    found = inspection.likeness_by_shared_prefix(
        codes_NL, embeddings_NE, [np.array([7, 7, 8, 8]), np.array([0, -1, -1, 0])]
    )
    assert [row["shared"] for row in found] == [0, 1, 2]
    assert [row["pairs"] for row in found] == [3, 2, 1]
    # Items 0, 1, 2 with 3: -1, -1, 0. Items 0 and 1 with 2: 0. Items 0 and 1: 1.
    assert [row["cosine"] for row in found] == pytest.approx([-2 / 3, 0.0, 1.0])
    same = [row["same_category"] for row in found]
    assert same == [[pytest.approx(1 / 3), 1.0], [0.0, None], [1.0, None]]


@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_likeness_of_all_pairs_equals_brute_force(num_levels):
    generator = np.random.default_rng(num_levels)
    codes_NL = generator.integers(0, 3, (40, num_levels))
    embeddings_NE = generator.normal(size=(40, 5))
    unit_NE = embeddings_NE / np.linalg.norm(embeddings_NE, axis=1, keepdims=True)
    cosines = {shared: [] for shared in range(num_levels + 1)}
    for one, other in itertools.combinations(range(40), 2):
        differ = codes_NL[one] != codes_NL[other]
        shared = int(differ.argmax()) if differ.any() else num_levels
        cosines[shared].append(unit_NE[one] @ unit_NE[other])
    found = inspection.likeness_by_shared_prefix(codes_NL, embeddings_NE)
    assert {row["shared"]: row["pairs"] for row in found} == {
        shared: len(values) for shared, values in cosines.items()
    }
    for row in found:
        values = cosines[row["shared"]]
        assert row["cosine"] == (pytest.approx(np.mean(values)) if values else None)


def test_drawn_pairs_tell_what_all_pairs_tell():
    generator = np.random.default_rng(0)
    codes_NL = generator.integers(0, 4, (400, 2))
    # Items of one first code lie close to each other.
    embeddings_NE = np.eye(4)[codes_NL[:, 0]] + 0.3 * generator.normal(size=(400, 4))
    every = inspection.likeness_by_shared_prefix(codes_NL, embeddings_NE, num_pairs=10**6)
    drawn = inspection.likeness_by_shared_prefix(codes_NL, embeddings_NE, num_pairs=4000)
    for one, other in zip(every, drawn, strict=True):
        assert one["pairs"] == other["pairs"]
        assert one["cosine"] == pytest.approx(other["cosine"], abs=0.03)
    assert every[0]["cosine"] < 0.3 < 0.6 < every[1]["cosine"]


def test_pairs_that_share_no_more_are_drawn_among_many_that_do():
    """3,000 items, all but two alike: one pair alone shares exactly the first two codes."""
    codes_NL = np.zeros((3000, 3), int)
    codes_NL[0], codes_NL[1] = (1, 0, 0), (1, 0, 1)
    embeddings_NE = np.tile([1.0, 0.0], (3000, 1))
    embeddings_NE[:2] = [[0.0, 1.0], [0.6, 0.8]]
    found = inspection.likeness_by_shared_prefix(codes_NL, embeddings_NE, num_pairs=100)
    assert [row["pairs"] for row in found] == [2 * 2998, 0, 1, 2998 * 2997 // 2]
    assert [row["cosine"] for row in found[1:]] == [None, pytest.approx(0.8), pytest.approx(1)]
    # Half of the pairs that share nothing are of either item: 0 and 0.6.
    assert found[0]["cosine"] == pytest.approx(0.3, abs=0.1)


def test_items_all_apart_have_no_pair_to_tell_of_equal_codes():
    found = inspection.likeness_by_shared_prefix(np.array([[0], [1]]), np.ones((2, 3)))
    assert found[1] == {"shared": 1, "pairs": 0, "cosine": None, "same_category": []}
