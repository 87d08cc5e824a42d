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


def assemble(data: dict[str, jax.Array], rows_B: jax.Array, capacity: int) -> dict[str, jax.Array]:
    """The batch of examples `rows_B`, whose histories hold at most `capacity` items.

    Encoder input: the user token, then the tokens of the history's items, oldest first, then
    padding: [B, 1 + capacity * I]. Target: the tokens of the next item [B, I]. Where examples have
    many targets, the items that follow each item of the history, [B, capacity, I], and the number
    of encoder positions up to that item, 0 where nothing is to be predicted, [B, capacity].
    """
    places = jnp.arange(capacity)[None]
    targets, lengths = data["targets"][rows_B][:, None], data["lengths"][rows_B][:, None]
    starts = targets - lengths
    items = jnp.where(places < lengths, data["items"][starts + places], 0)
    tokens = data["tokens_NI"][items].reshape(len(rows_B), -1)
    if "user_tokens" in data:
        tokens = jnp.concatenate([data["user_tokens"][rows_B][:, None], tokens], axis=1)
    batch = {"encoder_input_tokens": tokens}
    if "num_targets" not in data:
        next_items = data["items"][targets[:, 0]]
        return batch | {"decoder_target_tokens": data["tokens_NI"][next_items]}
    is_target = (places < lengths) & (places >= lengths - data["num_targets"][rows_B][:, None])
    next_items = jnp.where(is_target, data["items"][starts + places + 1], 0)
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
