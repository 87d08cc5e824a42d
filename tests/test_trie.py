"""The index of valid prefixes, against sorted Python tuples."""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids.trie import BitLevel, CountLevel, Trie

SETTINGS = hypothesis.settings(max_examples=15, deadline=None, derandomize=True)


def build(ids, sizes):
    """The trie of a list of IDs; item numbers follow the order of the list."""
    table_NI = np.zeros((len(ids) + 1, len(sizes)), np.int32)
    table_NI[1:] = ids
    return Trie.from_semantic_ids(table_NI, tuple(sizes))


@functools.partial(jax.jit, static_argnums=1)
def answers(trie, level, nodes, codes):
    """Mask, child for every pair of node and code, row range; compiled together to save time."""
    pairs = jnp.broadcast_arrays(nodes[:, None], codes[None])
    return trie.allowed(level, nodes), trie.child(level, *pairs), trie.row_range(level, nodes)


def check_every_node(ids, sizes):
    """Mask, children, row ranges and item numbers of all nodes, and of the node that is none."""
    trie = build(ids, sizes)
    prefixes = [()]
    for level, size in enumerate(sizes):
        children = sorted({item[: level + 1] for item in ids})
        number = {prefix: place for place, prefix in enumerate(children)}
        nodes = np.arange(-1, len(prefixes), dtype=np.int32)
        expected = np.full((len(nodes), size), -1)
        for prefix, place in number.items():
            expected[1 + prefixes.index(prefix[:-1]), prefix[-1]] = place

        codes = np.arange(-1, size + 33, dtype=np.int32)
        allowed, children_found, (first, end) = jax.device_get(answers(trie, level, nodes, codes))
        np.testing.assert_array_equal(allowed, expected >= 0)
        padded = np.pad(expected, ((0, 0), (1, 33)), constant_values=-1)
        np.testing.assert_array_equal(children_found, padded)

        rows = sorted(ids)
        for node, prefix in enumerate(prefixes):
            below = [row for row, item in enumerate(rows) if item[:level] == prefix]
            assert list(range(first[node + 1], end[node + 1])) == below
        prefixes = children
    rows = np.arange(-1, len(ids), dtype=np.int32)
    items = [0] + [ids.index(item) + 1 for item in sorted(ids)]
    np.testing.assert_array_equal(trie.item_numbers(rows), items)


def full(*sizes):
    return list(itertools.product(*map(range, sizes)))


