"""The paper's own numbers, to stand beside ours; all of them are in paper_numbers.json."""

import functools
import json
import pathlib
from typing import Any


@functools.cache
def numbers() -> dict[str, Any]:
    """Tables of the paper as printed: {"table1": {"what", "rows"}, ...}."""
    path = pathlib.Path(__file__).with_name("paper_numbers.json")
    return json.loads(path.read_text(encoding="utf-8"))


def dataset(users: int, items: int) -> str | None:
    """Which of the paper's datasets has so many users and items (Table 6); None: no one.

    A name tells nothing: another filter, and its numbers compare no more.
    """
    for name, row in numbers()["table6"]["rows"].items():
        if (row["users"], row["items"]) == (users, items):
            return name
    return None
