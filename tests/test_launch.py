"""The shell scripts, as far as they can be told without running an installation."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tiger_jax import prepare

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = [ROOT / ".ci" / "run", *sorted((ROOT / "launch").glob("*.sh"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_unknown_option_of_the_quickstart_is_one_line_and_code_2():
    command = ["bash", str(ROOT / "launch" / "quickstart.sh"), "--tyni"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: unknown option --tyni; the only one is --tiny\n"


def test_without_a_fitting_python_the_environment_says_what_to_install(tmp_path):
    """A PATH with nothing but bash and an old Python."""
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    environment = {**os.environ, "PATH": str(tmp_path), "TIGER_PYTHON": ""}
    done = subprocess.run(
        [shutil.which("bash"), "-c", f"source {ROOT}/launch/environment.sh; find_python"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python 3.11 or newer is needed")


_PYTHON_WITHOUT_PIP = """#!/bin/sh
case "$1" in
  -c) exit 0 ;;
  --version) echo Python 3.11 ;;
  -m) [ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


def test_an_installation_that_failed_is_not_taken_for_done(tmp_path):
    """As the README has it, without `set -e`; the next call tries again."""
    python = tmp_path / "python"
    python.write_text(_PYTHON_WITHOUT_PIP)
    python.chmod(0o755)
    (tmp_path / "setup.py").write_text("")
    command = f"source {ROOT}/launch/environment.sh && prepare_environment dev-text"
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            env=os.environ | {"TIGER_PYTHON": str(python)},
        )
        assert done.returncode != 0
    assert (tmp_path / ".venv" / "bin" / "python").is_file()
    assert not (tmp_path / ".venv" / "installed").exists()


def gpu(*arguments):
    environment = os.environ | {"TIGER_PYTHON": sys.executable}
    command = ["bash", str(ROOT / "launch" / "gpu.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_what_the_time_limit_cuts_off_goes_on_with_the_same_command(tmp_path):
    folder, out = tmp_path / "toy", tmp_path / "out"
    prepare.prepare("synthetic", str(folder), synthetic_users=200, synthetic_items=60)
    arguments = (
        f"--out={out}",
        "--seeds=3",
        "gin/experiment/quickstart.gin",
        "--",
        f"--gin.FOLDER='{folder}'",
        "--gin.TRAIN_STEPS=20",
        "--gin.EVAL_PERIOD=10",
        "--gin.NUM_EPOCHS=20",
        "--gin.CODEBOOK_SIZES=(8, 8, 8)",
        "--gin.network.NetworkConfig.num_encoder_layers=1",
        "--gin.network.NetworkConfig.num_decoder_layers=1",
    )
    cut = gpu("--limit=1", *arguments)
    assert cut.returncode == 75, cut.stderr
    assert cut.stderr.splitlines()[-1].startswith("time is up during make_ids of")
    done = gpu("--limit=540", *arguments)
    assert done.returncode == 0, done.stderr
    results = {path.name: json.loads(path.read_text()) for path in out.glob("*.json")}
    assert set(results) == {"quickstart-ids.json", "quickstart-3.json"}
    assert results["quickstart-3.json"]["run"] == "quickstart-3"
    assert results["quickstart-3.json"]["training"]["steps"] == 20
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = gpu("--limit=540", *arguments)
    assert again.returncode == 0
    flags = out / "flags"
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert after | {flags: 0} == before | {flags: 0}
    other = gpu("--limit=540", *arguments, "--gin.TRAIN_STEPS=30")
    assert other.returncode == 2
    assert other.stderr.startswith(f"error: {out} has results of other flags: --gin.FOLDER=")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "error: no card; give one of"), (("--minute=3", "x.gin"), "error: unknown argument")],
)
def test_gpu_script_refuses_what_it_does_not_understand(arguments, message):
    done = gpu(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
