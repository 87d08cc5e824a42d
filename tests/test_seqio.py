"""SeqIO tasks give the examples of the native path, token by token."""

import importlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tiger_jax import batching, metrics, prepare
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, examples
from tiger_jax.data.sequences import Sequences
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary, fnv1a

MISSING = "not installed: pip install -e .[seqio]"
tf = pytest.importorskip("tensorflow", reason=f"tensorflow is {MISSING}")
seqio = pytest.importorskip("seqio", reason=f"seqio is {MISSING}")
amazon = importlib.import_module("tasks.amazon")

ROOT = pathlib.Path(__file__).resolve().parent.parent
USERS, HISTORY = 50, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder with Semantic IDs of 3 codes and a collision token, named "codes"."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    prepare.prepare("synthetic", str(folder), synthetic_users=100, synthetic_items=40)
    embeddings, source = content.load_embeddings(folder)
    codes = np.random.default_rng(0).integers(0, 8, (len(embeddings), 3))
    header = {"items_checksum": source["items_checksum"], "encoder": "", "text_fields": []}
    table = SemanticIdTable.from_codes(codes, (8, 8, 8), header, collision_size=16)
    table.save(folder / "ids" / "codes" / "semantic_ids.npz")
    return folder


@pytest.fixture(scope="module")
def sequences(folder):
    return Sequences.load(folder / "sequences.npz")


@pytest.fixture(scope="module")
def table(folder):
    return SemanticIdTable.load(folder / "ids" / "codes" / "semantic_ids.npz")


@pytest.fixture(scope="module")
def task(folder):
    return amazon.register(str(folder), "codes", USERS, HISTORY)


def model_batch(task, split, **options):
    """The whole split as one batch of model features."""
    dataset = seqio.get_dataset(
        task,
        amazon.feature_lengths(task, HISTORY),
        dataset_split=split,
        shuffle=False,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        **options,
    )
    rows = list(dataset.as_numpy_iterator())
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_training_examples_equal_the_native_ones(task, sequences, table):
    batch = model_batch(task, "train")
    native = examples.prefix_examples(sequences, HISTORY)
    vocab = Vocabulary(table.codebook_sizes, USERS)
    data = batching.device_data(native, sequences, table, vocab)
    expected = batching.assemble(data, np.arange(len(native)), HISTORY)
    # For a teacher, which T5X's training has not.
    del expected["places"]
    assert set(expected) == {"encoder_input_tokens", "decoder_target_tokens"}
    for name, tokens in expected.items():
        np.testing.assert_array_equal(batch[name], tokens, err_msg=name)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_examples_equal_what_the_recommender_reads(task, sequences, table, split):
    batch = model_batch(task, split)
    histories, targets = sequences.split(split)
    vocab = Vocabulary(table.codebook_sizes, USERS)
    reader = Recommender.__new__(Recommender)
    reader.max_history, reader._tokens_NI = HISTORY, vocab.token_table(table.semantic_ids_NI)
    reader.model = type("Model", (), {"vocabulary": vocab})
    expected = reader.encoder_tokens(sequences.user_ids, histories)
    np.testing.assert_array_equal(batch["encoder_input_tokens"], expected)
    np.testing.assert_array_equal(
        batch["decoder_target_tokens"], vocab.tokens(table.semantic_ids_NI[targets])
    )


def test_without_user_tokens_the_inputs_begin_with_the_history(folder, sequences, table, tmp_path):
    (tmp_path / "nameless").symlink_to(folder)
    # A folder is known by its real name, and a task with other settings needs a name of its own.
    with pytest.raises(InputError, match="with other settings"):
        amazon.register(str(tmp_path / "nameless"), "codes", 0, HISTORY)
    vocab = amazon.SemanticIdVocabulary(
        Vocabulary(table.codebook_sizes, 0), table, sequences.item_ids
    )
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files: amazon.prepared_users(sequences, split, shuffle_files),
        splits=amazon.SPLITS,
    )
    # SeqIO's names are of letters, digits and a few signs.
    task = amazon.add_task("user-less codes", source, vocab, HISTORY)
    assert task == "user_less_codes"
    assert amazon.feature_lengths(task, HISTORY) == {"inputs": HISTORY * 4, "targets": 4}
    first = model_batch(task, "test")["encoder_input_tokens"][0]
    history = sequences.split("test")[0][0][-HISTORY:]
    np.testing.assert_array_equal(
        first[: 4 * len(history)], vocab.tokens.tokens(table.semantic_ids_NI[history]).reshape(-1)
    )


