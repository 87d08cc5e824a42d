"""Verb 1: raw reviews -> sequences, item metadata and content embeddings in a prepared folder.

It makes no Semantic IDs; that is `make_ids`.
"""

import dataclasses
import pathlib
from typing import Any

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, reviews, sequences, synthetic

_EXAMPLES = """
python -m tiger_jax.prepare --gin_file=gin/dataset/beauty.gin
python -m tiger_jax.prepare --source=synthetic --folder=work/synthetic
python -m tiger_jax.prepare --source=downloads --folder=work/games --encoder=models/sentence-t5-base
"""

_TEMPLATE = (
    "Title: {title}.|Price: {price}.|Brand: {brand}.|Categories: {categories}."
    "|Keywords: {keywords}."
)


def prepare(
    source: str,
    folder: str,
    ties: str = "file",
    min_interactions: int = 5,
    encoder: str = content.TFIDF,
    text_fields: str = "title,price,brand,categories",
    template: str = _TEMPLATE,
    width: int = 768,
    seed: int = 0,
    synthetic_users: int = 4000,
    synthetic_items: int = 800,
) -> dict[str, Any]:
    """Prepares reviews: sequences in time order, item metadata, content embeddings.

    Writes sequences.npz, items.jsonl, content_embeddings.npy and .json. Embeddings are only
    computed again if the items' texts or the encoder have changed.

    Args:
      source: folder with the raw files (sequences.txt.gz and items.jsonl.gz, or McAuley's
        reviews_*.json.gz and meta_*.json.gz), or "synthetic" for a generated catalogue.
      folder: the prepared folder to write.
      ties: order of a user's interactions with equal timestamps, file or shuffle.
      min_interactions: users and items with fewer are dropped until none is left (5-core).
      encoder: tfidf, or a sentence-transformers model (local folder or hub name).
      text_fields: which of title, price, brand, categories and keywords make an item's sentence.
      template: the sentence; clauses with one {field} each, separated by |, of which those are
        left out whose field the item lacks.
      width: length of the tfidf embeddings; a sentence-transformers model has its own.
      seed: of shuffled ties, of the tfidf encoder and of the synthetic catalogue.
      synthetic_users: users of the synthetic catalogue.
      synthetic_items: items of the synthetic catalogue.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: must be from 0 to 2**32 - 1")
    if width < 1:
        raise InputError(f"width={width}: must be at least 1")
    if source == "synthetic":
        raw = synthetic.generate(synthetic_users, synthetic_items, seed)
    else:
        raw = reviews.read_raw(source)
    prepared = sequences.build_sequences(raw, ties, seed, min_interactions)
    rows = [{"item_id": item_id} | raw.metadata_of(item_id) for item_id in prepared.item_ids[1:]]
    fields = tuple(field.strip() for field in text_fields.split(","))
    texts = content.sentences(rows, fields, template)
    result = _summary(raw, prepared, rows, texts) | {"encoder": encoder, "text_fields": fields}
    _print_summary(result)

    made_from = {
        "encoder": encoder,
        "text_fields": list(fields),
        "template": template,
        "texts_checksum": artifacts.checksum(*texts),
    }
    if encoder == content.TFIDF:
        made_from |= {"width": width, "seed": seed}
    embeddings_NE = content.earlier_embeddings(folder, made_from)
    if embeddings_NE is None:
        print(f"encoding {len(texts):,} items with {encoder} ...", flush=True)
        embeddings_NE = content.encode(texts, encoder, width, seed)

    # Sequences come last: as long as they are the old ones, the checksums in their header tell
    # that the other files are not.
    header = prepared.header | {
        "source": str(source),
        "metadata_checksum": content.save_items(folder, rows),
        **artifacts.provenance(),
    }
    content.save_embeddings(folder, embeddings_NE, header | made_from)
    path = pathlib.Path(folder) / sequences.SEQUENCES
    dataclasses.replace(prepared, header=header).save(path)
    result["embedding_width"] = embeddings_NE.shape[1]
    print(f"wrote {folder}: embeddings [{embeddings_NE.shape[0]:,}, {embeddings_NE.shape[1]}]")
    return result


def _summary(
    raw: reviews.RawData,
    prepared: sequences.Sequences,
    rows: list[dict[str, Any]],
    texts: list[str],
) -> dict[str, Any]:
    """What was kept, what was dropped, and what is known of the items."""
    return {
        "dataset": raw.name,
        **prepared.statistics(),
        "dropped": {
            "users": len(raw.user_ids) - prepared.num_users,
            "items": len(raw.item_ids) - prepared.num_items,
            "interactions": len(raw.items) - len(prepared.items),
        },
        "items_with": {
            field: sum(row[field] is not None for row in rows) for field in reviews.METADATA_FIELDS
        },
        "items_without_text": texts.count(""),
    }


def _print_summary(result: dict[str, Any]) -> None:
    """The line of Table 6, and what to know about the data behind it."""
    dropped, items = result["dropped"], result["items"]
    shares = (f"{field} {count / items:.1%}" for field, count in result["items_with"].items())
    print(
        f"{result['dataset']}: {result['users']:,} users, {items:,} items, "
        f"{result['interactions']:,} interactions; length of a sequence: mean "
        f"{result['mean_length']:.4f}, median {result['median_length']:g}\n"
        f"dropped: {dropped['users']:,} users, {dropped['items']:,} items, "
        f"{dropped['interactions']:,} interactions\n"
        f"items with {', '.join(shares)}; without any text: {result['items_without_text']:,}"
    )


def main(argv=None):
    """Command line of `prepare`."""
    command_line.run(prepare, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.prepare import main

    main()
