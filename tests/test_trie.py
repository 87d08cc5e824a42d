"""The index of valid prefixes, against sorted Python tuples."""

import collections
import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from tiger_jax.artifacts import InputError
from tiger_jax.semantic_ids import bits
from tiger_jax.semantic_ids import trie as trie_module
from tiger_jax.semantic_ids.filters import Filters, Restriction, without_closed
from tiger_jax.semantic_ids.levels import (
    BitLevel,
    CountLevel,
    Edges,
    ListLevel,
    Room,
    UnaryLevel,
)
from tiger_jax.semantic_ids.trie import Trie

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
        width = trie.levels[level].width
        np.testing.assert_array_equal(allowed, expected[:, :width] >= 0)
        assert (expected[:, width:] == -1).all()
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
    walked = jax.jit(Trie.walk)(trie, np.array(list(wanted)))
    np.testing.assert_array_equal(walked, list(wanted.values()))


def test_level_types_follow_the_codes():
    counted = build([(0, 0, 0), (0, 0, 1), (0, 3, 0), (3, 1, 0)], (4, 4, 256))
    assert [type(level) for level in counted.levels] == [BitLevel, BitLevel, CountLevel]
    distinct = build([(0, 0, 0), (0, 0, 2), (3, 1, 0)], (4, 4, 256))
    assert [type(level) for level in distinct.levels] == [BitLevel, UnaryLevel, BitLevel]
    # Many nodes with two edges each, but for one: lists, and a row for that one.
    random = np.random.default_rng(0)
    nodes = np.stack(np.divmod(np.arange(2**16), 256), axis=1)
    ids = np.column_stack([np.repeat(nodes, 2, axis=0), random.integers(0, 512, 2**17)])
    ids[1::2, 2] += 512
    ids = np.concatenate([ids[2:], [(0, 0, code) for code in range(1024)]])
    listed = build(ids, (256, 256, 1024))
    assert [type(level) for level in listed.levels] == [BitLevel, BitLevel, ListLevel]
    assert len(listed.levels[2].words_YW) == 1
    assert listed.num_bytes < 4.5 * len(ids)
    number = {item: place for place, item in enumerate(map(tuple, sorted(ids.tolist())))}
    sample = [*map(tuple, ids[::997].tolist()), (0, 0, 1023), (255, 255, 0), (3, 4, 5)]
    rows = jax.jit(Trie.walk)(listed, np.array(sample))[:, -1]
    np.testing.assert_array_equal(rows, [number.get(item, -1) for item in sample])


