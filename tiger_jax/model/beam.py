"""Beam search for the Semantic IDs of the next item, over a catalogue or free.

As many steps as an ID has parts, unrolled: nothing ends early. Scores are the model's own
log-probabilities, the same that training maximises, taken before any masking and in float32.
Which item an ID is, it does not know.
"""

import jax
import jax.numpy as jnp
from flax import struct

from tiger_jax.model.model import TigerModel
from tiger_jax.semantic_ids.trie import Trie
from tiger_jax.vocabulary import PAD


def constrained_search(
    model: TigerModel,
    params: dict,
    trie: Trie,
    encoder_input_tokens_BS: jax.Array,
    num_beams: int,
) -> tuple[jax.Array, jax.Array]:
    """The items that a beam over the valid prefixes finds, best first.

    Wherever the beam is at least as wide as every level of the trie it is exact: all items, in
    the order of log p(item). Equal scores keep the order of the beams, then that of the codes.

    Args:
      model: the network and its vocabulary.
      params: its parameters.
      trie: the catalogue; its widths are those of the vocabulary.
      encoder_input_tokens_BS: user token and history, 0 is padding.
      num_beams: M; may be larger than the catalogue.

    Returns:
      rows_BM: the trie's rows of items; -1 where the catalogue has no more.
      scores_BM: log p(item), nats, float32; -inf there.
    """
    source = _apply(model, params, encoder_input_tokens_BS, method="start_decoding")
    beams = _first_beams(len(encoder_input_tokens_BS))
    nodes_BM = jnp.zeros_like(beams.tokens_BM)
    for level, offset in enumerate(model.vocabulary.level_offsets.tolist()):
        states_BMD, block = _apply(
            model, params, beams.tokens_BM, source, beams.past, method="decode_step"
        )
        log_probs_BMC = _level_log_probs(model, params, states_BMD, level)
        allowed_BMC = trie.allowed(level, nodes_BM)
        log_probs_BMC = jnp.where(allowed_BMC, log_probs_BMC, -jnp.inf)
        beams, parents_BM, codes_BM = _grow(beams, block, log_probs_BMC, num_beams, offset)
        nodes_BM = trie.child(level, _of_parents(nodes_BM, parents_BM), codes_BM)
    missing = ((0, 0), (0, num_beams - nodes_BM.shape[1]))
    return (
        jnp.pad(nodes_BM, missing, constant_values=-1),
        jnp.pad(beams.scores_BM, missing, constant_values=-jnp.inf),
    )


def free_search(
    model: TigerModel, params: dict, encoder_input_tokens_BS: jax.Array, num_beams: int
) -> tuple[jax.Array, jax.Array]:
    """The same search over all sequences of tokens, valid or not (TIGER sections 3.2 and 4.5).

    Every token that the loss normalises over may follow any other: the whole vocabulary, or the
    level's own where the model is trained so.

    Args:
      model: the network and its vocabulary.
      params: its parameters.
      encoder_input_tokens_BS: user token and history, 0 is padding.
      num_beams: M.

    Returns:
      tokens_BMI: different sequences of tokens, best first; 0 in unused slots.
      scores_BM: log p of the sequence, nats, float32; -inf where there are no more.
    """
    source = _apply(model, params, encoder_input_tokens_BS, method="start_decoding")
    beams = _first_beams(len(encoder_input_tokens_BS))
    tokens_BMI = jnp.zeros((*beams.tokens_BM.shape, 0), jnp.int32)
    for level, offset in enumerate(model.vocabulary.level_offsets.tolist()):
        states_BMD, block = _apply(
            model, params, beams.tokens_BM, source, beams.past, method="decode_step"
        )
        if model.normalize == "full":
            log_probs_BMV = jax.nn.log_softmax(_apply(model, params, states_BMD, method="logits"))
            first_token = 0
        else:
            log_probs_BMV = _level_log_probs(model, params, states_BMD, level)
            first_token = offset
        beams, parents_BM, _ = _grow(beams, block, log_probs_BMV, num_beams, first_token)
        tokens_BMI = jnp.concatenate(
            [_of_parents(tokens_BMI, parents_BM), beams.tokens_BM[..., None]], axis=-1
        )
    missing = ((0, 0), (0, num_beams - beams.tokens_BM.shape[1]))
    return (
        jnp.pad(tokens_BMI, (*missing, (0, 0)), constant_values=PAD),
        jnp.pad(beams.scores_BM, missing, constant_values=-jnp.inf),
    )


@struct.dataclass
class _Beams:
    """What the search keeps of its M best prefixes.

    Attributes:
      tokens_BM: the last token of each.
      scores_BM: log p of each, -inf where there are fewer than M.
      past: for each step so far, its self-attention blocks and the row in them that each beam
        descends from; see `TigerNetwork.decode_step`.
    """

    tokens_BM: jax.Array
    scores_BM: jax.Array
    past: tuple


def _first_beams(batch_size: int) -> _Beams:
    """One beam for each user, the empty prefix; the decoder starts on padding."""
    shape = (batch_size, 1)
    return _Beams(jnp.full(shape, PAD, jnp.int32), jnp.zeros(shape, jnp.float32), ())


def _grow(
    beams: _Beams, block: list, log_probs_BMV: jax.Array, num_beams: int, first_token: int
) -> tuple[_Beams, jax.Array, jax.Array]:
    """The best continuations of all beams.

    `top_k` takes the lower index of equals: ties go by beam, then by code.

    Returns:
      The grown beams; the beam that each grew from; the column of `log_probs_BMV` it chose.
    """
    batch, num_parents, width = log_probs_BMV.shape
    candidates_BX = (beams.scores_BM[..., None] + log_probs_BMV).reshape(batch, -1)
    scores_BM, chosen_BM = jax.lax.top_k(candidates_BX, min(num_beams, num_parents * width))
    parents_BM, columns_BM = chosen_BM // width, chosen_BM % width
    past = [(earlier, _of_parents(ancestors, parents_BM)) for earlier, ancestors in beams.past]
    past = (*past, (block, parents_BM))
    return _Beams(columns_BM + first_token, scores_BM, past), parents_BM, columns_BM


def _level_log_probs(
    model: TigerModel, params: dict, states_BMD: jax.Array, level: int
) -> jax.Array:
    """log p of a level's own tokens, float32 [B, M, C]; the normaliser is that of the loss."""
    offset = int(model.vocabulary.level_offsets[level])
    size = model.vocabulary.codebook_sizes[level]
    if model.normalize == "level":
        logits_BMC = _apply(model, params, states_BMD, offset, size, method="logits_of")
        return jax.nn.log_softmax(logits_BMC)
    logits_BMV = _apply(model, params, states_BMD, method="logits")
    normaliser_BM = jax.nn.logsumexp(logits_BMV, axis=-1, keepdims=True)
    return logits_BMV[..., offset : offset + size] - normaliser_BM


def _of_parents(x: jax.Array, parents_BM: jax.Array) -> jax.Array:
    """Rows [B, M, ...] of the beams that the new ones grew from."""
    index = parents_BM.reshape(*parents_BM.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="promise_in_bounds")


def _apply(model: TigerModel, params: dict, *arguments, method: str):
    return model.module.apply({"params": params}, *arguments, method=method)
