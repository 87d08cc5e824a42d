"""Packed bits and the ranks in them: what the levels of the trie and its filters are made of.

Shapes: W words of 32 bits, Q blocks of 32 nodes or edges, J filters.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

WORD = 32  # bits
BLOCK = 32  # nodes
ALL = np.uint32(0xFFFFFFFF)


@struct.dataclass
class Counts:
    """Numbers of edges, at least one a node: a few bits a node and 4 bytes a block of 32.

    The counts less one are stored in bit planes: a word holds one bit of all 32 counts of a block,
    so that the sum of the first ones is a few population counts.

    Attributes:
      planes_QW: uint32; word w of a block is bit w of its counts less one.
      base_Q: int32; number of edges before each block.
    """

    planes_QW: jax.Array
    base_Q: jax.Array

    @classmethod
    def pack(cls, counts_P: np.ndarray, room: int, largest: int) -> "Counts":
        """The counts of P nodes, with room for `room` nodes and for counts up to `largest`."""
        num_blocks = room // BLOCK + 1
        extra_P = (counts_P - 1).astype(np.min_scalar_type(largest))
        planes_QW = np.empty((num_blocks, (largest - 1).bit_length()), np.uint32)
        for plane in range(planes_QW.shape[1]):
            planes_QW[:, plane] = pack_bits(extra_P >> plane & 1, num_blocks * BLOCK)
        base_Q = np.full(num_blocks, counts_P.sum(), np.int32)
        blocks = np.add.reduceat(counts_P, np.arange(0, len(counts_P), BLOCK))
        base_Q[: len(blocks)] = np.cumsum(blocks) - blocks
        return cls(planes_QW, base_Q)

    def unpack(self, num_nodes: int) -> np.ndarray:
        """The counts of the first nodes, int32."""
        counts_P = np.ones(num_nodes, np.int32)
        for plane, words_Q in enumerate(np.asarray(self.planes_QW).T):
            plane_bytes = np.ascontiguousarray(words_Q).view(np.uint8)
            bits_P = np.unpackbits(plane_bytes, count=num_nodes, bitorder="little")
            counts_P += bits_P.astype(np.int32) << plane
        return counts_P

    @property
    def num_nodes(self) -> int:
        """Number of nodes that there is room for."""
        return len(self.base_Q) * BLOCK - 1

    @property
    def largest(self) -> int:
        """The largest count that there is room for."""
        return 1 << self.planes_QW.shape[1]

    def of(self, nodes: jax.Array) -> jax.Array:
        """Nodes [...] -> their numbers of edges."""
        words = jnp.asarray(self.planes_QW)[nodes // BLOCK]
        bits = words >> (nodes % BLOCK).astype(jnp.uint32)[..., None] & 1
        return 1 + self._sum_of_planes(bits)

    def before(self, nodes: jax.Array) -> jax.Array:
        """Nodes [...] in 0..P -> number of edges of all nodes before."""
        block, place = nodes // BLOCK, nodes % BLOCK
        earlier = (jnp.uint32(1) << place.astype(jnp.uint32)) - 1
        bits = jax.lax.population_count(jnp.asarray(self.planes_QW)[block] & earlier[..., None])
        return jnp.asarray(self.base_Q)[block] + place + self._sum_of_planes(bits)

    def _sum_of_planes(self, bits: jax.Array) -> jax.Array:
        """Numbers of set bits in each plane [..., W] -> the number that they mean."""
        weights = 1 << iota(bits.shape[-1], bits.ndim - 1)
        return (bits.astype(jnp.int32) * weights).sum(-1)


def num_words(num_codes: int) -> int:
    """Words of bits for that many codes."""
    return -(-num_codes // WORD)


def pack_bits(bits: np.ndarray, room: int) -> np.ndarray:
    """bool -> uint32 words [Q], with room for `room` bits."""
    words = np.zeros(num_words(room), np.uint32)
    packed = np.packbits(bits, bitorder="little")
    words.view(np.uint8)[: len(packed)] = packed
    return words


def unpack_words(words: jax.Array) -> jax.Array:
    """uint32 [..., W] -> bool [..., 32 W]."""
    bits = words[..., None] >> iota(WORD, words.ndim).astype(jnp.uint32) & 1
    return bits.reshape(*words.shape[:-1], -1) == 1


def iota(size: int, ndim: int) -> jax.Array:
    """0..size-1 on the last of `ndim` + 1 axes."""
    return jax.lax.broadcasted_iota(jnp.int32, (1,) * ndim + (size,), ndim)


def rank(words: jax.Array, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Words [..., W], codes [...] -> number of set bits below each code; whether its own is set."""
    word, own_word = iota(words.shape[-1], codes.ndim), codes[..., None] // WORD
    own_bit = jnp.uint32(1) << (codes % WORD).astype(jnp.uint32)[..., None]
    is_set = ((word == own_word) & (words & own_bit != 0)).any(-1)
    below = jnp.where(word < own_word, words, jnp.where(word == own_word, words & own_bit - 1, 0))
    return jax.lax.population_count(below).sum(-1).astype(jnp.int32), is_set


def window(bits_JQ: jax.Array, which: jax.Array, first: jax.Array, width: int) -> jax.Array:
    """`width` words of bits of filter `which`, from bit `first` on: uint32 [..., width]."""
    shift = (first % WORD).astype(jnp.uint32)[..., None]
    places = first[..., None] // WORD + iota(width + 1, first.ndim)
    words = jnp.asarray(bits_JQ).at[which[..., None], places].get(mode="fill", fill_value=0)
    upper = jnp.where(shift > 0, words[..., 1:] << (WORD - jnp.maximum(shift, 1)), 0)
    return words[..., :-1] >> shift | upper


def bit_rows(counts_P: np.ndarray, codes_X: np.ndarray, num_codes: int) -> np.ndarray:
    """Sorted edges -> rows of bits [P, W]."""
    width = num_words(num_codes) * WORD
    rows_PW = np.empty((len(counts_P), num_words(num_codes)), np.uint32)
    ends_P = np.cumsum(counts_P)
    at_once = max(1, (1 << 24) // width)
    for first in range(0, len(counts_P), at_once):
        counts = counts_P[first : first + at_once]
        start = ends_P[first] - counts[0]
        codes = codes_X[start : start + counts.sum()]
        bits = np.zeros(len(counts) * width, bool)
        bits[np.repeat(np.arange(0, len(bits), width), counts) + codes] = True
        rows = np.packbits(bits, bitorder="little").view(np.uint32)
        rows_PW[first : first + at_once] = rows.reshape(len(counts), -1)
    return rows_PW


def thinned(words: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """Rows of bits without those of their set bits, in order, that are not open."""
    bits = np.unpackbits(words.reshape(-1).view(np.uint8), bitorder="little")
    bits[bits.view(bool)] = is_open
    return np.packbits(bits, bitorder="little").view(np.uint32).reshape(words.shape)
