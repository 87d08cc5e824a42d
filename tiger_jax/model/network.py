"""The T5 encoder-decoder of TIGER section 4: 4 + 4 layers, width 128, 6 heads of 64.

Shapes and parameters only: what is a loss or a search stands in `model.py` and `beam.py`.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tiger_jax.artifacts import InputError, require_at_least, require_shares_below_one
from tiger_jax.model import layers


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network; the paper's stand in gin/model/tiger.gin.

    Attributes:
      vocab_size: rows of the token embedding; at least the vocabulary's size.
      emb_dim: width D of the model.
      num_heads: attention heads H.
      head_dim: width K of a head.
      mlp_dim: width F of the MLP.
      num_encoder_layers: layers of the encoder.
      num_decoder_layers: layers of the decoder.
      dropout_rate: share of activations dropped in training.
      logits_via_embedding: the token embedding is the output layer too ("tied").
      dtype: what the factors of matrix products are rounded to; all else is float32.
      causal_encoder: a token of the history sees itself and older ones alone, so that all items of
        a sequence can be predicted in one pass; in the paper's T5 it sees newer ones as well.
      rematerialise: the backward pass computes the activations of a layer again instead of keeping
        them: less memory for a third more work.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    dropout_rate: float
    logits_via_embedding: bool
    dtype: str = "float32"
    causal_encoder: bool = False
    rematerialise: bool = False

    def __post_init__(self):
        sizes = ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim")
        layers_too = ("num_encoder_layers", "num_decoder_layers")
        require_at_least(1, **{name: getattr(self, name) for name in (*sizes, *layers_too)})
        require_shares_below_one(dropout_rate=self.dropout_rate)
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"dtype is {self.dtype!r}; choose 'float32' or 'bfloat16'")

    def require_shareable(self, model_parts: int, given_by: str) -> None:
        """InputError that begins with `given_by`, unless so many devices can share each parameter.

        A device then has a part of the heads, of the vocabulary and of the MLP's width.
        """
        for name in ("num_heads", "vocab_size", "mlp_dim"):
            size = getattr(self, name)
            if size % model_parts:
                raise InputError(
                    f"{given_by}: {name} = {size} does not divide by {model_parts}; choose "
                    "another, or another size"
                )

    def attention(self) -> layers.Attention:
        """An attention layer of these sizes."""
        return layers.Attention(
            self.num_heads, self.head_dim, self.emb_dim, self.dropout_rate, jnp.dtype(self.dtype)
        )

    def mlp(self) -> layers.Mlp:
        """An MLP of these sizes."""
        return layers.Mlp(self.mlp_dim, self.emb_dim, self.dropout_rate, jnp.dtype(self.dtype))

    def norm(self) -> layers.RmsNorm:
        """A layer norm."""
        return layers.RmsNorm()

    def stack(self, layer: type[nn.Module], count: int) -> list[nn.Module]:
        """Layers of the encoder or the decoder."""
        if self.rematerialise:
            # The last argument of a layer, enable_dropout, is no array.
            last = len(inspect.signature(layer.__call__).parameters) - 1
            layer = nn.remat(layer, static_argnums=(last,))
        return [layer(self) for _ in range(count)]


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    config: NetworkConfig

    def setup(self):
        self.pre_attention_layer_norm = self.config.norm()
        self.attention = self.config.attention()
        self.pre_mlp_layer_norm = self.config.norm()
        self.mlp = self.config.mlp()
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def __call__(self, x_BSD, bias_BHSS, enable_dropout: bool):
        """[B, S, D] -> [B, S, D]."""
        normed = self.pre_attention_layer_norm(x_BSD)
        attended = self.attention(normed, normed, bias_BHSS, enable_dropout)
        x_BSD = x_BSD + self.dropout(attended, enable_dropout)
        hidden = self.mlp(self.pre_mlp_layer_norm(x_BSD), enable_dropout)
        return x_BSD + self.dropout(hidden, enable_dropout)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder, MLP; each with norm before and residual around."""

    config: NetworkConfig

    def setup(self):
        self.pre_self_attention_layer_norm = self.config.norm()
        self.self_attention = self.config.attention()
        self.pre_cross_attention_layer_norm = self.config.norm()
        self.encoder_decoder_attention = self.config.attention()
        self.pre_mlp_layer_norm = self.config.norm()
        self.mlp = self.config.mlp()
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def __call__(self, y_XTD, encoded_BSD, bias_BHTT, cross_bias_BHTS, enable_dropout: bool):
        """[X, T, D] -> [X, T, D], where X = B * G: G targets in a row share a source."""
        normed = self.pre_self_attention_layer_norm(y_XTD)
        attended = self.self_attention(normed, normed, bias_BHTT, enable_dropout)
        y_XTD = y_XTD + self.dropout(attended, enable_dropout)
        normed = self.pre_cross_attention_layer_norm(y_XTD)
        attended = self.encoder_decoder_attention(
            normed.reshape(len(encoded_BSD), -1, normed.shape[-1]),
            encoded_BSD,
            cross_bias_BHTS,
            enable_dropout,
        ).reshape(normed.shape)
        y_XTD = y_XTD + self.dropout(attended, enable_dropout)
        hidden = self.mlp(self.pre_mlp_layer_norm(y_XTD), enable_dropout)
        return y_XTD + self.dropout(hidden, enable_dropout)

    def step(self, y_BMD, source, source_bias_BHTS, past, bias_HT):
        """One step of M beams: [B, M, D], and their self-attention's keys and values.

        `source` holds the keys and values of the encoder's states; `past` is as in `Attention`.
        """
        normed = self.pre_self_attention_layer_norm(y_BMD)
        attended, own = self.self_attention.attend_ancestors(normed, past, bias_HT)
        y_BMD = y_BMD + attended
        attention = self.encoder_decoder_attention
        queries_BHMK = attention.queries(self.pre_cross_attention_layer_norm(y_BMD))
        attended = attention.attend(queries_BHMK, *source, source_bias_BHTS)
        y_BMD = y_BMD + attention.output(attended)
        return y_BMD + self.mlp(self.pre_mlp_layer_norm(y_BMD)), own


