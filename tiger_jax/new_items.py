"""Semantic IDs for items that came later: nothing is trained, and no old ID changes.

A prepared folder and one of its tables grow together: metadata, embeddings, item numbers, IDs.
"""

import json
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np

from tiger_jax import artifacts
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, own_data
from tiger_jax.data.reviews import metadata_row
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.data.tables import is_table, open_table
from tiger_jax.report import ids as report
from tiger_jax.semantic_ids import quantizer
from tiger_jax.semantic_ids.journal import METRICS
from tiger_jax.semantic_ids.quantizer import Quantizer
from tiger_jax.semantic_ids.table import MADE_BY, SemanticIdTable

_TABLE = "semantic_ids.npz"
_ITEM_ID = "item_id"
# Items of the folder that an encoder must embed as it did, before it embeds others.
_KNOWN_AGAIN = 8


def add_items(folder: str, ids: str, add: str, embeddings: str = "") -> dict[str, Any]:
    """Gives new items Semantic IDs by a scheme that is trained and frozen.

    Their texts are embedded by the folder's own encoder. Items join items.jsonl, the embeddings
    and sequences.npz behind the old ones; the table becomes a new version, in which every old ID
    stays as it was, and the old version is kept as semantic_ids.v<version>.npz. A model trained
    with an earlier version goes on with the newest one. report.html shows the new version. All
    files change together or not at all.

    Items that another table of the folder has been given already get their IDs in this one.

    Args:
      folder: the prepared folder.
      ids: name of the IDs to grow.
      add: the new items, a table as prepare takes them (CSV, JSON lines, Parquet), with item_id
        and any of the other fields of items.jsonl.
      embeddings: the new items' embeddings, a .npy file with a row an item, where the folder's own
        encoder reads no texts.

    Returns:
      Number of items added to the table and of those without any text, health of the new table,
      and its header.

    Raises:
      InputError: an item that is known or given twice, a scheme that has no codes for new items,
        embeddings of another encoder, more items with equal codes than can be told apart, or
        another process that adds items to the folder or prepares it.
    """
    home = pathlib.Path(folder)
    # From the first reading on, or what another process adds meanwhile would be lost.
    artifacts.own_if_there(home / "ids")
    artifacts.finish_together(home)
    sequences = Sequences.load(home / SEQUENCES)
    embeddings_NE, source = content.load_embeddings(folder)
    rows = content.load_items(folder)
    path = home / "ids" / ids / _TABLE
    table = SemanticIdTable.load(path)
    frozen = load_frozen(path, table, sequences, embeddings_NE)
    given = _read_items(pathlib.Path(add), sequences, table.num_items, rows[0].keys())
    # Items that the folder has, as it grew with another table, only need an ID.
    unknown = [i for i, row in enumerate(given) if row["item_id"] not in sequences.item_number]
    joining = [given[i] for i in unknown]
    if joining:
        if embeddings:
            joining_ME = content.map_embeddings(embeddings, len(given))[unknown].astype(np.float32)
        else:
            joining_ME = _encode(joining, rows, source, embeddings_NE)
        frozen.require_fits(_beside_zeros(joining_ME, table))
        embeddings_NE = np.concatenate([embeddings_NE, joining_ME])
    rows = [*rows, *joining]
    codes_ML = frozen.codes(_beside_zeros(embeddings_NE[table.num_items :], table))

    with artifacts.all_together(home) as staging:
        metadata_checksum = content.save_items(staging, rows)
        item_ids = [row["item_id"] for row in joining]
        sequences = sequences.with_items(item_ids, metadata_checksum)
        sequences.save(staging / SEQUENCES)
        content.save_embeddings(staging, embeddings_NE, _grown(source, sequences.header, rows))
        grown = table.with_new_items(
            codes_ML,
            {
                "items_checksum": sequences.header["items_checksum"],
                "embeddings_checksum": artifacts.checksum(embeddings_NE),
                "provenance": artifacts.provenance(),
            },
        )
        grown.save(staging / path.relative_to(home))
        version = table.header.get("version", 1)
        table.save(staging / path.with_suffix(f".v{version}.npz").relative_to(home))
        page = staging / path.relative_to(home).with_name("report.html")
        health = {**grown.health(), "explained_variance": None}
        report.write(page, grown, health, _history(path.parent), rows, embeddings_NE)
    without_text = _without_text(given, source)
    print(
        f"{path}: {len(codes_ML):,} new items, {grown.num_items:,} in all, version "
        f"{grown.header['version']}"
        + (
            f"; without any text, so that codes tell nothing: {without_text:,}"
            if without_text
            else ""
        )
    )
    counts = {"added": len(codes_ML), "without_text": without_text}
    return {**counts, **grown.health(), **grown.header}


