"""Categories of lists, by hand; hot draws are more various than the beam's."""

import numpy as np
import pytest

from tiger_jax import diversity
from tiger_jax.diversity import Categories
from tiger_jax.metrics import RankedItems

ROWS = [
    {"categories": [["Beauty", "Hair Care", "Shampoos"]]},
    {"categories": [["Beauty", "Hair Care", "Shampoos", "Dry"]]},
    {"categories": [["Beauty", "Skin Care", "Eyes"]]},
    {"categories": [["Beauty", "Makeup", "Eyes"]]},
    {"categories": [["Beauty", "Makeup"]]},
    {"categories": None},
]


def lists(items):
    items = np.array(items, np.int32)
    return RankedItems(items, np.where(items > 0, 0.0, -np.inf).astype(np.float32))


def test_category_is_the_second_level_below_what_all_items_share():
    categories = Categories.of_items(ROWS)
    assert categories.names == ["Shampoos", "Makeup > Eyes", "Skin Care > Eyes"]
    assert categories.category_N.tolist() == [-1, 0, 0, 2, 1, -1, -1]


def test_common_categories_are_those_of_a_tenth_of_the_known_results_most_common_first():
    categories = Categories(["a", "b", "c"], np.array([-1, 0, 1, 2, -1]))
    ranked = lists([[1, 1, 1, 1, 1, 1, 3], [2, 2, 2, 4, 4, 0, 3]])
    # Six of a, three of b; c is behind the sixth place, item 4 is of unknown category.
    assert categories.common(ranked, 6) == [("a", 6 / 9), ("b", 3 / 9)]
    few = lists([[1] * 10 + [2]])
    assert [name for name, _ in categories.common(few, 11)] == ["a"]


def test_diversity_of_lists_worked_by_hand():
    categories = Categories(["a", "b", "c"], np.array([-1, 0, 1, 2, -1]))
    found = diversity.diversity(
        lists([[1, 2, 4], [3, 3, 0]]), np.array([2, 1]), categories.category_N
    )
    # One user has two categories once each, 1 bit; the other one, 0 bits.
    assert found["entropy@10"] == pytest.approx(0.5)
    assert (found["recall@10"], found["distinct@10"]) == (0.5, 4)


def test_temperatures_heat_the_first_level_or_the_later_ones_and_never_the_collision_token():
    assert diversity.temperatures_of_levels(2.0, 1.5, 3, 4) == [2.0, 1.5, 1.5, 1.0]
    assert diversity.temperatures_of_levels(2.0, 1.5, 4, 4) == [2.0, 1.5, 1.5, 1.5]
