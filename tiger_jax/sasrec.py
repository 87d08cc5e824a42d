"""SASRec with a softmax over the whole catalogue: the strong model that generates nothing.

Kang and McAuley, "Self-Attentive Sequential Recommendation" (2018), with the loss that others
have found to be worth most since: cross-entropy over all items instead of one negative example.
How it is trained, train_sasrec.py says.
"""

import copy
import dataclasses
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tiger_jax import artifacts, checkpoints, saved_run
from tiger_jax.artifacts import InputError
from tiger_jax.baselines import Baseline, Histories
from tiger_jax.data.sequences import SEQUENCES, Sequences

MODEL = "sasrec"
TRAIN = "python -m tiger_jax.train_sasrec"

_MASKED = -1e10
_EMBEDDING_INIT = nn.initializers.normal(0.02)
# Histories in a call, for which the network is compiled: of one user, of a few, of many.
_BATCH_SIZES = (1, 8, 64, 256)
# What a run has to say of itself.
_SETTINGS = ("model", "network", "items_checksum")


@dataclasses.dataclass(frozen=True)
class SasRecConfig:
    """Sizes of the network.

    Attributes:
      width: of item embeddings and states, D.
      num_layers: transformer layers.
      num_heads: attention heads of a layer; divides the width.
      mlp_dim: width of a layer's MLP.
      dropout_rate: of embeddings, attention weights and what each part adds.
      max_history: items that the network sees, the latest ones.
    """

    width: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    dropout_rate: float
    max_history: int

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        rate = sizes.pop("dropout_rate")
        artifacts.require_at_least(1, **sizes)
        artifacts.require_shares_below_one(dropout_rate=rate)
        if self.width % self.num_heads:
            raise InputError(f"width={self.width}: not a multiple of num_heads={self.num_heads}")


class _Layer(nn.Module):
    """Causal attention and an MLP, each on normalised states and added to what it read."""

    config: SasRecConfig

    @nn.compact
    def __call__(self, states_BSD: jax.Array, training: bool) -> jax.Array:
        config = self.config
        dropout = nn.Dropout(config.dropout_rate, deterministic=not training)
        heads = config.num_heads, config.width // config.num_heads
        normed_BSD = nn.LayerNorm(name="attention_norm")(states_BSD)
        query_BTHK, key_BSHK, value_BSHK = (
            nn.DenseGeneral(heads, name=name)(normed_BSD) for name in ("query", "key", "value")
        )
        logits_BHTS = jnp.einsum("BTHK,BSHK->BHTS", query_BTHK, key_BSHK) / np.sqrt(heads[1])
        length = states_BSD.shape[1]
        causal_TS = np.tri(length, dtype=bool)
        logits_BHTS = jnp.where(causal_TS[None, None], logits_BHTS, _MASKED)
        weights_BHTS = dropout(jax.nn.softmax(logits_BHTS))
        mixed_BTHK = jnp.einsum("BHTS,BSHK->BTHK", weights_BHTS, value_BSHK)
        attended_BSD = nn.DenseGeneral(config.width, axis=(-2, -1), name="out")(mixed_BTHK)
        states_BSD = states_BSD + dropout(attended_BSD)
        normed_BSD = nn.LayerNorm(name="mlp_norm")(states_BSD)
        hidden_BSF = nn.gelu(nn.Dense(config.mlp_dim, name="wi")(normed_BSD))
        return states_BSD + dropout(nn.Dense(config.width, name="wo")(hidden_BSF))


class SasRecNetwork(nn.Module):
    """Item numbers, oldest first -> a state after each; times an item's embedding, its logit.

    Histories stand at the left: what pads them on the right is seen by no real position.
    """

    config: SasRecConfig
    num_items: int

    @nn.compact
    def __call__(self, items_BS: jax.Array, training: bool = False) -> jax.Array:
        """[B, S] item numbers, 0 where there is none -> states [B, S, D]."""
        config = self.config
        items_ND = self.param("item_embedding", _EMBEDDING_INIT, (self.num_items + 1, config.width))
        positions_SD = self.param(
            "position_embedding", _EMBEDDING_INIT, (config.max_history, config.width)
        )
        states_BSD = items_ND[items_BS] + positions_SD[None, : items_BS.shape[1]]
        states_BSD = nn.LayerNorm(name="input_norm")(states_BSD)
        states_BSD = nn.Dropout(config.dropout_rate, deterministic=not training)(states_BSD)
        for number in range(config.num_layers):
            states_BSD = _Layer(config, name=f"layer_{number}")(states_BSD, training)
        return nn.LayerNorm(name="output_norm")(states_BSD)


