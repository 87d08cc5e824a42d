"""The page of `eval`: scores beside baselines and the paper, and ten users to look at."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tiger_jax import metrics, paper
from tiger_jax.data.sequences import Sequences
from tiger_jax.metrics import RankedItems
from tiger_jax.report import pictures
from tiger_jax.report.page import Page, short_name

_METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
_LENGTHS = (1, 3, 5, 8, 12, 20)
_COUNTS = (0, 1, 5, 10, 20, 50, 100)
_NUM_USERS = 10
_HITS_SHOWN = 5
_HISTORY_SHOWN = 10


def write(
    path: str | os.PathLike,
    result: dict[str, Any],
    sequences: Sequences,
    titles: Sequence[str],
    user_rows: np.ndarray,
    ranked: RankedItems,
) -> None:
    """Writes the page of one evaluation.

    Args:
      path: the file to write.
      result: what `evaluate` found.
      sequences: the data.
      titles: of the items, [N]; the raw id where there is none.
      user_rows: rows of the users that were asked about, [U].
      ranked: their lists as they are scored, [U, R].
    """
    histories, targets = sequences.split(result["split"])
    histories, targets = [histories[row] for row in user_rows], targets[user_rows]
    ranks = metrics.target_ranks(ranked.top(10), targets)
    page = Page(
        f"{result['run']} on {result['dataset']}, {result['split']} split",
        f"{result['ids']} IDs of {short_name(result['encoder'])} embeddings, step "
        f"{result['step']:,}, "
        f"{result['search']} search with {result['num_beams']} beams; commit {result['commit']}",
    )
    page.facts(
        {name: f"{result[name]['value']:.4f}" for name in _METRICS}
        | {
            "users": f"{result['num_users']:,}",
            "distinct items in the lists": f"{result['distinct_items']:,}",
            "invalid IDs": f"{result['invalid_id_rate']:.2%}",
            "users per second": f"{result['users_per_s']:,.1f}",
        }
    )
    _add_scores(page, result, paper.dataset(sequences.num_users, sequences.num_items))
    _add_breakdowns(page, sequences, histories, targets, ranks)
    _add_users(page, sequences, titles, user_rows, histories, targets, ranked, ranks)
    page.save(path)


def contender(result: dict) -> str:
    """Whose scores those of an evaluation are: a run's, or a run's with a fusion."""
    return " with ".join(filter(None, (result["run"], result["fusion"])))


def _add_scores(page: Page, result: dict, dataset: str | None) -> None:
    """The run, the baselines and, for a dataset of the paper, its row of Table 1."""
    page.heading("Scores")
    page.text(
        "One item is to be found for each user, the one that came next; all items compete. In "
        "brackets the interval that holds 95 % of 1,000 resamples of the users. The baselines' "
        f"lists {'leave out' if result['exclude_history'] else 'keep'} the user's history."
    )
    kept = result.get("with_history_items")
    who = contender(result)
    scores = {
        f"{who}, history left out": result["without_history_items"],
        **({f"{who}, history kept": kept} if kept else {}),
        **{name.replace("_", " "): score for name, score in result["baselines"].items()},
    }
    # A narrow table may break a cell before the interval, but not within.
    cells = "{value:.4f} ({low:.4f}\u2060–\u2060{high:.4f})"
    rows = [
        (name, *(cells.format(**score[metric]) for metric in _METRICS))
        for name, score in scores.items()
    ]
    if dataset and result["split"] == "test":
        for name in ("TIGER", "SASRec"):
            row = paper.numbers()["table1"]["rows"][dataset][name]
            rows.append((f"{name} in the paper", *(f"{row[metric]:.4f}" for metric in _METRICS)))
    marked = 0 if result["exclude_history"] else 1
    page.table(("", *_METRICS), rows, "Item level, full catalogue", marked=[marked])


def _add_breakdowns(
    page: Page,
    sequences: Sequences,
    histories: list[np.ndarray],
    targets: np.ndarray,
    ranks: np.ndarray,
) -> None:
    """For which users, and for which items, the list holds the target."""
    training = np.concatenate(sequences.training_sequences())
    counts = np.bincount(training, minlength=sequences.num_items + 1)[targets]
    lengths = np.array([len(history) for history in histories])
    page.heading("Where it hits")
    page.pictures(
        (
            _recall_picture(lengths, _LENGTHS, ranks, "items in the history"),
            "Recall@10 by the number of items that the user has seen",
        ),
        (
            _recall_picture(counts, _COUNTS, ranks, "training interactions of the target"),
            "Recall@10 by how often the item to find occurs in training",
        ),
    )


def _recall_picture(values: np.ndarray, bounds: Sequence[int], ranks: np.ndarray, what: str):
    """Recall@10 of the users whose value lies in each class of `bounds`, the last one open."""
    labels, recalls = [], []
    for low, above in zip(bounds, (*bounds[1:], np.inf), strict=True):
        chosen = (values >= low) & (values < above)
        if chosen.any():
            last = "" if above == low + 1 else "+" if above == np.inf else f"–{above - 1}"
            labels.append(f"{low}{last} ({chosen.sum():,} users)")
            recalls.append(float(np.mean(ranks[chosen] > 0)))
    told = "; ".join(f"{label} {recall:.4f}" for label, recall in zip(labels, recalls, strict=True))
    alt = f"Bars: Recall@10 by {what}: {told}"
    return pictures.stacked_bars(labels, {"Recall@10": recalls}, "Recall@10", alt)


def _add_users(
    page: Page,
    sequences: Sequences,
    titles: Sequence[str],
    user_rows: np.ndarray,
    histories: list[np.ndarray],
    targets: np.ndarray,
    ranked: RankedItems,
    ranks: np.ndarray,
) -> None:
    """What some users have seen, what they are recommended, and what came next."""
    chosen = _some_users(ranks)
    page.heading("Ten users" if len(chosen) == _NUM_USERS else "Users")
    page.text(
        f"Drawn at random, {np.sum(ranks[chosen] > 0)} of them among those whose next item is in "
        f"the first ten (of all users it is for {np.mean(ranks > 0):.1%}). Scores are log "
        "probabilities in nats; the item that came next is marked."
    )
    for place, user in enumerate(chosen):
        rank = ranks[user]
        outcome = f"found at rank {rank}" if rank else "not among the first ten"
        name = sequences.user_ids[user_rows[user]]
        with page.details(f"User {name[:40]}: the next item is {outcome}", opened=place == 0):
            history = histories[user][::-1]
            page.heading("Seen, the latest first", 3)
            page.list([titles[item - 1] for item in history[:_HISTORY_SHOWN]], ordered=True)
            if len(history) > _HISTORY_SHOWN:
                page.text(f"and {len(history) - _HISTORY_SHOWN} earlier ones", soft=True)
            page.text(f"Next: {titles[targets[user] - 1]}")
            items = ranked.item_numbers[user, :10]
            rows = [
                (
                    str(slot),
                    f"{score:.2f}",
                    (titles[item - 1] if item else "(an ID that no item has)")
                    + (" ✓" if item == targets[user] else ""),
                )
                for slot, (item, score) in enumerate(
                    zip(items, ranked.scores[user, :10], strict=True), 1
                )
                if np.isfinite(score)
            ]
            page.table(("", "score", "recommended"), rows, marked=[rank - 1] if rank else [])


def _some_users(ranks: np.ndarray) -> np.ndarray:
    """Ten users at random, up to five of them with a hit, those first; places in `ranks`."""
    order = np.random.default_rng(0).permutation(len(ranks))
    hits, misses = order[ranks[order] > 0], order[ranks[order] == 0]
    hits = hits[: max(_HITS_SHOWN, _NUM_USERS - len(misses))]
    return np.concatenate([hits, misses[: _NUM_USERS - len(hits)]])
