"""The whole path as a user runs it, with TensorFlow, SeqIO, T5X and torch out of reach."""

import json
import pathlib
import subprocess
import sys

import pytest
import test_report

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Runs `python -m MODULE ARGUMENTS` with an import hook that raises.
_HOOKED = """
import importlib.machinery, runpy, sys

class Forbidden:
    # Libraries may ask whether a package is there: it is. Nobody may import it.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "seqio", "t5x", "torch"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise AssertionError(f"{spec.name} was imported")

sys.meta_path.insert(0, Forbidden())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_verb(name, *arguments):
    command = [sys.executable, "-c", _HOOKED, f"tiger_jax.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each verb printed, on a toy catalogue."""
    folder = tmp_path_factory.mktemp("toy")
    common = (
        "--gin_file=gin/experiment/quickstart.gin",
        f"--gin.FOLDER='{folder}'",
        "--gin.TRAIN_STEPS=20",
        "--gin.EVAL_PERIOD=20",
        "--gin.NUM_EPOCHS=20",
        "--gin.CODEBOOK_SIZES=(8, 8, 8)",
        "--gin.prepare.prepare.synthetic_users=300",
        "--gin.prepare.prepare.synthetic_items=80",
        "--gin.network.NetworkConfig.num_encoder_layers=1",
        "--gin.network.NetworkConfig.num_decoder_layers=1",
        "--json",
    )
    verbs = ("prepare", "make_ids", "train", "recommend", "eval")
    return folder, {name: run_verb(name, *common) for name in verbs}


def test_every_verb_ends_with_its_json(outputs):
    _, printed = outputs
    results = {name: json.loads(text.splitlines()[-1]) for name, text in printed.items()}
    assert {"users", "items", "mean_length"} <= set(results["prepare"])
    assert {"codebook_usage", "unique", "collisions"} <= set(results["make_ids"])
    assert results["train"]["steps"] == 20
    assert {
        "recall@5", "ndcg@5", "recall@10", "ndcg@10", "num_users", "split", "search",
        "exclude_history", "baselines",
    } <= set(results["eval"])  # fmt: skip
    for metric in ("recall@5", "ndcg@5", "recall@10", "ndcg@10"):
        scores = results["eval"][metric]
        assert 0 <= scores["low"] <= scores["value"] <= scores["high"] <= 1


def test_every_step_leaves_its_artifacts_and_configuration(outputs):
    folder, _ = outputs
    for name in (
        "sequences.npz",
        "items.jsonl",
        "content_embeddings.npy",
        "content_embeddings.json",
        "report.html",
        "ids/rqvae_adamw/semantic_ids.npz",
        "ids/rqvae_adamw/config.gin",
        "ids/rqvae_adamw/report.html",
        "runs/tiger/run.json",
        "runs/tiger/config.gin",
        "runs/tiger/metrics.jsonl",
        "runs/tiger/timing.jsonl",
        "runs/tiger/events.out.tfevents.run",
        "runs/tiger/report.html",
        "runs/tiger/eval/test/ranked_items.npz",
        "runs/tiger/eval/test/eval.json",
        "runs/tiger/eval/test/report.html",
    ):
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.tmp"))
    for page in folder.rglob("report.html"):
        test_report.require_page(page)
    assert "NetworkConfig" in (folder / "runs/tiger/config.gin").read_text()