class Encoder(nn.Module):
    """Stack over the user token and the history's ID tokens: bidirectional, or causal."""

    config: NetworkConfig
    embed: layers.TokenEmbedding

    def setup(self):
        self.relpos_bias = layers.RelativePositionBias(
            self.config.num_heads, bidirectional=not self.config.causal_encoder
        )
        self.layers = self.config.stack(EncoderLayer, self.config.num_encoder_layers)
        self.encoder_norm = self.config.norm()
        self.dropout = layers.Dropout(self.config.dropout_rate)

    def __call__(self, tokens_BS: jax.Array, enable_dropout: bool, segments_BS=None) -> jax.Array:
        """Tokens [B, S], 0 is padding -> [B, S, D]; each segment by itself where there are some."""
        length = tokens_BS.shape[1]
        if segments_BS is None:
            hidden = layers.padding_bias(tokens_BS)
        else:
            hidden = layers.segment_bias(segments_BS, segments_BS)
        bias_BHSS = self.relpos_bias(length, length) + hidden
        if self.config.causal_encoder:
            bias_BHSS += layers.causal_bias(length)
        x_BSD = self.dropout(self.embed(tokens_BS), enable_dropout)
        for layer in self.layers:
            x_BSD = layer(x_BSD, bias_BHSS, enable_dropout)
        return self.dropout(self.encoder_norm(x_BSD), enable_dropout)


class Decoder(nn.Module):
    """Causal stack over the target's ID tokens."""

    config: NetworkConfig
    embed: layers.TokenEmbedding

    def setup(self):
        self.relpos_bias = layers.RelativePositionBias(self.config.num_heads, bidirectional=False)
        self.layers = self.config.stack(DecoderLayer, self.config.num_decoder_layers)
        self.decoder_norm = self.config.norm()
        self.dropout = layers.Dropout(self.config.dropout_rate)
        if not self.config.logits_via_embedding:
            self.logits_dense = layers.Dense(
                self.config.vocab_size, ("embed", "vocab"), jnp.dtype(jnp.float32)
            )

    def __call__(self, encoded_BSD, source_bias_BHTS, tokens_XT, enable_dropout: bool) -> jax.Array:
        """Input tokens [X, T] -> normalised states, of which `logits` tells what follows each."""
        length = tokens_XT.shape[1]
        bias_BHTT = self.relpos_bias(length, length) + layers.causal_bias(length)
        y_XTD = self.dropout(self.embed(tokens_XT), enable_dropout)
        for layer in self.layers:
            y_XTD = layer(y_XTD, encoded_BSD, bias_BHTT, source_bias_BHTS, enable_dropout)
        return self.dropout(self.decoder_norm(y_XTD), enable_dropout)

    def read(self, encoded_BSD) -> list[tuple[jax.Array, jax.Array]]:
        """Keys and values [B, H, S, K] of the encoder's states for each layer."""
        return [
            layer.encoder_decoder_attention.keys_and_values(encoded_BSD) for layer in self.layers
        ]

    def step(self, tokens_BM, source, source_bias_BHTS, past):
        """One input token of M beams -> normalised states [B, M, D], keys and values by layer."""
        # Distances count back from this step, the last row of the square.
        bias_HT = self.relpos_bias(len(past) + 1, len(past) + 1)[0, :, -1]
        y_BMD = self.embed(tokens_BM)
        blocks = []
        for index, layer in enumerate(self.layers):
            layer_past = [(*block[index], ancestors) for block, ancestors in past]
            y_BMD, block = layer.step(y_BMD, source[index], source_bias_BHTS, layer_past, bias_HT)
            blocks.append(block)
        return self.decoder_norm(y_BMD), blocks

    def logits(self, y: jax.Array) -> jax.Array:
        """Normalised states [..., D] -> logits [..., V], float32."""
        if self.config.logits_via_embedding:
            return jnp.dot(y, self.embed.embedding.T) / np.sqrt(self.config.emb_dim)
        return self.logits_dense(y)

    def logits_of(self, y: jax.Array, first: int, count: int) -> jax.Array:
        """`logits` of the tokens first .. first + count - 1 alone: [..., count]."""
        if self.config.logits_via_embedding:
            rows = self.embed.embedding[first : first + count]
            return jnp.dot(y, rows.T) / np.sqrt(self.config.emb_dim)
        kernel = self.logits_dense.get_variable("params", "kernel")
        return jnp.dot(y, kernel[:, first : first + count])


