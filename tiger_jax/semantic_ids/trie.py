"""Which codes may follow which prefix of a Semantic ID: an index of bits and ranks.

The nodes of a level are its prefixes in sorted order, so edge j of a level leads to node j of the
next one and no next-node column is stored. Shapes: W words of bits a node, Q blocks of nodes.
It speaks codes (`vocabulary.py` turns them into tokens) and knows nothing of scores.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tiger_jax import artifacts

_BITS = 32  # of a word
_BLOCK = 32  # nodes


@struct.dataclass
class BitLevel:
    """Edges of a level as one row of bits a node.

    Attributes:
      words_PW: uint32; bit v of row p is set where code v may follow prefix p.
      base_P: int32 [P + 1]; number of edges of all nodes before, the last entry of all nodes.
      num_codes: width of the level.
    """

    words_PW: jax.Array
    base_P: jax.Array
    num_codes: int = struct.field(pytree_node=False)

    @property
    def num_nodes(self) -> int:
        """Number of prefixes with as many codes as there are levels before."""
        return self.words_PW.shape[0]

    def allowed(self, nodes: jax.Array) -> jax.Array:
        """Nodes [...] -> bool [..., C], the codes that may follow."""
        words = jnp.asarray(self.words_PW)[nodes]
        bits = (words[..., None] >> _iota(_BITS, words.ndim).astype(jnp.uint32)) & 1
        return bits.reshape(*nodes.shape, -1)[..., : self.num_codes] == 1

    def child(self, nodes: jax.Array, codes: jax.Array) -> jax.Array:
        """Nodes [...], codes [...] -> the first child plus the number of set bits below the code.

        -1 where the code may not follow.
        """
        words = jnp.asarray(self.words_PW)[nodes]
        word = _iota(words.shape[-1], nodes.ndim)
        own_word = codes[..., None] // _BITS
        own_bit = jnp.uint32(1) << (codes % _BITS).astype(jnp.uint32)[..., None]
        is_edge = ((word == own_word) & (words & own_bit != 0)).any(-1)
        below = jnp.where(
            word < own_word, words, jnp.where(word == own_word, words & own_bit - 1, 0)
        )
        rank = jax.lax.population_count(below).sum(-1).astype(jnp.int32)
        return jnp.where(is_edge, self.first_child(nodes) + rank, -1)

    def first_child(self, nodes: jax.Array) -> jax.Array:
        """Nodes [...] in 0..P -> number of edges of all nodes before."""
        return jnp.asarray(self.base_P)[nodes]


@struct.dataclass
class CountLevel:
    """Edges of a last level whose codes count 0, 1, 2, ... under every prefix (collision tokens).

    The number of edges before a node is that before its block of 32 nodes, and a sum of at most
    31 counts: a little over a byte a node where `num_codes` is 256.

    Attributes:
      extra_P: unsigned; the number of children of each node, less one; whole blocks, with at least
        one entry behind the last node.
      base_Q: int32; number of edges before each block of 32 nodes.
      num_nodes: number of prefixes.
      num_codes: width of the level.
    """

    extra_P: jax.Array
    base_Q: jax.Array
    num_nodes: int = struct.field(pytree_node=False)
    num_codes: int = struct.field(pytree_node=False)

    def allowed(self, nodes: jax.Array) -> jax.Array:
        """Nodes [...] -> bool [..., C], the codes that may follow."""
        return _iota(self.num_codes, nodes.ndim) <= self._extra(nodes)[..., None]

    def child(self, nodes: jax.Array, codes: jax.Array) -> jax.Array:
        """Nodes [...], codes [...] -> children, numbered by their code; -1 where there is none."""
        is_edge = (codes >= 0) & (codes <= self._extra(nodes))
        return jnp.where(is_edge, self.first_child(nodes) + codes, -1)

    def first_child(self, nodes: jax.Array) -> jax.Array:
        """Nodes [...] in 0..P -> number of edges of all nodes before."""
        block, place = nodes // _BLOCK, nodes % _BLOCK
        counts = jnp.asarray(self.extra_P).reshape(-1, _BLOCK)[block].astype(jnp.int32) + 1
        before = _iota(_BLOCK, nodes.ndim) < place[..., None]
        return jnp.asarray(self.base_Q)[block] + jnp.where(before, counts, 0).sum(-1)

    def _extra(self, nodes: jax.Array) -> jax.Array:
        return jnp.asarray(self.extra_P)[nodes].astype(jnp.int32)


@struct.dataclass
class Trie:
    """All Semantic IDs of a catalogue; a pytree, so it can be an argument of a compiled function.

    Level i holds the prefixes of i codes: node 0 of level 0 is the empty prefix. The children of
    the last level are rows, the items in the order of their IDs. Node -1 is no node: nothing may
    follow it, and it is the child of whatever is not allowed.

    Attributes:
      levels: one for each part of an ID.
      items_N: int32 [N]; row -> item number.
    """

    levels: tuple[BitLevel | CountLevel, ...]
    items_N: jax.Array

    @classmethod
    def from_semantic_ids(
        cls, semantic_ids_NI: np.ndarray, codebook_sizes: tuple[int, ...]
    ) -> "Trie":
        """Builds the index of a table.

        Args:
          semantic_ids_NI: integers [N + 1, I], in any order; row 0 is padding, row n is item n.
          codebook_sizes: number of codes of each part of an ID.

        Raises:
          InputError: no item, a code out of range, two items with one ID, or a prefix with more
            items than the last part of an ID can tell apart.
        """
        codes_NI = np.asarray(semantic_ids_NI)[1:]
        if codes_NI.ndim != 2 or codes_NI.shape[1] != len(codebook_sizes) or not codes_NI.size:
            raise artifacts.InputError(
                f"a table of shape {np.shape(semantic_ids_NI)} has no items of"
                f" {len(codebook_sizes)} codes each; make it with python -m tiger_jax.make_ids"
            )
        order = np.lexsort(codes_NI.T[::-1])
        codes_NI = codes_NI[order]
        # Column i: does a prefix of i + 1 codes begin at this row?
        begins_NI = np.ones(codes_NI.shape, bool)
        begins_NI[1:] = np.logical_or.accumulate(codes_NI[1:] != codes_NI[:-1], axis=1)
        _check(codes_NI, begins_NI, order + 1, codebook_sizes)

        levels = []
        parent_begins = np.arange(len(order)) == 0
        for level, num_codes in enumerate(codebook_sizes):
            begins = begins_NI[:, level]
            parents = (np.cumsum(parent_begins) - 1)[begins]
            is_last = level == len(codebook_sizes) - 1
            build = _last_level if is_last else _bit_level
            levels.append(build(parents, codes_NI[begins, level], num_codes))
            parent_begins = begins
        return cls(tuple(levels), (order + 1).astype(np.int32))

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.items_N)

    @property
    def num_bytes(self) -> int:
        """Size of the index in memory, without the map from rows to item numbers."""
        return sum(array.nbytes for array in jax.tree.leaves(self.levels))

    def allowed(self, level: int, nodes: jax.Array) -> jax.Array:
        """Nodes [...] of a level -> bool [..., C], the codes that may follow."""
        nodes = jnp.asarray(nodes)
        return self.levels[level].allowed(jnp.maximum(nodes, 0)) & (nodes >= 0)[..., None]

    def child(self, level: int, nodes: jax.Array, codes: jax.Array) -> jax.Array:
        """Nodes [...] of a level and codes [...] -> nodes of the next level; rows of the last."""
        nodes, codes = jnp.asarray(nodes), jnp.asarray(codes)
        return jnp.where(nodes >= 0, self.levels[level].child(jnp.maximum(nodes, 0), codes), -1)

    def walk(self, semantic_ids: jax.Array) -> jax.Array:
        """IDs [..., I] -> nodes [..., I] after 1, 2, ..., I codes; -1 from the first wrong one on.

        The last are rows.
        """
        nodes = [jnp.zeros(semantic_ids.shape[:-1], jnp.int32)]
        for level in range(len(self.levels)):
            nodes.append(self.child(level, nodes[-1], semantic_ids[..., level]))
        return jnp.stack(nodes[1:], axis=-1)

    def row_range(self, level: int, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Nodes [...] of a level -> first row below each, and the one behind the last."""
        first, end = jnp.asarray(nodes), jnp.asarray(nodes) + 1
        for below in self.levels[level:]:
            first, end = below.first_child(first), below.first_child(end)
        return first, end

    def rows_by_prefix(self, semantic_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """IDs [..., I], valid or not -> rows that share their first 1, 2, ..., I codes.

        The first row, and the one behind the last: [..., I] each, equal where there are none.
        """
        nodes = self.walk(semantic_ids)
        ranges = [
            self.row_range(length, jnp.maximum(nodes[..., length - 1], 0))
            for length in range(1, len(self.levels) + 1)
        ]
        first, end = (jnp.stack(rows, axis=-1) for rows in zip(*ranges, strict=True))
        return jnp.where(nodes >= 0, first, 0), jnp.where(nodes >= 0, end, 0)

    def item_numbers(self, rows: jax.Array) -> jax.Array:
        """Rows [...] -> item numbers; 0 for row -1."""
        rows = jnp.asarray(rows)
        return jnp.where(rows >= 0, jnp.asarray(self.items_N)[jnp.maximum(rows, 0)], 0)


def _iota(size: int, ndim: int) -> jax.Array:
    """0..size-1 on the last of `ndim` + 1 axes."""
    return jax.lax.broadcasted_iota(jnp.int32, (1,) * ndim + (size,), ndim)


def _last_level(parents: np.ndarray, codes: np.ndarray, num_codes: int) -> BitLevel | CountLevel:
    """A counter where the codes of every prefix are 0, 1, 2, ..., else rows of bits."""
    counts = np.bincount(parents)
    first_edges = np.cumsum(counts) - counts
    if not np.array_equal(codes, np.arange(len(codes)) - first_edges[parents]):
        return _bit_level(parents, codes, num_codes)
    num_blocks = len(counts) // _BLOCK + 1
    extra_P = np.zeros(num_blocks * _BLOCK, np.min_scalar_type(num_codes - 1))
    extra_P[: len(counts)] = counts - 1
    base_Q = np.append(first_edges, len(codes))[::_BLOCK].astype(np.int32)
    return CountLevel(extra_P, base_Q, len(counts), num_codes)


def _bit_level(parents: np.ndarray, codes: np.ndarray, num_codes: int) -> BitLevel:
    """Edges in sorted order -> rows of bits."""
    counts = np.bincount(parents)
    words_PW = np.zeros((len(counts), -(-num_codes // _BITS)), np.uint32)
    places = parents * words_PW.shape[1] + codes // _BITS
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    bits = np.uint32(1) << (codes % _BITS).astype(np.uint32)
    words_PW.reshape(-1)[places[starts]] = np.bitwise_or.reduceat(bits, starts)
    return BitLevel(words_PW, np.append(0, np.cumsum(counts)).astype(np.int32), num_codes)


def _check(
    codes_NI: np.ndarray,
    begins_NI: np.ndarray,
    item_numbers: np.ndarray,
    codebook_sizes: tuple[int, ...],
) -> None:
    """Raises InputError unless the sorted IDs are distinct and within their codebooks."""
    remedy = "make the table again with python -m tiger_jax.make_ids"
    if len(codebook_sizes) > 1:
        starts = np.flatnonzero(begins_NI[:, -2])
        sizes = np.diff(starts, append=len(codes_NI))
        largest = sizes.argmax()
        if sizes[largest] > codebook_sizes[-1]:
            prefix = tuple(codes_NI[starts[largest], :-1].tolist())
            raise artifacts.InputError(
                f"{sizes[largest]} items share the prefix {prefix}, but the last part of an ID"
                f" tells only {codebook_sizes[-1]} apart; {remedy} and larger codebooks"
            )
    outside_NI = (codes_NI < 0) | (codes_NI >= np.array(codebook_sizes))
    if outside_NI.any():
        row, level = np.argwhere(outside_NI)[0]
        raise artifacts.InputError(
            f"item {item_numbers[row]} has code {codes_NI[row, level]} at level {level}, which has"
            f" codes 0 to {codebook_sizes[level] - 1}; {remedy}"
        )
    if not begins_NI[:, -1].all():
        row = int(begins_NI[:, -1].argmin())
        raise artifacts.InputError(
            f"items {item_numbers[row - 1]} and {item_numbers[row]} have the same ID"
            f" {tuple(codes_NI[row].tolist())}; {remedy}"
        )
