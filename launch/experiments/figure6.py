"""Figure 6: how many of the IDs that a free beam search finds belong to no item."""

import pathlib

from launch import plots
from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown
from launch.experiments.setting import DATASETS, Setting
from tiger_jax import metrics, paper
from tiger_jax.recommender import Recommender

_MOST = 20
_BEAMS = 50


def run(setting: Setting) -> dict:
    """Share of invalid IDs among the first K of all users of the test split, K = 1, ..., 20."""
    histories, _ = setting.sequences.split("test")
    shares = []
    for seed in setting.seeds:
        recommender = Recommender.load(
            setting.folder, setting.train(seed=seed), num_beams=_BEAMS, search="free"
        )
        ranked = recommender.recommend(
            setting.sequences.user_ids, histories, _MOST, exclude_history=False
        )
        shares.append([metrics.invalid_id_rate(ranked, k) for k in range(1, _MOST + 1)])
    return {
        "num_beams": _BEAMS,
        "num_users": len(histories),
        "invalid": [sum(column) / len(shares) for column in zip(*shares, strict=True)],
    }


def show(results: list[dict]) -> str:
    """Some of the numbers, and the picture."""
    shown = (1, 5, 10, 15, 20)
    rows = [
        [
            result["dataset"],
            f"{result['budget']}, {len(result['seeds'])} seed{'s' * (len(result['seeds']) > 1)}",
            *(f"{result['values']['invalid'][k - 1]:.2%}" for k in shown),
        ]
        for result in results
    ]
    stated = paper.numbers()["figure6"]["invalid_share"]
    cells = ("{:.1%} to {:.1%}".format(*stated[str(k)]) if str(k) in stated else "-" for k in shown)
    rows.append(["*three datasets*", "*paper*", *(f"*{cell}*" for cell in cells)])
    beams = results[0]["values"]["num_beams"]
    return (
        f"Share of invalid IDs among the first K results of a free search with {beams} beams, "
        "history kept.\n\n"
        + markdown(["", "budget", *(f"K = {k}" for k in shown)], rows)
        + "\n\n![Share of invalid IDs by K, with the ranges of the paper](pictures/figure6.png)"
    )


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
        "% of them",
        their_ranges=ranges,
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
