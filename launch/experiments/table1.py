"""Table 1: TIGER beside sequential recommenders, simple ones and the paper's."""

import functools
from collections.abc import Iterator

from launch.experiments import recbole, sasrec
from launch.experiments.experiment import Experiment
from launch.experiments.scores import PRODUCT, baseline_label, by_seed, joined, scores_table
from launch.experiments.setting import DATASETS, ON_TIGER, Setting
from tiger_jax import artifacts, log_linear, metrics
from tiger_jax.data import content

# {label: name of what `tiger_jax.eval` scores beside a model}.
_WITHOUT_TRAINING = {
    baseline_label(name): name
    for name in (
        "popularity",
        "last_prefix",
        "item_to_item",
        "content_neighbours",
        "counts_with_content",
    )
}
_P5, _P5_IDS = "P5: text IDs, sequential task alone", "text"
_UNTAUGHT = "TIGER with IDs of content alone by an RQ-VAE, no teacher"
_KEPT = "TIGER, the history's items kept in the list"
_SASREC_KEPT = f"{sasrec.LABEL}, the history's items kept in the list"


def _by_recbole(model: str) -> str:
    return f"{'S3-Rec' if model == 'S3Rec' else model}, trained by RecBole"


_BY_RECBOLE = tuple(map(_by_recbole, recbole.MODELS))

# Row of the paper -> ours, behind which it stands.
_NAMES = {"TIGER": _KEPT, "P5": _P5}
_NAMES |= {name: _by_recbole(name) for name in (*recbole.MODELS, "S3-Rec")}


def run(setting: Setting) -> Iterator[dict]:
    """TIGER, what needs no training, SASRec, and P5 in the paper's own simplification.

    A model of RecBole is there if its lists are, which benchmarks/baselines makes, or once were.
    """
    rows = {}
    # Besides the rows, what was recorded holds until there is something new.
    others = {name: value for name, value in setting.recorded.items() if name != "rows"}
    for tiger in setting.growing_row("TIGER", setting.tiger):
        rows["TIGER"] = tiger
        rows[_KEPT] = {"scores": tiger["with_history_items"], "seeds": tiger["seeds"]}
        yield {**others, "rows": rows}
    # Elsewhere TIGER is that already.
    if setting.macro("TEACHER_WEIGHT"):
        for row in _untaught(setting, _UNTAUGHT, setting.budget.content_ids):
            rows[_UNTAUGHT] = row
            yield {**others, "rows": rows}
    without_training, mixture = _without_training(setting, rows["TIGER"])
    rows |= without_training | {PRODUCT: _product(setting)} | _by_recbole_rows(setting)
    values = {"rows": rows, "mixture": mixture, "missing": _missing(setting, rows)}
    yield values
    make = functools.partial(sasrec.row, setting)
    for row in setting.growing_row(sasrec.LABEL, make, sasrec.CARD):
        rows[sasrec.LABEL] = row
        rows[_SASREC_KEPT] = {
            "scores": row["with_history_items"],
            "seeds": row["seeds"],
            "runs": row["runs"],
        }
        yield values
    for row in _untaught(setting, _P5, _P5_IDS):
        rows[_P5] = row
        yield values


def _without_training(setting: Setting, tiger: dict) -> tuple[dict[str, dict], dict]:
    """Rows, and the settings of counts with content; as recorded where they are."""
    recorded = setting.recorded.get("rows", {})
    # One of them is of the IDs of TIGER's row.
    if "mixture" in setting.recorded and recorded["TIGER"].get("recipe") == tiger["recipe"]:
        return {label: recorded[label] for label in _WITHOUT_TRAINING}, setting.recorded["mixture"]
    found = setting.evaluate(tiger["runs"][0]["run"])
    rows = {
        label: {"scores": found["baselines"][name], "commit": found["commit"]}
        for label, name in _WITHOUT_TRAINING.items()
    }
    return rows, found["mixture"]


def _product(setting: Setting) -> dict:
    """The row of the strongest that needs no training; as recorded where it is."""
    recorded = setting.recorded.get("rows", {})
    if PRODUCT in recorded:
        return recorded[PRODUCT]
    embeddings_NE, _ = content.load_embeddings(setting.folder)
    product = log_linear.of_counts_and_content(setting.sequences, embeddings_NE)
    histories, targets = setting.sequences.split("test")
    lists = product.recommend(None, histories, max(metrics.CUTOFFS))
    return {
        "scores": metrics.score(lists, targets),
        "exponents": product.exponents,
        **artifacts.provenance(),
    }


def _by_recbole_rows(setting: Setting) -> dict[str, dict]:
    """Of RecBole's models and seeds, those with lists, and those scored when theirs were there.

    Not, beside lists, what was scored of another training than theirs.
    """
    recorded = setting.recorded.get("rows", {})
    found = {_by_recbole(model): row for model, row in recbole.rows(setting).items()}
    rows = {}
    for label in _BY_RECBOLE:
        there, with_lists = by_seed(recorded.get(label)), by_seed(found.get(label))
        now = [recbole.options_of(row) for row in with_lists.values()]
        alike = {
            seed: row for seed, row in there.items() if not now or recbole.options_of(row) in now
        }
        of_seeds = alike | with_lists
        if of_seeds:
            rows[label] = joined([of_seeds[seed] for seed in sorted(of_seeds)])
    return rows


def _missing(setting: Setting, rows: dict[str, dict]) -> list[str]:
    """Rows of RecBole's models that are not there with all seeds."""
    wanted = set(setting.seeds)
    return [
        label for label in _BY_RECBOLE if label not in rows or wanted - set(rows[label]["seeds"])
    ]


def _untaught(setting: Setting, label: str, ids_card: str) -> Iterator[dict]:
    """The row of TIGER without a teacher on the IDs of a card, after each of its seeds."""
    flags = setting.budget.untaught

    def make(seed: int) -> dict:
        return setting.tiger(setting.ids(ids_card), "no_teacher", flags, seed)

    return setting.growing_row(label, make, ids_card=ids_card, flags=flags)


def show(results: list[dict]) -> str:
    """Ours and the paper's, by dataset."""
    return (
        "Same data, split and scorer for all of ours; numbers of the paper and of others are as "
        f"they were printed. {ON_TIGER} P5 is TIGER's network on text IDs, which is how the "
        "paper simplifies it; content neighbours are its Semantic_KNN; what is multiplied in the "
        "last row without training is also what teaches TIGER (docs/baselines.md). TIGER and what "
        "RecBole trained list 50 items and then lose the history, so that some users with more "
        "than 40 items, one in a hundred at most, have fewer than ten; the others leave it out "
        "before. RecBole's models are those of their best epoch by validation: where that is the "
        "last, more might have been better.\n\n"
        + scores_table(results, ("table1", "others"), _NAMES)
    )


EXPERIMENT = Experiment(
    name="table1",
    title="Table 1: sequential recommendation",
    datasets=DATASETS,
    cost="3 trainings a dataset and seed, and SASRec; RecBole's lists if they are there",
    run=run,
    show=show,
)
