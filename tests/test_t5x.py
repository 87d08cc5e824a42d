"""The real T5X trains, evaluates and infers with TIGER, and shares checkpoints with tiger_jax."""

import dataclasses
import importlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from tiger_jax import checkpoints, eval, prepare, t5x_environment, train, train_state
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

GAPS = t5x_environment.missing()
pytestmark = pytest.mark.skipif(
    bool(GAPS), reason=f"T5X lacks {', '.join(GAPS)}: python -m tiger_jax.t5x_environment"
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = {
    "vocab_size": 96,
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 32,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "dropout_rate": 0.1,
    "logits_via_embedding": False,
}
BEAMS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder with Semantic IDs of 3 codes and a collision token, named "codes"."""
    # A name of its own: SeqIO keeps the tasks of other tests of this process.
    folder = tmp_path_factory.mktemp("data") / "toy_t5x"
    prepare.prepare("synthetic", str(folder), synthetic_users=100, synthetic_items=40)
    embeddings, source = content.load_embeddings(folder)
    codes = np.random.default_rng(0).integers(0, 8, (len(embeddings), 3))
    header = {"items_checksum": source["items_checksum"], "scheme": "random"}
    header |= {"encoder": "", "text_fields": []}
    table = SemanticIdTable.from_codes(codes, (8, 8, 8), header, collision_size=16)
    table.save(folder / "ids" / "codes" / "semantic_ids.npz")
    return folder


def command(script, gin_file, folder, **macros):
    """A T5X command line at toy size; `script` is a module's name or a file's path."""
    start = ["-m", script] if script.startswith("t5x.") else [script]
    macros = {"FOLDER": str(folder), "IDS": "codes", "NUM_USER_TOKENS": 50, **macros}
    macros |= {"MAX_HISTORY": 3, "NUM_BEAMS": BEAMS}
    macros = {f"network.NetworkConfig.{name}": size for name, size in SIZES.items()} | macros
    macros |= {"utils.DatasetConfig.batch_size": 16} if "train" not in gin_file else {}
    bindings = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    return [sys.executable, *start, f"--gin_file=gin/t5x/{gin_file}.gin", *bindings]


def training(script, model_dir, folder, gin_file="train", **macros):
    return command(
        script,
        gin_file,
        folder,
        **{
            "MODEL_DIR": str(model_dir),
            "BATCH_SIZE": 16,
            "EVAL_USERS": 32,
            "train.eval_steps": 1,
            "train.stats_period": 1,
            # The same batches each time.
            "train/utils.DatasetConfig.seed": 0,
            **macros,
        },
    )


def environment(devices):
    path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "XLA_FLAGS": flags}


def run(arguments, devices=1):
    return subprocess.run(
        arguments, cwd=ROOT, env=environment(devices), capture_output=True, text=True, check=False
    )


def must_run(arguments, devices=1):
    done = run(arguments, devices)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def losses(log):
    """The training loss of each step."""
    found = re.findall(r"\[(\d+)\] collection=train accuracy=.*?, loss=([\d.]+)", log)
    return {int(step): float(loss) for step, loss in found}


@pytest.fixture(scope="module")
def trained(folder):
    """A run of 4 steps, by `python -m t5x.train`: its MODEL_DIR and its log."""
    model_dir = folder / "runs" / "t5x"
    return model_dir, must_run(training("t5x.train", model_dir, folder, TRAIN_STEPS=4))


@pytest.fixture(scope="module")
def native(folder):
    """A run of 4 steps, by tiger_jax.train."""
    optimizer = train_state.adafactor(train_state.rsqrt_schedule(0.01, 10))
    common = {"num_steps": 4, "eval_period": 4, "steps_per_call": 2, "batch_size": 16, "seed": 0}
    train.train(
        str(folder), "codes", "native", NetworkConfig(**SIZES), optimizer, max_history=3,
        num_user_tokens=50, num_beams=BEAMS, **common,
    )  # fmt: skip
    return folder / "runs" / "native" / "checkpoints" / "checkpoint_4"


def infer_metrics(folder):
    lines = next(folder.glob("inference_eval/*-metrics.jsonl")).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_training_leaves_a_checkpoint_and_ranks_items_alone(trained, folder):
    model_dir, log = trained
    assert checkpoints.steps(model_dir) == [0, 4]
    assert sorted(losses(log)) == [1, 2, 3, 4]
    settings = json.loads((model_dir / "run.json").read_text())
    assert settings["interactions"] == Sequences.load(folder / SEQUENCES).interactions_checksum()
    (last,) = infer_metrics(model_dir)
    assert last["step"] == 4
    assert last["invalid_id_rate"] == 0
    assert set(last) >= {"recall@5", "ndcg@5", "recall@10", "ndcg@10"}


def test_training_resumes_by_the_script_of_the_checkout(trained, folder, tmp_path):
    """That script's folder holds a tasks.py, which must not stand before ours."""
    script = pathlib.Path(importlib.util.find_spec("t5x").origin).parent / "train.py"
    model_dir = tmp_path / "run"
    must_run(["cp", "-r", str(trained[0]), str(model_dir)])
    log = must_run(training(str(script), model_dir, folder, TRAIN_STEPS=6))
    assert sorted(losses(log)) == [5, 6]
    assert checkpoints.steps(model_dir) == [0, 4, 6]


def test_loss_equals_the_native_one(folder):
    adapter = importlib.import_module("tiger_jax.t5x_adapter")
    amazon = importlib.import_module("tasks.amazon")
    vocab = amazon.task_vocabulary(amazon.register(str(folder), "codes", 50, 3))
    t5x_model = adapter.T5xTiger(NetworkConfig(**SIZES), vocab, None, BEAMS)
    native_model = TigerModel(NetworkConfig(**SIZES), vocab.tokens)
    params = native_model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    items = random.integers(0, vocab.table.num_items + 1, (32, 3))
    tokens_NI = vocab.tokens.token_table(vocab.table.semantic_ids_NI)
    targets = tokens_NI[random.integers(1, len(tokens_NI), 32)]
    batch = {
        "encoder_input_tokens": tokens_NI[items].reshape(32, -1),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": np.ones_like(targets),
    }
    loss, _ = t5x_model.loss_fn(params, batch, None)
    expected, _ = native_model.loss_fn(params, batch, None)
    assert abs(loss / expected - 1) < 1e-5
    assert abs(-t5x_model.score_batch(params, batch).sum() / expected - 1) < 1e-5


def test_initial_variables_name_every_axis(folder):
    adapter = importlib.import_module("tiger_jax.t5x_adapter")
    amazon = importlib.import_module("tasks.amazon")
    vocab = amazon.task_vocabulary(amazon.register(str(folder), "codes", 50, 3))
    model = adapter.T5xTiger(NetworkConfig(**SIZES), vocab, None, BEAMS)
    shapes = {"encoder_input_tokens": (1, 13), "decoder_input_tokens": (1, 4)}
    variables = jax.eval_shape(
        lambda key: model.get_initial_variables(key, shapes), jax.random.key(0)
    )
    ranks = [leaf.ndim for leaf in jax.tree.leaves(variables["params"])]
    names = jax.tree.leaves(variables["params_axes"], is_leaf=lambda leaf: hasattr(leaf, "names"))
    assert [len(axes.names) for axes in names] == ranks


def infer(folder, checkpoint, output):
    """Ranked items of every user, as t5x.infer writes them."""
    paths = {"INFER_OUTPUT_DIR": str(output), "CHECKPOINT_PATH": str(checkpoint)}
    must_run(command("t5x.infer", "infer", folder, **paths))
    (path,) = output.glob("toy_t5x_codes-predict_with_aux.jsonl-00000-of-00001")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("trainer", ["t5x", "native"])
def test_infer_and_the_native_evaluation_rank_alike(trainer, trained, native, folder, tmp_path):
    """Both read both trainers' checkpoints."""
    checkpoint = {"t5x": trained[0] / "checkpoint_4", "native": native}[trainer]
    rows = infer(folder, checkpoint, tmp_path)
    eval.evaluate(str(folder), trainer, num_beams=BEAMS, batch_size=16)
    (path,) = (folder / "runs" / trainer).rglob("ranked_items.npz")
    ranked = np.load(path)
    sequences = Sequences.load(folder / "sequences.npz")
    item_ids = np.array(sequences.item_ids)
    assert [row["user"] for row in rows] == list(sequences.user_ids)
    assert [row["target"] for row in rows] == item_ids[sequences.split("test")[1]].tolist()
    for row, items, scores in zip(rows, ranked["item_numbers"], ranked["scores"], strict=True):
        assert len(row["items"]) == BEAMS
        np.testing.assert_allclose(row["scores"], scores, atol=1e-5)
        for place in np.flatnonzero(item_ids[items] != row["items"]):
            # Only items whose scores are as good as equal may stand in another order.
            assert np.sort(np.abs(scores - scores[place]))[1] < 1e-5, row["user"]


@pytest.mark.parametrize("trainer", ["t5x", "native"])
def test_eval_gives_the_native_metrics(trainer, trained, native, folder, tmp_path):
    checkpoint = {"t5x": trained[0] / "checkpoint_4", "native": native}[trainer]
    paths = {"EVAL_OUTPUT_DIR": str(tmp_path), "CHECKPOINT_PATH": str(checkpoint)}
    must_run(command("t5x.eval", "eval", folder, **paths))
    (found,) = infer_metrics(tmp_path)
    result = eval.evaluate(str(folder), trainer, num_beams=BEAMS, batch_size=16)
    for name, score in result["with_history_items"].items():
        assert found[name] == pytest.approx(score["value"], abs=1e-6)


def test_training_goes_on_from_a_native_checkpoint(native, folder, tmp_path):
    start = {"INITIAL_CHECKPOINT_PATH": str(native), "TRAIN_STEPS": 6}
    log = must_run(training("t5x.train", tmp_path, folder, gin_file="finetune", **start))
    assert sorted(losses(log)) == [5, 6]
    shapes = TigerModel(NetworkConfig(**SIZES), Vocabulary((8, 8, 8, 16), 50)).init(
        jax.random.key(0)
    )
    first = checkpoints.load_params(tmp_path, 4, shapes)
    jax.tree.map(
        np.testing.assert_array_equal, first, checkpoints.load_params(native.parent, 4, shapes)
    )


EIGHT = {"partitioning.PjitPartitioner.num_partitions": None}


@pytest.mark.parametrize("submesh", [(1, 1, 1, 1), (1, 1, 1, 2)])
def test_eight_devices_train_like_one(submesh, trained, folder, tmp_path):
    """Data 8, and data 4 x model 2; their checkpoint goes on with one device."""
    mesh = {**EIGHT, "partitioning.PjitPartitioner.model_parallel_submesh": submesh}
    log = must_run(training("t5x.train", tmp_path, folder, TRAIN_STEPS=4, **mesh), devices=8)
    # Sums in another order, over four steps.
    assert losses(log) == pytest.approx(losses(trained[1]), rel=1e-4)
    log = must_run(training("t5x.train", tmp_path, folder, TRAIN_STEPS=5))
    assert sorted(losses(log)) == [5]


def test_two_processes_train_like_one(folder, tmp_path):
    """Each reads every second user. A step over all examples is the same, however they are dealt.

    Dropout would differ with the order of the examples.
    """
    sequences = Sequences.load(folder / "sequences.npz")
    small = dataclasses.replace(
        sequences,
        user_ids=sequences.user_ids[:16],
        items=np.concatenate([sequences.sequence(row)[:5] for row in range(16)]),
        offsets=np.arange(17, dtype=np.int64) * 5,
        header={**sequences.header, "num_users": 16},
    )
    small.save(tmp_path / "small" / "sequences.npz")
    must_run(["cp", "-r", str(folder / "ids"), str(tmp_path / "small")])
    folder = tmp_path / "small"
    # 16 users with two training examples each.
    same = {"BATCH_SIZE": 32, "SHUFFLE_TRAIN_EXAMPLES": False, "TRAIN_STEPS": 4}
    same |= {"EVAL_USERS": 16, "network.NetworkConfig.dropout_rate": 0.0}
    expected = losses(must_run(training("t5x.train", tmp_path / "one", folder, **same)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = [tmp_path / f"process{index}.log" for index in range(2)]
    processes = []
    for index, log in enumerate(logs):
        arguments = [
            *training("t5x.train", tmp_path / "two", folder, **same),
            *("--multiprocess_gpu", f"--coordinator_address=localhost:{port}"),
            *("--process_count=2", f"--process_index={index}"),
        ]
        # To files: a pipe that nobody reads would stop one of the two, and so both.
        with open(log, "w") as file:
            processes.append(subprocess.Popen(arguments, cwd=ROOT, env=environment(1), stderr=file))
    assert [process.wait() for process in processes] == [0, 0], logs[0].read_text()[-3000:]
    assert losses(logs[0].read_text()) == pytest.approx(expected, rel=1e-4)
    assert checkpoints.steps(tmp_path / "two") == [0, 4]


HEADS = {**EIGHT, "partitioning.PjitPartitioner.model_parallel_submesh": (1, 1, 1, 4)}
FAULTS = {
    "no MODEL_DIR": ({"MODEL_DIR": None}, 1, "MODEL_DIR is not set"),
    "an unknown task": ({"MIXTURE_OR_TASK_NAME": "tyo"}, 1, "no task 'tyo'"),
    "no such table": ({"IDS": "nope"}, 1, "nope/semantic_ids.npz: no such file"),
    "heads and mesh": (HEADS, 8, "num_heads = 2 does not divide by 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_line_at_the_start(fault, folder, tmp_path):
    macros, devices, message = FAULTS[fault]
    macros = {"TRAIN_STEPS": 4, **macros}
    model_dir = macros.pop("MODEL_DIR", tmp_path / "run")
    arguments = training("t5x.train", tmp_path / "run", folder, **macros)
    if model_dir is None:
        arguments = [argument for argument in arguments if "MODEL_DIR" not in argument]
    done = run(arguments, devices)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_table_of_other_items_is_one_line_at_the_start(folder, tmp_path):
    other = tmp_path / "other"
    prepare.prepare("synthetic", str(other), synthetic_users=100, synthetic_items=40, seed=1)
    must_run(["cp", "-r", str(folder / "ids"), str(other)])
    done = run(training("t5x.train", tmp_path / "run", other, TRAIN_STEPS=4))
    assert done.returncode == 2
    assert "made for other items than sequences.npz" in done.stderr.splitlines()[-1]


def test_a_checkpoint_that_is_not_there_is_one_line(folder, tmp_path):
    paths = {"EVAL_OUTPUT_DIR": str(tmp_path), "CHECKPOINT_PATH": str(tmp_path / "checkpoint_7")}
    done = run(command("t5x.eval", "eval", folder, **paths))
    assert done.returncode == 2
    assert "checkpoint_7: no such checkpoint" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("where", ["disk", "address"])
def test_a_run_goes_on_with_its_own_ids_and_interactions_alone(
    where, folder, tmp_path, monkeypatch
):
    """Checkpoints fit other IDs of the same sizes as well; nothing would seem wrong.

    TensorFlow's own memory stands for a bucket: neither is a folder of the machine.
    """
    t5x_adapter = importlib.import_module("tiger_jax.t5x_adapter")
    gfile = importlib.import_module("tensorflow").io.gfile
    model_dir = str(tmp_path) if where == "disk" else f"ram://{tmp_path.name}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(t5x_adapter.gin_utils, "summarize_gin_config", lambda *_: None)
    table = SemanticIdTable.load(folder / "ids" / "codes" / "semantic_ids.npz")
    begun = types.SimpleNamespace(
        table=table, tokens=Vocabulary(table.codebook_sizes, 50), interactions="ours"
    )
    network = NetworkConfig(**SIZES)
    t5x_adapter.save_run(model_dir, None, 0, begun, network, "codes", 3, 16, 0)
    # More examples in a step, and another seed, may be wanted of the rest.
    t5x_adapter.save_run(model_dir, None, 9, begun, network, "codes", 3, 32, 1)

    def read():
        assert gfile.listdir(model_dir) == ["run.json"]
        with gfile.GFile(f"{model_dir}/run.json") as file:
            return file.read()

    kept = read()
    backwards = table.semantic_ids_NI[:0:-1, :3]
    codes = SemanticIdTable.from_codes(backwards, (8, 8, 8), table.header, collision_size=16)
    changes = {"table": {"table": codes}, "interactions": {"interactions": "others"}}
    for name, change in changes.items():
        other = types.SimpleNamespace(**{**vars(begun), **change})
        with pytest.raises(InputError, match=f"begun with {name} = .*; give another MODEL_DIR"):
            t5x_adapter.save_run(model_dir, None, 9, other, network, "codes", 3, 16, 0)
    assert read() == kept
    assert json.loads(kept)["batch_size"] == 32
    assert {path.name for path in tmp_path.iterdir()} <= {"run.json"}


def test_a_run_of_t5x_without_checkpoints_says_so(trained, folder):
    empty = folder / "runs" / "empty"
    empty.mkdir()
    (empty / "run.json").write_text((trained[0] / "run.json").read_text())
    with pytest.raises(InputError, match="no checkpoint yet"):
        eval.evaluate(str(folder), "empty", num_beams=BEAMS)