@pytest.mark.parametrize("text", ["", "a", "foobar", "A1YJEY40YUW4SE", "日本語"])
def test_hash_of_tensorflow_equals_that_of_python(text):
    assert int(amazon.fnv1a(text.encode())) == fnv1a(text)


def test_shuffled_epochs_hold_the_same_examples_in_another_order(task):
    options = {"sequence_length": None, "split": "train", "num_epochs": 1}
    provider = seqio.get_mixture_or_task(task)

    def epoch(**more):
        rows = provider.get_dataset(**options, **more).as_numpy_iterator()
        return [(row["user_id"], int(row["target_item"]), len(row["inputs"])) for row in rows]

    ordered, shuffled = epoch(shuffle=False), epoch(shuffle=True, seed=3)
    assert shuffled != ordered
    assert sorted(shuffled) == sorted(ordered)
    assert shuffled == epoch(shuffle=True, seed=3)


def test_a_table_of_other_items_is_refused(folder, table, tmp_path):
    other = tmp_path / "other"
    prepare.prepare("synthetic", str(other), synthetic_users=100, synthetic_items=40, seed=1)
    table.save(other / "ids" / "codes" / "semantic_ids.npz")
    with pytest.raises(InputError, match="made for other items"):
        amazon.register(str(other), "codes", USERS, HISTORY)


def test_an_unknown_task_is_named_with_the_known_ones(task):
    with pytest.raises(InputError, match=f"no task 'tyo_codes'; known: .*{task}"):
        amazon.task_vocabulary("tyo_codes")


def test_vocabularies_are_equal_where_all_tokens_mean_the_same(sequences, table):
    def vocabulary(num_users, table):
        tokens = Vocabulary(table.codebook_sizes, num_users)
        return amazon.SemanticIdVocabulary(tokens, table, sequences.item_ids)

    codes = table.semantic_ids_NI[:0:-1, :3]
    reversed_table = SemanticIdTable.from_codes(codes, (8, 8, 8), table.header, collision_size=16)
    assert vocabulary(USERS, table) == vocabulary(USERS, table)
    assert vocabulary(USERS, table) != vocabulary(USERS + 1, table)
    assert vocabulary(USERS, table) != vocabulary(USERS, reversed_table)


def test_items_as_text_survive_encoding_and_decoding(task, sequences):
    vocab = amazon.task_vocabulary(task)
    text = " ".join(sequences.item_ids[number] for number in (5, 1, 7))
    assert vocab.decode(vocab.encode(text)) == text
    assert vocab.decode_tf(vocab.encode_tf(tf.constant(text))).numpy().decode() == text


def test_metric_of_the_beams_equals_the_native_score(task, sequences, table):
    """Random lists of items, best last, as T5X hands them over."""
    vocab = amazon.task_vocabulary(task)
    random = np.random.default_rng(0)
    inputs = list(
        seqio.get_mixture_or_task(task).get_dataset(None, "test", shuffle=False).as_numpy_iterator()
    )
    items = np.stack([random.permutation(table.num_items)[:12] + 1 for _ in inputs])
    scores = -np.sort(random.exponential(size=items.shape))
    beams = vocab.tokens.tokens(table.semantic_ids_NI[items])[:, ::-1]
    features = seqio.get_mixture_or_task(task).output_features
    found = amazon.RankingMetrics.from_model_output(
        inputs, (beams, {"scores": scores[:, ::-1]}), features
    ).compute()
    expected = metrics.score(
        metrics.RankedItems(items.astype(np.int32), scores.astype(np.float32)),
        sequences.split("test")[1],
    )
    for name, score in expected.items():
        assert found[name].value == score["value"] > 0
    assert found["invalid_id_rate"].value == 0


def test_offline_cache_holds_the_same_examples(task, folder, tmp_path):
    """`seqio_cache_tasks` on Beam's DirectRunner, with a module that registers the task."""
    pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    (tmp_path / "my_tasks.py").write_text(
        f"from tasks import amazon\namazon.register({str(folder)!r}, 'codes', {USERS}, {HISTORY})\n"
    )
    command = [
        *(sys.executable, "-m", "seqio.scripts.cache_tasks_main", f"--tasks={task}"),
        *("--module_import=my_tasks", f"--output_cache_dir={tmp_path}/cache", "--min_shards=2"),
    ]
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seqio.add_global_cache_dirs([str(tmp_path / "cache")])
    for split in amazon.SPLITS:
        fresh, cached = model_batch(task, split), model_batch(task, split, use_cached=True)
        for name, tokens in fresh.items():
            # Beam keeps no order.
            assert sorted(map(tuple, tokens)) == sorted(map(tuple, cached[name])), (split, name)