def load_frozen(
    path: pathlib.Path, table: SemanticIdTable, sequences: Sequences, embeddings_NE: np.ndarray
) -> Quantizer:
    """What made the table; InputError unless of the folder's first items and embeddings."""
    if table.header.get("items_checksum") != sequences.items_checksum(table.num_items):
        raise InputError(
            f"{path}: made for other items than {SEQUENCES}; make it again with {MADE_BY}"
        )
    if "parameters_checksum" not in table.header:
        raise InputError(
            f"{path}: the scheme {table.header.get('scheme')} has no codes for new items, as its "
            f"codes do not come from their content; make all IDs again with {MADE_BY}"
        )
    own_NE = embeddings_NE[: table.num_items]
    if table.header["embeddings_checksum"] != artifacts.checksum(own_NE):
        raise InputError(
            f"{path}: made from other embeddings ({table.header['encoder']}) than the folder now "
            f"holds, so new items would get foreign codes; make all IDs again with {MADE_BY}"
        )
    quantizer_path = path.with_name(quantizer.FILE)
    return Quantizer.load(quantizer_path, table.header["parameters_checksum"])


def _beside_zeros(embeddings_ME: np.ndarray, table: SemanticIdTable) -> np.ndarray:
    """Content embeddings as the table's scheme saw them: new items have never come together."""
    width = table.header.get("cooccurrence_width", 0)
    return np.pad(embeddings_ME, ((0, 0), (0, width)))


def _read_items(
    path: pathlib.Path, sequences: Sequences, num_items: int, fields: Collection[str]
) -> list[dict[str, Any]]:
    """The new items' metadata, with all `fields`; none may be among the table's `num_items`."""
    table = open_table(path)
    unknown = [column for column in table.columns if column not in fields]
    if unknown or _ITEM_ID not in table.columns:
        at_fault = f"has {unknown[0]!r}" if unknown else f"lacks {_ITEM_ID!r}"
        raise InputError(
            f"{path}: {at_fault}; name the columns, or the keys of each line's object, as the "
            f"folder's items.jsonl does: {', '.join(fields)}"
        )
    # Each kind of source is read as `prepare` reads it.
    is_own_data = is_table(sequences.header.get("source", ""))
    rows, seen = [], {}
    for where, record in table.read(table.columns):
        item_id = own_data.identifier(record, _ITEM_ID, where)
        if 0 < sequences.item_number.get(item_id, 0) <= num_items:
            raise InputError(f"{where}: item {item_id} has an ID already; leave it out")
        if item_id in seen:
            raise InputError(f"{where}: item {item_id} is in {seen[item_id]}, too; keep one")
        seen[item_id] = where
        known = {name: own_data.value_of(name, record.get(name), name, where) for name in fields}
        checked = {} if is_own_data else metadata_row(known, where)
        rows.append(known | checked | {_ITEM_ID: item_id})
    return rows


def _without_text(rows: list[dict], source: dict) -> int:
    """Number of items of which the encoder reads nothing; 0 where it reads no texts."""
    fields, template = source["text_fields"], source["template"]
    return sum(not content.sentence(row, fields, template) for row in rows) if fields else 0


def _history(ids_folder: pathlib.Path) -> list[dict]:
    """Health while the scheme was trained; nothing where that is not known."""
    path = ids_folder / METRICS
    if not path.is_file():
        return []
    with artifacts.refusing_damage(path, "JSON lines", MADE_BY):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _encode(
    joining: list[dict], rows: list[dict], source: dict, embeddings_NE: np.ndarray
) -> np.ndarray:
    """Embeddings of the new items by the folder's encoder; InputError if it is another by now."""

    def texts(some: list[dict]) -> list[str]:
        return [content.sentence(row, source["text_fields"], source["template"]) for row in some]

    fitted = rows[: source.get("fitted_items", len(rows))]
    encode = content.text_encoder(source, texts(fitted))
    again_NE = encode(texts(rows[:_KNOWN_AGAIN]))
    if not content.are_alike(again_NE, embeddings_NE[:_KNOWN_AGAIN]):
        raise InputError(
            f"encoder {source['encoder']} embeds the items of the folder otherwise than it did; "
            f"prepare them again with it ({content.MADE_BY}), or give the new items' embeddings "
            "by --embeddings=FILE.npy"
        )
    return encode(texts(joining))


def _grown(source: dict, sequences_header: dict, rows: list[dict]) -> dict:
    """Header of the embeddings after items joined."""
    header = {name: value for name, value in source.items() if name != "checksum"}
    for name in ("num_items", "items_checksum", "metadata_checksum"):
        header[name] = sequences_header[name]
    # What the encoder was fitted to stays the texts of the first items.
    header["fitted_items"] = source.get("fitted_items", source["num_items"])
    if source["text_fields"]:
        texts = [content.sentence(row, source["text_fields"], source["template"]) for row in rows]
        header["texts_checksum"] = artifacts.checksum(*texts)
    return header
