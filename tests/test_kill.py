"""SIGKILL at random moments: no half file, and the next start ends as if nothing had happened.

Half of the kills come after a random time, half just before a random operation on a file of the
run, where a careless writer would leave something half written.
"""

import importlib
import itertools
import json
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tiger_jax import artifacts

# Kills of each verb; a longer campaign: TIGER_KILLS=200 bash launch/test.sh tests/test_kill.py
KILLS = int(os.environ.get("TIGER_KILLS", 4))

CATALOGUE = "catalogue"
CARD = (
    "--gin_file=gin/experiment/quickstart.gin",
    f"--gin.FOLDER='{CATALOGUE}'",
    "--gin.TRAIN_STEPS=20",
    "--gin.EVAL_PERIOD=10",
    "--gin.NUM_EPOCHS=30",
    "--gin.CODEBOOK_SIZES=(8, 8, 8)",
    "--gin.prepare.prepare.synthetic_users=200",
    "--gin.prepare.prepare.synthetic_items=60",
    "--gin.network.NetworkConfig.num_encoder_layers=1",
    "--gin.network.NetworkConfig.num_decoder_layers=1",
    "--gin.train.train.batch_size=32",
    "--gin.train.train.eval_users=64",
    "--gin.train.train.num_groups=2",
)
# What a verb makes, removed after it ended so that further kills find it at work again.
OUTPUTS = {"prepare": "", "make_ids": "ids", "train": "runs", "eval": None}
FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
VARYING_FACTS = {"seconds", "training_seconds", "steps_per_s", "users_per_s", "time"}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(verb, folder, ...) -> a running process; imports are done once, compilations kept."""
    context = multiprocessing.get_context("forkserver")
    verbs = [f"tiger_jax.{verb}" for verb in OUTPUTS]
    context.set_forkserver_preload([*verbs, "matplotlib.backends.backend_svg"])
    cache = tmp_path_factory.mktemp("compiled")

    def start(verb, folder, last_operation=None, operations=None):
        process = context.Process(
            target=run_verb, args=(verb, str(folder), str(cache), last_operation, operations)
        )
        process.start()
        return process

    start.counter = lambda: context.Value("i", 0)
    return start


def run_verb(verb, folder, cache, last_operation, operations):
    """In a process of its own: the verb's command line, killed before a given file operation."""
    # A relative name of the prepared folder, so that its files can be compared.
    os.chdir(folder)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    count = itertools.count()

    def watch(event, arguments):
        if event in FILE_OPERATIONS and CATALOGUE in str(arguments[0]):
            number = next(count)
            if number == last_operation:
                os.kill(os.getpid(), signal.SIGKILL)
            if operations is not None:
                operations.value = number + 1

    sys.addaudithook(watch)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    importlib.import_module(f"tiger_jax.{verb}").main([verb, *CARD])


def hidden(path):
    """Temporary files and folders, and what is in them, begin with a dot."""
    return any(part.startswith(".") for part in path.parts)


def without_varying(value):
    if isinstance(value, dict):
        return {k: without_varying(v) for k, v in value.items() if k not in VARYING_FACTS}
    return [without_varying(v) for v in value] if isinstance(value, list) else value


def arrays(path):
    with np.load(path) as file:
        return {name: file[name].tobytes() for name in file.files}


def records(path):
    lines = path.read_text().splitlines(keepends=True)
    # A log grows line by line: its last line may be cut until the next start mends it.
    if path.name in ("metrics.jsonl", "timing.jsonl") and lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [without_varying(json.loads(line)) for line in lines]


def tree(folder):
    leaves = jax.tree.leaves(ocp.PyTreeCheckpointer().restore(folder))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def checksums(path):
    """Orbax's files bear times and random names: what counts is that each is as it was saved."""
    saved = json.loads(path.read_text())
    for part, files in saved.items():
        for name, checksum in files.items():
            assert artifacts.file_checksum(path.parent / part / name) == checksum
    return sorted(saved)


READERS = {
    ".npz": arrays,
    ".npy": lambda path: np.load(path).tobytes(),
    ".json": lambda path: without_varying(json.loads(path.read_text())),
    ".jsonl": records,
    ".gin": pathlib.Path.read_text,
}


def contents(folder):
    """{relative path: what it says}; fails on whatever has its final name and is not whole."""
    trees = [*folder.rglob("checkpoint_*/state"), *folder.rglob("checkpoint_*/optimizer")]
    whole = {path: tree(path) for path in trees if not hidden(path.relative_to(folder))}
    for path in folder.rglob("*"):
        inside_tree = any(up in whole for up in path.parents)
        if path.is_file() and not inside_tree and not hidden(path.relative_to(folder)):
            read = checksums if path.name == "checksums.json" else READERS.get(path.suffix)
            whole[path] = read(path) if read else None
    return {str(path.relative_to(folder)): said for path, said in whole.items()}


def run_to_the_end(process):
    process.join()
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_killed_at_random_moments_the_path_ends_as_if_undisturbed(start, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    moments = random.Random(0)
    num_kills = 0
    for verb, output in OUTPUTS.items():
        operations = start.counter()
        begun = time.monotonic()
        run_to_the_end(start(verb, undisturbed, operations=operations))
        seconds = time.monotonic() - begun
        expected = contents(undisturbed)
        kills = 0
        while kills < KILLS:
            begun = time.monotonic()
            if kills % 2:
                last = moments.randrange(operations.value)
                process = start(verb, killed, last_operation=last)
                process.join()
            else:
                process = start(verb, killed)
                process.join(moments.uniform(0, seconds))
                process.kill()
                process.join()
            found = contents(killed)  # whatever bears its final name is whole
            if process.exitcode == -signal.SIGKILL:
                kills += 1
                continue
            assert process.exitcode == 0
            # What was compiled for one run serves the next, which so takes less time.
            seconds = min(seconds, time.monotonic() - begun)
            assert found == expected
            assert not list(killed.rglob(".*")), "kills leave nothing behind for ever"
            if output is not None:
                shutil.rmtree(killed / CATALOGUE / output)
        run_to_the_end(start(verb, killed))
        assert contents(killed) == expected
        assert not list(killed.rglob(".*"))
        num_kills += kills
    assert num_kills == KILLS * len(OUTPUTS)
