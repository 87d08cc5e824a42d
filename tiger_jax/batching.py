"""Examples in item numbers -> batches of tokens, put together on the device.

Which examples make a batch, data/examples.py says.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tiger_jax.data import examples
from tiger_jax.data.sequences import Sequences
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary


def device_data(
    training: examples.Examples,
    sequences: Sequences,
    table: SemanticIdTable,
    vocab: Vocabulary,
    soft_targets: SoftTargets | None = None,
) -> dict[str, jax.Array]:
    """All that batches need, on the device: item numbers, user tokens, tokens of items.

    And of soft targets, where there are some, the items and their shares.
    """
    data = {
        "items": training.items,
        "targets": training.targets,
        "lengths": training.lengths,
        "tokens_NI": vocab.token_table(table.semantic_ids_NI),
    }
    if training.num_targets is not None:
        data["num_targets"] = training.num_targets
    if vocab.num_user_tokens:
        imagined = soft_targets.imagined if soft_targets is not None else ()
        user_ids = [*sequences.user_ids, *(f"imagined {row}" for row in range(len(imagined)))]
        data["user_tokens"] = vocab.user_tokens(user_ids)[training.user_rows]
    if soft_targets is not None:
        data |= {"expected_items": soft_targets.items_PQ, "shares": soft_targets.shares_PQ}
    return jax.tree.map(jnp.asarray, data)


def planned(
    training: examples.Examples,
    vocab: Vocabulary,
    batch_size: int,
    num_groups: int,
    seed: int,
    multiple: int = 1,
) -> tuple[examples.LengthGroups | examples.Packing, Callable[[int], np.ndarray]]:
    """What batches are made of, and epoch -> the batches of it; packed where targets are many.

    Args:
      training: the examples.
      vocab: tells how many tokens one has.
      batch_size: examples in a batch, or rows of packed ones.
      num_groups, multiple: of `examples.length_groups`, where they are not packed.
      seed: of the order.
    """
    if training.num_targets is None:
        groups = examples.length_groups(training.lengths, batch_size, num_groups, multiple)
        return groups, functools.partial(examples.epoch_plan, training.lengths, groups, seed)
    sizes = training.lengths * vocab.id_length + bool(vocab.num_user_tokens)
    packed = examples.packing(sizes, batch_size)
    return packed, functools.partial(examples.packed_plan, sizes, packed, seed)


def assemble(
    data: dict[str, jax.Array],
    rows_B: jax.Array,
    capacity: int,
    order_noise: float = 0.0,
    key: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The batch of examples `rows_B`, whose histories hold at most `capacity` items.

    Encoder input: the user token, then the tokens of the history's items, oldest first, then
    padding: [B, 1 + capacity * I]. Target: the tokens of the next item [B, I]. Where examples have
    many targets, the items that follow each item of the history, [B, capacity, I], and the number
    of encoder positions up to that item, 0 where nothing is to be predicted, [B, capacity]. And
    the place of each target in `Examples.items`, whatever the noise puts there; 0 for none.

    Args:
      data: from `device_data`.
      rows_B: numbers of examples.
      capacity: room for items of a history.
      order_noise: the items of an example, targets among them, stand in the order of their places
        plus normal noise of this standard deviation.
      key: of the noise.
    """
    places_1W = jnp.arange(capacity + 1)[None]
    places = places_1W[:, :-1]
    targets, lengths = data["targets"][rows_B][:, None], data["lengths"][rows_B][:, None]
    items_BW = data["items"][targets - lengths + places_1W]
    if order_noise:
        noise_BW = order_noise * jax.random.normal(key, items_BW.shape)
        # What is no item of the example stays behind.
        noisy_places_BW = jnp.where(places_1W <= lengths, places_1W + noise_BW, jnp.inf)
        order_BW = jnp.argsort(noisy_places_BW, axis=1)
        items_BW = jnp.take_along_axis(items_BW, order_BW, axis=1)
    items = jnp.where(places < lengths, items_BW[:, :-1], 0)
    tokens = data["tokens_NI"][items].reshape(len(rows_B), -1)
    if "user_tokens" in data:
        tokens = jnp.concatenate([data["user_tokens"][rows_B][:, None], tokens], axis=1)
    batch = {"encoder_input_tokens": tokens}
    if "num_targets" not in data:
        next_items = jnp.take_along_axis(items_BW, lengths, axis=1)[:, 0]
        return batch | {
            "decoder_target_tokens": data["tokens_NI"][next_items],
            "places": targets[:, 0],
        }
    is_target = (places < lengths) & (places >= lengths - data["num_targets"][rows_B][:, None])
    next_items = jnp.where(is_target, items_BW[:, 1:], 0)
    num_padding = (capacity - 1 - places) * data["tokens_NI"].shape[1]
    return batch | {
        "decoder_target_tokens": data["tokens_NI"][next_items],
        "places": jnp.where(is_target, targets - lengths + 1 + places, 0),
        "num_visible": jnp.where(is_target, tokens.shape[1] - num_padding, 0),
    }


