"""The page of `make_ids`: health of the codes, how they were learned, and what they mean."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tiger_jax.data import content
from tiger_jax.report import pictures
from tiger_jax.report.page import Page, short_name
from tiger_jax.semantic_ids import inspection
from tiger_jax.semantic_ids.table import SemanticIdTable

# Of each picture's parts: as many as there are colours, the last for what is left.
_PARTS = len(pictures.COLORS)
_LARGEST_FIRST, _LARGEST_SECOND, _TITLES = 8, 5, 8
_PANELS = 4


def write(
    path: str | os.PathLike,
    table: SemanticIdTable,
    health: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    embeddings_NE: np.ndarray,
) -> None:
    """Writes the page of one table.

    Args:
      path: the file to write.
      table: the table.
      health: `table.health()` and explained_variance.
      history: health while training, oldest first; empty where nothing was trained.
      rows: metadata of each item.
      embeddings_NE: what the IDs were made from.
    """
    codes_NL = table.semantic_ids_NI[1:, : table.num_levels]
    paths_N = [row["categories"][0] if row.get("categories") else [] for row in rows]
    header = table.header
    page = Page(
        f"Semantic IDs: {header['scheme']} on {header['dataset']}",
        f"Made from {short_name(header['encoder'])} embeddings, seed {header['seed']}; version "
        f"{header.get('version', 1)} of the table",
    )
    variance = health["explained_variance"]
    page.facts(
        {
            "items": f"{table.num_items:,}",
            "levels": f"{table.num_levels}",
            "different tuples of codes": f"{health['unique']:,}",
            "collisions": f"{health['collisions']:,}",
            "most items with equal codes": f"{health['largest_bucket']:,}",
            "explained variance": "–" if variance is None else f"{variance:.1%}",
        }
    )
    if table.num_levels < table.id_length:
        page.text("Items with equal codes are told apart by a collision token, the ID's last part.")
    _add_use(page, codes_NL, table.codebook_sizes)
    _add_training(page, history)
    depth = inspection.category_depth(paths_N)
    levels = [inspection.categories_at(paths_N, deep) for deep in (depth, depth + 1)]
    levels = [(names, category_N) for names, category_N in levels if len(names) > 1]
    _add_likeness(page, codes_NL, embeddings_NE, [category_N for _, category_N in levels])
    if levels:
        _add_categories(page, codes_NL, *levels[0], *levels[-1])
    _add_items(page, codes_NL, *levels[-1] if levels else ([], np.full(len(rows), -1)), rows)
    page.save(path)


def _add_use(page: Page, codes_NL: np.ndarray, codebook_sizes: Sequence[int]) -> None:
    """How evenly each level's codes are used, and how often whole tuples collide."""
    page.heading("Use of the codebooks")
    rows, curves = [], {}
    entropies = inspection.code_entropies(codes_NL)
    for level, (code_N, entropy) in enumerate(zip(codes_NL.T, entropies, strict=True)):
        size = codebook_sizes[level]
        counts = np.sort(np.bincount(code_N, minlength=size))[::-1]
        used = np.count_nonzero(counts)
        rows.append(
            (
                str(level + 1),
                f"{used:,} of {size:,}",
                f"{used / size:.0%}",
                f"{entropy:.2f} of {np.log2(size):.2f}",
                f"{counts[0]:,}",
                f"{np.median(counts):,g}",
            )
        )
        # Beside even use, so that levels of any size can be compared.
        curves[f"level {level + 1}"] = (np.arange(1, size + 1) / size, counts * size / len(code_N))
    page.table(
        ("level", "codes in use", "share", "entropy in bits", "items, most", "items, median"),
        rows,
        "Codes by level; the entropy is highest where all codes are used alike",
    )
    alt = "Curves: items of each code beside even use, by level; "
    alt += ", ".join(f"level {row[0]} uses {row[1]} codes" for row in rows)
    spread = pictures.lines(
        curves, "share of the codes, most used first", "items, 1 for even use", alt, from_zero=True
    )
    page.pictures(
        (spread, "How evenly items spread over a level's codes"), *_collisions_picture(codes_NL)
    )


