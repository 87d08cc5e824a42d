"""Tables 5, 8 and 9: TIGER with other networks, without user tokens, with other seeds."""

import functools
from collections.abc import Iterator

from launch.experiments.experiment import Experiment
from launch.experiments.scores import HEADER, SCORES, markdown, scores_table, seeds_text
from launch.experiments.setting import DATASETS, ON_IDS, ON_TIGER, Setting
from tiger_jax import paper

_LAYERS, _FEW_LAYERS = (3, 4, 5), (1, 2)
_OF_TIGER = f"TIGER of the cpu budget, without a teacher. {ON_IDS}"


def run_table5(setting: Setting) -> Iterator[dict]:
    """As many layers in the encoder as in the decoder."""
    network = setting.network()
    makers = {}
    for layers in _FEW_LAYERS if setting.budget.is_toy else _LAYERS:
        flags = (
            f"--gin.network.NetworkConfig.num_encoder_layers={layers}",
            f"--gin.network.NetworkConfig.num_decoder_layers={layers}",
        )
        is_own = layers == network.num_encoder_layers == network.num_decoder_layers
        makers[f"{layers} layers"] = functools.partial(
            setting.tiger,
            variant="" if is_own else f"{layers}_layers",
            flags=() if is_own else flags,
        )
    return setting.rows(makers, brief=True)


def show_table5(results: list[dict]) -> str:
    """A row a number of layers."""
    names = {str(layers): f"{layers} layers" for layers in _LAYERS}
    return f"{_OF_TIGER}\n\n{scores_table(results, 'table5', names)}"


def run_table8(setting: Setting) -> Iterator[dict]:
    """With the hashed user in front of the history, and without."""
    return setting.rows(
        {
            "no user information": functools.partial(
                setting.tiger, variant="no_users", flags=("--num_user_tokens=0",)
            ),
            "with user tokens": setting.tiger,
        },
        brief=True,
    )


def show_table8(results: list[dict]) -> str:
    """Two rows; the paper's table has no column of NDCG@10, Table 1 has it for the second row."""
    note = f"{_OF_TIGER} The paper's table lacks the column NDCG@10."
    return f"{note}\n\n{scores_table(results, 'table8')}"


def run_table9(setting: Setting) -> Iterator[dict]:
    """The same with several seeds, one after another."""
    return setting.rows({"TIGER": setting.tiger})


def show_table9(results: list[dict]) -> str:
    """Means and standard errors over the seeds."""
    rows = []
    for result in results:
        found = result["values"]["rows"]["TIGER"]
        cells = [_cell(found["scores"][name]) for name in SCORES]
        budget = f"{result['budget']}, {seeds_text(found['seeds'])}"
        rows.append([result["dataset"], budget, *cells])
        printed = paper.numbers()["table9"]["rows"][result["dataset"]]
        cells = [f"*{_theirs(printed[name])}*" for name in SCORES]
        rows.append([f"*{result['dataset']}*", "*paper, 3 seeds*", *cells])
    table = markdown(["", "budget", *HEADER], rows)
    return f"Mean and standard error over the seeds. {ON_TIGER}\n\n{table}"


def _cell(score: dict[str, float]) -> str:
    """With one seed there is the interval over the users alone."""
    if "standard_error" in score:
        error = score["standard_error"]
        shown = f"{error:.5f}" if error >= 5e-6 else "< 0.00001"
        return f"{score['value']:.4f} ± {shown}"
    return "{value:.4f} ({low:.4f}-{high:.4f})".format(**score)


def _theirs(score: dict[str, float]) -> str:
    return f"{score['mean']:.4f} ± {score['standard_error']:.5f}"


TABLE5 = Experiment(
    name="table5",
    title="Table 5: layers",
    datasets=("beauty",),
    cost="3 trainings a seed",
    run=run_table5,
    show=show_table5,
)
TABLE8 = Experiment(
    name="table8",
    title="Table 8: user tokens",
    datasets=("beauty",),
    cost="2 trainings a seed",
    run=run_table8,
    show=show_table8,
)
TABLE9 = Experiment(
    name="table9",
    title="Table 9: three seeds",
    datasets=DATASETS,
    cost="1 training a dataset and seed",
    run=run_table9,
    show=show_table9,
    seeds=3,
)