@st.composite
def edges_of_a_level(draw):
    """(counts, codes, width): few different codes, near the edges of words; counts from 1 on."""
    width = draw(st.sampled_from([1, 33, 256]))
    codes = sorted({code for code in (0, 1, 31, 32, 63, width // 2, width - 1) if code < width})
    node = st.sampled_from([[0], [width - 1], codes, list(range(width))])
    node |= st.integers(1, width).map(lambda count: list(range(count)))
    nodes = draw(st.lists(node, min_size=1, max_size=79))
    return [len(codes) for codes in nodes], np.concatenate(nodes), width


@functools.partial(jax.jit, static_argnums=3)
def level_answers(level, nodes, open_table, size):
    which = jnp.broadcast_to(jnp.arange(2)[:, None], (2, len(nodes)))
    both = jnp.broadcast_to(nodes, which.shape)
    pairs = jnp.broadcast_arrays(nodes[:, None], jnp.arange(size)[None])
    words = level.words(nodes), level.words(both, (open_table, which))
    masks = [bits.unpack_words(word)[..., :size] for word in words]
    return *masks, level.child(*pairs), level.first_child(nodes)


@SETTINGS
@hypothesis.given(edges_of_a_level(), st.integers(0, 9))
def test_every_type_of_level_answers_alike(drawn, seed):
    """Masks, open edges of two filters, children and ranks, in arrays with room to spare."""
    counts, codes, width = drawn
    counts = np.array(counts)
    edges = Edges(counts, codes.__getitem__)
    nodes, num_edges = len(counts), len(codes)
    parents = np.repeat(np.arange(nodes), counts)
    mask = np.zeros((nodes, width), bool)
    mask[parents, codes] = True
    is_open = np.random.default_rng(seed).random((2, num_edges)) < 0.5
    open_mask = np.zeros((2, nodes, width), bool)
    open_mask[:, parents, codes] = is_open
    children = np.full((nodes, width), -1)
    children[parents, codes] = np.arange(num_edges)

    room = Room(96, 96 * width, width)
    kinds = [(BitLevel, room), (ListLevel, room._replace(degree=4, rows=80))]
    kinds += [(CountLevel, room)] * edges.is_counted
    kinds += [(UnaryLevel, room)] * bool((counts == 1).all())
    for kind, room in kinds:
        level = kind.build(edges, width, room)
        assert level.fits(edges)
        np.testing.assert_array_equal(level.degrees(nodes), counts)
        tables = [level.open_table(some, room.edges) for some in is_open]
        stacked = jax.tree.map(lambda *tables: np.stack(tables), *tables)
        size = min(width, level.width)
        found = jax.device_get(level_answers(level, np.arange(80), stacked, size))
        np.testing.assert_array_equal(found[0][:nodes], mask[:, :size])
        np.testing.assert_array_equal(found[1][:, :nodes], open_mask[..., :size])
        np.testing.assert_array_equal(found[2][:nodes], children[:, :size])
        np.testing.assert_array_equal(found[3][: nodes + 1], np.append(0, np.cumsum(counts)))


def test_ids_longer_than_a_machine_word_are_sorted_too():
    random = np.random.default_rng(0)
    ids = [tuple(item) for item in random.integers(0, 256, (50, 9)).tolist()]
    ids += [(*ids[0][:8], (ids[0][8] + 1) % 256), (*ids[1][:3], *ids[2][3:])]
    trie = build(ids, (256,) * 9)
    assert UnaryLevel in map(type, trie.levels)
    rows = jax.jit(Trie.walk)(trie, np.array(sorted(ids)))[:, -1]
    np.testing.assert_array_equal(rows, np.arange(len(ids)))
    items = [ids.index(item) + 1 for item in sorted(ids)]
    np.testing.assert_array_equal(trie.items_N, items)
    with pytest.raises(InputError, match="items 1 and 53 have the same ID"):
        build([*ids, ids[0]], (256,) * 9)


def test_update_within_capacity_compiles_nothing():
    """New prefixes, new collisions, fewer items; then too many."""
    rows_of = jax.jit(lambda trie, ids: trie.walk(ids)[..., -1])
    sizes = (40, 33, 70)
    random = np.random.default_rng(0)
    everything = random.permutation(full(8, 33, 2)).tolist()
    ids = [tuple(item) for item in everything[:200]]
    table_NI = np.array([(0, 0, 0), *ids])
    trie = Trie.from_semantic_ids(table_NI, sizes, capacity=320)
    updates = [
        ids[:30],
        [*ids, *((39, code, 0) for code in range(33))],
        [*ids, *((38, 5, code) for code in range(70))],
        [*ids, *((first, code, 0) for first in range(10, 40) for code in range(4))],
    ]
    shapes = jax.tree.map(np.shape, trie)
    sought = [tuple(item) for items in (ids, *updates) for item in items[-33:]]
    for items in updates:
        trie = trie.updated(np.array([(0, 0, 0), *items]))
        assert jax.tree.map(np.shape, trie) == shapes
        assert trie.num_items == len(items)
        row = {item: place for place, item in enumerate(sorted(map(tuple, items)))}
        np.testing.assert_array_equal(
            rows_of(trie, np.array(sought)), [row.get(item, -1) for item in sought]
        )
    assert rows_of._cache_size() == 1
    larger = trie.updated(np.array([(0, 0, 0), *full(40, 33, 1)]))
    assert larger.num_items == 40 * 33
    assert len(larger.items_N) > 40 * 33


@pytest.mark.parametrize("spare", [1, 7, 50, 150])
def test_lists_have_room_for_nodes_that_become_long(spare, monkeypatch):
    """The most that so many items can lengthen: those of just the length that lists hold."""
    monkeypatch.setattr(trie_module, "_SMALL_TABLE", 0)
    sizes = (1024, 1024, 1024)
    ids = [(first, code, 0) for first in range(1024) for code in range(1 + (first < 150))]
    trie = Trie.from_semantic_ids(np.array([(0, 0, 0), *ids]), sizes, len(ids) + spare)
    level = trie.levels[1]
    assert isinstance(level, ListLevel)
    each = level.longest - 1  # to each of those with two
    long = [(first, 9 + code, 0) for first in range(max(1, spare // each)) for code in range(each)]
    grown = trie.updated(np.array([(0, 0, 0), *ids, *long[:spare]]))
    assert jax.tree.map(np.shape, grown) == jax.tree.map(np.shape, trie)


def test_codes_may_be_as_narrow_as_they_fit():
    ids = np.array([(0, 0), (255, 0), (3, 255), (3, 7)])
    for sizes in ((256, 256), (300, 1000)):
        wide, narrow = (Trie.from_semantic_ids(ids.astype(t), sizes) for t in (np.int64, np.uint8))
        jax.tree.map(np.testing.assert_array_equal, wide, narrow)
    with pytest.raises(InputError, match="item 1 has code 255 at level 0"):
        Trie.from_semantic_ids(ids.astype(np.uint8), (200, 256))


@functools.partial(jax.jit, static_argnums=1)
def restricted_masks(trie, level, nodes_BM, restriction):
    allowed = trie.allowed(level, nodes_BM, restriction.open_edges(level, nodes_BM))
    closed = restriction.closed_edges(trie)
    if closed is not None:
        allowed = without_closed(allowed, nodes_BM, level, *closed)
    return allowed


@functools.cache
def roomy_trie(sizes):
    """To be updated: all catalogues share its shapes, and what is compiled for them."""
    return Trie.from_semantic_ids(np.zeros((2, len(sizes)), int), sizes, capacity=41)


@SETTINGS
@hypothesis.given(
    st.sampled_from([(3, 33, 2), (64, 2, 2, 40)]), st.integers(1, 40), st.integers(0, 2**32 - 1)
)
def test_restricted_masks_equal_those_of_a_rebuilt_index(sizes, num_items, seed):
    """Two requests with filters and denied items of their own, against the items that remain."""
    random = np.random.default_rng(seed)
    prefixes = random.integers(0, np.minimum(sizes[:-1], 3), (num_items, len(sizes) - 1))
    seen = collections.Counter()
    ids = []
    for prefix in map(tuple, prefixes.tolist()):
        if seen[prefix] < sizes[-1]:
            ids.append((*prefix, seen[prefix]))
        seen[prefix] += 1
    trie = roomy_trie(sizes).updated(np.array([(0,) * len(sizes), *ids]))
    rows = sorted(ids)
    passes = random.random((2, len(ids) + 1)) < 0.6
    is_denied = random.random((2, len(ids))) < 0.6
    denied_BDI = np.full((2, 41, len(sizes)), -1)
    for request in range(2):
        denied = [row for row in rows if is_denied[request, ids.index(row)]]
        denied_BDI[request, : len(denied)] = np.array(denied).reshape(-1, len(sizes))
    filters = Filters.build(trie, passes)
    for use_filters, use_denied in ((1, 0), (0, 1), (1, 1)):
        restriction = Restriction(
            filters if use_filters else None,
            jnp.array([1, 2]) if use_filters else None,
            denied_BDI if use_denied else None,
        )
        prefixes = [()]
        for level, size in enumerate(sizes):
            nodes_BM = np.full((2, 41), -1)
            nodes_BM[:, : len(prefixes)] = np.arange(len(prefixes))
            found = np.asarray(restricted_masks(trie, level, nodes_BM, restriction))
            for request in range(2):
                expected = np.zeros((41, size), bool)
                for number, item in enumerate(ids):
                    is_left = passes[request, number + 1] or not use_filters
                    if is_left and not (use_denied and is_denied[request, number]):
                        expected[prefixes.index(item[:level]), item[level]] = True
                np.testing.assert_array_equal(found[request], expected[:, : found.shape[-1]])
            prefixes = sorted({item[: level + 1] for item in ids})


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
    walk = jax.jit(Trie.walk)
    found = walk(trie, ids_NI[rows])[:, -1]
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(trie.item_numbers(found), number[rows] + 1)
    others_BI = random.integers(0, [256, 256, 256, 2], (1000, 4))
    keys = (others_BI * [256**3, 256**2, 256, 1]).sum(1)
    valid = np.isin(keys, (ids_NI * [256**3, 256**2, 256, 1]).sum(1))
    np.testing.assert_array_equal(walk(trie, others_BI)[:, -1] >= 0, valid)
    assert 10 < valid.sum() < 990
    assert trie.num_bytes < 4 * len(ids_NI)