def parts(
    data: dict[str, jax.Array],
    composition: examples.LengthGroups | examples.Packing,
    rows_B: jax.Array,
    order_noise: float,
    key: jax.Array,
) -> Iterator[dict[str, jax.Array]]:
    """The batches that the examples of a step make: one of each length group, or one packed.

    Args:
      data: from `device_data`.
      composition: what `rows_B` was planned with.
      rows_B: numbers of examples, as the plans of data/examples.py have them.
      order_noise: see `assemble`.
      key: of the noise; as many numbers as there are parts are left to others who fold them in.
    """
    if isinstance(composition, examples.Packing):
        capacity = composition.room // data["tokens_NI"].shape[1]
        noise_key = jax.random.fold_in(key, 1)
        batch = assemble(data, jnp.maximum(rows_B, 0), capacity, order_noise, noise_key)
        exists_B1 = rows_B[:, None] >= 0
        batch["encoder_input_tokens"] *= exists_B1
        batch["num_visible"] *= exists_B1
        yield pack(batch, composition)
        return
    bounds = np.cumsum((0, *composition.sizes))
    for index, capacity in enumerate(composition.capacities):
        rows = rows_B[bounds[index] : bounds[index + 1]]
        noise_key = jax.random.fold_in(key, len(composition.sizes) + index)
        yield assemble(data, rows, capacity, order_noise, noise_key)


def pack(batch: dict[str, jax.Array], packed: examples.Packing) -> dict[str, jax.Array]:
    """The examples of a batch as fewer rows, one after another, without their padding.

    Args:
      batch: of examples with many targets, `most` for each row; those without tokens are none.
      packed: how many, and the rows' size.

    Returns:
      What `assemble` does, [R, room] and [R, G, I]; with "encoder_segment_ids" [R, room], which
      example of its row a token belongs to, from 1 on, 0 for padding, and "decoder_segment_ids"
      [R, G], the same of a target, as T5X has them. `num_visible` counts from the row's start.
    """
    tokens, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    id_length = targets.shape[-1]
    in_rows = packed.num_rows, packed.most

    def first(x_BY: jax.Array, is_real_BY: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        """What is real of each row, up to `count`, else 0; and its example in the row, from 1."""
        width = is_real_BY.shape[1]
        is_real_RX = is_real_BY.reshape(packed.num_rows, -1)
        order_RX = jnp.argsort(~is_real_RX, axis=1, stable=True)[:, :count]
        is_real_RX = jnp.take_along_axis(is_real_RX, order_RX, axis=1)
        x_RX = x_BY.reshape(packed.num_rows, -1, *x_BY.shape[2:])
        index = order_RX.reshape(*order_RX.shape, *(1,) * (x_RX.ndim - 2))
        is_real = is_real_RX.reshape(index.shape)
        x_RX = jnp.where(is_real, jnp.take_along_axis(x_RX, index, axis=1), 0)
        return x_RX, jnp.where(is_real_RX, order_RX // width + 1, 0)

    lengths_RE = jnp.sum(tokens > 0, axis=1).reshape(in_rows)
    starts_RE = jnp.cumsum(lengths_RE, axis=1) - lengths_RE
    num_visible = batch["num_visible"]
    is_target = num_visible > 0
    num_targets = packed.room // id_length
    packed_tokens, segment_ids = first(tokens, tokens > 0, packed.room)
    packed_targets, target_segment_ids = first(targets, is_target, num_targets)
    packed_places, _ = first(batch["places"], is_target, num_targets)
    ends, _ = first(num_visible + starts_RE.reshape(-1, 1), is_target, num_targets)
    return {
        "encoder_input_tokens": packed_tokens,
        "encoder_segment_ids": segment_ids,
        "decoder_target_tokens": packed_targets,
        "places": packed_places,
        "decoder_segment_ids": target_segment_ids,
        "num_visible": ends,
    }


def taught(
    batch: dict[str, jax.Array], data: dict[str, jax.Array], weight: float, key: jax.Array
) -> dict[str, jax.Array]:
    """The batch with what a teacher expects in the place of every target, beside what came.

    Args:
      batch: from `parts`.
      data: from `device_data`, with soft targets.
      weight: of the teacher; 1 - weight is that of the item that came.
      key: of the draws.

    Returns:
      The batch, in which each "decoder_target_tokens" are an item drawn from that distribution,
      with "expected_tokens" [..., Q + 1, I] and "shares" [..., Q + 1], which say all of it.
    """
    came_I = batch["decoder_target_tokens"]
    expected = data["tokens_NI"][data["expected_items"][batch["places"]]]
    tokens_QI = jnp.concatenate([came_I[..., None, :], expected], axis=-2)
    shares_Q = weight * data["shares"][batch["places"]]
    # Who has seen all items can expect none.
    came_1 = jnp.where(shares_Q.any(axis=-1, keepdims=True), 1 - weight, 1.0)
    shares_Q = jnp.concatenate([came_1, shares_Q], axis=-1)
    drawn = jax.random.categorical(key, jnp.log(shares_Q))[..., None, None]
    return batch | {
        "decoder_target_tokens": jnp.take_along_axis(tokens_QI, drawn, axis=-2)[..., 0, :],
        "expected_tokens": tokens_QI,
        "shares": shares_Q,
    }


def batch_rows(plan, batches_per_epoch: int, first: int, count: int) -> np.ndarray:
    """Examples of the steps first .. first + count - 1: [count, B]; `plan(epoch)` -> batches."""
    steps = range(first, first + count)
    return np.stack([plan(step // batches_per_epoch)[step % batches_per_epoch] for step in steps])
