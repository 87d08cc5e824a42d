"""How one level of the trie is stored: bit rows, lists of codes, single codes, or counters.

Nodes are numbered in sorted prefix order, so that edge j of a level is node j of the next one: a
level need only say which codes follow a node, and how many edges come before it.
Shapes: W words of 32 codes, X edges, Q blocks of 32 nodes, Y nodes with many edges, J filters.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tiger_jax.semantic_ids import bits


class Edges(NamedTuple):
    """The edges of a level, in order.

    Attributes:
      counts_P: how many of them each node has, at least one.
      codes: numbers of edges -> their codes; a slice does too.
    """

    counts_P: np.ndarray
    codes: Callable[[np.ndarray | slice], np.ndarray]

    @property
    def is_counted(self) -> bool:
        """Whether the codes of every node are 0, 1, 2, ..."""
        # Sorted and distinct, they are if and only if the last is the number of the others.
        last_P = np.cumsum(self.counts_P) - 1
        return np.array_equal(self.codes(last_P), self.counts_P - 1)


class Room(NamedTuple):
    """How much a level can hold without a change of shapes.

    Attributes:
      nodes: number of nodes.
      edges: number of edges of all nodes.
      degree: most edges of one node; in a `ListLevel`, of one that is a list.
      rows: in a `ListLevel`, number of nodes with more edges.
    """

    nodes: int
    edges: int
    degree: int
    rows: int = 0


@struct.dataclass
class BitLevel:
    """Edges as a row of bits a node: the fastest to read, and small where nodes have many edges.

    Attributes:
      words_PW: uint32; bit v of row p is set where code v may follow prefix p.
      base_P: int32 [P + 1]; number of edges of all nodes before, the last entry of all nodes.
      num_codes: width of the codebook.
    """

    words_PW: jax.Array
    base_P: jax.Array
    num_codes: int = struct.field(pytree_node=False)

    @classmethod
    def build(cls, edges: Edges, num_codes: int, room: Room) -> "BitLevel":
        """The level of these edges, in arrays of these sizes."""
        words_PW = np.zeros((room.nodes, bits.num_words(num_codes)), np.uint32)
        rows_PW = bits.bit_rows(edges.counts_P, edges.codes(slice(None)), num_codes)
        words_PW[: len(rows_PW)] = rows_PW
        ends_P = np.cumsum(edges.counts_P)
        base_P = np.full(room.nodes + 1, ends_P[-1], np.int32)
        base_P[0] = 0
        base_P[1 : len(ends_P) + 1] = ends_P
        return cls(words_PW, base_P, num_codes)

    def fits(self, edges: Edges) -> bool:
        """Whether another catalogue has room in arrays of these shapes."""
        return len(edges.counts_P) <= len(self.words_PW)

    @property
    def room(self) -> Room:
        """What `build` was given."""
        num_nodes = len(self.words_PW)
        return Room(num_nodes, num_nodes * self.num_codes, self.num_codes)

    @property
    def width(self) -> int:
        """All codes that some node may have are below."""
        return self.num_codes

    def words(self, nodes, open_edges=None) -> jax.Array:
        """Nodes [...] -> uint32 [..., W], a bit for each code that may follow.

        `open_edges`: tables of `open_table` for each filter, and which filter holds for each node.
        """
        words = jnp.asarray(self.words_PW)[nodes]
        if open_edges is not None:
            (open_JPW,), which = open_edges
            words &= jnp.asarray(open_JPW)[which, nodes]
        return words

    def child(self, nodes, codes) -> jax.Array:
        """Nodes [...], codes [...] -> children; -1 where the code may not follow."""
        below, is_edge = bits.rank(self.words(nodes), codes)
        return jnp.where(is_edge, self.first_child(nodes) + below, -1)

    def first_child(self, nodes) -> jax.Array:
        """Nodes [...] in 0..P -> number of edges of all nodes before."""
        return jnp.asarray(self.base_P)[nodes]

    def degrees(self, num_nodes: int) -> np.ndarray:
        """Number of edges of each of the first nodes."""
        return np.diff(np.asarray(self.base_P)[: num_nodes + 1])

    def open_table(self, is_open_X: np.ndarray, room: int) -> tuple[np.ndarray, ...]:
        """The edges that a filter leaves open as `words` wants them, with room for `room`."""
        return (bits.thinned(np.asarray(self.words_PW), is_open_X),)


@struct.dataclass
class ListLevel:
    """Edges as lists of codes (compressed sparse rows): small where nodes have few edges.

    A list is read whole, so the few nodes of a heavy tail have rows of bits as well.

    Attributes:
      counts: number of edges of each node.
      codes_X: unsigned; code of each edge, and room to read behind the last.
      many_Q: uint32; a bit for each node that has a row.
      row_Q: int32; number of rows before each block of nodes.
      words_YW: uint32; rows of bits.
      longest: length of the lists that are read.
      num_codes: width of the codebook.
    """

    counts: bits.Counts
    codes_X: jax.Array
    many_Q: jax.Array
    row_Q: jax.Array
    words_YW: jax.Array
    longest: int = struct.field(pytree_node=False)
    num_codes: int = struct.field(pytree_node=False)

    @classmethod
    def build(cls, edges: Edges, num_codes: int, room: Room) -> "ListLevel":
        """The level of these edges, in arrays of these sizes."""
        counts_P, codes_X = edges.counts_P, edges.codes(slice(None))
        codes = np.zeros(room.edges + room.degree, np.min_scalar_type(num_codes - 1))
        codes[: len(codes_X)] = codes_X
        is_many_P = counts_P > room.degree
        # As many blocks as the counts have, which may be one more than the nodes need.
        many_Q = bits.pack_bits(is_many_P, room.nodes + 1)
        num_rows_Q = np.bitwise_count(many_Q).astype(np.int32)
        row_Q = np.cumsum(num_rows_Q, dtype=np.int32) - num_rows_Q
        words_YW = np.zeros((room.rows, bits.num_words(num_codes)), np.uint32)
        many_codes = codes_X[np.repeat(is_many_P, counts_P)]
        rows_YW = bits.bit_rows(counts_P[is_many_P], many_codes, num_codes)
        words_YW[: len(rows_YW)] = rows_YW
        counts = bits.Counts.pack(counts_P, room.nodes, num_codes)
        return cls(counts, codes, many_Q, row_Q, words_YW, room.degree, num_codes)

    def fits(self, edges: Edges) -> bool:
        """Whether another catalogue has room in arrays of these shapes."""
        room, counts_P = self.room, edges.counts_P
        num_rows = (counts_P > room.degree).sum()
        enough = len(counts_P) <= room.nodes and counts_P.sum() <= room.edges
        return bool(enough and num_rows <= room.rows)

    @property
    def room(self) -> Room:
        """What `build` was given."""
        num_edges = len(self.codes_X) - self.longest
        return Room(self.counts.num_nodes, num_edges, self.longest, len(self.words_YW))

    @property
    def width(self) -> int:
        """All codes that some node may have are below."""
        return self.num_codes

    def words(self, nodes, open_edges=None) -> jax.Array:
        """As in `BitLevel`."""
        first, places = self.first_child(nodes), bits.iota(self.longest, nodes.ndim)
        codes = jnp.asarray(self.codes_X)[first[..., None] + places].astype(jnp.int32)
        listed = places < self.counts.of(nodes)[..., None]
        if open_edges is not None:
            (open_JQ, open_JYW), which = open_edges
            window = bits.window(open_JQ, which, first, bits.num_words(self.longest))
            listed &= bits.unpack_words(window)[..., : self.longest]
        word = bits.iota(bits.num_words(self.num_codes), codes.ndim)
        bit = jnp.where(listed, jnp.uint32(1) << (codes % bits.WORD).astype(jnp.uint32), 0)
        # Codes of a list differ, so that the sum of their bits is the union.
        in_word = jnp.where((codes // bits.WORD)[..., None] == word, bit[..., None], 0)
        words = in_word.sum(-2, dtype=jnp.uint32)
        if len(self.words_YW):
            own = jnp.asarray(self.many_Q)[nodes // bits.BLOCK]
            place = (nodes % bits.BLOCK).astype(jnp.uint32)
            below = jax.lax.population_count(own & (jnp.uint32(1) << place) - 1)
            row = jnp.asarray(self.row_Q)[nodes // bits.BLOCK] + below.astype(jnp.int32)
            many = jnp.asarray(self.words_YW)[row]
            if open_edges is not None:
                many &= jnp.asarray(open_JYW)[which, row]
            words = jnp.where((own >> place & 1 == 1)[..., None], many, words)
        return words

    def child(self, nodes, codes) -> jax.Array:
        """As in `BitLevel`."""
        below, is_edge = bits.rank(self.words(nodes), codes)
        return jnp.where(is_edge, self.first_child(nodes) + below, -1)

    def first_child(self, nodes) -> jax.Array:
        """As in `BitLevel`."""
        return self.counts.before(nodes)

    def degrees(self, num_nodes: int) -> np.ndarray:
        """As in `BitLevel`."""
        return self.counts.unpack(num_nodes)

    def open_table(self, is_open_X: np.ndarray, room: int) -> tuple[np.ndarray, ...]:
        """As in `BitLevel`."""
        bits_Q = bits.pack_bits(is_open_X, len(self.codes_X))
        counts_P = self.degrees(self.counts.num_nodes)
        is_many_X = np.repeat(counts_P > self.longest, counts_P)[: len(is_open_X)]
        return bits_Q, bits.thinned(np.asarray(self.words_YW), is_open_X[is_many_X])


@struct.dataclass
class UnaryLevel:
    """One edge a node, as where the codes before already tell all items apart.

    Attributes:
      codes_P: unsigned; the code that follows each node; child p is node p.
      num_codes: width of the codebook.
    """

    codes_P: jax.Array
    num_codes: int = struct.field(pytree_node=False)

    @classmethod
    def build(cls, edges: Edges, num_codes: int, room: Room) -> "UnaryLevel":
        """As in `BitLevel`."""
        codes_P = np.zeros(room.nodes, np.min_scalar_type(num_codes - 1))
        codes_P[: len(edges.counts_P)] = edges.codes(slice(None))
        return cls(codes_P, num_codes)

    def fits(self, edges: Edges) -> bool:
        """Whether another catalogue has room in arrays of these shapes."""
        return bool((edges.counts_P == 1).all()) and len(edges.counts_P) <= len(self.codes_P)

    @property
    def room(self) -> Room:
        """What `build` was given."""
        return Room(len(self.codes_P), len(self.codes_P), 1)

    @property
    def width(self) -> int:
        """All codes that some node may have are below."""
        return self.num_codes

    def words(self, nodes, open_edges=None) -> jax.Array:
        """As in `BitLevel`."""
        codes = jnp.asarray(self.codes_P)[nodes].astype(jnp.int32)[..., None]
        bit = jnp.uint32(1) << (codes % bits.WORD).astype(jnp.uint32)
        word = bits.iota(bits.num_words(self.num_codes), nodes.ndim)
        words = jnp.where(word == codes // bits.WORD, bit, 0)
        if open_edges is not None:
            (open_JQ,), which = open_edges
            words = jnp.where(bits.window(open_JQ, which, nodes, 1) & 1 == 1, words, 0)
        return words

    def child(self, nodes, codes) -> jax.Array:
        """As in `BitLevel`."""
        return jnp.where(jnp.asarray(self.codes_P)[nodes].astype(jnp.int32) == codes, nodes, -1)

    def first_child(self, nodes) -> jax.Array:
        """As in `BitLevel`."""
        return nodes

    def degrees(self, num_nodes: int) -> np.ndarray:
        """As in `BitLevel`."""
        return np.ones(num_nodes, np.int64)

    def open_table(self, is_open_X: np.ndarray, room: int) -> tuple[np.ndarray, ...]:
        """As in `BitLevel`."""
        return (bits.pack_bits(is_open_X, len(self.codes_P)),)


@struct.dataclass
class CountLevel:
    """Edges whose codes count 0, 1, 2, ... under every prefix: collision tokens.

    Attributes:
      counts: number of children of each node.
      num_codes: width of the codebook.
    """

    counts: bits.Counts
    num_codes: int = struct.field(pytree_node=False)

    @classmethod
    def build(cls, edges: Edges, num_codes: int, room: Room) -> "CountLevel":
        """As in `BitLevel`."""
        return cls(bits.Counts.pack(edges.counts_P, room.nodes, room.degree), num_codes)

    def fits(self, edges: Edges) -> bool:
        """Whether another catalogue has room in arrays of these shapes."""
        counts_P, room = edges.counts_P, self.room
        enough = len(counts_P) <= room.nodes and counts_P.max() <= room.degree
        return bool(enough) and edges.is_counted

    @property
    def room(self) -> Room:
        """What `build` was given."""
        num_nodes = self.counts.num_nodes
        return Room(num_nodes, num_nodes * self.width, self.width)

    @property
    def width(self) -> int:
        """All codes that some node may have are below."""
        return min(self.num_codes, self.counts.largest)

    def words(self, nodes, open_edges=None) -> jax.Array:
        """As in `BitLevel`, of the codes below `width`."""
        first_codes = bits.WORD * bits.iota(bits.num_words(self.width), nodes.ndim)
        set_bits = jnp.clip(self.counts.of(nodes)[..., None] - first_codes, 0, bits.WORD)
        # No machine shifts by 32 bits.
        unset_bits = (bits.WORD - jnp.maximum(set_bits, 1)).astype(jnp.uint32)
        words = jnp.where(set_bits > 0, bits.ALL >> unset_bits, jnp.uint32(0))
        if open_edges is not None:
            (open_JQ,), which = open_edges
            words &= bits.window(open_JQ, which, self.first_child(nodes), words.shape[-1])
        return words

    def child(self, nodes, codes) -> jax.Array:
        """As in `BitLevel`; children are numbered by their code."""
        is_edge = (codes >= 0) & (codes < self.counts.of(nodes))
        return jnp.where(is_edge, self.first_child(nodes) + codes, -1)

    def first_child(self, nodes) -> jax.Array:
        """As in `BitLevel`."""
        return self.counts.before(nodes)

    def degrees(self, num_nodes: int) -> np.ndarray:
        """As in `BitLevel`."""
        return self.counts.unpack(num_nodes)

    def open_table(self, is_open_X: np.ndarray, room: int) -> tuple[np.ndarray, ...]:
        """As in `BitLevel`."""
        return (bits.pack_bits(is_open_X, room),)
