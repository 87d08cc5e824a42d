"""Beam search for the Semantic IDs of the next item, over a catalogue or free.

As many steps as an ID has parts, unrolled: nothing ends early. Scores are the model's own
log-probabilities, the same that training maximises, taken before any masking and in float32.
Which item an ID is, it does not know.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from tiger_jax.model.model import TigerModel
from tiger_jax.model.prior import Prior
from tiger_jax.semantic_ids.filters import Restriction, without_closed
from tiger_jax.semantic_ids.trie import Trie
from tiger_jax.vocabulary import PAD


@struct.dataclass
class Sampling:
    """Items drawn without replacement: stochastic beam search (Kool et al., arXiv:1903.06059).

    A step draws from softmax(log p / temperature) over the tokens that may follow, so that the
    temperatures of the levels are the diversity of TIGER section 4.3: a high first one varies the
    coarse meaning, a high later one the finer. With M beams the items are the first M of as many
    draws as there are items, each from what the draws before have left.

    Attributes:
      keys_B: a random key for each request.
      temperatures_I: of each level, above 0, float32.
    """

    keys_B: jax.Array
    temperatures_I: jax.Array


def constrained_search(
    model: TigerModel,
    params: dict,
    trie: Trie,
    encoder_input_tokens_BS: jax.Array,
    num_beams: int,
    normalize: str | None = None,
    restriction: Restriction | None = None,
    sampling: Sampling | None = None,
    prior: Prior | None = None,
    top_k: Callable = jax.lax.top_k,
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
      normalize: what the probabilities of a step sum to one over: "full", the vocabulary;
        "level", the level's tokens; "valid", those that may follow the prefix, which ranks
        otherwise than training does. Where None, what the model was trained with.
      restriction: what is left out of the catalogue; the rest is found as if it were all.
      sampling: draws items instead of taking the best.
      prior: another distribution over items; the beam follows, and the scores are, the mixture's.
      top_k: another way to do what `jax.lax.top_k` does, for readers of exported programs that
        do not know it.

    Returns:
      rows_BM: the trie's rows of items; -1 where the catalogue has no more.
      scores_BM: log p(item), nats, float32; -inf there. Drawn items come in the order of their
        draws; their scores are the model's too, without temperature.
    """
    normalize = normalize or model.normalize
    restriction = restriction or Restriction()
    closed_edges = restriction.closed_edges(trie)
    prior_edges = None if prior is None else prior.along(trie, restriction, normalize == "valid")
    source = _apply(model, params, encoder_input_tokens_BS, method="start_decoding")
    beams = _first_beams(len(encoder_input_tokens_BS))
    nodes_BM = jnp.zeros_like(beams.tokens_BM)
    draws = None if sampling is None else _Draws(beams.scores_BM, beams.scores_BM)
    for level, offset in enumerate(model.vocabulary.level_offsets.tolist()):
        states_BMD, block = _apply(
            model, params, beams.tokens_BM, source, beams.past, method="decode_step"
        )
        allowed_BMC = trie.allowed(level, nodes_BM, restriction.open_edges(level, nodes_BM))
        if closed_edges is not None:
            allowed_BMC = without_closed(allowed_BMC, nodes_BM, level, *closed_edges)
        log_probs_BMC = _level_log_probs(model, params, states_BMD, level, normalize)
        log_probs_BMC = log_probs_BMC[..., : allowed_BMC.shape[-1]]
        log_probs_BMC = jnp.where(allowed_BMC, log_probs_BMC, -jnp.inf)
        if normalize == "valid":
            log_probs_BMC = _log_softmax(log_probs_BMC)
        only_code_BM1 = trie.only_code(level, nodes_BM)
        if only_code_BM1 is not None:
            log_probs_BMC = jnp.take_along_axis(log_probs_BMC, only_code_BM1, axis=-1)
        scores_BMC = mixed_BMC = beams.scores_BM[..., None] + log_probs_BMC
        if prior_edges is not None:
            # Of a prefix's continuations, log p up to a constant that a draw's softmax takes away.
            log_probs_BMC = mixed_BMC = prior_edges.mixed(
                scores_BMC, nodes_BM, level, only_code_BM1
            )
        if sampling is None:
            chosen = _choose(mixed_BMC, num_beams, top_k)
        else:
            draws = _draw(draws, log_probs_BMC, sampling, level)
            chosen = _choose(draws.perturbed, num_beams, top_k)
            draws = jax.tree.map(chosen.of, draws)
        codes_BM = chosen.columns_BM
        if only_code_BM1 is not None:
            codes_BM = chosen.of(only_code_BM1)
        beams = beams.grown(chosen, block, codes_BM + offset, chosen.of(scores_BMC))
        nodes_BM = trie.child(level, chosen.of_parents(nodes_BM), codes_BM)
        # What is left out of the catalogue has nodes as well.
        mixed_BM = chosen.of(mixed_BMC)
        nodes_BM = jnp.where(jnp.isfinite(mixed_BM), nodes_BM, -1)
    missing = ((0, 0), (0, num_beams - nodes_BM.shape[1]))
    return (
        jnp.pad(nodes_BM, missing, constant_values=-1),
        jnp.pad(mixed_BM, missing, constant_values=-jnp.inf),
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
            log_probs_BMV = _level_log_probs(model, params, states_BMD, level, "level")
            first_token = offset
        scores_BMV = beams.scores_BM[..., None] + log_probs_BMV
        chosen = _choose(scores_BMV, num_beams)
        tokens_BM = chosen.columns_BM + first_token
        beams = beams.grown(chosen, block, tokens_BM, chosen.of(scores_BMV))
        tokens_BMI = jnp.concatenate([chosen.of_parents(tokens_BMI), tokens_BM[..., None]], axis=-1)
    missing = ((0, 0), (0, num_beams - beams.tokens_BM.shape[1]))
    return (
        jnp.pad(tokens_BMI, (*missing, (0, 0)), constant_values=PAD),
        jnp.pad(beams.scores_BM, missing, constant_values=-jnp.inf),
    )


@struct.dataclass
class _Chosen:
    """The best of all continuations of all beams: whose each is, and which.

    Attributes:
      parents_BM: the beam that each continues.
      columns_BM: its place among that beam's continuations.
    """

    parents_BM: jax.Array
    columns_BM: jax.Array

    def of_parents(self, x: jax.Array) -> jax.Array:
        """Rows [B, M, ...] of the beams that are continued."""
        index = self.parents_BM.reshape(*self.parents_BM.shape, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1, mode="promise_in_bounds")

    def of(self, x_BMC: jax.Array) -> jax.Array:
        """What belongs to the chosen ones: [B, M, C] -> [B, M]; C is 1 where a beam has it all."""
        width = x_BMC.shape[-1]
        flat_BX = x_BMC.reshape(len(x_BMC), -1)
        places_BM = self.parents_BM * width + jnp.minimum(self.columns_BM, width - 1)
        return jnp.take_along_axis(flat_BX, places_BM, axis=1, mode="promise_in_bounds")


def _choose(ranks_BMC: jax.Array, num_beams: int, top_k: Callable = jax.lax.top_k) -> _Chosen:
    """The continuations of highest rank.

    `top_k` takes the lower index of equals: ties go by beam, then by code.
    """
    batch, num_parents, width = ranks_BMC.shape
    flat_BX = ranks_BMC.reshape(batch, -1)
    _, places_BM = top_k(flat_BX, min(num_beams, num_parents * width))
    return _Chosen(places_BM // width, places_BM % width)


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

    def grown(self, chosen: _Chosen, block: list, tokens_BM, scores_BM) -> "_Beams":
        """The beams after one more step, whose self-attention made `block`."""
        past = [(earlier, chosen.of_parents(rows_BM)) for earlier, rows_BM in self.past]
        return _Beams(tokens_BM, scores_BM, (*past, (block, chosen.parents_BM)))


def _first_beams(batch_size: int) -> _Beams:
    """One beam for each user, the empty prefix; the decoder starts on padding."""
    shape = (batch_size, 1)
    return _Beams(jnp.full(shape, PAD, jnp.int32), jnp.zeros(shape, jnp.float32), ())


@struct.dataclass
class _Draws:
    """Prefixes, or their continuations, as draws.

    Attributes:
      log_probs: log of the probability to draw an item below.
      perturbed: the same plus Gumbel noise, the largest of the noisy values of all items below.
    """

    log_probs: jax.Array
    perturbed: jax.Array


def _draw(draws: _Draws, log_probs_BMC: jax.Array, sampling: Sampling, level: int) -> _Draws:
    """The continuations [B, M, C] of prefixes [B, M], -inf where there is none.

    Gumbel noise given that the largest of a prefix's continuations is the prefix's own value z:
    g' = -log(exp(-z) - exp(-max g) + exp(-g)), in the stable form of Kool et al., appendix B.3.
    """
    log_q_BMC = _log_softmax(log_probs_BMC / sampling.temperatures_I[level])
    log_q_BMC = draws.log_probs[..., None] + log_q_BMC
    keys_B = jax.vmap(lambda key: jax.random.fold_in(key, level))(sampling.keys_B)
    noise_BMC = jax.vmap(lambda key: jax.random.gumbel(key, log_q_BMC.shape[1:]))(keys_B)
    noisy_BMC = log_q_BMC + noise_BMC
    exists_BMC = jnp.isfinite(log_q_BMC)
    # Which is the largest is asked once, by place: where a compiler computes the noisy values twice
    # and rounds them otherwise, the largest is not what it was, nor the difference to itself 0.
    largest_BM1 = jnp.argmax(noisy_BMC, axis=-1, keepdims=True)
    is_largest_BMC = jax.lax.broadcasted_iota(jnp.int32, noisy_BMC.shape, 2) == largest_BM1
    below_BMC = noisy_BMC - jnp.take_along_axis(noisy_BMC, largest_BM1, axis=-1)
    below_BMC = jnp.where(exists_BMC & ~is_largest_BMC, jnp.minimum(below_BMC, 0.0), -1.0)
    # log(1 - exp(x)) for x < 0.
    log_complement_BMC = jnp.where(
        below_BMC > -0.7, jnp.log(-jnp.expm1(below_BMC)), jnp.log1p(-jnp.exp(below_BMC))
    )
    own_BM1 = draws.perturbed[..., None]
    excess_BMC = jnp.where(exists_BMC, own_BM1 - noisy_BMC + log_complement_BMC, 0.0)
    perturbed_BMC = (
        own_BM1 - jnp.maximum(excess_BMC, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(excess_BMC)))
    )
    # The largest takes the prefix's own value.
    perturbed_BMC = jnp.where(is_largest_BMC, own_BM1, perturbed_BMC)
    return _Draws(log_q_BMC, jnp.where(exists_BMC, perturbed_BMC, -jnp.inf))


def _level_log_probs(
    model: TigerModel, params: dict, states_BMD: jax.Array, level: int, normalize: str
) -> jax.Array:
    """log p of a level's own tokens, float32 [B, M, C], or with "valid" their logits."""
    offset = int(model.vocabulary.level_offsets[level])
    size = model.vocabulary.codebook_sizes[level]
    if normalize == "full":
        logits_BMV = _apply(model, params, states_BMD, method="logits")
        normaliser_BM = jax.nn.logsumexp(logits_BMV, axis=-1, keepdims=True)
        return logits_BMV[..., offset : offset + size] - normaliser_BM
    logits_BMC = _apply(model, params, states_BMD, offset, size, method="logits_of")
    return jax.nn.log_softmax(logits_BMC) if normalize == "level" else logits_BMC


def _log_softmax(x: jax.Array) -> jax.Array:
    """log softmax over the last axis of what is not -inf; all -inf remains so."""
    largest = jnp.max(x, axis=-1, keepdims=True)
    x = x - jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = jnp.sum(jnp.exp(x), axis=-1, keepdims=True)
    return x - jnp.log(jnp.where(total > 0, total, 1.0))


def _apply(model: TigerModel, params: dict, *arguments, method: str):
    return model.module.apply({"params": params}, *arguments, method=method)
