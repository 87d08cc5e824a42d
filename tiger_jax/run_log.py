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
    """The log of one run, open for more.

    Attributes:
      rows: what was logged, oldest first; each has its "step".
      timings: what the clock said then: step; time, seconds since 1970; training_seconds, of the
        run so far; steps_per_s, of the training steps since the row before.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        """Opens the log of the run in `folder` that goes on behind `step`."""
        from tensorboardX.record_writer import RecordWriter

        self._folder = folder
        self.rows = _cut(folder / METRICS, step)
        self.timings = _cut(folder / TIMING, step)
        self._events = RecordWriter(str(folder / EVENTS))
        self._write_event(0, {}, file_version="brain.Event:2")
        times = {timing["step"]: timing for timing in self.timings}
        for row in self.rows:
            self._write_events(row, times.get(row["step"]))

    def append(self, row: dict[str, Any], training_seconds: float, steps_per_s: float) -> None:
        """Logs what was found at row["step"]."""
        timing = {
            "step": row["step"],
            "time": time.time(),
            "training_seconds": training_seconds,
            "steps_per_s": steps_per_s,
        }
        # Metrics last: where they are, the timing is.
        for path, record in ((TIMING, timing), (METRICS, row)):
            with open(self._folder / path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self.rows.append(row)
        self.timings.append(timing)
        self._write_events(row, timing)

    def close(self) -> None:
        """Ends the events."""
        self._events.close()

    def _write_events(self, row: dict, timing: dict | None) -> None:
        timing = timing or {"time": 0.0}
        values = {name: value for name, value in row.items() if name != "step"}
        if "steps_per_s" in timing:
            values["steps_per_s"] = timing["steps_per_s"]
        self._write_event(timing["time"], dict(_scalars(values)), step=row["step"])

    def _write_event(self, wall_time: float, values: dict[str, float], **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        event = Event(wall_time=wall_time, summary=summary if values else None, **fields)
        self._events.write(event.SerializeToString())
        self._events.flush()


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


def _scalars(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Numbers with the names that lead to them; parts of an ID count from 1."""
    for name, value in values.items():
        if isinstance(value, list):
            value = {f"part_{place}": part for place, part in enumerate(value, 1)}
        if isinstance(value, dict):
            yield from _scalars(value, f"{above}{name}/")
        elif isinstance(value, int | float):
            yield f"{above}{name}", float(value)
