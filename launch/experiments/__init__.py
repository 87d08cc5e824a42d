"""The paper's tables and figures, and ours beside them, one experiment each.

`python -m launch.reproduce NAME` runs one, writes OUT/NAME_DATASET_BUDGET.json and makes the page
of results again from all such files. To add an experiment, write a module here with an `Experiment`
and put it into `EXPERIMENTS` below, where the paper has it:

    from launch.experiments.experiment import Experiment
    from launch.experiments.scores import scores_table
    from launch.experiments.setting import Setting

    def run(setting: Setting) -> dict:            # one dataset; the result goes into the file
        ids = setting.ids("lsh")                  # IDs by gin/ids/lsh.gin, made if not there
        return {"rows": {"LSH": setting.tiger(ids)}}    # trained and evaluated, with seed 0

    def show(results: list[dict]) -> str:         # all files of this name -> Markdown
        return scores_table(results, "table2")

    EXPERIMENT = Experiment(
        name="table2", title="Table 2: ways of making IDs", datasets=("beauty", "sports", "toys"),
        cost="1 training a dataset and seed", run=run, show=show,
    )

`run` gets a `Setting` (launch/experiments/setting.py): the dataset's name, the budget, the seeds,
and helpers that make what is missing and take what is there, so that experiments share it and a
killed one goes on where it was:

    setting.dataset, setting.budget.name, setting.seeds         "beauty", "cpu", (0, 1, 2)
    setting.folder                     the prepared folder (prepared if it is not there)
    setting.sequences                  its Sequences
    setting.ids(card, variant, flags)  name of IDs in it by gin/ids/CARD.gin; "": the budget's own
    setting.content_ids()              those of an RQ-VAE of content alone, as in the paper
    setting.table(ids)                 their table
    setting.train(ids, variant, flags, seed)   name of a trained run; variant tells it from others
    setting.evaluate(run)              what `tiger_jax.eval` says of it, as a dictionary
    setting.tiger(ids, variant, flags, seed)   the two together: scores, intervals; brief=True
                                       where variants are compared with each other
    setting.verb(module, *flags)       any verb, with the budget's gin card
    setting.at(dataset)                the same for another dataset

Where there are several trainings, `run` is better a generator that yields all it has after each, as
`setting.rows({label: make})` is one, which calls `make(seed=...)` for each seed: what is cut off is
then kept, shown as incomplete, and gone on with, on another machine too. What it cannot make it
lists under "missing", as table1.py does.

`flags` are those of the verbs: "--gin.TRAIN_STEPS=100", "--num_user_tokens=0". What a result
depends on besides (seeds, data, tables of IDs used through the helpers, commit, hardware, time) is
written into the file by the command. An experiment must run at budget toy in seconds: it uses the
shared runs, and where it needs sizes of its own takes smaller ones if `setting.budget.is_toy`.

`show` gets the files' contents, a list in the order of datasets and budgets; each has "dataset",
"budget", "seeds", "values" (what `run` returned) and the facts above. It reads nothing else but
the paper's own numbers (`tiger_jax.paper.numbers()`), and says budget and seeds with every row,
which `scores_table` does. An experiment with pictures has a third function,
`draw(results, folder)`, which writes PNG files into the folder `pictures` beside the page, by
`launch/plots.py`; `show` refers to them as
`![what is to be seen](pictures/NAME.png)`.
"""

from launch.experiments import (
    beyond,
    figure4,
    figure5,
    figure6,
    id_schemes,
    infrequent,
    memory,
    networks,
    table1,
    table3,
    table4,
    table6,
)
from launch.experiments.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    table1.EXPERIMENT,
    id_schemes.TABLE2,
    table3.EXPERIMENT,
    table4.EXPERIMENT,
    networks.TABLE5,
    table6.EXPERIMENT,
    id_schemes.TABLE7,
    networks.TABLE8,
    networks.TABLE9,
    id_schemes.TABLE10,
    id_schemes.ID_SHAPES,
    figure4.EXPERIMENT,
    figure5.EXPERIMENT,
    figure6.EXPERIMENT,
    memory.EXPERIMENT,
    infrequent.EXPERIMENT,
    beyond.EXPERIMENT,
)


def named(name: str) -> Experiment | None:
    """The experiment of that name, None where there is none."""
    return next((found for found in EXPERIMENTS if found.name == name), None)
