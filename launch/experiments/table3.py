"""Table 3: diversity by temperature, and on which level of the IDs it acts."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown, seeds_text
from launch.experiments.setting import ON_TIGER, Setting
from tiger_jax import diversity, paper
from tiger_jax.data import content
from tiger_jax.diversity import Audience, Categories
from tiger_jax.recommender import Recommender

_TEMPERATURES = (1.0, 1.5, 2.0)  # TIGER section 4.3, Table 3
_NUM_USERS = 500
_NUM_RESULTS = max(diversity.ENTROPY_CUTOFFS)

_BEAM = "beam search"


def run(setting: Setting) -> dict:
    """Draws lists for a sample of test users at every temperature, and searches for the best."""
    categories = Categories.of_items(content.load_items(setting.folder))
    audience = test_audience(setting)
    found = [
        _rows(Recommender.load(setting.folder, setting.train(seed=seed)), audience, categories)
        for seed in setting.seeds
    ]
    return {
        "num_users": len(audience.users),
        "num_categories": len(categories.names),
        "rows": {
            way: {name: float(np.mean([rows[way][name] for rows in found])) for name in row}
            for way, row in found[0].items()
        },
    }


def test_audience(setting: Setting) -> Audience:
    """A sample of the test users, the same for every seed and temperature."""
    sequences = setting.sequences
    audience = Audience(sequences.user_ids, *sequences.split("test"))
    order = np.random.default_rng(0).permutation(sequences.num_users)
    return audience.taken(np.sort(order[:_NUM_USERS]))


def _rows(
    recommender: Recommender, audience: Audience, categories: Categories
) -> dict[str, dict[str, float]]:
    """Diversity by what is done."""
    num_levels, id_length = recommender.table.num_levels, recommender.table.id_length
    on_levels = functools.partial(
        diversity.temperatures_of_levels, num_levels=num_levels, id_length=id_length
    )
    ways: dict[str, Any] = {_BEAM: None}
    ways |= {f"T = {value}": value for value in _TEMPERATURES}
    for value in _TEMPERATURES[1:]:
        ways[f"T = {value} on the first level"] = on_levels(value, 1.0)
        ways[f"T = {value} on the later levels"] = on_levels(1.0, value)
    rows = {}
    for name, temperature in ways.items():
        ranked = audience.recommended(recommender, _NUM_RESULTS, temperature, seed=0)
        rows[name] = diversity.diversity(ranked, audience.targets, categories.category_N)
    return rows


def show(results: list[dict]) -> str:
    """The paper's table with the beam beside it, then the levels."""
    return "\n\n".join([ON_TIGER, *map(_section, results)])


def _section(result: dict) -> str:
    values = result["values"]
    printed = paper.numbers()["table3"]["rows"]
    rows = []
    for name, row in values["rows"].items():
        rows.append([name, *_cells(row, values["num_users"])])
        theirs = printed.get(name.removeprefix("T = "))
        if theirs:
            entropies = (f"*{theirs[f'entropy@{k}']:.2f}*" for k in diversity.ENTROPY_CUTOFFS)
            rows.append([f"*{name}, paper*", *entropies, "", ""])
    header = ["", *(f"Entropy@{k}, bits (nats)" for k in diversity.ENTROPY_CUTOFFS)]
    header += ["Recall@10", "different items in all top tens"]
    return (
        f"**{result['dataset'].capitalize()}**, budget {result['budget']}, "
        f"{seeds_text(result['seeds'])}, {values['num_users']:,} test users, history left out. "
        "Entropy of the categories of a user's first K items, the mean over users; the paper does "
        "not say its base, so bits stand with nats behind them; ± is half the 95 % interval over "
        "the users. A category is the second level "
        "below what all items share, such as Hair Care > Styling Products: "
        f"{values['num_categories']} of them. T draws items without replacement by stochastic beam "
        "search; the first draws come first. The last rows heat one part of the ID alone.\n\n"
        + markdown(header, rows)
    )


def _cells(row: dict[str, float], num_users: int) -> Sequence[str]:
    """Recall with half its 95 % interval over the users."""
    recall = row["recall@10"]
    error = 1.96 * (recall * (1 - recall) / num_users) ** 0.5
    entropies = [row[f"entropy@{k}"] for k in diversity.ENTROPY_CUTOFFS]
    return [
        *(f"{bits:.2f} ({bits * np.log(2):.2f})" for bits in entropies),
        f"{recall:.4f} ± {error:.4f}",
        f"{row['distinct@10']:,.0f}",
    ]


EXPERIMENT = Experiment(
    name="table3",
    title="Table 3: diversity by temperature",
    datasets=("beauty",),
    cost="the run of table1",
    run=run,
    show=show,
)
