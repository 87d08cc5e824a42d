"""The log of a run, and its events as TensorBoard itself reads them."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tiger_jax import run_log
from tiger_jax.run_log import RunLog


def events(path):
    """{(step, tag): event} of an event file, each there once."""
    reader = EventAccumulator(str(path), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    pairs = [
        ((event.step, tag), event)
        for tag in reader.Tags()["scalars"]
        for event in reader.Scalars(tag)
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def scalars(path):
    """{(step, tag): value} of an event file."""
    return {name: event.value for name, event in events(path).items()}


def row(step):
    return {
        "step": step,
        "train_losses": [step + 0.5, step + 0.25],
        "recall@10": 1 / step,
        "without_history": {"recall@10": 2 / step},
        "distinct_items": 10 * step,
        "note": "no number",
    }


def expected(steps, speed):
    found = {}
    for step in steps:
        found |= {
            (step, "train_losses/part_1"): step + 0.5,
            (step, "train_losses/part_2"): step + 0.25,
            (step, "recall@10"): pytest.approx(1 / step),
            (step, "without_history/recall@10"): pytest.approx(2 / step),
            (step, "distinct_items"): 10 * step,
            (step, "steps_per_s"): speed,
        }
    return found


def write(folder, start, steps):
    log = RunLog(folder, start)
    for step in steps:
        log.append(row(step), training_seconds=step, steps_per_s=8.0)


def test_events_are_the_numbers_of_the_log(tmp_path):
    write(tmp_path, 0, (10, 20, 30))
    assert scalars(tmp_path / run_log.EVENTS) == expected((10, 20, 30), 8.0)
    assert [row(step) for step in (10, 20, 30)] == run_log.read(tmp_path / run_log.METRICS)


def test_a_run_that_goes_on_repeats_no_step_and_loses_none(tmp_path):
    write(tmp_path, 0, (10, 20, 30))
    times = {name: event.wall_time for name, event in events(tmp_path / run_log.EVENTS).items()}
    write(tmp_path, 20, (30, 40))
    assert scalars(tmp_path / run_log.EVENTS) == expected((10, 20, 30, 40), 8.0)
    assert [found["step"] for found in run_log.read(tmp_path / run_log.TIMING)] == [10, 20, 30, 40]
    again = {name: event.wall_time for name, event in events(tmp_path / run_log.EVENTS).items()}
    for step, tag in times:
        assert (again[step, tag] == times[step, tag]) == (step <= 20)


def test_lines_cut_short_by_a_kill_are_dropped(tmp_path):
    write(tmp_path, 0, (10,))
    for name in (run_log.METRICS, run_log.TIMING):
        with open(tmp_path / name, "a") as file:
            file.write('{"step": 20, "train_lo')
    write(tmp_path, 10, (20,))
    assert scalars(tmp_path / run_log.EVENTS) == expected((10, 20), 8.0)
    lines = (tmp_path / run_log.METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20]


def test_a_log_without_times_has_events_all_the_same(tmp_path):
    write(tmp_path, 0, (10,))
    (tmp_path / run_log.TIMING).unlink()
    write(tmp_path, 10, ())
    found = scalars(tmp_path / run_log.EVENTS)
    assert set(found) == set(expected((10,), 8.0)) - {(10, "steps_per_s")}
