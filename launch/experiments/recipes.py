"""How things were made: by which settings, and whether what is there is what they would make."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import gin
from tiger_jax import artifacts

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def made_by(
    recipe: Callable[[], dict[str, Any]], make: Callable[[], None], record: pathlib.Path
) -> dict[str, Any]:
    """The recipe of an artifact that does not say how it was made; made if not by that recipe.

    Args:
      recipe: of what is there, its checksum included; InputError where that is nothing sound.
      make: makes it.
      record: the file that keeps the recipe beside it.
    """
    if record.is_file():
        with contextlib.suppress(artifacts.InputError):
            if artifacts.load_json(record, "launch.reproduce") == (now := recipe()):
                return now
    make()
    now = recipe()
    artifacts.save_json(record, now)
    return now


def parse(card: str) -> None:
    """What the card sets, and nothing else, is gin's configuration now."""
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    gin.parse_config_file(card)


def settings_checksum(card: str) -> str:
    """Identifies all that a card sets, wherever it is written.

    Of verbs that make nothing as well: to set one more is another recipe, and recorded rows are
    made again.
    """
    parse(card)
    return artifacts.checksum(gin.config_str())
