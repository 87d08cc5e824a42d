"""T5 layers: RMS norm, attention with relative position biases, ReLU MLP, token embedding.

Parameters have the names, shapes and logical axes of T5X's own T5, so that either framework
reads the other's checkpoints. Attention is cut into its parts for the search of `beam.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes

from tiger_jax.products import product

_MASKED = -1e10


kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class RmsNorm(nn.Module):
    """T5's layer norm: no mean, no bias."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        scale = param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        normed = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return normed * scale.reshape((1,) * (x.ndim - 1) + (-1,))


class Dense(nn.Module):
    """A linear map without bias."""

    features: int
    axes: tuple[str, str]
    dtype: jnp.dtype
    init: nn.initializers.Initializer = kernel_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., X] -> [..., features]."""
        shape = (x.shape[-1], self.features)
        kernel = param_with_axes("kernel", self.init, shape, jnp.float32, axes=self.axes)
        return product("YX,XF->YF", x.reshape(-1, shape[0]), kernel, self.dtype).reshape(
            *x.shape[:-1], self.features
        )


class Dropout(nn.Module):
    """Dropout with one mask for all positions of a sequence, as in T5X.

    Masks of every position of their own cost a multiple on a CPU.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, enable: bool) -> jax.Array:
        """[..., S, D] -> [..., S, D]; the identity unless `enable`."""
        return nn.Dropout(self.rate, broadcast_dims=(-2,))(x, deterministic=not enable)


class Attention(nn.Module):
    """Multi-head attention.

    T5 does not divide the logits by sqrt(K): the query initialiser holds that factor. Under
    Adafactor with parameter scaling the two are equivalent; under another optimizer they are not.
    """

    num_heads: int
    head_dim: int
    model_dim: int
    dropout_rate: float
    dtype: jnp.dtype

    def setup(self):
        joined = self.num_heads * self.head_dim
        axes = ("embed", "joined_kv")

        def query_init(*args):
            return _attention_init(*args) / np.sqrt(self.head_dim)

        self.query = Dense(joined, axes, self.dtype, query_init)
        self.key = Dense(joined, axes, self.dtype, _attention_init)
        self.value = Dense(joined, axes, self.dtype, _attention_init)
        self.out = Dense(self.model_dim, ("joined_kv", "embed"), self.dtype, _attention_init)
        # Shared by all query positions: [B, H, 1, S].
        self.weight_dropout = Dropout(self.dropout_rate)

    def queries(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, H, T, K]."""
        return self._split_heads(self.query(x_BTD))

    def keys_and_values(self, x_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys and values, [B, H, S, K] each."""
        return self._split_heads(self.key(x_BSD)), self._split_heads(self.value(x_BSD))

    def attend(self, queries_BHTK, keys_BHSK, values_BHSK, bias_BHTS, enable_dropout=False):
        """Softmax of the biased logits, in float32, applied to the values: [B, H, T, K]."""
        logits_BHTS = product("BHTK,BHSK->BHTS", queries_BHTK, keys_BHSK, self.dtype)
        weights_BHTS = self.weight_dropout(jax.nn.softmax(logits_BHTS + bias_BHTS), enable_dropout)
        return product("BHTS,BHSK->BHTK", weights_BHTS, values_BHSK, self.dtype)

    def output(self, attended_BHTK: jax.Array) -> jax.Array:
        """[B, H, T, K] -> [B, T, D]."""
        batch, heads, length, width = attended_BHTK.shape
        joined = attended_BHTK.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)
        return self.out(joined)

    def attend_ancestors(self, x_BMD, past, bias_HT):
        """One step of self-attention of M beams, each to itself and the beams it grew from.

        Args:
          x_BMD: states of the beams at this step.
          past: (keys, values, ancestors_BM) of each earlier step: what this method returned
            there, and the row in it that each beam descends from.
          bias_HT: bias from this step to all steps up to itself.

        Returns:
          [B, M, D], and the keys and values of this step, [B, M, H * K] each.
        """
        # Blocks of earlier steps stay as they are; moving them with every choice costs more.
        own = self._rounded(self.key(x_BMD)), self._rounded(self.value(x_BMD))
        keys, values = zip(
            *((_descend(key, rows), _descend(value, rows)) for key, value, rows in past),
            own,
            strict=True,
        )
        queries_BMHK = self._heads_last(self._rounded(self.query(x_BMD)))
        logits_BMHT = jnp.stack(
            [jnp.sum(queries_BMHK * self._heads_last(key), axis=-1) for key in keys], axis=-1
        )
        weights_BMHT = self._rounded(jax.nn.softmax(logits_BMHT + bias_HT[None, None]))
        attended_BMHK = sum(
            weights_BMHT[..., step, None] * self._heads_last(value)
            for step, value in enumerate(values)
        )
        return self.out(attended_BMHK.reshape(*x_BMD.shape[:2], -1)), own

    def __call__(self, x_BTD, source_BSD, bias_BHTS, enable_dropout: bool = False):
        """Attends from `x_BTD` to `source_BSD`: [B, T, D]."""
        keys, values = self.keys_and_values(source_BSD)
        attended = self.attend(self.queries(x_BTD), keys, values, bias_BHTS, enable_dropout)
        return self.output(attended)

    def _split_heads(self, x: jax.Array) -> jax.Array:
        batch, length, _ = x.shape
        heads = x.reshape(batch, length, self.num_heads, self.head_dim)
        return heads.transpose(0, 2, 1, 3)

    def _rounded(self, x: jax.Array) -> jax.Array:
        """Float32 as precise as the factors of a `product`, which is what `attend` multiplies.

        Compilers may leave out a conversion there and back.
        """
        precision = jnp.finfo(self.dtype)
        return jax.lax.reduce_precision(x, precision.nexp, precision.nmant)

    def _heads_last(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)


