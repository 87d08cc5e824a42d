"""Figure 4: which categories the first code tells apart, and the second within the first."""

import pathlib

import numpy as np

from launch import plots
from launch.experiments.experiment import Experiment
from launch.experiments.scores import markdown
from launch.experiments.setting import Setting
from tiger_jax.data import content
from tiger_jax.semantic_ids import inspection

_CATEGORIES, _WITHIN = 12, 8
# Second codes with a colour of their own; the others share one.
_SECOND = 7


def run(setting: Setting) -> dict:
    """Items of each category and code, by an RQ-VAE of 4, 16 and 256 codes."""
    ids = setting.ids("figure4")
    table = setting.table(ids)
    codes_NL = table.semantic_ids_NI[1:, : table.num_levels]
    rows = content.load_items(setting.folder)
    paths_N = [row["categories"][0] if row.get("categories") else [] for row in rows]
    depth = inspection.category_depth(paths_N)
    first_N = codes_NL[:, 0]
    by_first = _largest(first_N, *inspection.categories_at(paths_N, depth), _CATEGORIES)
    fine_names, fine_N = inspection.categories_at(paths_N, depth + 1)
    within = {}
    for code in np.unique(first_N).tolist():
        chosen = first_N == code
        second_N = _most_frequent_first(codes_NL[chosen, 1])
        within[str(code)] = {
            "items": int(chosen.sum()),
            **_largest(second_N, fine_names, fine_N[chosen], _WITHIN),
        }
    embeddings_NE, _ = content.load_embeddings(setting.folder)
    return {
        "ids": ids,
        "health": table.health(),
        "by_first_code": by_first,
        "within_first_code": within,
        "likeness": inspection.likeness_by_shared_prefix(codes_NL, embeddings_NE, [fine_N]),
    }


def _largest(code_N: np.ndarray, names: list[str], category_N: np.ndarray, number: int) -> dict:
    """The largest categories among some items, and the items of each of them by code."""
    counts_CG = inspection.category_counts(
        code_N, category_N, int(code_N.max()) + 1, max(len(names), 1)
    )
    order = np.argsort(-counts_CG.sum(axis=0), kind="stable")
    order = [place for place in order[:number].tolist() if counts_CG[:, place].any()]
    return {"categories": [names[g] for g in order], "counts": counts_CG[:, order].T.tolist()}


def _most_frequent_first(code_N: np.ndarray) -> np.ndarray:
    """Codes renumbered by frequency; those behind the first few are one."""
    codes, inverse, counts = np.unique(code_N, return_inverse=True, return_counts=True)
    rank = np.empty(len(codes), int)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(codes))
    return np.minimum(rank[inverse], _SECOND)


def show(results: list[dict]) -> str:
    """The pictures, and the paper's claim of a hierarchy as numbers."""
    parts = []
    for result in results:
        dataset, found = result["dataset"], result["values"]
        rows = [
            [
                str(row["shared"]),
                f"{row['pairs']:,}",
                *("-" if value is None else form.format(value) for value, form in _likeness(row)),
            ]
            for row in found["likeness"]
        ]
        parts.append(
            f"{dataset.capitalize()}, {result['budget']} budget: an RQ-VAE of 4, 16 and 256 codes "
            "as in the paper. Above: the largest categories by first code (Figure 4a). Below: "
            "within each first code, its categories by second code (Figure 4b); the seven most "
            "frequent second codes have a colour each, the others grey.\n\n"
            f"![Items of each category by first code](pictures/{_name('figure4a', result)})\n\n"
            f"![Items of each category by second code](pictures/{_name('figure4b', result)})\n\n"
            "Pairs of items that share exactly so many codes from the first on:\n\n"
            + markdown(["codes shared", "pairs", "mean cosine", "same category"], rows)
        )
    return "\n\n".join(parts)


def _likeness(row: dict) -> list[tuple]:
    return [(row["cosine"], "{:.3f}"), (row["same_category"][0], "{:.0%}")]


def _name(picture: str, result: dict) -> str:
    return f"{picture}_{result['dataset']}_{result['budget']}.png"


def draw(results: list[dict], folder: pathlib.Path) -> None:
    """A picture of the first code and one of the second, for each result."""
    for result in results:
        found = result["values"]
        counts = np.array(found["by_first_code"]["counts"])
        parts = {f"first code {code}": column for code, column in enumerate(counts.T)}
        panel = (found["by_first_code"]["categories"], parts)
        plots.bars(folder / _name("figure4a", result), {"all items": panel}, "items")
        panels = {}
        for code, within in found["within_first_code"].items():
            counts = np.array(within["counts"])
            parts = {_second(place): column for place, column in enumerate(counts.T)}
            title = f"first code {code}: {within['items']:,} items"
            panels[title] = (within["categories"], parts)
        plots.bars(folder / _name("figure4b", result), panels, "items")


def _second(place: int) -> str:
    return f"second code no. {place + 1}" if place < _SECOND else "other second codes"


EXPERIMENT = Experiment(
    name="figure4",
    title="Figure 4: categories by code",
    datasets=("beauty",),
    cost="an RQ-VAE",
    run=run,
    show=show,
    draw=draw,
    most_seeds=1,
)
