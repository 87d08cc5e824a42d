"""What a benchmark or another command found as a file, with that command and the day."""

import datetime
import pathlib
import shlex
import sys

from tiger_jax import artifacts


def record(path: str, result: dict) -> dict:
    """Writes `result` as JSON and returns what it wrote; the command is that of this process."""
    program = pathlib.Path(sys.argv[0])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    module = f"{program.parent.name}.{program.stem}"
    command = f"python -m {module} {shlex.join(sys.argv[1:])}".strip()
    recorded = {"command": command, "date": today, **result}
    artifacts.save_json(path, recorded)
    return recorded
