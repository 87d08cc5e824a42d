"""Table 1: TIGER beside sequential recommenders, simple ones and the paper's."""

from collections.abc import Iterator

from launch.experiments import recbole, sasrec
from launch.experiments.experiment import Experiment
from launch.experiments.scores import scores_table
from launch.experiments.setting import DATASETS, NO_TEACHER, ON_TEACHERS, Setting

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
_SASREC = "SASRec with softmax loss"
_SASREC_KEPT = "SASRec with softmax loss, the history's items kept in the list"


def _by_recbole(model: str) -> str:
    return f"{'S3-Rec' if model == 'S3Rec' else model}, trained by RecBole"


# Row of the paper -> ours, behind which it stands.
_NAMES = {"TIGER": _KEPT, "P5": _P5}
_NAMES |= {name: _by_recbole(name) for name in (*recbole.MODELS, "S3-Rec")}


def run(setting: Setting) -> Iterator[dict]:
    """TIGER, what needs no training, SASRec, and P5 in the paper's own simplification.

    The models of RecBole are there if their lists are: benchmarks/baselines makes them.
    """
    tiger = setting.tiger()
    kept = {"scores": tiger["with_history_items"], "seeds": tiger["seeds"]}
    rows = {"TIGER": tiger, _KEPT: kept}
    evaluation = setting.evaluate(tiger["runs"][0]["run"])
    for name, label in _WITHOUT_TRAINING.items():
        rows[label] = {"scores": evaluation["baselines"][name]}
    rows |= {_by_recbole(model): row for model, row in recbole.rows(setting).items()}
    values = {"rows": rows, "mixture": evaluation["mixture"]}
    yield values
    rows[_SASREC] = sasrec.row(setting)
    rows[_SASREC_KEPT] = {
        "scores": rows[_SASREC]["with_history_items"],
        "seeds": rows[_SASREC]["seeds"],
        "runs": rows[_SASREC]["runs"],
    }
    yield values
    rows[_P5] = setting.tiger(setting.ids("text"), "no_teacher", (NO_TEACHER,))
    yield values


def show(results: list[dict]) -> str:
    """Ours and the paper's, by dataset."""
    return (
        "Same data, split and scorer for all of ours; numbers of the paper and of others are as "
        f"they were printed. {ON_TEACHERS}\n\n"
        + scores_table(results, ("table1", "others"), _NAMES)
    )


EXPERIMENT = Experiment(
    name="table1",
    title="Table 1: sequential recommendation",
    datasets=DATASETS,
    cost="2 trainings a dataset and seed, and SASRec; RecBole's lists if they are there",
    run=run,
    show=show,
)
