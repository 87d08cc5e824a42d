"""Signs that training goes wrong while the loss still falls (docs/log.md).

Logged with every validation; none of them stops a run.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tiger_jax.model.model import TigerModel, shift_right

_BATCH = 256


def bigram_first_code_loss(
    training: list[np.ndarray],
    last_items: np.ndarray,
    targets: np.ndarray,
    first_codes_N: np.ndarray,
    num_codes: int,
) -> float:
    """Cross-entropy of the target's first code given the last item's, by counting; nats.

    A sequence model whose own first-code loss is not below this has not learned to read its
    history. Counts are smoothed with one code drawn from the overall distribution.

    Args:
      training: item numbers of each training sequence.
      last_items: last item of each validation history, [U].
      targets: the item that follows it, [U].
      first_codes_N: first code of each item number, [N + 1].
      num_codes: size of the first codebook.
    """
    before = first_codes_N[np.concatenate([items[:-1] for items in training])]
    after = first_codes_N[np.concatenate([items[1:] for items in training])]
    counts = np.zeros((num_codes, num_codes))
    np.add.at(counts, (before, after), 1.0)
    overall = (counts.sum(0) + 1.0) / (counts.sum() + num_codes)
    probabilities = (counts + overall) / (counts.sum(1, keepdims=True) + 1.0)
    return float(-np.log(probabilities[first_codes_N[last_items], first_codes_N[targets]]).mean())


def make_validation_losses(model: TigerModel, tokens_US: np.ndarray, targets_UI: np.ndarray):
    """params -> the loss of each part of the ID, with the encoder and with its output zeroed.

    Where the two are alike the decoder ignores the history. Nats, a mean over users, no dropout.

    Args:
      model: the model.
      tokens_US: encoder input of each user.
      targets_UI: tokens of each user's target.
    """

    @jax.jit
    def batch_losses(params, tokens_BS, targets_BT):
        encoded_BSD = model.module.apply({"params": params}, tokens_BS, method="encode")

        def level_losses(encoded_BSD):
            states_BTD = model.module.apply(
                {"params": params}, encoded_BSD, tokens_BS, shift_right(targets_BT), method="decode"
            )
            return model.token_losses(params, states_BTD, targets_BT).sum(axis=0)

        return level_losses(encoded_BSD), level_losses(jnp.zeros_like(encoded_BSD))

    def losses(params) -> tuple[list[float], list[float]]:
        totals = np.zeros((2, targets_UI.shape[1]))
        for first in range(0, len(tokens_US), _BATCH):
            batch = slice(first, first + _BATCH)
            totals += np.stack(batch_losses(params, tokens_US[batch], targets_UI[batch]))
        return tuple((totals / len(tokens_US)).tolist())

    return losses
