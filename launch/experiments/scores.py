"""Scores of several seeds as one row, and rows as Markdown with the paper's own beside them."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tiger_jax import paper

SCORES = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
HEADER = [name.replace("recall", "Recall").replace("ndcg", "NDCG") for name in SCORES]
# Label of `log_linear.of_counts_and_content`.
PRODUCT = "co-occurrence, content, popularity and transitions multiplied"
# Scores of a row -> what `tiger_jax.eval` calls them.
_PARTS = {"scores": "without_history_items", "with_history_items": "with_history_items"}


def mean_scores(found: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Means over seeds of what `metrics.score` says of each.

    Returns:
      {"recall@5": {"value", "low", "high"}, ...}: low and high are the means of the ends of the
      runs' 95 % intervals over users; with several seeds also "standard_error", of the mean over
      them.
    """
    means = {}
    for name in SCORES:
        cells = [scores[name] for scores in found]
        means[name] = {
            part: statistics.fmean(cell[part] for cell in cells)
            for part in ("value", "low", "high")
        }
        if len(cells) > 1:
            spread = statistics.stdev(cell["value"] for cell in cells)
            means[name]["standard_error"] = spread / len(cells) ** 0.5
    return means


def seed_row(found: Mapping[str, Any], seed: int, facts: Sequence[str]) -> dict[str, Any]:
    """A row of a table of scores: one recommender by one seed.

    Args:
      found: the scores on the test split "without_history_items" and "with_history_items", see
        `mean_scores`, and more.
      seed: which it was.
      facts: what of the rest is kept.

    Returns:
      {"scores", "with_history_items", "seeds", "runs"}: the scores without and with the history's
      items; and what is kept of the run, its scores too.
    """
    kept = {name: found[name] for name in facts}
    kept |= {part: mean_scores([found[part]]) for part in _PARTS.values()}
    return joined([{"seeds": [seed], "runs": [kept]}])


def joined(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of one recommender by different seeds as one row, whose scores are means over them."""
    runs = [run for row in rows for run in row["runs"]]
    return {
        **rows[-1],
        **{name: mean_scores([run[part] for run in runs]) for name, part in _PARTS.items()},
        "seeds": [seed for row in rows for seed in row["seeds"]],
        "runs": runs,
    }


def by_seed(row: Mapping[str, Any] | None) -> dict[int, dict[str, Any]]:
    """{seed: row of it alone}, which `joined` takes; none of no row."""
    if row is None:
        return {}
    pairs = zip(row["seeds"], row["runs"], strict=True)
    return {seed: {**row, "seeds": [seed], "runs": [run]} for seed, run in pairs}


def baseline_label(baseline: str) -> str:
    """Of a baseline that `tiger_jax.eval` scores, in tables."""
    return baseline.replace("_", " ")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seeds_text(seeds: Sequence[int]) -> str:
    """How many there are, in words."""
    return f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def scores_table(
    results: Sequence[Mapping[str, Any]],
    theirs: str | Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    part: str = "scores",
) -> str:
    """A table of scores for each dataset: rows of `results`, and the paper's in italics.

    Where rows tell how many different items stand in their lists, that is the last column.

    Args:
      results: recorded results whose values have "rows", {label: what `Setting.tiger` returns, or
        {"scores": what `metrics.score` returns}}.
      theirs: tables of `paper.numbers()`; their rows are {label: {metric: number}}, of one dataset
        or, below {dataset: ...}, of several.
      names: {label of the paper: label of ours} where a row of the paper belongs behind one of
        ours; other rows of the paper come last.
      part: which of the two scores is shown, scores or with_history_items.
    """
    sections = []
    for dataset in dict.fromkeys(result["dataset"] for result in results):
        printed = _printed(theirs, dataset)
        placed = dict(names or {})
        rows = []
        of_dataset = [result for result in results if result["dataset"] == dataset]
        for label in dict.fromkeys(label for r in of_dataset for label in r["values"]["rows"]):
            for result in of_dataset:
                row = result["values"]["rows"].get(label)
                if row and part in row:
                    cells = map(_cell, _ordered(row[part]))
                    rows.append([label, _size(result, row), *cells, _different_items(row)])
            for name in [name for name in printed if placed.get(name, name) == label]:
                rows.append(_paper_row(name, printed.pop(name)))
        rows += [_paper_row(name, scores) for name, scores in printed.items()]
        shown = None if any(row[-1] for row in rows) else -1
        header, *rows = (row[:shown] for row in [["", "budget", *HEADER, "items@10"], *rows])
        sections.append(f"**{dataset.capitalize()}**\n\n" + markdown(header, rows))
    return "\n\n".join(sections)


def _different_items(row: Mapping[str, Any]) -> str:
    """How many stand in the first ten of all users' lists, history removed; of the first seed."""
    runs = row.get("runs", ()) if "with_history_items" in row else ()
    found = [f"{run['distinct_items']:,}" for run in runs if "distinct_items" in run]
    return found[0] if found else ""


def _printed(theirs: str | Sequence[str], dataset: str) -> dict[str, dict[str, float]]:
    """The rows for a dataset; a table without datasets is of Beauty."""
    printed = {}
    for table in (theirs,) if isinstance(theirs, str) else theirs:
        rows = paper.numbers()[table]["rows"]
        printed |= rows.get(dataset, {} if "beauty" in rows else rows)
    return printed


def _size(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Budget, length of the training and seeds of a row; what is not trained has none of them."""
    if "seeds" not in row:
        return "no training"
    trained = [_length(run) for run in row.get("runs", ())[:1]]
    return ", ".join(filter(None, [result["budget"], *trained, seeds_text(row["seeds"])]))


def _length(run: Mapping[str, Any]) -> str:
    """How long a run was trained, as far as it says so; that of RecBole's models in epochs."""
    if "training" in run:
        return f"{run['training']['steps']:,} steps"
    if "options" not in run:
        return ""
    length = f"{run['options']['epochs']} epochs"
    # Where that is the last, more of them might have been better.
    if "best_epoch" in run:
        length += f", best at {run['best_epoch']}"
    # RecBole's only one that has two stages.
    if run["model"] == "S3Rec":
        length += f", {run['options']['pretrain_epochs']} of pretraining"
    return length


def _ordered(scores: Mapping[str, Mapping[str, float]]) -> list[Mapping[str, float]]:
    return [scores[name] for name in SCORES]


def _cell(score: Mapping[str, float]) -> str:
    text = "{value:.4f} ({low:.4f}-{high:.4f})".format(**score)
    return text + (f" ± {score['standard_error']:.4f}" if "standard_error" in score else "")


def _paper_row(name: str, scores: Mapping[str, float]) -> list[str]:
    cells = [f"*{scores[metric]:.4f}*" if metric in scores else "-" for metric in SCORES]
    return [f"*{name}*", f"*{scores.get('source', 'paper')}*", *cells, ""]
