"""Rows of RecBole's models, from the ranked lists that benchmarks/baselines left, by our scorer."""

import pathlib
from typing import Any

from benchmarks.baselines.ranked_lists import (
    MODELS,
    lists_path,
    load_lists,
    options_that_matter,
)
from launch.experiments.recipes import ROOT
from launch.experiments.scores import joined, seed_row
from launch.experiments.setting import Setting
from tiger_jax import artifacts, metrics

# Lists of the toy that stands for Beauty, so that the toy needs no RecBole.
_RECORDED = ROOT / "benchmarks" / "baselines" / "toy"
_FACTS = ("model", "seed", "options", "best_epoch", "parameters", "seconds", "commit")


def rows(setting: Setting) -> dict[str, dict[str, Any]]:
    """{model: row of a table of scores, as `Setting.tiger` returns it}, of those with lists.

    Raises:
      InputError: the lists of a model's seeds are of trainings with other options.
    """
    found = {}
    for model in MODELS:
        paths = {seed: _path(setting, model, seed) for seed in setting.seeds}
        of_seeds = [_row(setting, path, seed) for seed, path in paths.items() if path.is_file()]
        for row in of_seeds[1:]:
            artifacts.require_same(
                f"{paths[row['seeds'][0]]}: was trained",
                options_of(row),
                options_of(of_seeds[0]),
                "remove it to train it as the other seeds",
            )
        if of_seeds:
            found[model] = joined(of_seeds)
    return found


def options_of(row: dict[str, Any]) -> dict[str, int]:
    """What RecBole trained a row of one seed with, as far as it matters."""
    (run,) = row["runs"]
    return options_that_matter(run["model"], run["options"])


def _path(setting: Setting, model: str, seed: int) -> pathlib.Path:
    path = lists_path(setting.folder, model, seed)
    if setting.budget.is_toy and setting.dataset == "beauty" and not path.is_file():
        return _RECORDED / f"{model}-{seed}.npz"
    return path


def _row(setting: Setting, path: pathlib.Path, seed: int) -> dict[str, Any]:
    histories, targets = setting.sequences.split("test")
    header, ranked = load_lists(path, setting.sequences)
    found = {
        **{name: header.get(name) for name in _FACTS},
        "without_history_items": metrics.score(ranked.without(histories), targets),
        "with_history_items": metrics.score(ranked, targets),
    }
    return seed_row(found, seed, _FACTS)
