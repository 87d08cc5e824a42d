"""Figure 6: how many of the IDs that a free beam search finds belong to no item."""

import pathlib

import numpy as np

from launch import plots
from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown, seeds_text
from launch.experiments.setting import DATASETS, ON_TIGER, Setting
from tiger_jax import paper
from tiger_jax.recommender import Recommender

_MOST = 20
_BEAMS = 50
# Users drawn at random where it is not the paper's budget: the share is known to a few thousandths.
_USERS = 4096


def run(setting: Setting) -> dict:
    """Share of invalid IDs among the first K of the test split's users, K = 1, ..., 20."""
    histories, _ = setting.sequences.split("test")
    rows = np.arange(len(histories))
    if setting.budget.name != "paper":
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:_USERS])
    users = [setting.sequences.user_ids[row] for row in rows]
    histories = [histories[row] for row in rows]
    shares = []
    for seed in setting.seeds:
        recommender = Recommender.load(
            setting.folder, setting.train(seed=seed), num_beams=_BEAMS, search="free"
        )
        ranked = recommender.recommend(users, histories, _MOST, exclude_history=False)
        # Every list is full: of a user's first K, so many are invalid.
        shares.append(np.cumsum(ranked.item_numbers == 0, axis=1) / np.arange(1, _MOST + 1))
    # The users are the same for all seeds.
    shares_UK = np.mean(shares, axis=0)
    half_widths = 1.96 * shares_UK.std(axis=0) / len(users) ** 0.5
    return {
        "num_beams": _BEAMS,
        "num_users": len(users),
        "invalid": shares_UK.mean(axis=0).tolist(),
        "half_width": half_widths.tolist(),
    }


def show(results: list[dict]) -> str:
    """Some of the numbers, and the picture."""
    shown = (1, 5, 10, 15, 20)
    rows = [
        [
            result["dataset"],
            f"{result['budget']}, {seeds_text(result['seeds'])}",
            f"{result['values']['num_users']:,}",
            *(_cell(result["values"], k) for k in shown),
        ]
        for result in results
    ]
    stated = paper.numbers()["figure6"]["invalid_share"]
    cells = ("{:.1%} to {:.1%}".format(*stated[str(k)]) if str(k) in stated else "-" for k in shown)
    rows.append(["*three datasets*", "*paper*", "", *(f"*{cell}*" for cell in cells)])
    beams = results[0]["values"]["num_beams"]
    return (
        f"{ON_TIGER} Share of invalid IDs among the first K results of a free search with {beams} "
        "beams, history kept; ± is half a 95 % interval over the users, and where none was found "
        "3 / users bounds the share with the same confidence. With the cpu budget's softmax "
        "over the tokens of a level, none of another level can come, as in the paper it may.\n\n"
        + markdown(["", "budget", "users", *(f"K = {k}" for k in shown)], rows)
        + "\n\n![Share of invalid IDs by K, with the ranges of the paper](pictures/figure6.png)"
    )


def _cell(found: dict, k: int) -> str:
    if not found["invalid"][k - 1]:
        return f"none, < {3 / found['num_users']:.3%}"
    return f"{found['invalid'][k - 1]:.3%} ± {found['half_width'][k - 1]:.3%}"


def draw(results: list[dict], folder: pathlib.Path) -> None:
    """Percent over K, a curve a dataset."""
    ks = range(1, _MOST + 1)
    curves = {
        f"{result['dataset']}, {result['budget']}": (
            ks,
            [100 * share for share in result["values"]["invalid"]],
        )
        for result in results
    }
    stated = paper.numbers()["figure6"]["invalid_share"]
    ranges = {int(k): (100 * low, 100 * high) for k, (low, high) in stated.items()}
    plots.lines(
        folder / "figure6.png",
        {"invalid IDs": curves},
        "first K results",
        "% of them (none: no point)",
        their_ranges=ranges,
        log=True,
    )


EXPERIMENT = Experiment(
    name="figure6",
    title="Figure 6: invalid IDs",
    datasets=DATASETS,
    cost="1 training a dataset and seed",
    run=run,
    show=show,
    draw=draw,
)
