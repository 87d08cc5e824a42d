"""Which codes may follow which prefix of a Semantic ID: an index of bits and ranks.

The nodes of a level are its prefixes in sorted order, so edge j of a level leads to node j of the
next one and no next-node column is stored. How a level is stored, `levels.py` says.
It speaks codes (`vocabulary.py` turns them into tokens) and knows nothing of scores.
"""

import math
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tiger_jax import artifacts
from tiger_jax.semantic_ids import bits
from tiger_jax.semantic_ids.levels import (
    BitLevel,
    CountLevel,
    Edges,
    ListLevel,
    Room,
    UnaryLevel,
)

Level = BitLevel | ListLevel | UnaryLevel | CountLevel

# Rows of bits are the fastest to read; up to this size they are always taken.
_SMALL_TABLE = 4 << 20  # bytes
# A list is read whole for every beam.
_LONGEST_LIST = 32
_AT_ONCE = 1 << 16  # rows, so that a pass stays in the cache


@struct.dataclass
class Trie:
    """All Semantic IDs of a catalogue; a pytree, so it can be an argument of a compiled function.

    Level i holds the prefixes of i codes: node 0 of level 0 is the empty prefix. The children of
    the last level are rows, the items in the order of their IDs. Node -1 is no node: nothing may
    follow it, and it is the child of whatever is not allowed.

    Shapes depend on the capacity alone, so that a function compiled for one catalogue serves the
    next one.

    Attributes:
      levels: one for each part of an ID.
      items_N: int32; row -> item number, 0 behind the last row.
    """

    levels: tuple[Level, ...]
    items_N: jax.Array

    @classmethod
    def from_semantic_ids(
        cls,
        semantic_ids_NI: np.ndarray,
        codebook_sizes: tuple[int, ...],
        capacity: int | None = None,
    ) -> "Trie":
        """Builds the index of a table.

        Args:
          semantic_ids_NI: integers [N + 1, I], in any order; row 0 is padding, row n is item n.
          codebook_sizes: number of codes of each part of an ID.
          capacity: number of items that `updated` finds room for, whatever prefixes the new ones
            have; where the last parts of all IDs count 0, 1, ..., those of the new ones must too.
            No more than there are where None.

        Raises:
          InputError: no item, a code out of range, two items with one ID, or a prefix with more
            items than the last part of an ID can tell apart.
        """
        items_N, levels_edges = _edges_by_level(semantic_ids_NI, codebook_sizes)
        spare = max(0, (capacity or 0) - len(items_N))
        levels = []
        for level, (edges, size) in enumerate(zip(levels_edges, codebook_sizes, strict=True)):
            room = Room(
                min(math.prod(codebook_sizes[:level]), len(edges.counts_P) + spare),
                min(math.prod(codebook_sizes[: level + 1]), int(edges.counts_P.sum()) + spare),
                size if spare else int(edges.counts_P.max()),
            )
            kind, room = _kind(edges, size, room, level == len(codebook_sizes) - 1, spare)
            levels.append(kind.build(edges, size, room))
        return cls(tuple(levels), np.pad(items_N, (0, spare)))

    def updated(self, semantic_ids_NI: np.ndarray) -> "Trie":
        """The index of another table with the same codebooks, in the same shapes if they hold it.

        What was compiled for this one serves it then. Where it does not fit, the index has room
        for a quarter more items than the table.

        Raises:
          InputError: as `from_semantic_ids`.
        """
        sizes = tuple(level.num_codes for level in self.levels)
        items_N, levels_edges = _edges_by_level(semantic_ids_NI, sizes)
        fit = [level.fits(edges) for level, edges in zip(self.levels, levels_edges, strict=True)]
        if not all(fit) or len(items_N) > len(self.items_N):
            return Trie.from_semantic_ids(semantic_ids_NI, sizes, len(items_N) * 5 // 4 + 1)
        levels = [
            level.build(edges, level.num_codes, level.room)
            for level, edges in zip(self.levels, levels_edges, strict=True)
        ]
        return Trie(tuple(levels), np.pad(items_N, (0, len(self.items_N) - len(items_N))))

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return int(np.count_nonzero(self.items_N))

    @property
    def num_bytes(self) -> int:
        """Size of the index in memory, without the map from rows to item numbers."""
        return sum(array.nbytes for array in jax.tree.leaves(self.levels))

    def allowed(self, level: int, nodes: jax.Array, open_edges=None) -> jax.Array:
        """Nodes [...] of a level -> bool [..., C], the codes that may follow.

        C is the level's `width`: no node has a code beyond. `open_edges` as in `BitLevel.words`.
        """
        nodes = jnp.asarray(nodes)
        stored = self.levels[level]
        words = stored.words(jnp.maximum(nodes, 0), open_edges)
        return bits.unpack_words(words)[..., : stored.width] & (nodes >= 0)[..., None]

    def only_code(self, level: int, nodes: jax.Array) -> jax.Array | None:
        """Nodes [...] of a level with one edge each -> its code [..., 1]; None for other levels."""
        stored = self.levels[level]
        if not isinstance(stored, UnaryLevel):
            return None
        return jnp.asarray(stored.codes_P)[jnp.maximum(nodes, 0)].astype(jnp.int32)[..., None]

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


def _edges_by_level(
    semantic_ids_NI: np.ndarray, codebook_sizes: tuple[int, ...]
) -> tuple[np.ndarray, list[Edges]]:
    """Item numbers in the order of their IDs, int32 [N], and the edges of each level."""
    codes_NI = np.asarray(semantic_ids_NI)[1:]
    if codes_NI.ndim != 2 or codes_NI.shape[1] != len(codebook_sizes) or not codes_NI.size:
        raise artifacts.InputError(
            f"a table of shape {np.shape(semantic_ids_NI)} has no items of"
            f" {len(codebook_sizes)} codes each; make it with python -m tiger_jax.make_ids"
        )
    ordered = _ordered(codes_NI, codebook_sizes)
    levels_edges = []
    # From the last level up: the rows where an edge of the level below begins, and their depths.
    rows, depths = None, ordered.depth_N
    for level in reversed(range(len(codebook_sizes))):
        starts = np.flatnonzero(depths < level)
        counts_P = np.empty(len(starts), np.int32)
        np.subtract(starts[1:], starts[:-1], out=counts_P[:-1], casting="unsafe")
        counts_P[-1] = len(depths) - starts[-1]
        levels_edges.append(Edges(counts_P, _codes_of(ordered.codes, level, rows)))
        rows, depths = starts if rows is None else rows[starts], depths[starts]
    if levels_edges[0].counts_P.max() > codebook_sizes[-1] or ordered.is_faulty:
        _raise_fault(codes_NI, codebook_sizes)
    return ordered.items_N, levels_edges[::-1]


def _codes_of(codes: Callable, level: int, rows: np.ndarray | None) -> Callable:
    """Numbers of edges -> codes, where the edges begin at `rows`; at all rows if None."""
    return lambda edges: codes(level, edges if rows is None else rows[edges])


class _Ordered(typing.NamedTuple):
    """A table in the order of its IDs.

    Attributes:
      items_N: item numbers, int32.
      depth_N: number of codes that a row shares with the row before; -1 at the first.
      codes: (level, rows) -> codes.
      is_faulty: an ID is out of range or not the only one.
    """

    items_N: np.ndarray
    depth_N: np.ndarray
    codes: Callable[[int, np.ndarray | slice], np.ndarray]
    is_faulty: bool


def _ordered(codes_NI: np.ndarray, codebook_sizes: tuple[int, ...]) -> _Ordered:
    """Sorts a table by its IDs."""
    widths = [max(1, (size - 1).bit_length()) for size in codebook_sizes]
    row_bits = max(1, (len(codes_NI) - 1).bit_length())
    # In the table's own type, in which numbers compare fastest; it may be too narrow for a size.
    largest_I = np.minimum(np.array(codebook_sizes) - 1, np.iinfo(codes_NI.dtype).max)
    largest_I = largest_I.astype(codes_NI.dtype)
    for first in range(0, len(codes_NI), _AT_ONCE):
        chunk_NI = codes_NI[first : first + _AT_ONCE]
        if (chunk_NI < 0).any() or (chunk_NI > largest_I).any():
            _raise_fault(codes_NI, codebook_sizes)
    if sum(widths) + row_bits <= 64:
        return _ordered_by_one_key(codes_NI, widths, row_bits)
    order = np.lexsort(codes_NI.T[::-1])
    sorted_NI = codes_NI[order]
    equal_NI = np.logical_and.accumulate(sorted_NI[1:] == sorted_NI[:-1], axis=1)
    depth_N = np.append(-1, equal_NI.sum(axis=1))
    return _Ordered(
        (order + 1).astype(np.int32),
        depth_N,
        lambda level, rows: sorted_NI[rows, level],
        bool((depth_N == len(widths)).any()),
    )


def _ordered_by_one_key(codes_NI: np.ndarray, widths: list[int], row_bits: int) -> _Ordered:
    """The same where an ID and the number of a row fit into one word: numbers sort fastest."""
    num_rows, id_length = codes_NI.shape
    shifts = [row_bits + sum(widths[level + 1 :]) for level in range(id_length)]
    keys = np.empty(num_rows, np.uint64)
    firsts = range(0, num_rows, _AT_ONCE)
    chunks = [slice(first, min(first + _AT_ONCE, num_rows)) for first in firsts]
    for chunk in chunks:
        key = np.arange(chunk.start, chunk.stop, dtype=np.uint64)
        for level, shift in enumerate(shifts):
            key |= codes_NI[chunk, level].astype(np.uint64) << np.uint64(shift)
        keys[chunk] = key
    keys.sort()

    items_N = np.empty(num_rows, np.int32)
    depth_N = np.empty(num_rows, np.int8)
    for chunk in chunks:
        key = keys[chunk]
        items_N[chunk] = (key & np.uint64((1 << row_bits) - 1)).astype(np.int32) + 1
        # The first row is compared with itself; its depth is set below.
        changed = key ^ np.append(keys[max(chunk.start - 1, 0)], key[:-1])
        depth = np.zeros(len(key), np.int8)
        for shift in shifts:
            depth += changed < np.uint64(1 << shift)
        depth_N[chunk] = depth
    is_faulty = bool((depth_N[1:] == id_length).any())
    depth_N[0] = -1

    def codes(level: int, rows: np.ndarray | slice) -> np.ndarray:
        found = keys[rows] >> np.uint64(shifts[level])
        found &= np.uint64((1 << widths[level]) - 1)
        return found.view(np.int64)

    return _Ordered(items_N, depth_N, codes, is_faulty)


def _kind(
    edges: Edges, num_codes: int, room: Room, is_last: bool, spare: int
) -> tuple[type[Level], Room]:
    """The type of a level and what it must hold, by its size and degrees."""
    if is_last and edges.is_counted:
        return CountLevel, room
    counts_P = edges.counts_P
    if not spare and len(counts_P) > 1 and (counts_P == 1).all():
        return UnaryLevel, room
    row_bytes = 4 * bits.num_words(num_codes)
    list_bytes = room.edges * (1 if num_codes <= 256 else 2 if num_codes <= 65536 else 4)
    for degree in (2, 4, 8, 16, _LONGEST_LIST):
        rows = _most_rows(counts_P, degree, spare)
        if 4 * rows * row_bytes <= list_bytes:
            lists = room._replace(degree=degree, rows=rows)
            if room.nodes * row_bytes > max(_SMALL_TABLE, 2 * list_bytes):
                return ListLevel, lists
            break
    return BitLevel, room


def _most_rows(counts_P: np.ndarray, degree: int, spare: int) -> int:
    """How many nodes may have more than `degree` edges when `spare` edges have come."""
    rows = int((counts_P > degree).sum())
    if not spare:
        return rows
    # Those first that lack the fewest; new nodes lack them all.
    nodes_by_count = np.bincount(counts_P[counts_P <= degree], minlength=degree + 1)
    for count in range(degree, 0, -1):
        lacking = degree + 1 - count
        grown = min(int(nodes_by_count[count]), spare // lacking)
        rows, spare = rows + grown, spare - grown * lacking
    return rows + spare // (degree + 1)


def _raise_fault(codes_NI: np.ndarray, codebook_sizes: tuple[int, ...]) -> typing.NoReturn:
    """Says what is wrong with a table that is known to be at fault."""
    order = np.lexsort(codes_NI.T[::-1])
    codes_NI, item_numbers = codes_NI[order], order + 1
    begins_NI = np.ones(codes_NI.shape, bool)
    begins_NI[1:] = np.logical_or.accumulate(codes_NI[1:] != codes_NI[:-1], axis=1)
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
    row = int(begins_NI[:, -1].argmin())
    raise artifacts.InputError(
        f"items {item_numbers[row - 1]} and {item_numbers[row]} have the same ID"
        f" {tuple(codes_NI[row].tolist())}; {remedy}"
    )
