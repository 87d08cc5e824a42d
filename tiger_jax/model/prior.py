"""A distribution over items, mixed with the model's along the trie, so that the beam follows both.

The probability of a prefix is that of all items below it. It says nothing of where the
distribution comes from, nor of how the model scores.
Shapes: Q items of a request's prior.
"""

import jax
import jax.numpy as jnp
from flax import struct

from tiger_jax.semantic_ids.filters import Restriction
from tiger_jax.semantic_ids.trie import Trie


@struct.dataclass
class Prior:
    """What else is believed of the next item of each request, as counts of co-occurrence say it.

    The two are mixed with a weight w of the prior:

        p(item) = (1 - w) p_model(item) + w p_prior(item).

    Sums over the items below a prefix mix alike, so the search ranks each prefix by

        log p(prefix) = log((1 - w) p_model(prefix) + w p_prior(prefix)),

    which is the former where the prefix is a whole ID: no order of items is approximated. What the
    model gives to IDs of no item it keeps, as without a prior, so that an item scores the same
    whatever else is on sale. With "valid" both sum to one over what is not left out.

    Attributes:
      semantic_ids_BQI: IDs of the items that have any, in any order; -1 in unused places.
      probabilities_BQ: of each, float32; those of one item add up, other items have none.
      weights_B: w of each request, from 0, the model alone, to 1, the prior alone.
    """

    semantic_ids_BQI: jax.Array
    probabilities_BQ: jax.Array
    weights_B: jax.Array

    def along(self, trie: Trie, restriction: Restriction, renormalised: bool) -> "PriorEdges":
        """The same over the edges of a catalogue; items that are left out of it have none.

        Args:
          trie: the catalogue.
          restriction: what is left out.
          renormalised: whether what remains is made to sum to one.
        """
        nodes_BQI = trie.walk(self.semantic_ids_BQI)
        is_left_BQ = restriction.is_left(trie, nodes_BQI[..., -1])
        weighted_BQ = jnp.where(is_left_BQ, self.probabilities_BQ, 0.0)
        if renormalised:
            totals_B1 = weighted_BQ.sum(axis=1, keepdims=True)
            weighted_BQ /= jnp.where(totals_B1 > 0, totals_B1, 1.0)
        return PriorEdges(
            jnp.pad(nodes_BQI[..., :-1], ((0, 0), (0, 0), (1, 0))),
            self.semantic_ids_BQI,
            weighted_BQ * self.weights_B[:, None],
            self.weights_B,
        )


@struct.dataclass
class PriorEdges:
    """A prior, by the edges of the trie that lead to each of its items.

    Attributes:
      parents_BQI: the node that each edge leaves, -1 where there is none.
      codes_BQI: its code.
      weighted_BQ: w p_prior of the item; 0 where it is left out.
      weights_B: w.
    """

    parents_BQI: jax.Array
    codes_BQI: jax.Array
    weighted_BQ: jax.Array
    weights_B: jax.Array

    def mixed(
        self,
        scores_BMC: jax.Array,
        nodes_BM: jax.Array,
        level: int,
        only_code_BM1: jax.Array | None,
    ) -> jax.Array:
        """log p of the continuations of different nodes, of log p_model of each.

        Args:
          scores_BMC: the model's, of all codes, or of the only one of each node.
          nodes_BM: nodes of the level.
          level: which.
          only_code_BM1: as of `Trie.only_code`.
        """
        is_parent_BQM = self.parents_BQI[..., level, None] == nodes_BM[:, None, :]
        is_parent_BQM &= nodes_BM[:, None, :] >= 0
        shares_BQM = jnp.where(is_parent_BQM, self.weighted_BQ[..., None], 0.0)
        if only_code_BM1 is None:
            codes_BQC = jax.nn.one_hot(self.codes_BQI[..., level], scores_BMC.shape[-1])
            shares_BMC = jnp.einsum("BQM,BQC->BMC", shares_BQM, codes_BQC, precision="highest")
        else:
            shares_BMC = shares_BQM.sum(axis=1)[..., None]
        log_weights_B11 = jnp.log1p(-self.weights_B)[:, None, None]
        return jnp.logaddexp(log_weights_B11 + scores_BMC, jnp.log(shares_BMC))
