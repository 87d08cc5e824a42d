"""What an experiment is."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

from launch.experiments.setting import Setting


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A table or figure; the module's docstring says how to write one.

    Attributes:
      name: as given to the command.
      title: heading of its section.
      datasets: those that the paper has it for.
      cost: what has to be done if nothing is there yet.
      run: setting -> what was found, as JSON; for one dataset. Or a generator of what was found so
        far, which is kept if it is cut off.
      show: all recorded results -> Markdown.
      draw: all recorded results, folder -> writes pictures.
      seeds: number of seeds if not told otherwise.
      most_seeds: how many it can make use of; None: of any number.
    """

    name: str
    title: str
    datasets: tuple[str, ...]
    cost: str
    run: Callable[[Setting], dict | Iterator[dict]]
    show: Callable[[list[dict]], str]
    draw: Callable[[list[dict], pathlib.Path], None] | None = None
    seeds: int = 1
    most_seeds: int | None = None
