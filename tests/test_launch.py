"""The shell scripts, as far as they can be told without running an installation."""

import os
import pathlib
import shutil
import subprocess

import pytest

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
