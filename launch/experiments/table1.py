"""Table 1: TIGER beside sequential recommenders, simple ones and the paper's."""

from collections.abc import Iterator

from launch.experiments.experiment import Experiment
from launch.experiments.scores import scores_table
from launch.experiments.setting import DATASETS, Setting

# Those that `tiger_jax.eval` scores beside a model. Semantic_KNN is the paper's name (section 4.3).
_WITHOUT_TRAINING = {
    "popularity": "popularity",
    "last_prefix": "popular items with the last one's longest prefix",
    "item_to_item": "counts of what came right after the last item",
    "content_neighbours": "Semantic_KNN: content neighbours of the last item",
    "counts_with_content": "co-occurrence counts mixed with content",
}
_P5 = "P5: text IDs, sequential task alone"
_KEPT = "TIGER, the history's items kept in the list"
# Row of the paper -> ours, behind which it stands.
_NAMES = {"TIGER": _KEPT, "P5": _P5}


def run(setting: Setting) -> Iterator[dict]:
    """TIGER, what needs no training, and P5 in the paper's own simplification."""
    tiger = setting.tiger()
    kept = {"scores": tiger["with_history_items"], "seeds": tiger["seeds"]}
    rows = {"TIGER": tiger, _KEPT: kept}
    evaluation = setting.evaluate(tiger["runs"][0]["run"])
    for name, label in _WITHOUT_TRAINING.items():
        rows[label] = {"scores": evaluation["baselines"][name]}
    values = {"rows": rows, "mixture": evaluation["mixture"]}
    yield values
    rows[_P5] = setting.tiger(setting.ids("text"))
    yield values


def show(results: list[dict]) -> str:
    """Ours and the paper's, by dataset."""
    return (
        "Same data, split and scorer for all of ours; numbers of the paper and of others are as "
        "they were printed.\n\n" + scores_table(results, ("table1", "others"), _NAMES)
    )


EXPERIMENT = Experiment(
    name="table1",
    title="Table 1: sequential recommendation",
    datasets=DATASETS,
    cost="2 trainings a dataset and seed",
    run=run,
    show=show,
)
