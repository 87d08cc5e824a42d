"""Health of Semantic IDs, as launch/id_health.py recorded it: a section of the page of results."""

import statistics
from collections.abc import Iterable

CARDS = ("rqvae", "rqvae_adamw", "vqvae", "residual", "hierarchical", "lsh", "random")

_INTRODUCTION = """## Health of Semantic IDs

Several calls of `python -m launch.id_health`, the last of them `{command}`, wrote
[results/id_health.json](../results/id_health.json), where each row has its commit, and this table;
rqvae, rqvae_adamw and so on are the cards of `gin/ids/`. Mean and standard deviation over seeds; a
card without a number of epochs ran with its own. A bucket is the items with equal codes;
collisions are items whose codes an earlier item already has. Embeddings by all-MiniLM-L6-v2 of
title, brand and categories. The Sports files have no titles, and their keywords were not among the
texts yet, as they are in the tables above: many items have equal embeddings here.
"""


def section(recorded: dict) -> str:
    """The section of the page of results: what is recorded in results/id_health.json."""
    return f"{_INTRODUCTION.format(command=recorded['command'])}\n{table(recorded['rows'])}"


def table(rows: Iterable[dict]) -> str:
    """The table as Markdown: a line a dataset and scheme, over its seeds."""
    lines = [
        "| dataset | IDs | seeds | codes in use, fewest of all seeds | different tuples "
        "| collisions | largest bucket | explained variance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, int], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["card"], row["epochs"] or 0), []).append(row)
    for (dataset, card, epochs), group in sorted(
        groups.items(), key=lambda item: (item[0][0], CARDS.index(item[0][1]), item[0][2])
    ):
        card = f"{card}, {epochs} epochs" if epochs else card
        usage = [
            min(levels) for levels in zip(*(row["codebook_usage"] for row in group), strict=True)
        ]
        explained = [row["explained_variance"] for row in group]
        lines.append(
            f"| {dataset} | {card} | {len(group)} | {' '.join(f'{share:.0%}' for share in usage)} "
            f"| {_spread([row['unique'] for row in group])} of {group[0]['items']:,} "
            f"| {_spread([row['collisions'] for row in group])} "
            f"| {max(row['largest_bucket'] for row in group)} "
            f"| {'-' if None in explained else _spread(explained, '.3f')} |"
        )
    return "\n".join(lines)


def _spread(values: list[float], form: str = ",.0f") -> str:
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean
