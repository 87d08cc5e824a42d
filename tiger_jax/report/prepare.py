"""The page of `prepare`: what was kept and dropped, how the data are shaped, what items say."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tiger_jax import paper
from tiger_jax.data.sequences import Sequences
from tiger_jax.report import pictures
from tiger_jax.report.page import Page, short_name

_COUNTED = ("users", "items", "interactions")
_EXAMPLES = 10
_LONGEST_SHOWN = 50


def write(
    folder: str, result: Mapping[str, Any], sequences: Sequences, texts: Sequence[str]
) -> None:
    """Writes folder/report.html.

    Args:
      folder: the prepared folder.
      result: what `prepare` returns.
      sequences: the data.
      texts: the sentence of each item, [N].
    """
    page = Page(
        f"The data: {result['dataset']}",
        f"Embeddings: {short_name(result['encoder'])}"
        + (f" of {', '.join(result['text_fields'])}" if result["text_fields"] else ""),
    )
    page.facts(
        {
            "users": f"{result['users']:,}",
            "items": f"{result['items']:,}",
            "interactions": f"{result['interactions']:,}",
            "mean length": f"{result['mean_length']:.2f}",
            "median length": f"{result['median_length']:g}",
        }
    )
    _add_paper(page, result)
    _add_shapes(page, sequences)
    _add_dropped(page, result["dropped_by_reason"])
    _add_items(page, result, texts)
    page.save(pathlib.Path(folder, "report.html"))


def _add_paper(page: Page, result: Mapping[str, Any]) -> None:
    """The paper's row of Table 6, where it speaks of this dataset."""
    dataset = paper.dataset(result["users"], result["items"])
    if dataset is None:
        return
    names = {
        "users": "users",
        "items": "items",
        "mean_length": "mean length",
        "median_length": "median length",
    }
    theirs = paper.numbers()["table6"]["rows"][dataset]
    rows = [
        (label, *(f"{value:,.2f}".removesuffix(".00") for value in (result[name], theirs[name])))
        for name, label in names.items()
    ]
    page.table(("", "here", "in the paper"), rows, "The paper's Table 6 has the same dataset")


def _add_shapes(page: Page, sequences: Sequences) -> None:
    """Lengths of the sequences and popularity of the items."""
    lengths = np.diff(sequences.offsets)
    users = np.bincount(np.minimum(lengths, _LONGEST_SHOWN))
    shown = np.arange(min(lengths.min(), _LONGEST_SHOWN), len(users))
    counts = np.sort(np.bincount(sequences.items, minlength=sequences.num_items + 1)[1:])[::-1]
    ranks = _thinned(len(counts))
    tenth = counts[: max(1, len(counts) // 10)].sum() / counts.sum()
    page.heading("Shape")
    page.pictures(
        (
            pictures.columns(
                shown,
                users[shown],
                "items in a sequence",
                "users",
                f"Histogram: sequences have {lengths.min()} to {lengths.max()} items, "
                f"half of the users at most {np.median(lengths):g}",
            ),
            "How many users have how many items"
            + (
                f"; the last column holds all from {_LONGEST_SHOWN} to {lengths.max()}"
                if lengths.max() > _LONGEST_SHOWN
                else ""
            ),
        ),
        (
            pictures.lines(
                {"": (ranks, counts[ranks - 1])},
                "rank of the item",
                "interactions",
                f"Falling curve: the most popular item has {counts[0]:,} interactions, the median "
                f"item {np.median(counts):g}, the least popular {counts[-1]}",
                log=True,
            ),
            f"Popularity: a tenth of the items holds {tenth:.0%} of the interactions",
        ),
    )


def _thinned(number: int) -> np.ndarray:
    """Some 200 of the ranks 1..number, equally far apart on a logarithmic axis."""
    return np.unique(np.geomspace(1, number, 200).round().astype(int))


def _add_dropped(page: Page, dropped: Sequence[Mapping[str, Any]]) -> None:
    page.heading("Dropped")
    rows = [
        (gone["reason"], *(f"{gone[what]:,}" for what in _COUNTED))
        for gone in dropped
        if any(gone[what] for what in _COUNTED)
    ]
    if rows:
        page.table(("why", *_COUNTED), rows)
    else:
        page.text("Nothing was dropped.")


def _add_items(page: Page, result: Mapping[str, Any], texts: Sequence[str]) -> None:
    """What is known of the items, and the sentences that stand for some of them."""
    page.heading("Items")
    rows = [
        (field, f"{count / result['items']:.1%}", f"{count:,}")
        for field, count in result["items_with"].items()
    ]
    page.table(("field", "share of items", "items"), rows, "Items of which a field is known")
    page.text(
        f"Items without metadata: {result['items_without_metadata']:,}; "
        f"without any text: {result['items_without_text']:,}."
    )
    if not any(texts):
        return
    numbers = np.unique(np.linspace(1, len(texts), _EXAMPLES).astype(int))
    page.heading("Sentences of items, as the encoder reads them", 3)
    page.table(
        ("item number", "sentence"),
        [(f"{number:,}", texts[number - 1] or "(no text)") for number in numbers],
    )
