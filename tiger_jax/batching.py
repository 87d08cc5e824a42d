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
    if vocab.num_user_tokens:
        data["user_tokens"] = vocab.user_tokens(sequences.user_ids)[training.user_rows]
    return jax.tree.map(jnp.asarray, data)


def assemble(data: dict[str, jax.Array], rows_B: jax.Array, capacity: int) -> dict[str, jax.Array]:
    """The batch of examples `rows_B`, whose histories hold at most `capacity` items.

    Encoder input: the user token, then the tokens of the history's items, oldest first, then
    padding: [B, 1 + capacity * I]. Target: the tokens of the next item [B, I].
    """
    places = jnp.arange(capacity)[None]
    targets, lengths = data["targets"][rows_B][:, None], data["lengths"][rows_B][:, None]
    items = jnp.where(places < lengths, data["items"][targets - lengths + places], 0)
    tokens = data["tokens_NI"][items].reshape(len(rows_B), -1)
    if "user_tokens" in data:
        tokens = jnp.concatenate([data["user_tokens"][rows_B][:, None], tokens], axis=1)
    return {
        "encoder_input_tokens": tokens,
        "decoder_target_tokens": data["tokens_NI"][data["items"][targets[:, 0]]],
    }


def batch_rows(plan, batches_per_epoch: int, first: int, count: int) -> np.ndarray:
    """Examples of the steps first .. first + count - 1: [count, B]; `plan(epoch)` -> batches."""
    steps = range(first, first + count)
    batches_per_epoch = max(batches_per_epoch, 1)
    return np.stack([plan(step // batches_per_epoch)[step % batches_per_epoch] for step in steps])