def _collisions_picture(codes_NL: np.ndarray) -> list[tuple]:
    """How many items share their codes, with a caption; nothing where no two items do."""
    buckets = inspection.bucket_sizes(codes_NL)
    shared = {size: number for size, number in buckets.items() if size > 1}
    if not shared:
        return []
    sizes = np.arange(2, max(shared) + 1)
    alt = "Columns: collisions by size; "
    alt += ", ".join(f"{number:,} tuples of {size} items" for size, number in [*shared.items()][:8])
    heights = [shared.get(size, 0) for size in sizes.tolist()]
    picture = pictures.columns(sizes, heights, "items with equal codes", "tuples of codes", alt)
    return [
        (
            picture,
            f"Collisions by size; {buckets.get(1, 0):,} items share their codes with no other",
        )
    ]


def _add_training(page: Page, history: Sequence[Mapping[str, Any]]) -> None:
    """Curves over the epochs, of whatever the scheme measured."""
    history = [row for row in history if "epoch" in row]
    if not history:
        return
    epochs = [row["epoch"] for row in history]

    def curve(name: str) -> dict[str, tuple]:
        """The curve of a number, or one a level where there are several."""
        values = [row.get(name) for row in history]
        label = name.replace("_", " ")
        if all(value is None for value in values):
            return {}
        if isinstance(values[-1], list):
            return {
                f"level {level + 1}": (epochs, part)
                for level, part in enumerate(zip(*values, strict=True))
            }
        return {label: (epochs, values)}

    plots = (
        ("loss", "Losses", ("loss", "reconstruction_loss", "quantization_loss")),
        ("share of codes in use", "Codes in use by level", ("codebook_usage",)),
        ("tuples", "Different tuples of codes", ("unique",)),
        ("share", "Variance of the embeddings explained", ("explained_variance",)),
    )
    shown = []
    for y_label, caption, names in plots:
        series = {label: xy for name in names for label, xy in curve(name).items()}
        if series:
            ends = ", ".join(f"{label} ends at {y[-1]:.4g}" for label, (_, y) in series.items())
            alt = f"Curves over {epochs[-1]} epochs: {ends}"
            shown.append((pictures.lines(series, "epoch", y_label, alt), caption))
    page.heading("Training")
    page.pictures(*shown)


