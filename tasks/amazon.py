"""SeqIO tasks: item sequences -> Semantic ID tokens, in tf.data alone.

A task is a source of sequences in item numbers, a Semantic-ID table, and a length of history. Its
examples are those of tiger_jax/data/examples.py, token by token. How they are searched and
scored, T5X's model says (tiger_jax/t5x_adapter.py).

`register` and `register_tfds` add tasks; gin files call them (gin/t5x/tiger.gin). Commands that
know tasks by name alone, such as seqio_cache_tasks, import a module of yours that calls them.
"""

import functools
import pathlib
import re
from collections.abc import Mapping, Sequence

import flax
import numpy as np
import seqio
import tensorflow as tf

from tiger_jax import metrics, vocabulary
from tiger_jax.artifacts import InputError
from tiger_jax.data.sequences import SEQUENCES, SPLITS, Sequences
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

# Users come in random order already; half of Beauty's examples start within seconds.
_SHUFFLE_BUFFER = 2**16
_AUTOTUNE = tf.data.AUTOTUNE


class SemanticIdVocabulary(seqio.Vocabulary):
    """The token space of a catalogue. As text, an item is its raw id.

    Attributes:
      tokens: which token stands for which code or user.
      table: the Semantic IDs.
      item_ids: raw ids [N + 1], item_ids[0] is "".
      interactions: checksum of the prepared folder's; None of other data.
    """

    def __init__(
        self,
        tokens: Vocabulary,
        table: SemanticIdTable,
        item_ids: Sequence[str],
        interactions: str | None = None,
    ):
        super().__init__()
        self.interactions = interactions
        self.tokens = tokens
        self.table = table
        self.item_ids = np.array(item_ids, object)

    def item_numbers(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [..., I] -> item numbers [...], 0 where no item has that ID."""
        return self.table.item_numbers(self.tokens.semantic_ids(tokens))

    def ranked_items(self, beams: np.ndarray, aux: Mapping[str, np.ndarray]) -> metrics.RankedItems:
        """T5X's predictions, tokens [B, M, I] with the best beam last -> items, best first."""
        return metrics.RankedItems(
            self.item_numbers(np.asarray(beams))[:, ::-1].astype(np.int32),
            np.asarray(aux["scores"], np.float32)[:, ::-1],
        )

    @property
    def _base_vocab_size(self) -> int:
        return self.tokens.size

    @property
    def eos_id(self) -> None:
        """IDs are of fixed length: nothing ends them."""
        return None

    @property
    def bos_id(self) -> int:
        """The decoder starts on padding."""
        return vocabulary.PAD

    @property
    def unk_id(self) -> None:
        """No token is unknown."""
        return None

    def _encode(self, s: str) -> list[int]:
        numbers = {item_id: number for number, item_id in enumerate(self.item_ids)}
        unknown = [item_id for item_id in s.split() if item_id not in numbers]
        if unknown:
            raise InputError(f"{unknown[0]!r} is no item of the catalogue")
        items = [numbers[item_id] for item_id in s.split()]
        return self.tokens.tokens(self.table.semantic_ids_NI[items]).reshape(-1).tolist()

    def _decode(self, ids: Sequence[int]) -> str:
        tokens = np.asarray(ids).reshape(-1, self.tokens.id_length)
        return " ".join(self.item_ids[self.item_numbers(tokens)])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(
            lambda text: np.array(self._encode(text.item().decode()), np.int32), [s], tf.int32
        )

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """Tokens [..., length] -> texts [...]."""
        rows = tf.reshape(ids, (-1, tf.shape(ids)[-1]))
        texts = tf.numpy_function(
            lambda tokens: np.array([self._decode(row).encode() for row in tokens], object),
            [rows],
            tf.string,
        )
        return tf.reshape(texts, tf.shape(ids)[:-1])

    def __eq__(self, other) -> bool:
        return (
            isinstance(other, SemanticIdVocabulary)
            and self.tokens == other.tokens
            and self.table.checksum() == other.table.checksum()
        )

    def __hash__(self) -> int:
        return hash((self.tokens, self.table.checksum()))

    def __str__(self) -> str:
        return (
            f"SemanticIdVocabulary(size={self.tokens.size}, items={self.table.num_items}, "
            f"table={self.table.checksum()})"
        )


@flax.struct.dataclass
class RankingMetrics(seqio.metrics.Metric):
    """Recall and NDCG at 5 and 10 over all beams, items of the history included.

    Attributes:
      values: name -> value.
    """

    model_output_type: seqio.metrics.ModelOutputType = (
        seqio.metrics.ModelOutputType.PREDICTION_WITH_AUX
    )
    values: Mapping[str, float] = flax.struct.field(default_factory=dict)

    @classmethod
    def from_model_output(
        cls, inputs, model_output, features, target_field_name="targets", mask=None, indices_2d=None
    ) -> "RankingMetrics":
        """Scores the beams of one evaluation.

        Args:
          inputs: the task's examples.
          model_output: tokens [B, M, I], best beam last, and {"scores": [B, M]}.
          features: the task's features; their vocabulary tells which ID is which item.
          target_field_name: the feature that holds the tokens of the item to find.
          mask: not used.
          indices_2d: not used.
        """
        vocab = features[target_field_name].vocabulary
        targets = vocab.item_numbers(np.stack([example[target_field_name] for example in inputs]))
        ranked = vocab.ranked_items(*model_output)
        values = {name: score["value"] for name, score in metrics.score(ranked, targets).items()}
        values["invalid_id_rate"] = metrics.invalid_id_rate(ranked, ranked.scores.shape[1])
        return cls(values=values)

    def compute(self) -> Mapping[str, seqio.metrics.Scalar]:
        """What SeqIO's loggers write."""
        return {name: seqio.metrics.Scalar(value) for name, value in self.values.items()}


# --- Preprocessors ---


def hash_users(dataset: tf.data.Dataset, tokens: Vocabulary) -> tf.data.Dataset:
    """Adds "user_token", int32 (TIGER section 4); padding where the model knows no users."""

    def hashed(user):
        if not tokens.num_user_tokens:
            return {**user, "user_token": vocabulary.PAD}
        place = tf.cast(fnv1a(user["user_id"]) % tokens.num_user_tokens, tf.int32)
        return {**user, "user_token": place + tokens.first_user_token}

    return dataset.map(hashed, num_parallel_calls=_AUTOTUNE)


def prefix_examples(dataset: tf.data.Dataset, max_history: int) -> tf.data.Dataset:
    """Users -> examples, one for each of a user's last `num_targets` items (TIGER appendix C).

    Args:
      dataset: {"user_id": string, "user_token": int32, "items": item numbers [n],
        "num_targets": below n}.
      max_history: items before the target that are kept, the latest ones.

    Returns:
      {"user_id", "user_token", "history": item numbers [max_history], 0 before the first,
      "target_item"}
    """

    def examples_of(user):
        items = user["items"]
        targets = tf.range(tf.size(items) - user["num_targets"], tf.size(items))
        places = targets[:, None] + tf.range(-max_history, 0)[None]
        return {
            "user_id": tf.repeat(user["user_id"], tf.size(targets)),
            "user_token": tf.repeat(user["user_token"], tf.size(targets)),
            "history": tf.where(places >= 0, tf.gather(items, tf.maximum(places, 0)), 0),
            "target_item": tf.gather(items, targets),
        }

    return dataset.map(examples_of, num_parallel_calls=_AUTOTUNE).unbatch()


def look_up_tokens(dataset: tf.data.Dataset, vocab: SemanticIdVocabulary) -> tf.data.Dataset:
    """Item numbers -> tokens, by a constant table.

    Returns:
      {"user_id", "target_item", "inputs": user token and history without padding, "targets"}
    """
    tokens_NI = tf.constant(vocab.tokens.token_table(vocab.table.semantic_ids_NI))

    def tokens_of(example):
        history = tf.boolean_mask(example["history"], example["history"] > 0)
        inputs = tf.reshape(tf.gather(tokens_NI, history), [-1])
        if vocab.tokens.num_user_tokens:
            inputs = tf.concat([example["user_token"][None], inputs], axis=0)
        return {
            "user_id": example["user_id"],
            "target_item": example["target_item"],
            "inputs": inputs,
            "targets": tf.gather(tokens_NI, example["target_item"]),
        }

    return dataset.map(tokens_of, num_parallel_calls=_AUTOTUNE)


def fnv1a(text: tf.Tensor) -> tf.Tensor:
    """`tiger_jax.vocabulary.fnv1a` of a scalar string, int64."""

    def absorb(value, byte):
        mixed = tf.bitwise.bitwise_xor(value, byte) * vocabulary.FNV_PRIME
        return tf.bitwise.bitwise_and(mixed, 0xFFFFFFFF)

    data = tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int64)
    return tf.foldl(absorb, data, initializer=tf.constant(vocabulary.FNV_OFFSET, tf.int64))


