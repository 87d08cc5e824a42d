"""Table 6: how many users, items and interactions the datasets have."""

from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown
from launch.experiments.setting import DATASETS, Setting
from tiger_jax import paper


def run(setting: Setting) -> dict:
    """Counts the prepared sequences."""
    return setting.sequences.statistics()


def show(results: list[dict]) -> str:
    """A row a dataset, the paper's behind it."""
    rows = []
    for result in results:
        rows.append([result["dataset"], *_cells(result["values"])])
        printed = paper.numbers()["table6"]["rows"].get(result["dataset"])
        if printed:
            rows.append(
                [f"*{result['dataset']}, paper*", *(f"*{cell}*" for cell in _cells(printed))]
            )
    return markdown(["", "users", "items", "interactions", "mean length", "median length"], rows)


def _cells(values: dict) -> list[str]:
    interactions = values.get("interactions")
    return [
        f"{values['users']:,}",
        f"{values['items']:,}",
        f"{interactions:,}" if interactions else "not given",
        f"{values['mean_length']:.2f}",
        f"{values['median_length']:g}",
    ]


EXPERIMENT = Experiment(
    name="table6",
    title="Table 6: the datasets",
    datasets=DATASETS,
    cost="nothing beyond the prepared data",
    run=run,
    show=show,
    most_seeds=1,
)
