"""Checkpoints come back exactly, or say in one line why not."""

import functools

import jax
import numpy as np
import optax
import pytest

from tiger_jax import artifacts, checkpoints, saved_run, train_state
from tiger_jax.artifacts import InputError

OPTIMIZERS = {
    "adafactor": train_state.adafactor(train_state.rsqrt_schedule(0.01, 10)),
    "adamw": optax.adamw(train_state.cosine_schedule(0.01, 2, 10), weight_decay=0.1),
}


@pytest.fixture
def params():
    random = np.random.default_rng(0)
    return {
        "a": {"kernel": random.normal(size=(130, 140)).astype(np.float32)},
        "b": random.normal(size=3).astype(np.float32),
    }


def assert_equal_trees(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_and_optimizer_state_come_back_bit_by_bit(tmp_path, params, name):
    optimizer = OPTIMIZERS[name]
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    checkpoints.save(tmp_path, 7, params, opt_state, {"best": 3})
    zeros = jax.tree.map(np.zeros_like, params)
    assert_equal_trees(checkpoints.load_params(tmp_path, 7, zeros), params)
    assert_equal_trees(checkpoints.load_opt_state(tmp_path, 7, optimizer.init(zeros)), opt_state)
    assert checkpoints.load_metadata(tmp_path, 7) == {"best": 3}


def test_only_complete_checkpoints_count_and_only_wanted_ones_stay(tmp_path, params):
    for step in (10, 2, 100):
        checkpoints.save(tmp_path, step, params, (), {})
    (tmp_path / ".checkpoint_200.tmp").mkdir()
    (tmp_path / "checkpoint_x").mkdir()
    assert checkpoints.steps(tmp_path) == [2, 10, 100]
    checkpoints.keep(tmp_path, {100, 2, 7})
    assert checkpoints.steps(tmp_path) == [2, 100]
    assert checkpoints.steps(tmp_path / "nowhere") == []


def test_saving_over_a_leftover_and_over_an_old_one(tmp_path, params):
    leftover = tmp_path / ".checkpoint_5.tmp"
    leftover.mkdir()
    (leftover / "junk").write_text("")
    checkpoints.save(tmp_path, 5, params, (), {"try": 1})
    checkpoints.save(tmp_path, 5, params, (), {"try": 2})
    assert checkpoints.load_metadata(tmp_path, 5) == {"try": 2}
    assert not leftover.exists()


def test_another_network_is_named(tmp_path, params):
    checkpoints.save(tmp_path, 1, params, (), {})
    with pytest.raises(InputError, match=r"target/b has shape \(3,\).*needs \(4,\)"):
        checkpoints.load_params(tmp_path, 1, {**params, "b": np.zeros(4)})
    with pytest.raises(InputError, match="lacks target/c"):
        checkpoints.load_params(tmp_path, 1, {**params, "c": np.zeros(4)})


def test_missing_and_truncated(tmp_path, params):
    with pytest.raises(InputError, match="no such checkpoint; make it with"):
        checkpoints.load_params(tmp_path, 1, params)
    checkpoints.save(tmp_path, 1, params, (), {})
    (tmp_path / "checkpoint_1" / "checksums.json").unlink()  # T5X writes none
    for file in (tmp_path / "checkpoint_1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged; train again"):
        checkpoints.load_params(tmp_path, 1, params)


@pytest.mark.parametrize("how", ["absent", "shorter", "other bytes"])
def test_damage_to_any_file_is_one_line_that_names_it(tmp_path, params, how):
    """Orbax itself reads many a damaged file without a word, and its words are many lines."""
    checkpoints.save(tmp_path, 3, params, (), {})
    files = [path for path in (tmp_path / "checkpoint_3" / "state").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        data = path.read_bytes()
        path.unlink()
        if how == "shorter":
            path.write_bytes(data[: len(data) // 2] or b"x")
        elif how == "other bytes":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if data else b"x")
        with pytest.raises(InputError, match=f"{path.name}: missing or damaged; delete"):
            checkpoints.load_params(tmp_path, 3, params)
        path.write_bytes(data)
    checkpoints.load_params(tmp_path, 3, params)


def test_work_in_the_background_is_done_in_order_and_its_faults_come_back():
    done, background = [], checkpoints.Background()
    for number in range(5):
        background.start(functools.partial(done.append, number))
    background.wait()
    assert done == [0, 1, 2, 3, 4]
    background.wait()  # nothing is left
    background.start(lambda: {}["no such key"])
    with pytest.raises(KeyError):
        background.start(functools.partial(done.append, 5))
    # What was raised is over.
    background.start(functools.partial(done.append, 6))
    background.wait()
    assert done == [0, 1, 2, 3, 4, 6]


def test_checkpoints_of_one_step_are_told_apart(tmp_path):
    """Two trainings whose best epochs have the same number."""
    found = []
    for value in (1.0, 2.0, 1.0):
        checkpoints.save(tmp_path, 7, {"w": np.full(3, value, np.float32)}, {}, {})
        found.append(checkpoints.identity(tmp_path, 7))
    assert found[0] != found[1]
    assert checkpoints.identity(tmp_path, 8) not in found


def test_whatever_hinders_writing_is_one_line(tmp_path, params, monkeypatch):
    """TensorStore tells of a full disk by a ValueError."""

    def full():
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(checkpoints, "_checkpointer", full)
    with pytest.raises(InputError, match=r"checkpoint_3: cannot be written \(RESOURCE.*free space"):
        checkpoints.save(tmp_path, 3, params, {}, {})


def test_a_refused_training_leaves_the_checkpoints_of_t5x_in_sight(tmp_path):
    artifacts.save_json(tmp_path / "run.json", {"network": {}, "table": "theirs"})
    (tmp_path / "checkpoint_1000").mkdir()
    with pytest.raises(InputError, match="begun with table = theirs, now it is ours; give this"):
        saved_run.claim(tmp_path, {"table": "ours"}, "", "train")
    assert checkpoints.folder_of(tmp_path) == tmp_path
