"""The log of a run, and its events read back by a reader of our own."""

import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from tiger_jax import run_log
from tiger_jax.run_log import RunLog


def events(path):
    """The events of a file in TensorFlow's record format: length, its sum, data, their sum."""
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event()
        event.ParseFromString(data[place + 12 : place + 12 + length])
        found.append(event)
        place += 12 + length + 4
    assert place == len(data)
    return found


def scalars(path):
    """{(step, tag): value}, each there once."""
    pairs = [
        ((event.step, value.tag), value.simple_value)
        for event in events(path)
        for value in event.summary.value
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


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
    log.close()


def test_events_are_the_numbers_of_the_log(tmp_path):
    write(tmp_path, 0, (10, 20, 30))
    assert scalars(tmp_path / run_log.EVENTS) == expected((10, 20, 30), 8.0)
    assert events(tmp_path / run_log.EVENTS)[0].file_version == "brain.Event:2"
    assert [row(step) for step in (10, 20, 30)] == run_log.read(tmp_path / run_log.METRICS)


def test_a_run_that_goes_on_repeats_no_step_and_loses_none(tmp_path):
    write(tmp_path, 0, (10, 20, 30))
    times = {event.step: event.wall_time for event in events(tmp_path / run_log.EVENTS)}
    write(tmp_path, 20, (30, 40))
    assert scalars(tmp_path / run_log.EVENTS) == expected((10, 20, 30, 40), 8.0)
    assert [found["step"] for found in run_log.read(tmp_path / run_log.TIMING)] == [10, 20, 30, 40]
    again = {event.step: event.wall_time for event in events(tmp_path / run_log.EVENTS)}
    assert [again[step] for step in (10, 20)] == [times[step] for step in (10, 20)]
    assert again[30] > times[30]


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
