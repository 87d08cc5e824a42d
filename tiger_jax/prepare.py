"""Verb 1: raw reviews -> sequences, item metadata and content embeddings in a prepared folder.

It makes no Semantic IDs; that is `make_ids`.
"""

import contextlib
import dataclasses
import difflib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, own_data, reviews, sequences, synthetic, tables
from tiger_jax.data.cooccurrence import COOCCURRENCE, encode_cooccurrence
from tiger_jax.report import prepare as report
from tiger_jax.semantic_ids.table import SemanticIdTable

_EXAMPLES = """
python -m tiger_jax.prepare --gin_file=gin/dataset/beauty.gin
python -m tiger_jax.prepare --source=synthetic --folder=work/synthetic
python -m tiger_jax.prepare --source=downloads --folder=work/games --encoder=models/sentence-t5-base
python -m tiger_jax.prepare --source=shop/orders.csv --items=shop/items.csv --folder=work/shop
"""

_TEMPLATE = (
    "Title: {title}.|Price: {price}.|Brand: {brand}.|Categories: {categories}."
    "|Keywords: {keywords}."
)

_COUNTED = ("users", "items", "interactions")

# Those that are no models.
_OWN_ENCODERS = (content.TFIDF, COOCCURRENCE)


def prepare(
    source: str,
    folder: str,
    items: str = "",
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
    time_format: str = "",
    items_id_column: str = "",
    title_column: str = "",
    category_column: str = "",
    min_interactions: int = 5,
    min_item_interactions: int | None = None,
    ties: str = "file",
    encoder: str = content.TFIDF,
    text_fields: str = "title,price,brand,categories",
    template: str = _TEMPLATE,
    width: int = 768,
    seed: int = 0,
    synthetic_users: int = 4000,
    synthetic_items: int = 800,
) -> dict[str, Any]:
    """Prepares interactions: sequences in time order, item metadata, content embeddings.

    Writes sequences.npz, items.jsonl, content_embeddings.npy and .json, and report.html to look
    at. Embeddings are only computed again if what they are made from or the encoder has changed.
    docs/data.md walks through it with data of one's own.

    Args:
      source: a table of interactions of your own, CSV, JSON lines or Parquet; or a folder with
        Amazon reviews (sequences.txt.gz and items.jsonl.gz, or McAuley's reviews_*.json.gz and
        meta_*.json.gz); or "synthetic" for a generated catalogue.
      folder: the prepared folder to write.
      items: own data; a table of the items, a row each; not needed by the encoder cooccurrence.
      user_column: own data; column of the interactions with the user's id.
      item_column: own data; column of the interactions with the item's id.
      time_column: own data; column of the interactions with a number or an ISO 8601 date; empty
        where a user's rows are in time order already.
      time_format: own data; form of other dates, such as %d.%m.%Y.
      items_id_column: own data; column of the items with their id, if not called as item_column.
      title_column: own data; column of the items with the name to show, if not called title.
      category_column: own data; column of the items with a category or a path such as
        "Grooming > Shaving", if not called category or categories.
      min_interactions: users and items with fewer are dropped until none is left (5-core); users
        with fewer than 3 always, as one item each is for validation and test.
      min_item_interactions: the same for items alone, where it is another number.
      ties: order of a user's interactions with equal timestamps, file or shuffle.
      encoder: tfidf; or a sentence-transformers model (local folder or hub name); or cooccurrence,
        from the training sequences alone, for items without texts; or a .npy file of embeddings
        of your own, a row an item in the order of the table of items.
      text_fields: which of title, price, brand, categories, keywords and other columns of the
        items make an item's sentence.
      template: the sentence; clauses with one {field} each, separated by |, of which those are
        left out whose field the item lacks; columns it does not name come behind it.
      width: length of the embeddings of tfidf and cooccurrence; a model has its own.
      seed: of shuffled ties, of tfidf and cooccurrence and of the synthetic catalogue.
      synthetic_users: users of the synthetic catalogue.
      synthetic_items: items of the synthetic catalogue.
    """
    artifacts.require_seed(seed)
    if not folder:
        raise InputError("folder='': give the prepared folder to write")
    artifacts.require_at_least(1, width=width, min_interactions=min_interactions)
    if min_item_interactions is not None:
        artifacts.require_at_least(1, min_item_interactions=min_item_interactions)
    near = difflib.get_close_matches(encoder, _OWN_ENCODERS, cutoff=0.75)
    if near and encoder not in near:
        # A hub would be asked for it, again and again.
        raise InputError(f"encoder={encoder}: did you mean {near[0]}?")
    fields = tuple(field.strip() for field in text_fields.split(",") if field.strip())
    columns = own_data.Columns(
        user=user_column,
        item=item_column,
        time=time_column,
        time_format=time_format,
        items_id=items_id_column,
        title=title_column,
        category=category_column,
    )
    if tables.is_table(source):
        raw = own_data.read_raw(source, items or None, columns, fields)
    elif items:
        raise InputError(f"items={items}: goes with a table of interactions, but source={source}")
    elif source == "synthetic":
        raw = synthetic.generate(synthetic_users, synthetic_items, seed)
    else:
        raw = reviews.read_raw(source)
    if _is_file(encoder):
        raw = own_data.only_catalogue(raw)
    prepared = sequences.build_sequences(raw, ties, seed, min_interactions, min_item_interactions)
    # A column of the table may be called item_id, too.
    rows = [
        {"item_id": item_id} | raw.metadata_of(item_id) | {"item_id": item_id}
        for item_id in prepared.item_ids[1:]
    ]
    if _is_file(encoder) or encoder == COOCCURRENCE:
        fields, texts = (), [""] * len(rows)
    else:
        template = _with_own_columns(template, [name for name in fields if name in raw.fields])
        texts = content.sentences(rows, fields, template)
    result = _summary(raw, prepared, rows, texts) | {"encoder": encoder, "text_fields": fields}
    _print_summary(result)

    made_from, encode = _encoding(encoder, raw, prepared, texts, width, seed)
    made_from |= {"encoder": encoder, "text_fields": list(fields), "template": template}
    # Somebody may be adding items.
    artifacts.own_if_there(os.path.join(folder, "ids"))
    artifacts.finish_together(folder)
    # Of these items alone: others may have joined them by make_ids --add.
    same_items = {"items_checksum": prepared.header["items_checksum"]}
    embeddings_NE = content.earlier_embeddings(folder, made_from | same_items)
    orphaned = _of_other_items(folder, prepared)
    if embeddings_NE is None:
        print(f"encoding {len(rows):,} items with {encoder} ...", flush=True)
        embeddings_NE = encode()

    result["embedding_width"] = embeddings_NE.shape[1]
    with artifacts.all_together(folder) as staging:
        header = prepared.header | {
            "source": str(source),
            "metadata_checksum": content.save_items(staging, rows),
            **artifacts.provenance(),
        }
        content.save_embeddings(staging, embeddings_NE, header | made_from)
        dataclasses.replace(prepared, header=header).save(staging / sequences.SEQUENCES)
        report.write(staging, result, prepared, texts)
    print(f"wrote {folder}: embeddings [{embeddings_NE.shape[0]:,}, {embeddings_NE.shape[1]}]")
    if orphaned:
        print(
            f"{folder} held other items: make its IDs again ({', '.join(orphaned)}), and train "
            "under other names of runs"
        )
    return result | {"orphaned_ids": orphaned}


