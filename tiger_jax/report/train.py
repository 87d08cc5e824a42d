"""The page of `train`: curves of losses and accuracy, and the guard rails in words."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tiger_jax.report import pictures
from tiger_jax.report.page import Page
from tiger_jax.semantic_ids.table import SemanticIdTable


def write(
    path: str | os.PathLike,
    run: str,
    table: SemanticIdTable,
    rows: Sequence[Mapping[str, Any]],
    timings: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Writes the page of a run, at its end or on the way.

    Args:
      path: the file to write.
      run: name of the run.
      table: the Semantic IDs that it learns.
      rows: the run's log, oldest first; `metrics.jsonl`.
      timings: what the clock said; `timing.jsonl`.
      facts: dataset, ids, num_steps, batch_size, parameters, num_eval_users, num_beams.
    """
    last, clock = rows[-1], timings[-1]
    best = max(rows, key=lambda row: row["ndcg@10"])
    page = Page(
        f"Training of {run} on {facts['dataset']}",
        f"IDs {facts['ids']}; step {last['step']:,} of {facts['num_steps']:,}, batches of "
        f"{facts['batch_size']:,}",
    )
    page.facts(
        {
            "best step": f"{best['step']:,}",
            "its recall@10": f"{best['recall@10']:.4f}",
            "its ndcg@10": f"{best['ndcg@10']:.4f}",
            "parameters": f"{facts['parameters']:,}",
            "training so far": _duration(clock["training_seconds"]),
            "steps per second": f"{clock['steps_per_s']:,.2f}",
            "examples per second": f"{clock['steps_per_s'] * facts['batch_size']:,.0f}",
        }
    )
    page.text(
        f"Validated on {facts['num_eval_users']:,} users with {facts['num_beams']} beams. The best "
        "step has the highest ndcg@10, items of the history kept; eval tells what the run is worth."
    )
    _add_curves(page, rows, table)
    _add_guard_rails(page, last, table.num_items)
    _add_speed(page, timings, facts["batch_size"])
    _add_log(page, rows)
    page.save(path)


def _add_curves(page: Page, rows: Sequence[Mapping], table: SemanticIdTable) -> None:
    steps = [row["step"] for row in rows]
    parts = [f"level {level + 1}" for level in range(table.num_levels)]
    parts += ["collision token"] * (table.id_length - table.num_levels)

    def by_part(name: str) -> dict[str, tuple]:
        return {
            part: (steps, [row[name][place] for row in rows]) for place, part in enumerate(parts)
        }

    def picture(series: dict[str, tuple], y_label: str, caption: str, from_zero: bool = False):
        ends = ", ".join(f"{name} ends at {y[-1]:.4g}" for name, (_, y) in series.items())
        alt = f"Curves over {steps[-1]} steps, {caption}: {ends}"
        drawn = pictures.lines(series, "step", y_label, alt, from_zero=from_zero)
        return drawn, caption

    totals = {
        "training": (steps, [sum(row["train_losses"]) for row in rows]),
        "validation": (steps, [sum(row["losses"]) for row in rows]),
    }
    first = {
        "model": (steps, [row["losses"][0] for row in rows]),
        "counting pairs of items": (steps, [row["bigram_first_code_loss"] for row in rows]),
        "model, history hidden": (steps, [row["losses_without_encoder"][0] for row in rows]),
    }
    accuracy = {
        f"{name}, history {what}": (steps, [pick(row)[name] for row in rows])
        for name in ("recall@10", "ndcg@10")
        for what, pick in (("left out", lambda row: row["without_history"]), ("kept", dict))
    }
    distinct = {"": (steps, [row["distinct_items"] for row in rows])}
    page.heading("Curves")
    page.pictures(
        picture(accuracy, "mean over users", "Recall and NDCG, validation", from_zero=True),
        picture(totals, "nats an item", "Loss of a whole ID"),
        picture(by_part("train_losses"), "nats", "Training loss by part of the ID"),
        picture(by_part("losses"), "nats", "Validation loss by part of the ID"),
        picture(first, "nats", "First code: what the model knows of it, validation"),
        picture(distinct, "items", "Different items in all first tens", from_zero=True),
    )


def _add_guard_rails(page: Page, row: Mapping[str, Any], num_items: int) -> None:
    """Signs of a model that fails while its loss falls, with what they mean."""
    first, bigram = row["losses"][0], row["bigram_first_code_loss"]
    hidden = row["losses_without_encoder"][0]
    page.heading("Guard rails")
    page.table(
        ("sign", "now", "beside", "means"),
        [
            (
                "loss of the first code",
                f"{first:.2f}",
                f"{bigram:.2f} by counting",
                "it reads the history better than counts of pairs do"
                if first < bigram
                else "it has not learned yet what counting pairs of items tells",
            ),
            (
                "the same with the history hidden",
                f"{hidden:.2f}",
                f"{first:.2f} with it",
                "the decoder uses what the encoder reads"
                if hidden > first + 0.05
                else "the decoder ignores the history",
            ),
            (
                "different items in all first tens",
                f"{row['distinct_items']:,}",
                f"{num_items:,} items",
                "the same few items for all"
                if row["distinct_items"] <= 20
                else "lists differ from user to user",
            ),
        ],
        f"At step {row['step']:,}",
    )


def _add_speed(page: Page, timings: Sequence[Mapping], batch_size: int) -> None:
    steps = [timing["step"] for timing in timings]
    speeds = [timing["steps_per_s"] * batch_size for timing in timings]
    page.heading("Speed")
    page.pictures(
        (
            pictures.lines(
                {"": (steps, speeds)},
                "step",
                "examples per second",
                f"Curve: between {min(speeds):,.0f} and {max(speeds):,.0f} examples per second",
                from_zero=True,
            ),
            "Examples per second between validations; the first includes compilation",
        )
    )


def _add_log(page: Page, rows: Sequence[Mapping]) -> None:
    names = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    with page.details(f"All {len(rows):,} validations"):
        page.table(
            ("step", "training loss", "validation loss", *names),
            [
                (
                    f"{row['step']:,}",
                    f"{sum(row['train_losses']):.3f}",
                    f"{sum(row['losses']):.3f}",
                    *(f"{row[name]:.4f}" for name in names),
                )
                for row in rows
            ],
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