def item_losses(params: dict, states_XD: jax.Array, targets_X: jax.Array) -> jax.Array:
    """-log p(target) over all items, in nats; 0 where the target is 0; [X]."""
    logits_XN = states_XD @ params["item_embedding"][1:].T
    log_totals_X = jax.nn.logsumexp(logits_XN, axis=1)
    target_logits_X = jnp.sum(states_XD * params["item_embedding"][targets_X], axis=1)
    return jnp.where(targets_X > 0, log_totals_X - target_logits_X, 0.0)


class SasRec(Baseline):
    """A trained network as a recommender.

    Args:
      config: sizes of the network.
      params: its parameters.
      num_items: N.
      step: training steps behind the parameters.
    """

    def __init__(self, config: SasRecConfig, params: dict, num_items: int, step: int = 0):
        self.config = config
        self.num_items = num_items
        self.params = jax.device_put(params)
        self.step = step
        network = SasRecNetwork(config, num_items)

        @jax.jit
        def log_probabilities(params, items_BS, lengths_B):
            states_BSD = network.apply({"params": params}, items_BS)
            last_BD = states_BSD[jnp.arange(len(items_BS)), jnp.maximum(lengths_B, 1) - 1]
            logits_BN = last_BD @ params["item_embedding"].T
            return jax.nn.log_softmax(logits_BN.at[:, 0].set(-jnp.inf))

        self._log_probabilities = log_probabilities

    def scores(self, histories: Histories) -> np.ndarray:
        """log p(item) in nats, [B, N + 1]; -inf for item 0.

        An empty history counts as one with an item that nobody knows.
        """
        scores_BN = np.empty((len(histories), self.num_items + 1), np.float32)
        fitting = [size for size in _BATCH_SIZES if size >= len(histories)]
        batch_size = min(fitting, default=max(_BATCH_SIZES))
        for start in range(0, len(histories), batch_size):
            rows = slice(start, start + batch_size)
            items_BS, lengths_B = padded(histories[rows], self.config.max_history)
            # One shape for all batches.
            missing = batch_size - len(items_BS)
            items_BS, lengths_B = (
                np.pad(items_BS, ((0, missing), (0, 0))),
                np.pad(lengths_B, (0, missing)),
            )
            found_BN = self._log_probabilities(self.params, items_BS, lengths_B)
            scores_BN[rows] = found_BN[: len(scores_BN[rows])]
        return scores_BN

    def with_params(self, params: dict, step: int = 0) -> "SasRec":
        """The same network with other parameters; nothing is compiled again."""
        other = copy.copy(self)
        other.params, other.step = params, step
        return other

    @classmethod
    def load(
        cls, folder: str | os.PathLike, run: str, sequences: Sequences | None = None
    ) -> "SasRec":
        """The best checkpoint of a run by validation.

        Args:
          folder: the prepared folder.
          run: name of the run in it, made by tiger_jax.train_sasrec.
          sequences: those of the folder, if they have been read already.

        Raises:
          InputError: something is missing or damaged, or the run is of other items.
        """
        run_folder = pathlib.Path(folder, "runs", run)
        settings = saved_run.settings_of(run_folder, TRAIN)
        if settings.get("model") != MODEL:
            raise InputError(f"{run_folder}: not a run of SASRec; give one of {TRAIN}")
        artifacts.require_keys(run_folder / saved_run.RUN, settings, _SETTINGS, TRAIN)
        sequences = sequences or Sequences.load(pathlib.Path(folder, SEQUENCES))
        if settings["items_checksum"] != sequences.header["items_checksum"]:
            raise InputError(
                f"{run_folder}: trained on other items than {folder} has now; train again under"
                f" another name with {TRAIN}"
            )
        with artifacts.refusing_damage(run_folder / saved_run.RUN, "run's", TRAIN):
            config = SasRecConfig(**settings["network"])
            like = jax.eval_shape(lambda: init(config, sequences.num_items, jax.random.key(0)))
        checkpoint_folder = run_folder / "checkpoints"
        step = checkpoints.best_step(checkpoint_folder)
        params = checkpoints.load_params(checkpoint_folder, step, like)
        return cls(config, params, sequences.num_items, step)


def init(config: SasRecConfig, num_items: int, key: jax.Array) -> dict:
    """Parameters before the first step."""
    items_BS = jnp.zeros((1, config.max_history), jnp.int32)
    return SasRecNetwork(config, num_items).init(key, items_BS)["params"]


def padded(histories: Histories, max_history: int) -> tuple[np.ndarray, np.ndarray]:
    """The latest items of each history from the left, int32 [B, max_history]; their number, [B]."""
    items_BS = np.zeros((len(histories), max_history), np.int32)
    lengths_B = np.zeros(len(histories), np.int32)
    for row, history in enumerate(histories):
        latest = history[-max_history:]
        items_BS[row, : len(latest)] = latest
        lengths_B[row] = len(latest)
    return items_BS, lengths_B