class Mlp(nn.Module):
    """wo(relu(wi(x))), TIGER section 4: ReLU in all layers."""

    mlp_dim: int
    model_dim: int
    dropout_rate: float
    dtype: jnp.dtype

    def setup(self):
        self.wi = Dense(self.mlp_dim, ("embed", "mlp"), self.dtype)
        self.wo = Dense(self.model_dim, ("mlp", "embed"), self.dtype)
        self.dropout = Dropout(self.dropout_rate)

    def __call__(self, x: jax.Array, enable_dropout: bool = False) -> jax.Array:
        """[..., D] -> [..., D]."""
        return self.wo(self.dropout(jax.nn.relu(self.wi(x)), enable_dropout))


class TokenEmbedding(nn.Module):
    """The embedding table of all tokens; also the output layer where the two are tied."""

    vocab_size: int
    model_dim: int

    def setup(self):
        shape = (self.vocab_size, self.model_dim)
        init = nn.initializers.normal(stddev=1.0)
        axes = ("vocab", "embed")
        self.embedding = param_with_axes("embedding", init, shape, jnp.float32, axes=axes)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[...] -> [..., D]."""
        return self.embedding[tokens]


class RelativePositionBias(nn.Module):
    """A bias of the attention logits for each head and bucket of token distances (T5)."""

    num_heads: int
    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128

    @nn.compact
    def __call__(self, num_queries: int, num_keys: int) -> jax.Array:
        """Bias [1, H, T, S] between query positions 0..T-1 and key positions 0..S-1."""
        table_HX = param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.num_heads, self.num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        distance_TS = np.arange(num_keys)[None, :] - np.arange(num_queries)[:, None]
        return table_HX[:, self.bucket(distance_TS)][None]

    def bucket(self, distance: np.ndarray) -> np.ndarray:
        """Distances (key minus query) -> buckets: small ones exact, larger ones logarithmic.

        A causal bias has one bucket for all keys behind the query: they are masked.
        """
        num_buckets = self.num_buckets
        if self.bidirectional:
            num_buckets //= 2
            offset = np.where(distance > 0, num_buckets, 0)
            distance = np.abs(distance)
        else:
            offset = 0
            distance = np.maximum(-distance, 0)
        exact = num_buckets // 2
        ratio = np.log(
            np.maximum(distance, 1).astype(np.float32) / exact + np.finfo(np.float32).eps
        )
        scale = (num_buckets - exact) / np.log(self.max_distance / exact)
        large = exact + (ratio * scale).astype(np.int32)
        return offset + np.where(distance < exact, distance, np.minimum(large, num_buckets - 1))


def _descend(x_BMX: jax.Array, rows_BM: jax.Array) -> jax.Array:
    """The rows that beams descend from; a single one is left to broadcast."""
    if x_BMX.shape[1] == 1:
        return x_BMX
    return jnp.take_along_axis(x_BMX, rows_BM[..., None], axis=1, mode="promise_in_bounds")


def padding_bias(tokens_BS: jax.Array) -> jax.Array:
    """Bias [B, 1, 1, S] that hides padding (token 0)."""
    return jnp.where(tokens_BS > 0, 0.0, _MASKED)[:, None, None, :]


def segment_bias(queries_BT: jax.Array, keys_BS: jax.Array) -> jax.Array:
    """Bias [B, 1, T, S] that shows each query the keys of its own segment."""
    is_same_BTS = queries_BT[:, :, None] == keys_BS[:, None, :]
    return jnp.where(is_same_BTS, 0.0, _MASKED)[:, None]


def prefix_bias(num_visible_BT: jax.Array, length: int) -> jax.Array:
    """Bias [B, 1, T, S] that shows each query the first `num_visible` of `length` keys."""
    is_visible_BTS = jnp.arange(length)[None, None] < num_visible_BT[..., None]
    return jnp.where(is_visible_BTS, 0.0, _MASKED)[:, None]


def causal_bias(length: int) -> np.ndarray:
    """Bias [1, 1, T, T] that hides later positions."""
    return np.where(np.tri(length, dtype=bool), 0.0, _MASKED).astype(np.float32)[None, None]
