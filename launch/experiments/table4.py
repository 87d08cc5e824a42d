"""Table 4: the most common categories among the results, by the category that was wanted."""

import numpy as np

from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown
from launch.experiments.setting import ON_TIGER, Setting
from tiger_jax import paper
from tiger_jax.data import content
from tiger_jax.diversity import Audience, Categories
from tiger_jax.recommender import Recommender

_TEMPERATURES = (1.0, 2.0)  # TIGER section 4.3, Table 4
_NUM_RESULTS = 10
_MOST_USERS = 100  # of a category

# Names of the paper -> those of the items' own paths.
_NAMES = {
    "Hair Styling Products": "Styling Products",
    "Tools Nail": "Nail Tools",
    "Makeup Nails": "Nails",
    "Skin Eyes": "Skin Care > Eyes",
    "Makeup Face": "Makeup > Face",
    "Hair Loss Products": "Hair Loss Products",
}


def run(setting: Setting) -> dict:
    """Draws lists for users who wanted an item of each category; the first seed's model."""
    categories = Categories.of_items(content.load_items(setting.folder))
    sequences = setting.sequences
    audience = Audience(sequences.user_ids, *sequences.split("test"))
    run_name = setting.train(seed=setting.seeds[0])
    recommender = Recommender.load(setting.folder, run_name, num_beams=50)
    wanted_B = categories.category_N[audience.targets]
    rows = {}
    for label, name in _wanted(categories).items():
        users = np.flatnonzero(wanted_B == categories.names.index(name))[:_MOST_USERS]
        of_category = audience.taken(users)
        rows[label] = {"category": name, "num_users": len(users), "common": {}}
        for temperature in _TEMPERATURES if len(users) else ():
            ranked = of_category.recommended(recommender, _NUM_RESULTS, temperature, seed=0)
            rows[label]["common"][str(temperature)] = categories.common(ranked, _NUM_RESULTS)
    return {"rows": rows}


def _wanted(categories: Categories) -> dict[str, str]:
    """The paper's categories where the items have them all, else the six most frequent ones."""
    if all(name in categories.names for name in _NAMES.values()):
        return _NAMES
    return {name: name for name in categories.names[: len(_NAMES)]}


def show(results: list[dict]) -> str:
    """A row a category, the paper's below it."""
    return "\n\n".join([ON_TIGER, *map(_section, results)])


def _section(result: dict) -> str:
    printed = paper.numbers()["table4"]["rows"]
    rows = []
    for label, row in result["values"]["rows"].items():
        common = (
            "; ".join(f"{name} {share:.0%}" for name, share in row["common"].get(str(t), []))
            for t in _TEMPERATURES
        )
        rows.append([f"{label} ({row['num_users']} users)", *common])
        if label in printed:
            theirs = (", ".join(printed[label][str(t)]) for t in _TEMPERATURES)
            rows.append([f"*{label}, paper*", *(f"*{names}*" for names in theirs)])
    missed = sum(
        row["category"] not in dict(row["common"].get(str(_TEMPERATURES[0]), []))
        for row in result["values"]["rows"].values()
    )
    header = ["category of the target", *(f"T = {t}, top 10" for t in _TEMPERATURES)]
    return (
        f"**{result['dataset'].capitalize()}**, budget {result['budget']}, first seed. Categories "
        "of at least a tenth of all results, five at most, with their share; at "
        f"T = {_TEMPERATURES[0]:g} the target's own is not among them for {missed} of "
        f"{len(result['values']['rows'])}, where the paper names it for all. The names are the "
        "items' own, the paper's below. Lists are drawn, history left out.\n\n"
        + markdown(header, rows)
    )


EXPERIMENT = Experiment(
    name="table4",
    title="Table 4: categories by temperature",
    datasets=("beauty",),
    cost="the run of table1",
    run=run,
    show=show,
    most_seeds=1,
)
