"""docs/results.md, made from results/*.json alone.

    python -m launch.results_page

A section for each experiment in the order of the paper, then the health of Semantic IDs.
"""

import contextlib
import os
import pathlib

from launch.experiments import EXPERIMENTS, health
from launch.experiments.budgets import BUDGETS
from launch.experiments.experiment import Experiment
from launch.experiments.setting import DATASETS
from tiger_jax import artifacts, command_line

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGE = ROOT / "docs" / "results.md"

# Of a result: what it says, and what stands below it.
_NEEDS = ("name", "dataset", "budget", "seeds", "values", "complete", "encoder", "text_fields")
_NEEDS += ("tables", "command", "date", "commit", "hardware")

_INTRODUCTION = """# Results

Every table and figure of the paper, and what we found. `python -m launch.reproduce NAME` measures
each and makes this page from the files in `results/`; nothing here is written by hand. Test split,
all users, full catalogue, item level; the history's items are removed from the lists where nothing
else is said. Ranges in brackets are 95 % intervals over the users, with several seeds the mean of
their ends: they say nothing of how seeds differ. ± is the standard error of the mean over seeds
where nothing else is said.
items@10 is how many different items stand in the first ten of all users' lists (first seed): where
they are few, the model has learnt little but what is popular, and its scores say nothing of what
the table compares.
Rows in *italics* are the paper's own. Below each result stands how its models were trained, as far
as that was recorded; budgets have changed on the way, so that two tables of one budget may not
compare. In Sports keywords stand for titles, which the files lack: phrases that another model
(IDGenRec's T5) made of each item's full text.

**Nothing here is of the paper's own recipe**, which wants an accelerator: 13M parameters, 200,000
steps (Toys 100,000) of 256 examples, Sentence-T5 embeddings of texts with prices. The cpu budget
has 4.8M parameters, a causal encoder, MiniLM embeddings, and no prices, which our files lack. An
RQ-VAE trained by one card on processors of two kinds gives two tables of IDs, as their last bits
differ: Table 2, Table 10 and the longer IDs were not measured on one machine.

Budgets:
"""


def write(results: pathlib.Path = RESULTS, page: pathlib.Path | None = None) -> None:
    """Makes the page and its pictures.

    Args:
      results: folder of the recorded results.
      page: the file to write, the pictures go beside it into pictures/; None: docs/results.md for
        this checkout's own results, and results.md among them for others.
    """
    page = page or page_of(results)
    for experiment in EXPERIMENTS:
        recorded = load(experiment, results)
        if experiment.draw and recorded:
            pictures = page.parent / "pictures"
            pictures.mkdir(parents=True, exist_ok=True)
            with _refusing_damage(experiment, results):
                experiment.draw(recorded, pictures)
    with artifacts.atomic_path(page) as temporary:
        temporary.write_text(text(results, page.parent), encoding="utf-8")


def page_of(results: pathlib.Path) -> pathlib.Path:
    """Where the page of a folder of results is."""
    return PAGE if results.resolve() == RESULTS else results / "results.md"


def text(results: pathlib.Path, folder: pathlib.Path) -> str:
    """The page as Markdown.

    Args:
      results: folder of the recorded results.
      folder: that the page will be in, for links.
    """
    where = pathlib.Path(os.path.relpath(results.resolve(), folder.resolve())).as_posix()
    budgets = "\n".join(f"* {budget.name}: {budget.what};" for budget in BUDGETS.values())
    sections = [_INTRODUCTION + "\n" + budgets.rstrip(";") + "."]
    for experiment in EXPERIMENTS:
        recorded = load(experiment, results)
        with _refusing_damage(experiment, results):
            body = experiment.show(recorded) if recorded else "Not measured yet."
            lines = [_source(result, where) for result in recorded]
        sections.append("\n\n".join(filter(None, [f"## {experiment.title}", body, *lines])))
    recorded = results / "id_health.json"
    if recorded.is_file():
        of_ids = artifacts.load_json(recorded, "launch.id_health", ("command", "rows"))
        with artifacts.refusing_damage(recorded, "result", "launch.id_health"):
            sections.append(health.section(of_ids))
    return "\n\n".join(sections) + "\n"