class TigerNetwork(nn.Module):
    """Encoder and decoder over one token embedding."""

    config: NetworkConfig

    def setup(self):
        self.token_embedder = layers.TokenEmbedding(self.config.vocab_size, self.config.emb_dim)
        self.encoder = Encoder(self.config, self.token_embedder)
        self.decoder = Decoder(self.config, self.token_embedder)

    def encode(
        self, encoder_input_tokens_BS, enable_dropout: bool = False, segments_BS=None
    ) -> jax.Array:
        """Tokens [B, S], 0 is padding -> [B, S, D]; each segment by itself where there are some."""
        return self.encoder(encoder_input_tokens_BS, enable_dropout, segments_BS)

    def decode(
        self,
        encoded_BSD,
        encoder_input_tokens_BS,
        decoder_input_tokens_XT,
        enable_dropout: bool = False,
        num_visible_BG=None,
        segments=None,
    ) -> jax.Array:
        """States [X, T, D] as of `states`; the encoder's tokens only say where its padding is."""
        id_length = decoder_input_tokens_XT.shape[1]
        if segments is None:
            bias_BHTS = layers.padding_bias(encoder_input_tokens_BS)
        else:
            segments_BS, segments_BG = segments
            bias_BHTS = layers.segment_bias(jnp.repeat(segments_BG, id_length, axis=1), segments_BS)
        if num_visible_BG is not None:
            num_visible_BY = jnp.repeat(num_visible_BG, id_length, axis=1)
            bias_BHTS += layers.prefix_bias(num_visible_BY, encoder_input_tokens_BS.shape[1])
        return self.decoder(encoded_BSD, bias_BHTS, decoder_input_tokens_XT, enable_dropout)

    def __call__(
        self,
        encoder_input_tokens_BS,
        decoder_input_tokens_XT,
        enable_dropout: bool = False,
        num_visible_BG=None,
    ) -> jax.Array:
        """Logits of each target token given those before it, float32 [X, T, V]; see `states`."""
        return self.logits(
            self.states(
                encoder_input_tokens_BS, decoder_input_tokens_XT, enable_dropout, num_visible_BG
            )
        )

    def states(
        self,
        encoder_input_tokens_BS,
        decoder_input_tokens_XT,
        enable_dropout: bool = False,
        num_visible_BG=None,
        segments=None,
    ) -> jax.Array:
        """What the decoder makes of the tokens before each target token, [X, T, D].

        Args:
          encoder_input_tokens_BS: user token and history, 0 is padding.
          decoder_input_tokens_XT: a target for each source; or G for each, X = B * G, those of
            the first source first.
          enable_dropout: whether this is training.
          num_visible_BG: source positions, from the first on, that a target sees; None for all.
            Less than all is a history that ends earlier only where the encoder is causal.
          segments: where a source holds several histories, the numbers of them that its positions
            [B, S] and its targets [B, G] belong to; None where it is one.

        Returns:
          States for `logits` and `logits_of`.
        """
        encoded_BSD = self.encode(
            encoder_input_tokens_BS, enable_dropout, None if segments is None else segments[0]
        )
        return self.decode(
            encoded_BSD,
            encoder_input_tokens_BS,
            decoder_input_tokens_XT,
            enable_dropout,
            num_visible_BG,
            segments,
        )

    def start_decoding(self, encoder_input_tokens_BS) -> tuple:
        """All that `decode_step` wants of the encoder, computed once for all beams."""
        encoded_BSD = self.encode(encoder_input_tokens_BS)
        return self.decoder.read(encoded_BSD), layers.padding_bias(encoder_input_tokens_BS)

    def decode_step(self, tokens_BM, source, past) -> tuple:
        """One step of a search: M beams at a time, each an input token and what it grew from.

        Args:
          tokens_BM: the last token of each beam; padding at the first step, with M = 1.
          source: from `start_decoding`.
          past: (blocks, ancestors_BM) of each earlier step: the blocks that this method returned
            there, and the row in them that each beam descends from, int32.

        Returns:
          States [B, M, D] for `logits` and `logits_of`; blocks of this step, M rows each.
        """
        return self.decoder.step(tokens_BM, *source, past)

    def logits(self, states: jax.Array) -> jax.Array:
        """States [..., D] of `states` or `decode_step` -> logits of the next token, [..., V]."""
        return self.decoder.logits(states)

    def logits_of(self, states: jax.Array, first: int, count: int) -> jax.Array:
        """Those of the tokens first .. first + count - 1 alone, float32 [..., count]."""
        return self.decoder.logits_of(states, first, count)
