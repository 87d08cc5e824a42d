"""TIGER as a model: the network with its vocabulary and its loss.

Imports no T5X. The search over the catalogue stands in `beam.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.model import network
from tiger_jax.vocabulary import PAD, Vocabulary


@dataclasses.dataclass(frozen=True)
class TigerModel:
    """The network over a Semantic-ID vocabulary.

    Equal models are one and the same to `jax.jit`: what is compiled for one serves all.

    Attributes:
      config: sizes of the network.
      vocabulary: the token space; must fit into the network's embedding.
      normalize: "full", the loss is a softmax over the whole vocabulary, as in T5X; or "level",
        over the tokens that can stand at that part of an ID. The search scores the same way.

    Raises:
      InputError: the vocabulary is larger than the embedding.
    """

    config: network.NetworkConfig
    vocabulary: Vocabulary
    normalize: str = "full"

    def __post_init__(self):
        if self.vocabulary.size > self.config.vocab_size:
            raise InputError(
                f"NetworkConfig.vocab_size is {self.config.vocab_size}, but the IDs and users "
                f"need {self.vocabulary.size} tokens; raise it"
            )
        if self.normalize not in ("full", "level"):
            raise InputError(f"normalize is {self.normalize!r}; choose 'full' or 'level'")

    @property
    def module(self) -> network.TigerNetwork:
        """The Flax module."""
        return network.TigerNetwork(self.config)

    # One compiled program: op by op it takes seconds.
    @functools.partial(jax.jit, static_argnums=0)
    def init(self, key: jax.Array) -> dict:
        """Random parameters, a tree with T5X's names."""
        inputs = jnp.ones((1, self.vocabulary.id_length + 1), jnp.int32)
        targets = jnp.ones((1, self.vocabulary.id_length), jnp.int32)
        return self.module.init(key, inputs, targets)["params"]

    def param_axes(self) -> dict:
        """Logical names of every parameter's axes, as `flax.linen.partitioning` keeps them."""
        tokens = jnp.ones((1, self.vocabulary.id_length), jnp.int32)
        variables = jax.eval_shape(self.module.init, jax.random.key(0), tokens, tokens)
        return variables["params_axes"]

    def loss_fn(
        self, params: dict, batch: dict[str, jax.Array], dropout_key: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross-entropy of the target items.

        Args:
          params: the parameters.
          batch: `encoder_input_tokens` [B, S] and `decoder_target_tokens`: [B, I], an item for
            each source; or [B, G, I] with `num_visible` [B, G], the source positions that each of G
            items follows, 0 where there is no item. Where several histories stand in a source,
            `encoder_segment_ids` [B, S] and `decoder_segment_ids` [B, G] tell them apart.
          dropout_key: None for no dropout.

        Returns:
          -log p(item), the sum over its tokens, summed over the batch, in nats; and
          {"level_losses": the same sum for each part of the ID, [I]; "num_targets": of how many}.
        """
        targets = batch["decoder_target_tokens"]
        targets_XT = targets.reshape(-1, targets.shape[-1])
        num_visible = batch.get("num_visible")
        segments = None
        if "encoder_segment_ids" in batch:
            segments = batch["encoder_segment_ids"], batch["decoder_segment_ids"]
        states_XTD = self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            shift_right(targets_XT),
            dropout_key is not None,
            num_visible,
            segments,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
            method="states",
        )
        expected = None
        if "shares" in batch:
            tokens = batch["expected_tokens"]
            expected = (
                tokens.reshape(-1, *tokens.shape[-2:]),
                batch["shares"].reshape(-1, tokens.shape[-2]),
            )
        losses_XT = self.token_losses(params, states_XTD, targets_XT, expected)
        num_targets = len(targets_XT)
        if num_visible is not None:
            is_item_X1 = num_visible.reshape(-1, 1) > 0
            losses_XT = jnp.where(is_item_X1, losses_XT, 0.0)
            num_targets = jnp.sum(is_item_X1)
        return jnp.sum(losses_XT), {
            "level_losses": jnp.sum(losses_XT, axis=0),
            "num_targets": num_targets,
        }

    def token_losses(
        self,
        params: dict,
        states_XTD: jax.Array,
        targets_XT: jax.Array,
        expected: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """-log p of each target token, nats [X, T]; T counts from the first part of the ID.

        Args:
          params: the parameters.
          states_XTD: of the network before each target token.
          targets_XT: the tokens.
          expected: tokens [X, Q, T] and shares [X, Q] of Q items, the targets' among them: -log p
            is then the mean over those that begin as the target does.
        """
        variables = {"params": params}
        if expected is None:
            tokens_XQT, shares_XQT = targets_XT[:, None], jnp.ones_like(targets_XT[:, None])
        else:
            tokens_XQT, shares_XQ = expected
            shares_XQT = shares_below(targets_XT, tokens_XQT, shares_XQ)
        if self.normalize == "full":
            logits_XTV = self.module.apply(variables, states_XTD, method="logits")
            return _cross_entropy(logits_XTV, tokens_XQT.swapaxes(1, 2), shares_XQT.swapaxes(1, 2))
        offsets = self.vocabulary.level_offsets.tolist()
        levels = []
        for level, size in enumerate(self.vocabulary.codebook_sizes):
            # Logits that are in no sum are not computed: users alone are two thirds of all tokens.
            logits_XC = self.module.apply(
                variables, states_XTD[:, level], offsets[level], size, method="logits_of"
            )
            # Slots without an item hold padding, which is no code.
            codes_XQ = jnp.maximum(tokens_XQT[..., level] - offsets[level], 0)
            levels.append(_cross_entropy(logits_XC, codes_XQ, shares_XQT[..., level]))
        return jnp.stack(levels, axis=1)


def shift_right(targets_BT: jax.Array) -> jax.Array:
    """Decoder inputs: padding as the start token, then all targets but the last."""
    return jnp.pad(targets_BT[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)


def num_parameters(params: dict) -> int:
    """Number of scalars in a parameter tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def shares_below(targets_XT: jax.Array, tokens_XQT: jax.Array, shares_XQ: jax.Array) -> jax.Array:
    """Share of each of Q items among those that have the target's first tokens, [X, Q, T].

    At part t of an ID those count that agree with the target in all parts before it; their shares
    sum to 1.
    """
    agrees_XQT = tokens_XQT == targets_XT[:, None]
    begins_XQT = jnp.cumprod(agrees_XQT, axis=-1)
    begins_XQT = jnp.pad(begins_XQT[..., :-1], ((0, 0), (0, 0), (1, 0)), constant_values=1)
    shares_XQT = shares_XQ[..., None] * begins_XQT
    totals_X1T = jnp.sum(shares_XQT, axis=1, keepdims=True)
    return shares_XQT / jnp.maximum(totals_X1T, np.finfo(np.float32).tiny)


def _cross_entropy(logits: jax.Array, tokens: jax.Array, shares: jax.Array) -> jax.Array:
    """-log softmax(logits) of Q tokens, by their shares: [..., V], [..., Q], [..., Q] -> [...]."""
    picked = jnp.take_along_axis(logits, tokens, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(shares * picked, axis=-1)
