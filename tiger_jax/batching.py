"""Examples in item numbers -> batches of tokens, put together on the device.

Which examples make a batch, data/examples.py says.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tiger_jax.data import examples
from tiger_jax.data.sequences import Sequences
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary


def device_data(
    training: examples.Examples, sequences: Sequences, table: SemanticIdTable, vocab: Vocabulary
) -> dict[str, jax.Array]:
    """All that `assemble` needs, on the device: item numbers, user tokens, tokens of items."""
    data = {
        "items": training.items,
        "targets": training.targets,
        "lengths": training.lengths,
        "tokens_NI": vocab.token_table(table.semantic_ids_NI),
    }
    if training.num_targets is not None:
        data["num_targets"] = training.num_targets
    if vocab.num_user_tokens:
        data["user_tokens"] = vocab.user_tokens(sequences.user_ids)[training.user_rows]
    return jax.tree.map(jnp.asarray, data)


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
    of encoder positions up to that item, 0 where nothing is to be predicted, [B, capacity].

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
        return batch | {"decoder_target_tokens": data["tokens_NI"][next_items]}
    is_target = (places < lengths) & (places >= lengths - data["num_targets"][rows_B][:, None])
    next_items = jnp.where(is_target, items_BW[:, 1:], 0)
    num_padding = (capacity - 1 - places) * data["tokens_NI"].shape[1]
    return batch | {
        "decoder_target_tokens": data["tokens_NI"][next_items],
        "num_visible": jnp.where(is_target, tokens.shape[1] - num_padding, 0),
    }


def batch_rows(plan, batches_per_epoch: int, first: int, count: int) -> np.ndarray:
    """Examples of the steps first .. first + count - 1: [count, B]; `plan(epoch)` -> batches."""
    steps = range(first, first + count)
    batches_per_epoch = max(batches_per_epoch, 1)
    return np.stack([plan(step // batches_per_epoch)[step % batches_per_epoch] for step in steps])
