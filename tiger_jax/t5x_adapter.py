"""TIGER as a model of T5X, for the gin files under gin/t5x; the only file that imports t5x.

The network and the search are those of tiger_jax/model; loss, optimizer and loop are T5X's own.
Data come from a SeqIO task (tasks/amazon.py), whose vocabulary also holds the Semantic IDs.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import seqio
import tensorflow as tf
from t5x import gin_utils, models, partitioning

from tiger_jax import artifacts, t5x_environment
from tiger_jax.artifacts import InputError
from tiger_jax.model import beam
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.trie import Trie

# Settings of a run that may be others when it goes on.
_MAY_CHANGE = ("batch_size", "seed")

# Gin files import this module before `tasks`, which T5X's folder may hide.
t5x_environment.prepare_process()


class T5xTiger(models.BaseTransformerModel):
    """TIGER with T5X's own loss, and the search over the catalogue in place of its decoding.

    Args:
      network: sizes of the network.
      vocabulary: a `tasks.amazon.SemanticIdVocabulary`.
      optimizer_def: an optimizer of T5X; None to evaluate only.
      num_beams: width of the search, and number of items in a list.
      z_loss: T5X's extra loss term; 0 for the native loss.
    """

    FEATURE_CONVERTER_CLS = seqio.EncDecFeatureConverter

    def __init__(
        self,
        network: NetworkConfig,
        vocabulary: seqio.Vocabulary,
        optimizer_def,
        num_beams: int,
        z_loss: float = 0.0,
    ):
        self.tiger = TigerModel(network, vocabulary.tokens)
        super().__init__(
            self.tiger.module, vocabulary, vocabulary, optimizer_def=optimizer_def, z_loss=z_loss
        )
        self.num_beams = num_beams
        table = vocabulary.table
        self._trie = Trie.from_semantic_ids(table.semantic_ids_NI, table.codebook_sizes)
        self._tokens_NI = vocabulary.tokens.token_table(table.semantic_ids_NI)

    def get_initial_variables(self, rng, input_shapes, input_types=None) -> Mapping:
        """Random parameters, and under "params_axes" the logical names of their axes."""
        del input_types  # Tokens, whatever the batch's type.
        return self.module.init(
            rng,
            jnp.ones(input_shapes["encoder_input_tokens"], jnp.int32),
            jnp.ones(input_shapes["decoder_input_tokens"], jnp.int32),
        )

    def _compute_logits(self, params, batch, dropout_rng=None) -> jax.Array:
        return self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            enable_dropout=dropout_rng is not None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )

    def predict_batch_with_aux(
        self, params, batch, rng=None
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The best items of each user by constrained beam search, best last as T5X has it.

        Returns:
          Tokens [B, M, I], padding where the catalogue has fewer items; and {"scores": log p(item)
          in nats [B, M], -inf there}.
        """
        del rng  # Nothing is sampled.
        rows_BM, scores_BM = beam.constrained_search(
            self.tiger, params, self._trie, batch["encoder_input_tokens"], self.num_beams
        )
        tokens_BMI = jnp.asarray(self._tokens_NI)[self._trie.item_numbers(rows_BM)]
        return tokens_BMI[:, ::-1], {"scores": scores_BM[:, ::-1]}

    def score_batch(self, params, batch, return_intermediates=False) -> jax.Array:
        """log p(item) of each example's target, nats [B]."""
        if return_intermediates:
            raise NotImplementedError("TIGER's network records no intermediates")
        targets_BT = batch["decoder_target_tokens"]
        states_BTD = self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            method="states",
        )
        return -jnp.sum(self.tiger.token_losses(params, states_BTD, targets_BT), axis=-1)


def partitioner(
    network: NetworkConfig, pjit_partitioner: partitioning.PjitPartitioner
) -> partitioning.PjitPartitioner:
    """T5X's partitioner, if its mesh fits the network.

    Raises:
      InputError: sizes that the mesh's model axis shares do not divide by it.
    """
    given_by = "num_partitions or model_parallel_submesh of partitioning.PjitPartitioner"
    network.require_shareable(pjit_partitioner.mesh.shape["model"], given_by)
    return pjit_partitioner