def _add_likeness(
    page: Page, codes_NL: np.ndarray, embeddings_NE: np.ndarray, categories: list[np.ndarray]
) -> None:
    """The paper's claim of a hierarchy as numbers."""
    page.heading("Does a shared prefix mean likeness?")
    page.text(
        "The paper's claim (section 4.2): the more codes two items share from the first on, the "
        "more alike they are. For pairs of items that share exactly so many codes, drawn at "
        "random: the cosine similarity of their embeddings, and how often they have a category "
        "in common."
    )
    found = inspection.likeness_by_shared_prefix(codes_NL, embeddings_NE, categories)
    kinds = ("same category", "same subcategory")[: len(categories)]

    def number(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    page.table(
        ("codes shared", "pairs of items", "mean cosine", *kinds),
        [
            (
                str(row["shared"]),
                f"{row['pairs']:,}",
                number(row["cosine"], ".3f"),
                *(number(share, ".0%") for share in row["same_category"]),
            )
            for row in found
        ],
    )
    shared = [row["shared"] for row in found]
    series = {"cosine of embeddings": (shared, [row["cosine"] for row in found])}
    for place, kind in enumerate(kinds):
        series[kind] = (shared, [row["same_category"][place] for row in found])
    told = ", ".join(f"{number(row['cosine'], '.3f')} for {row['shared']}" for row in found)
    page.pictures(
        (
            pictures.lines(
                series,
                "codes shared",
                "mean, or share of pairs",
                f"Curves by the number of codes shared; mean cosine {told}",
            ),
            "Likeness of two items by the codes they share",
        )
    )


def _add_categories(
    page: Page,
    codes_NL: np.ndarray,
    coarse: Sequence[str],
    coarse_N: np.ndarray,
    fine: Sequence[str],
    fine_N: np.ndarray,
) -> None:
    """Figure 4 of the paper: categories by the first code, and by the second within the first."""
    page.heading("Categories by code")
    first_N = codes_NL[:, 0]
    num_codes = int(first_N.max()) + 1
    counts_CG = inspection.category_counts(first_N, coarse_N, num_codes, len(coarse))
    if num_codes <= _PARTS:
        alone_GC, names = _largest(counts_CG.T, coarse, 12)
        parts = {f"code {code}": alone_GC[:, code] for code in range(num_codes)}
        alt = _told(counts_CG, coarse)
        picture = pictures.stacked_bars(names, parts, "items", f"Bars, categories by code: {alt}")
    else:
        picture = _category_columns(counts_CG, coarse, "first code", as_shares=True)
    page.pictures(
        (picture, "The first code of the items of each category (the paper's Figure 4a)"),
    )
    if codes_NL.shape[1] < 2:
        return
    page.text(
        "Within one first code, a column for each second code (the paper's Figure 4b). Columns "
        "of one colour are codes of one category."
    )
    panels = []
    for code in _most_frequent(first_N, _PANELS):
        chosen = first_N == code
        second_N = np.unique(codes_NL[chosen, 1], return_inverse=True)[1]
        counts_CG = inspection.category_counts(
            second_N, fine_N[chosen], int(second_N.max()) + 1, len(fine)
        )
        if counts_CG.any():
            caption = f"First code {code}: {chosen.sum():,} items"
            panels.append((_category_columns(counts_CG, fine, "second code"), caption))
    page.pictures(*panels)


def _category_columns(
    counts_CG: np.ndarray, names: Sequence[str], what: str, as_shares: bool = False
):
    """A column a code made of its categories; codes of one leading category stand together."""
    counts_CG = counts_CG[counts_CG.any(axis=1)]
    alt = f"Columns by {what}, {len(counts_CG)} of them, coloured by category: "
    alt += _told(counts_CG, names)
    counts_GC, names = _largest(counts_CG.T, names, _PARTS)
    leading_C = counts_GC.argmax(axis=0)
    order_C = np.lexsort((-counts_GC.max(axis=0), leading_C))
    heights_GC = counts_GC[:, order_C]
    if as_shares:
        heights_GC = heights_GC / heights_GC.sum(axis=0)
    parts = dict(zip(names, heights_GC, strict=True))
    y_label = "share of its items" if as_shares else "items"
    return pictures.stacked_columns(parts, f"{what}, by leading category", y_label, alt)


def _largest(
    counts_GC: np.ndarray, names: Sequence[str], number: int
) -> tuple[np.ndarray, list[str]]:
    """The `number` largest categories, or one less and the sum of the others."""
    order = np.argsort(-counts_GC.sum(axis=1), kind="stable")
    order = order[counts_GC[order].any(axis=1)]
    if len(order) <= number:
        return counts_GC[order], [names[row] for row in order]
    kept, others = order[: number - 1], order[number - 1 :]
    counts_GC = np.vstack([counts_GC[kept], counts_GC[others].sum(axis=0)])
    return counts_GC, [*(names[row] for row in kept), f"{len(others)} others"]


def _told(counts_CG: np.ndarray, names: Sequence[str]) -> str:
    """The leading category of the most frequent codes, in words."""
    told = []
    for code in np.argsort(-counts_CG.sum(axis=1), kind="stable")[:4]:
        leading = counts_CG[code].argmax()
        share = counts_CG[code, leading] / max(counts_CG[code].sum(), 1)
        told.append(f"{share:.0%} of {counts_CG[code].sum():,} items are {names[leading]}")
    return "; ".join(told)


def _add_items(
    page: Page,
    codes_NL: np.ndarray,
    names: Sequence[str],
    category_N: np.ndarray,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Titles of some items of the largest prefixes."""
    page.heading("Items of the largest prefixes")

    def summary(prefix: tuple[int, ...], chosen: np.ndarray) -> str:
        text = f"{prefix[0]}" if len(prefix) == 1 else f"({', '.join(map(str, prefix))})"
        text = f"{text}: {len(chosen):,} items"
        known = category_N[chosen][category_N[chosen] >= 0]
        if len(known):
            counts = np.bincount(known)
            text += f", {counts.max() / len(known):.0%} {names[counts.argmax()]}"
        return text

    def titles(chosen: np.ndarray) -> None:
        page.list([content.label(rows[item]) for item in chosen[:_TITLES]])
        if len(chosen) > _TITLES:
            page.text(f"and {len(chosen) - _TITLES:,} more", soft=True)

    for first in _most_frequent(codes_NL[:, 0], _LARGEST_FIRST):
        chosen = np.flatnonzero(codes_NL[:, 0] == first)
        with page.details(f"First code {summary((first,), chosen)}"):
            if codes_NL.shape[1] < 2:
                titles(chosen)
                continue
            for second in _most_frequent(codes_NL[chosen, 1], _LARGEST_SECOND):
                within = chosen[codes_NL[chosen, 1] == second]
                with page.details(f"Codes {summary((first, second), within)}"):
                    titles(within)


def _most_frequent(code_N: np.ndarray, number: int) -> list[int]:
    codes, counts = np.unique(code_N, return_counts=True)
    return codes[np.argsort(-counts, kind="stable")[:number]].tolist()
