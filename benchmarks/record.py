"""Results of a benchmark as a file, with the command that made them and the day."""

import datetime
import pathlib
import shlex
import sys

from tiger_jax import artifacts


def record(path: str, result: dict) -> None:
    """Writes `result` as JSON; the command is that of this process."""
    module = pathlib.Path(sys.argv[0]).stem
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    command = f"python -m benchmarks.{module} {shlex.join(sys.argv[1:])}".strip()
    artifacts.save_json(path, {"command": command, "date": today, **result})