# --- Tasks ---


def register(folder: str, ids: str, num_user_tokens: int, max_history: int) -> str:
    """Adds the task of a prepared folder and one of its Semantic-ID tables.

    Args:
      folder: the prepared folder, made by tiger_jax.prepare; one's own data too.
      ids: name of the table in it, made by tiger_jax.make_ids.
      num_user_tokens: size of the hashed user space; 0 for none.
      max_history: items of a history that the model sees.

    Returns:
      The task's name, FOLDER_IDS: work/beauty and rqvae make beauty_rqvae.

    Raises:
      InputError: something is missing or damaged, or the table is of other items.
    """
    return _register(str(folder), ids, num_user_tokens, max_history)


@functools.cache  # Gin asks for the name wherever a file mentions it.
def _register(folder: str, ids: str, num_user_tokens: int, max_history: int) -> str:
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    table = SemanticIdTable.load(
        pathlib.Path(folder, "ids", ids, "semantic_ids.npz"), sequences.header["items_checksum"]
    )
    vocab = SemanticIdVocabulary(
        Vocabulary(table.codebook_sizes, num_user_tokens),
        table,
        sequences.item_ids,
        sequences.interactions_checksum(),
    )
    source = seqio.FunctionDataSource(functools.partial(prepared_users, sequences), splits=SPLITS)
    return add_task(f"{pathlib.Path(folder).resolve().name}_{ids}", source, vocab, max_history)


