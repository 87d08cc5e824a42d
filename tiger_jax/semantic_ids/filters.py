"""What a search leaves out: named filters over the catalogue, and items denied to one request.

An edge of the trie is closed when all items below it are left out, so that a restricted search
finds what one over an index of the other items would. Nothing is built again for it.
Shapes: J filters, D denied items of a request, Q blocks of 32 rows.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tiger_jax.semantic_ids import bits
from tiger_jax.semantic_ids.trie import Trie


@struct.dataclass
class Filters:
    """Subsets of a catalogue, such as the items in stock; a search takes one for each request.

    Filter 0 leaves nothing out. A filter takes two bits an item, and what the upper levels take.

    Attributes:
      open_edges: for each level, the tables of its `open_table`, [J, ...] each.
      open_JQ: uint32; a bit for each row.
      before_JQ: int32; number of open rows before each block.
    """

    open_edges: tuple[tuple[jax.Array, ...], ...]
    open_JQ: jax.Array
    before_JQ: jax.Array

    @classmethod
    def build(cls, trie: Trie, is_open_JN: Sequence[np.ndarray]) -> "Filters":
        """Filter 0, and one for each of the given subsets.

        Args:
          trie: the catalogue; its `updated` successor needs filters of its own.
          is_open_JN: for each filter, bool [N + 1], whether it leaves each item number in.
        """
        items_N = np.asarray(trie.items_N)[: trie.num_items]
        subsets = [np.ones(len(items_N), bool)]
        subsets += [np.asarray(is_open_N, bool)[items_N] for is_open_N in is_open_JN]
        built = [_tables(trie, is_open_N) for is_open_N in subsets]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *built)

    def rank(self, filter_B: jax.Array, rows: jax.Array) -> jax.Array:
        """Rows [B, ...] -> number of rows before that the filter of each request leaves in."""
        which = filter_B.reshape(-1, *(1,) * (rows.ndim - 1))
        block, place = rows // bits.BLOCK, rows % bits.BLOCK
        earlier = (jnp.uint32(1) << place.astype(jnp.uint32)) - 1
        in_block = jax.lax.population_count(jnp.asarray(self.open_JQ)[which, block] & earlier)
        return jnp.asarray(self.before_JQ)[which, block] + in_block.astype(jnp.int32)


@struct.dataclass
class Restriction:
    """What the requests of a batch leave out.

    Attributes:
      filters: of the catalogue; None for no filter at all.
      filter_B: int32; which filter holds for each request.
      denied_BDI: IDs of the items denied to each request, in the order of their rows, each once;
        -1 behind the last. None where nothing is denied.
    """

    filters: Filters | None = None
    filter_B: jax.Array | None = None
    denied_BDI: jax.Array | None = None

    def open_edges(self, level: int, like: jax.Array) -> tuple | None:
        """What `Trie.allowed` wants for nodes of the shape of `like`, [B, M]."""
        if self.filters is None:
            return None
        which = jnp.broadcast_to(self.filter_B[:, None], like.shape)
        return self.filters.open_edges[level], which

    def is_left(self, trie: Trie, rows_BX: jax.Array) -> jax.Array:
        """Whether each row is left in the catalogue of its request; row -1 is not."""
        is_left_BX = rows_BX >= 0
        if self.filters is not None:
            rank = functools.partial(self.filters.rank, self.filter_B)
            is_left_BX &= rank(rows_BX + 1) > rank(jnp.maximum(rows_BX, 0))
        if self.denied_BDI is not None:
            denied_BD = trie.walk(self.denied_BDI)[..., -1]
            ascending_BD = jnp.where(denied_BD >= 0, denied_BD, np.iinfo(np.int32).max)
            places_BX = jax.vmap(jnp.searchsorted)(ascending_BD, rows_BX)
            found_BX = jnp.take_along_axis(ascending_BD, places_BX, axis=1, mode="clip")
            is_left_BX &= found_BX != rows_BX
        return is_left_BX

    def closed_edges(self, trie: Trie) -> tuple[jax.Array, jax.Array] | None:
        """Edges below which all is denied or filtered out, by what each denied item leads through.

        Returns:
          Nodes that they leave [B, D, I], -1 where the edge is open; their codes [B, D, I].
        """
        if self.denied_BDI is None:
            return None
        nodes_BDI = trie.walk(self.denied_BDI)
        ranges_BDI = trie.rows_by_prefix(self.denied_BDI)
        rows_BD = nodes_BDI[..., -1]
        is_denied_BD = rows_BD >= 0
        if self.filters is None:
            first_BDI, end_BDI = ranges_BDI
        else:
            rank = functools.partial(self.filters.rank, self.filter_B)
            first_BDI, end_BDI = map(rank, ranges_BDI)
            is_denied_BD &= rank(rows_BD + 1) > rank(jnp.maximum(rows_BD, 0))
        # How many denied items lie below an edge: a difference of running sums.
        before_BD = jnp.pad(jnp.cumsum(is_denied_BD, axis=1), ((0, 0), (1, 0)))
        ascending_BD = jnp.where(rows_BD >= 0, rows_BD, np.iinfo(np.int32).max)
        sums = [_sum_before(ascending_BD, before_BD, rows_BDI) for rows_BDI in ranges_BDI]
        is_closed_BDI = (nodes_BDI >= 0) & (end_BDI - first_BDI == sums[1] - sums[0])
        parents_BDI = jnp.pad(nodes_BDI[..., :-1], ((0, 0), (0, 0), (1, 0)))
        return jnp.where(is_closed_BDI, parents_BDI, -1), self.denied_BDI


def without_closed(
    allowed_BMC: jax.Array,
    nodes_BM: jax.Array,
    level: int,
    parents_BDI: jax.Array,
    codes_BDI: jax.Array,
) -> jax.Array:
    """The codes that may follow different nodes, less the `closed_edges`."""
    is_parent_BDM = parents_BDI[:, :, level, None] == nodes_BM[:, None, :]
    is_parent_BDM &= nodes_BM[:, None, :] >= 0
    missing = nodes_BM.shape[1]
    beam_BD = jnp.where(is_parent_BDM.any(-1), is_parent_BDM.argmax(-1), missing)
    batch_B1 = jnp.arange(len(nodes_BM))[:, None]
    return allowed_BMC.at[batch_B1, beam_BD, codes_BDI[..., level]].set(False, mode="drop")


def _tables(trie: Trie, is_open_N: np.ndarray) -> Filters:
    """One filter; is_open_N by row."""
    num_nodes, degrees = 1, []
    for level in trie.levels:
        degrees.append(level.degrees(num_nodes))
        num_nodes = int(degrees[-1].sum())
    open_edges = []
    is_open_X = is_open_N
    for level, degrees_P in zip(reversed(trie.levels), reversed(degrees), strict=True):
        open_edges.append(level.open_table(is_open_X, len(trie.items_N)))
        is_open_X = np.logical_or.reduceat(is_open_X, np.cumsum(degrees_P) - degrees_P)
    # One word more: the end of the last row's range may be the first bit of another block.
    open_Q = bits.pack_bits(is_open_N, len(trie.items_N) + bits.WORD)
    counts_Q = np.bitwise_count(open_Q).astype(np.int32)
    before_Q = np.cumsum(counts_Q, dtype=np.int32) - counts_Q
    return Filters(tuple(reversed(open_edges)), open_Q, before_Q)


def _sum_before(ascending_BD: jax.Array, sums_BD: jax.Array, rows_BDI: jax.Array) -> jax.Array:
    """The running sum at the first of `ascending_BD` that is not below each of `rows_BDI`."""
    wanted_BX = rows_BDI.reshape(len(rows_BDI), -1)
    places_BX = jax.vmap(jnp.searchsorted)(ascending_BD, wanted_BX)
    return jnp.take_along_axis(sums_BD, places_BX, axis=1).reshape(rows_BDI.shape)