def absolute_path(path: str | None, name: str, must_exist: bool = False) -> str:
    """The path as T5X's checkpoints need it; addresses such as gs://... stay as they are.

    Args:
      path: what the user gave; None for nothing.
      name: of the gin macro that it was given by.
      must_exist: it is a checkpoint to read.

    Raises:
      InputError: nothing was given, or there is no such checkpoint.
    """
    if not path:
        raise InputError(f'{name} is not set; add --gin.{name}=\\"PATH\\"')
    if must_exist and not tf.io.gfile.isdir(path):
        raise InputError(f"{name}: {path}: no such checkpoint; give a checkpoint_STEP folder")
    return path if "://" in path else str(pathlib.Path(path).absolute())


def save_run(
    model_dir: str,
    summary_writer,
    step: int,
    vocabulary: seqio.Vocabulary,
    network: NetworkConfig,
    ids: str,
    max_history: int,
    batch_size: int,
    seed: int | None,
) -> None:
    """T5X's `summarize_config_fn`: also writes run.json, by which tiger_jax.eval knows the run.

    Args:
      model_dir: T5X's folder of the run.
      summary_writer: T5X's.
      step: training steps taken.
      vocabulary: the task's.
      network: sizes of the network.
      ids: name of the Semantic-ID table in the prepared folder.
      max_history: items of a history that the model sees.
      batch_size: examples in a step.
      seed: T5X's random seed; None where it drew one.

    Raises:
      InputError: a run is there that was begun with other IDs, interactions or sizes.
    """
    gin_utils.summarize_gin_config(model_dir, summary_writer, step)
    settings = {
        "ids": ids,
        "table": vocabulary.table.checksum(),
        "network": dataclasses.asdict(network),
        "normalize": "full",
        "num_user_tokens": vocabulary.tokens.num_user_tokens,
        "max_history": max_history,
        "batch_size": batch_size,
        "seed": seed,
        "trainer": "t5x",
    }
    if vocabulary.interactions is not None:
        settings["interactions"] = vocabulary.interactions
    # By gfile, as T5X writes: a bucket is no folder of this machine.
    path = os.path.join(model_dir, "run.json")
    if tf.io.gfile.exists(path):
        with (
            artifacts.refusing_damage(path, "JSON", "bash launch/t5x.sh train"),
            tf.io.gfile.GFile(path) as file,
        ):
            found = json.loads(file.read())
        fixed = {name: value for name, value in settings.items() if name not in _MAY_CHANGE}
        remedy = "give another MODEL_DIR"
        artifacts.require_same(f"{path}: the run was begun", fixed | found, fixed, remedy)
    if jax.process_index() == 0:
        with tf.io.gfile.GFile(f"{path}.new", "w") as file:
            json.dump({**settings, "provenance": artifacts.provenance()}, file, indent=2)
        tf.io.gfile.rename(f"{path}.new", path, overwrite=True)


def write_ranked_items(path, inferences, task_ds, mode, vocabulary) -> None:
    """`write_fn` of t5x.infer: a JSON line a user, {user, target, items, scores}, best first.

    Args:
      path: file to write.
      inferences: (tokens [M, I], {"scores": [M]}) of each user, best beam last.
      task_ds: the task's examples in the same order.
      mode: must be "predict_with_aux".
      vocabulary: the task's.
    """
    if mode != "predict_with_aux":
        raise InputError(f"infer.mode is {mode!r}; ranked items need 'predict_with_aux'")
    ranked = vocabulary.ranked_items(*inferences)
    with tf.io.gfile.GFile(path, "w") as file:
        for example, items, scores in zip(
            task_ds.as_numpy_iterator(), ranked.item_numbers, ranked.scores, strict=True
        ):
            found = items > 0
            record = {
                "user": example["user_id"].decode(),
                "target": vocabulary.item_ids[example["target_item"]],
                "items": vocabulary.item_ids[items[found]].tolist(),
                "scores": scores[found].tolist(),
            }
            file.write(json.dumps(record) + "\n")
