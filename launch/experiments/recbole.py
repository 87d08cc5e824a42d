"""Rows of RecBole's models, from the ranked lists that benchmarks/baselines left, by our scorer."""

import pathlib
from typing import Any

from benchmarks.baselines.ranked_lists import MODELS, lists_path, load_lists
from launch.experiments.scores import joined, seed_row
from launch.experiments.setting import ROOT, Setting
from tiger_jax import metrics

# Lists of the toy that stands for Beauty, so that the toy needs no RecBole.
_RECORDED = ROOT / "benchmarks" / "baselines" / "toy"
_FACTS = ("model", "seed", "options", "best_epoch", "parameters", "seconds", "commit")


def rows(setting: Setting) -> dict[str, dict[str, Any]]:
    """{model: row of a table of scores, as `Setting.tiger` returns it}, of those with lists."""
    found = {}
    for model in MODELS:
        paths = {seed: _path(setting, model, seed) for seed in setting.seeds}
        of_seeds = [_row(setting, path, seed) for seed, path in paths.items() if path.is_file()]
        if of_seeds:
            found[model] = joined(of_seeds)
    return found


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