def _of_other_items(folder: str, prepared: sequences.Sequences) -> list[str]:
    """Names of the folder's IDs that were made for other items."""
    found = []
    for path in sorted(pathlib.Path(folder, "ids").glob("*/semantic_ids.npz")):
        # Damaged ones are for those who read them.
        with contextlib.suppress(InputError):
            made_for = SemanticIdTable.load(path).header.get("items_checksum")
            if made_for != prepared.header["items_checksum"]:
                found.append(path.parent.name)
    return found


def _is_file(encoder: str) -> bool:
    """Whether the embeddings are ready-made."""
    return encoder.endswith(".npy")


def _with_own_columns(template: str, fields: Sequence[str]) -> str:
    """The template with a clause for each of the fields that it does not know."""
    own = (field for field in fields if field not in reviews.METADATA_FIELDS)
    clauses = (
        f"{field.capitalize()}: {{{field}}}." for field in own if f"{{{field}}}" not in template
    )
    return "|".join((template, *clauses))


def _encoding(
    encoder: str,
    raw: reviews.RawData,
    prepared: sequences.Sequences,
    texts: list[str],
    width: int,
    seed: int,
) -> tuple[dict[str, Any], Callable[[], np.ndarray]]:
    """What the embeddings are made from besides the encoder, and how to make them."""
    if _is_file(encoder):
        rows = [raw.catalogue[item_id] for item_id in prepared.item_ids[1:]]
        embeddings_NE = content.ready_made(encoder, rows, len(raw.catalogue))
        return {"file_checksum": artifacts.checksum(embeddings_NE)}, lambda: embeddings_NE
    if encoder == COOCCURRENCE:
        made_from = {"sequences_checksum": prepared.checksum(), "width": width, "seed": seed}
        return made_from, lambda: encode_cooccurrence(
            prepared.training_sequences(), prepared.num_items, width, seed
        )
    made_from = {"texts_checksum": artifacts.checksum(*texts)}
    if encoder == content.TFIDF:
        made_from |= {"width": width, "seed": seed}
    return made_from, lambda: content.encode(texts, encoder, width, seed)


def _summary(
    raw: reviews.RawData,
    prepared: sequences.Sequences,
    rows: list[dict[str, Any]],
    texts: list[str],
) -> dict[str, Any]:
    """What was kept, what was dropped and why, and what is known of the items."""
    dropped = prepared.header["dropped"]
    return {
        "dataset": raw.name,
        **prepared.statistics(),
        "dropped": {what: sum(gone[what] for gone in dropped) for what in _COUNTED},
        "dropped_by_reason": dropped,
        "items_with": {field: sum(row[field] is not None for row in rows) for field in raw.fields},
        "items_without_metadata": sum(row["item_id"] not in raw.metadata for row in rows),
        "items_without_text": texts.count(""),
    }


def _print_summary(result: dict[str, Any]) -> None:
    """The line of Table 6, and what to know about the data behind it."""
    items = result["items"]
    dropped = ", ".join(f"{result['dropped'][what]:,} {what}" for what in _COUNTED)
    shares = (f"{field} {count / items:.1%}" for field, count in result["items_with"].items())
    print(
        f"{result['dataset']}: {result['users']:,} users, {items:,} items, "
        f"{result['interactions']:,} interactions; length of a sequence: mean "
        f"{result['mean_length']:.4f}, median {result['median_length']:g}\n"
        f"dropped: {dropped}"
    )
    for gone in result["dropped_by_reason"]:
        counts = [f"{gone[what]:,} {what}" for what in _COUNTED if gone[what]]
        if counts:
            print(f"  {gone['reason']}: {', '.join(counts)}")
    print(
        f"items with {', '.join(shares)}; without metadata: {result['items_without_metadata']:,}; "
        f"without any text: {result['items_without_text']:,}"
    )


def main(argv=None):
    """Command line of `prepare`."""
    command_line.run(prepare, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.prepare import main

    main()