ADVERSARIAL = {
    "one item": ([(255, 31, 32, 0)], (256, 256, 256, 256)),
    "one prefix": ([(7, 9, code) for code in (0, 31, 32, 63, 64, 255)], (256, 256, 256)),
    "full": (full(3, 2, 4), (3, 2, 4)),
    "full beyond a word": (full(2, 33), (2, 33)),
    "chain": ([(code,) * 4 for code in (0, 31, 32, 255)], (256, 256, 256, 256)),
    "count = V": ([(5, code) for code in range(256)] + [(9, 0)], (256, 256)),
    "count at block edges": (
        [(node, code) for node in range(70) for code in range(1 + node % 3)],
        (70, 3),
    ),
    "32 nodes": ([(node, 0) for node in range(32)], (32, 1)),
    "33 nodes, degree 256": (
        [(node, code) for node in range(33) for code in range(256)],
        (33, 256),
    ),
    "last codes no counter": ([(0, 1), (0, 2), (4, 0)], (5, 3)),
    "one level": ([(2,), (0,), (299,)], (300,)),
    "one level, counted": ([(2,), (0,), (1,)], (300,)),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_mask_and_children_of_adversarial_catalogues(name):
    ids, sizes = ADVERSARIAL[name]
    order = np.random.default_rng(0).permutation(len(ids))
    check_every_node([ids[place] for place in order], sizes)


@st.composite
def catalogues(draw):
    sizes = draw(st.lists(st.sampled_from([1, 2, 3, 31, 32, 33, 64, 256]), min_size=1, max_size=4))
    # Few different codes, near the edges of words, so that prefixes are shared.
    codes = [
        st.sampled_from(sorted({code for code in (0, 1, 31, 32, 63, size - 1) if code < size}))
        for size in sizes
    ]
    ids = draw(st.lists(st.tuples(*codes), min_size=1, max_size=60, unique=True))
    return ids, tuple(sizes)


@SETTINGS
@hypothesis.given(catalogues())
def test_mask_and_children_of_any_catalogue(catalogue):
    check_every_node(*catalogue)


def test_walk_stops_at_the_first_wrong_code():
    trie = build([(1, 2, 0), (1, 2, 1), (1, 3, 0), (4, 0, 0)], (5, 5, 3))
    wanted = {
        (1, 2, 1): [0, 0, 1],
        (1, 2, 2): [0, 0, -1],
        (1, 3, 0): [0, 1, 2],
        (1, 4, 0): [0, -1, -1],
        (0, 2, 1): [-1, -1, -1],
        (4, 0, 0): [1, 2, 3],
        (-3, 99, 7): [-1, -1, -1],
    }
    np.testing.assert_array_equal(trie.walk(np.array(list(wanted))), list(wanted.values()))


def test_level_types_follow_the_codes():
    counted = build([(0, 0, 0), (0, 0, 1), (3, 1, 0)], (4, 4, 256))
    assert [type(level) for level in counted.levels] == [BitLevel, BitLevel, CountLevel]
    distinct = build([(0, 0, 0), (0, 0, 2), (3, 1, 0)], (4, 4, 256))
    assert [type(level) for level in distinct.levels] == [BitLevel, BitLevel, BitLevel]


def test_trie_is_a_pytree_that_compiled_functions_take():
    trie = build(full(2, 3), (2, 3))
    leaves, structure = jax.tree.flatten(trie)
    again = jax.tree.unflatten(structure, leaves)
    rows = jax.jit(lambda trie, ids: trie.walk(ids)[..., -1])(again, np.array(full(2, 3)))
    np.testing.assert_array_equal(rows, np.arange(6))


@pytest.mark.parametrize(
    ("ids", "sizes", "message"),
    [
        ([(1, 1), (0, 0), (1, 1)], (2, 2), r"items 1 and 3 have the same ID \(1, 1\)"),
        ([(0, 0), (2, 0)], (2, 2), "item 2 has code 2 at level 0, which has codes 0 to 1"),
        ([(0, 0), (0, -1)], (2, 2), "item 2 has code -1 at level 1"),
        ([(4, code) for code in range(4)], (5, 3), r"4 items share the prefix \(4,\).* only 3"),
        ([(0, 0), (0, 1), (0, 1)], (5, 2), r"3 items share the prefix \(0,\).* only 2"),
        ([], (2, 2), "no items"),
    ],
)
def test_faulty_tables_are_refused(ids, sizes, message):
    with pytest.raises(InputError, match=message):
        build(np.array(ids).reshape(-1, len(sizes)), sizes)


def test_a_table_of_another_length_is_refused():
    with pytest.raises(InputError, match="no items of 3 codes"):
        Trie.from_semantic_ids(np.zeros((5, 2), np.int32), (2, 2, 2))


def test_a_million_items_are_found_in_a_sorted_table():
    """Uniform codes with a collision token; a sample of IDs, valid and not."""
    random = np.random.default_rng(0)
    codes = np.sort(random.integers(0, 256**3, 1_000_000))
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    token = np.arange(len(codes)) - np.repeat(first, np.diff(first, append=len(codes)))
    ids_NI = np.stack([codes >> 16, codes >> 8 & 255, codes & 255, token], axis=1)
    number = random.permutation(len(ids_NI))  # sorted row -> place in the table
    table_NI = np.zeros((len(ids_NI) + 1, 4), np.int32)
    table_NI[number + 1] = ids_NI
    trie = Trie.from_semantic_ids(table_NI, (256,) * 4)

    rows = random.integers(0, len(ids_NI), 1000)
    found = trie.walk(ids_NI[rows])[:, -1]
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(trie.item_numbers(found), number[rows] + 1)
    others_BI = random.integers(0, [256, 256, 256, 2], (1000, 4))
    keys = (others_BI * [256**3, 256**2, 256, 1]).sum(1)
    valid = np.isin(keys, (ids_NI * [256**3, 256**2, 256, 1]).sum(1))
    np.testing.assert_array_equal(trie.walk(others_BI)[:, -1] >= 0, valid)
    assert 10 < valid.sum() < 990
    assert trie.num_bytes < 4 * len(ids_NI)
