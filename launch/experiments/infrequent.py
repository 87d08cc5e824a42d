"""Infrequent items: who finds the targets that training saw seldom (the paper's contribution 3)."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch.experiments import sasrec
from launch.experiments.experiment import Experiment
from launch.experiments.scores import baseline_label, markdown, seeds_text
from launch.experiments.setting import DATASETS, ON_TIGER, Setting
from tiger_jax import eval, frequency
from tiger_jax.metrics import RankedItems

_K = 10
_COUNTING = ("popularity", "content_neighbours", "counts_with_content")


def run(setting: Setting) -> dict:
    """Recall@10 by the target's training frequency, and what the lists hold; history removed."""
    sequences = setting.sequences
    histories, targets = sequences.split("test")
    frequency_N = frequency.training_frequency(sequences.training_sequences(), sequences.num_items)

    def served(lists: Sequence[RankedItems]) -> dict[str, Any]:
        """Means over the lists of one seed each."""
        by_seed = [frequency.recall_by_frequency(r, targets, frequency_N, _K) for r in lists]
        groups = [
            {
                **group[0],
                **{part: _mean(g[part] for g in group) for part in ("recall", "low", "high")},
            }
            for group in zip(*by_seed, strict=True)
        ]
        return {
            "groups": groups,
            "coverage": _mean(frequency.coverage(r, sequences.num_items, _K) for r in lists),
            "mean_frequency": _mean(frequency.mean_frequency(r, frequency_N, _K) for r in lists),
            "concentration": _mean(
                frequency.concentration(r, sequences.num_items, _K) for r in lists
            ),
        }

    ids = setting.ids()
    tiger = [setting.lists(setting.train(ids, seed=seed)) for seed in setting.seeds]
    sasrecs = [
        sasrec.recommender(setting, seed).recommend(None, histories, _K) for seed in setting.seeds
    ]
    rows = {
        "TIGER": {**served(tiger), "seeds": list(setting.seeds)},
        sasrec.LABEL: {
            **served(sasrecs),
            "seeds": list(setting.seeds),
            "runs": [sasrec.training(setting, seed) for seed in setting.seeds],
        },
    }
    table = setting.table(ids)
    _, baselines = eval.make_baselines(setting.folder, sequences, table.semantic_ids_NI)
    for name in _COUNTING:
        rows[baseline_label(name)] = served([baselines[name].recommend(None, histories, _K)])
    targets_served = {
        "mean_frequency": float(frequency_N[targets].mean()),
        "coverage": len(np.unique(targets)) / sequences.num_items,
    }
    return {"k": _K, "rows": rows, "targets": targets_served}


def _mean(values) -> float:
    return statistics.fmean(values)


def show(results: list[dict]) -> str:
    """A table a dataset: recall by frequency, then what is shown at all."""
    sections = []
    for result in results:
        values = result["values"]
        first = next(iter(values["rows"].values()))
        header = [
            "",
            *(f"{_span(group)} ({group['users']:,} users)" for group in first["groups"]),
            "coverage",
            "mean frequency",
            "Gini",
        ]
        rows = [
            [
                label,
                *("{recall:.4f} ({low:.4f}-{high:.4f})".format(**group) for group in row["groups"]),
                f"{row['coverage']:.1%}",
                f"{row['mean_frequency']:.1f}",
                f"{row['concentration']:.3f}",
            ]
            for label, row in values["rows"].items()
        ]
        sections.append(
            f"**{result['dataset'].capitalize()}**, budget {result['budget']}, "
            f"{seeds_text(result['seeds'])} of what is trained; the targets themselves: mean "
            f"frequency {values['targets']['mean_frequency']:.1f}, "
            f"{values['targets']['coverage']:.1%} of the catalogue. {_verdict(values['rows'])}\n\n"
            + markdown(header, rows)
        )
    return (
        f"{ON_TIGER} Recall@10 on the test split, history removed, of users whose target has so "
        "many training interactions; then, of all top tens, the share of the catalogue in them, "
        "the mean number of training interactions of their items, and the Gini coefficient of how "
        "often each item is shown.\n\n" + "\n\n".join(sections)
    )


def _verdict(rows: dict[str, dict]) -> str:
    """For which targets TIGER and SASRec differ by more than their intervals."""
    above, below = [], []
    for ours, theirs in zip(rows["TIGER"]["groups"], rows[sasrec.LABEL]["groups"], strict=True):
        if ours["low"] > theirs["high"]:
            above.append(_span(ours))
        if ours["high"] < theirs["low"]:
            below.append(_span(ours))
    return (
        "By the target's training interactions, where their intervals lie apart, TIGER is above "
        f"SASRec at {', '.join(above) or 'none'} and below it at {', '.join(below) or 'none'}. "
        "The paper says, without numbers, that TIGER recommends infrequent items."
    )


def _span(group: dict) -> str:
    low, high = group["low_frequency"], group["high_frequency"]
    return f"{low} and more" if high is None else f"{low} to {high}"


EXPERIMENT = Experiment(
    name="infrequent",
    title="Infrequent items (the paper's contribution 3)",
    datasets=DATASETS,
    cost="1 training of TIGER, shared, and 1 of SASRec a dataset and seed",
    run=run,
    show=show,
)