def register_tfds(
    dataset: str,
    table_path: str,
    num_user_tokens: int,
    max_history: int,
    data_dir: str | None = None,
) -> str:
    """Adds the task of a dataset made by tiger_jax/data/amazon_reviews.py or large_reviews.py.

    Args:
      dataset: name of the builder, and its config: amazon_reviews_2014/beauty.
      table_path: the semantic_ids.npz of the same items.
      num_user_tokens: size of the hashed user space; 0 for none.
      max_history: items of a history that the model sees.
      data_dir: where TFDS keeps its datasets; its own default if not given.

    Returns:
      The task's name, e.g. amazon_reviews_2014_beauty_IDS; IDS is the name of the table's folder.

    Raises:
      InputError: the dataset is not built, or the table is of other items.
    """
    return _register_tfds(dataset, str(table_path), num_user_tokens, max_history, data_dir)


@functools.cache
def _register_tfds(
    dataset: str, table_path: str, num_user_tokens: int, max_history: int, data_dir: str | None
) -> str:
    # TFDS takes seconds to import.
    from tiger_jax.data import amazon_reviews

    items = amazon_reviews.metadata(dataset, data_dir)
    table = SemanticIdTable.load(table_path, items["items_checksum"])
    vocab = SemanticIdVocabulary(
        Vocabulary(table.codebook_sizes, num_user_tokens), table, items["item_ids"]
    )
    ids = pathlib.Path(table_path).resolve().parent.name
    source = seqio.TfdsDataSource(
        f"{dataset}:{amazon_reviews.VERSION}", splits=SPLITS, tfds_data_dir=data_dir
    )
    return add_task(f"{dataset.replace('/', '_')}_{ids}", source, vocab, max_history)


def add_task(
    name: str, source: seqio.DataSource, vocab: SemanticIdVocabulary, max_history: int
) -> str:
    """Adds a task of any source of users; see `prefix_examples` for what it must yield.

    Returns:
      Its name: as given, but _ for each sign that SeqIO does not take.

    Raises:
      InputError: another task has that name.
    """
    name = re.sub(r"[^\w:.]", "_", name, flags=re.ASCII)
    if name in seqio.TaskRegistry.names():
        raise InputError(f"task {name} is there already with other settings; rename the folder")
    feature = seqio.Feature(vocab, add_eos=False, dtype=tf.int32)
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            functools.partial(hash_users, tokens=vocab.tokens),
            functools.partial(prefix_examples, max_history=max_history),
            functools.partial(look_up_tokens, vocab=vocab),
            seqio.CacheDatasetPlaceholder(),
        ],
        output_features={"inputs": feature, "targets": feature},
        metric_objs=[RankingMetrics],
        shuffle_buffer_size=_SHUFFLE_BUFFER,
    )
    return name


def task_vocabulary(task: str) -> SemanticIdVocabulary:
    """The vocabulary of a task.

    Raises:
      InputError: there is no such task.
    """
    if task not in seqio.TaskRegistry.names():
        known = ", ".join(sorted(seqio.TaskRegistry.names())) or "none"
        raise InputError(
            f"no task {task!r}; known: {known}; set FOLDER and IDS, of which gin/t5x/tiger.gin "
            "makes a task, or call tasks.amazon.register"
        )
    return seqio.TaskRegistry.get(task).output_features["targets"].vocabulary


def feature_lengths(task: str, max_history: int) -> dict[str, int]:
    """Room that a task's longest example needs: {"inputs": tokens, "targets": tokens}."""
    tokens = task_vocabulary(task).tokens
    has_user = int(tokens.num_user_tokens > 0)
    return {"inputs": has_user + max_history * tokens.id_length, "targets": tokens.id_length}


def prepared_users(
    sequences: Sequences, split: str, shuffle_files: bool, seed: int | None = None
) -> tf.data.Dataset:
    """The users of a prepared folder, as `prefix_examples` wants them."""
    items, num_targets = sequences.users_of_split(split)
    rows = np.arange(sequences.num_users)
    if shuffle_files:
        np.random.default_rng(seed).shuffle(rows)
    return tf.data.Dataset.from_tensor_slices(
        {
            "user_id": [sequences.user_ids[row] for row in rows],
            "items": tf.RaggedTensor.from_row_lengths(
                np.concatenate([items[row] for row in rows]), [len(items[row]) for row in rows]
            ),
            "num_targets": np.array(num_targets, np.int32)[rows],
        }
    )
