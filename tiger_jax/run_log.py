"""The log of a training run: a line a validation, and the same as events for TensorBoard.

What was computed stands in metrics.jsonl, equal for equal runs; what the clock said, in
timing.jsonl. A run that goes on drops what it logged after its last checkpoint.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from tiger_jax import artifacts

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"
# Always the same name, so that a run that goes on replaces the events it had.
EVENTS = "events.out.tfevents.run"


class RunLog:
    """The log of one run, to which rows are added.

    Attributes:
      rows: what was logged, oldest first; each has its "step".
      timings: what the clock said then: step; time, seconds since 1970; training_seconds, of the
        run so far; steps_per_s, of the training steps since the row before.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        """Opens the log of the run in `folder` that goes on behind `step`."""
        self._folder = folder
        self.rows = _cut(folder / METRICS, step)
        self.timings = _cut(folder / TIMING, step)
        timing_of = {timing["step"]: timing for timing in self.timings}
        with artifacts.atomic_path(folder / EVENTS) as temporary:
            _append_event(temporary, file_version="brain.Event:2")
            for row in self.rows:
                _append_scalars(temporary, row, timing_of.get(row["step"], {}))

    def append(self, row: dict[str, Any], training_seconds: float, steps_per_s: float) -> None:
        """Logs what was found at row["step"]."""
        timing = {
            "step": row["step"],
            "time": time.time(),
            "training_seconds": training_seconds,
            "steps_per_s": steps_per_s,
        }
        # Metrics last: where they are, the timing is.
        for name, record in ((TIMING, timing), (METRICS, row)):
            with open(self._folder / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self.rows.append(row)
        self.timings.append(timing)
        _append_scalars(self._folder / EVENTS, row, timing)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a log; a line that a kill cut short is no row."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def _cut(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Drops what was logged after `step`: those steps are taken again."""
    kept = [row for row in read(path) if row["step"] <= step]
    with artifacts.atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return kept


def _append_scalars(path: pathlib.Path, row: dict[str, Any], timing: dict[str, Any]) -> None:
    """The numbers of a row, under their names in it, and the speed."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = {name: value for name, value in row.items() if name != "step"}
    if "steps_per_s" in timing:
        values["steps_per_s"] = timing["steps_per_s"]
    summary = Summary(
        value=[Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(values)]
    )
    _append_event(path, step=row["step"], wall_time=timing.get("time", 0.0), summary=summary)


def _append_event(path: pathlib.Path, **fields: Any) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    with open(path, "ab") as file:
        RecordWriter(file).write(Event(**fields).SerializeToString())


def _scalars(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Numbers with the names that lead to them; parts of an ID count from 1."""
    for name, value in values.items():
        if isinstance(value, list):
            value = {f"part_{place}": part for place, part in enumerate(value, 1)}
        if isinstance(value, dict):
            yield from _scalars(value, f"{above}{name}/")
        elif isinstance(value, int | float):
            yield f"{above}{name}", float(value)