def load(experiment: Experiment, results: pathlib.Path) -> list[dict]:
    """What is recorded of an experiment, datasets in the paper's order, large budgets first.

    A file that is of another experiment, dataset or budget than its name says is left out; who
    measures is told of it.

    Raises:
      InputError: a file is damaged, or no result.
    """
    paths = (
        results / f"{experiment.name}_{dataset}_{budget}.json"
        for dataset in DATASETS
        for budget in BUDGETS
    )
    made_by = f"launch.reproduce {experiment.name}"
    found = {path: artifacts.load_json(path, made_by, _NEEDS) for path in paths if path.is_file()}
    return [result for path, result in found.items() if path.name == file_name(**result)]


def file_name(name: str, dataset: str, budget: str, **_) -> str:
    """Of the record of an experiment, by what the record says of itself."""
    return f"{name}_{dataset}_{budget}.json"


def _refusing_damage(
    experiment: Experiment, results: pathlib.Path
) -> contextlib.AbstractContextManager[None]:
    """InputError where what is recorded of an experiment has not the parts that it shows."""
    files = results / f"{experiment.name}_*.json"
    return artifacts.refusing_damage(files, "result", f"launch.reproduce {experiment.name}")


def _source(result: dict, where: str) -> str:
    """What stands below a section: where its numbers come from."""
    name = file_name(**result)
    encoder = result["encoder"] + (
        f" of {', '.join(result['text_fields'])}" if result["text_fields"] else ""
    )
    return (
        f"<sub>[{name}]({where}/{name}): `{result['command']}`, {result['date']}, commit "
        f"{result['commit']}; {encoder}; {result['hardware']}{_ids(result)}{_trainings(result)}"
        f"{'' if result['complete'] else _incomplete(result)}</sub>"
    )


def _ids(result: dict) -> str:
    """The IDs behind a result, by the names of their cards in gin/ids."""
    return f"; IDs {', '.join(result['tables'])}" if result["tables"] else ""


def _incomplete(result: dict) -> str:
    missing = result["values"].get("missing")
    needs = (
        f"; these rows also want their ranked lists (docs/baselines.md): {'; '.join(missing)}"
        if missing
        else ""
    )
    return f"; NOT COMPLETE: the same command goes on, also with rows of older cards{needs}"


def _trainings(result: dict) -> str:
    """How the TIGER models behind a result were trained, which may have been in steps."""
    rows = result["values"].get("rows")
    rows = rows.values() if isinstance(rows, dict) else ()
    runs = [run for row in rows for run in row.get("runs", ()) if "search" in run]
    recipes = [
        f"{_recipe(run['training'], run['training']['network']['dropout_rate'])}"
        f"{_trained_at(run['training'])}, evaluated at {run['commit']}"
        for run in runs
    ]
    if not runs:
        trained = result.get("trained", {}).values()
        recipes = [
            _recipe(training, training["dropout"]) + _trained_at(training) for training in trained
        ]
    return "".join(f"; {recipe}" for recipe in dict.fromkeys(recipes))


def _trained_at(training: dict) -> str:
    return f", trained at {training['commit']}" if training.get("commit") else ""


def _recipe(training: dict, dropout: float) -> str:
    """In words; of what older runs do not tell, nothing."""
    parts = [f"{training['steps']:,} steps of {training['batch_size']} rows"]
    parts += [f"dropout {dropout:g}"]
    if "order_noise" in training:
        parts += [f"order noise {training['order_noise']:g}"]
    if "teacher_weight" in training:
        parts += [f"teacher {training['teacher_weight']:g}"]
    if training.get("imagined_users"):
        parts += [f"{training['imagined_users']:,} imagined users"]
    return ", ".join(parts)


def main(argv=None) -> None:
    """Command line."""
    try:
        command_line.ArgumentParser(description=__doc__.split("\n")[0]).parse_args(argv)
        write()
    except artifacts.InputError as error:
        command_line.fail(str(error))


if __name__ == "__main__":
    main()
