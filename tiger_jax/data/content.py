"""Item metadata -> a sentence an item -> content embeddings (TIGER section 3.1 and 4).

Encoders: TF-IDF with a truncated SVD, which needs no download, and any sentence-transformers
model. What the embeddings are used for is none of this file's business.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tiger_jax import artifacts
from tiger_jax.artifacts import InputError
from tiger_jax.data.reviews import METADATA_FIELDS
from tiger_jax.data.sequences import MADE_BY, SEQUENCES, Sequences

TFIDF = "tfidf"
_ITEMS = "items.jsonl"
_EMBEDDINGS = "content_embeddings.npy"
_HEADER = "content_embeddings.json"
# What processors make of one text differs by less.
_ROUNDING = 1e-3


def sentence(row: dict[str, Any], text_fields: Sequence[str], template: str) -> str:
    """The sentence that describes an item to the encoder (TIGER section 4).

    Args:
      row: the item's metadata, {field: value or None}.
      text_fields: the fields that may be used; the others are left out.
      template: clauses with one {field} each, separated by "|". The clauses of chosen fields
        that the item has are joined by blanks, so that a missing field leaves no trace.
    """
    clauses = _clauses(template, text_fields)
    return " ".join(
        clause.replace(f"{{{field}}}", text)
        for field, clause in clauses.items()
        if (text := _field_text(row.get(field)))
    )


def sentences(
    rows: Sequence[dict[str, Any]], text_fields: Sequence[str], template: str
) -> list[str]:
    """The sentence of each item; InputError where no item has any of the fields."""
    found = [sentence(row, text_fields, template) for row in rows]
    if not any(found):
        raise InputError(
            f"no item has any of the text fields {', '.join(text_fields)}; choose others of "
            f"{', '.join(METADATA_FIELDS)}, columns of a table of items, or an encoder that needs "
            "no text"
        )
    return found


def encode(texts: Sequence[str], encoder: str, width: int, seed: int) -> np.ndarray:
    """Sentences -> content embeddings, float32 [N, E].

    Args:
      texts: a sentence an item.
      encoder: "tfidf", or a sentence-transformers model: hub name or local folder.
      width: E of "tfidf" (less where the texts have fewer words); a model has its own.
      seed: of the randomised SVD.

    Raises:
      InputError: the model cannot be had, or the embeddings tell no items apart.
    """
    if len(set(texts)) < 2:
        raise InputError(
            f"all {len(texts)} items have the same text, {texts[0][:80]!r}; choose more text fields"
        )
    if encoder == TFIDF:
        embeddings_NE = encode_tfidf(texts, width, seed)
    else:
        embeddings_NE = encode_with_model(texts, encoder)
    require_usable(embeddings_NE, f"encoder {encoder}")
    return embeddings_NE


def require_usable(embeddings_NE: np.ndarray, source: str) -> None:
    """InputError, which names the `source`, where embeddings are not finite or tell no items apart.

    `make_ids` asks again: files can be changed.
    """
    # Row by row, so that nothing as large as the embeddings themselves is made.
    bad = [row for row, vector in enumerate(embeddings_NE) if not np.isfinite(vector).all()]
    if bad:
        raise InputError(
            f"{source}: {len(bad)} of {len(embeddings_NE)} embeddings are not finite, first that "
            f"of item number {bad[0] + 1}; mend its text or use another encoder with {MADE_BY}"
        )
    if (embeddings_NE == embeddings_NE[0]).all():
        raise InputError(
            f"{source}: all {len(embeddings_NE)} items have the same embedding; choose other text "
            f"fields or another encoder with {MADE_BY}"
        )


def text_encoder(
    header: dict[str, Any], fitted_texts: Sequence[str]
) -> Callable[[Sequence[str]], np.ndarray]:
    """The encoder that made the embeddings of a prepared folder, for texts that come later.

    Args:
      header: of the folder's embeddings.
      fitted_texts: the sentences that the encoder was fitted to, where it is fitted.

    Raises:
      InputError: the encoder reads no texts.
    """
    encoder = header["encoder"]
    if not header["text_fields"]:
        raise InputError(
            f"encoder {encoder} reads no texts, so it cannot embed new items; give their "
            "embeddings by --embeddings=FILE.npy"
        )
    if encoder == TFIDF:
        # Fitting it again to the same texts gives the same encoder.
        return fit_tfidf(fitted_texts, header["width"], header["seed"])[1]
    transformer = _load_model(encoder)
    return lambda texts: _encode_with(transformer, texts)


def encode_tfidf(texts: Sequence[str], width: int, seed: int) -> np.ndarray:
    """TF-IDF of the words, reduced by a truncated SVD; rows of length 1, in a random rotation."""
    return fit_tfidf(texts, width, seed)[0]


def fit_tfidf(
    texts: Sequence[str], width: int, seed: int
) -> tuple[np.ndarray, Callable[[Sequence[str]], np.ndarray]]:
    """`encode_tfidf` of the texts, and the same for others by their words and their SVD."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    # Bare numbers are left out: the digits of a price would be rare and so most telling words.
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\b(?!\d+\b)\w\w+\b")
    try:
        counts = words.fit_transform(texts)
    except ValueError as error:
        raise InputError("encoder tfidf: the items' texts hold no words; use a model") from error
    # Two power iterations give the neighbours that five give.
    svd = TruncatedSVD(min(width, *counts.shape), n_iter=2, random_state=seed)
    embeddings_NE = in_random_rotation(normalize(svd.fit_transform(counts)), seed)

    def encode(others: Sequence[str]) -> np.ndarray:
        return in_random_rotation(normalize(svd.transform(words.transform(others))), seed)

    return embeddings_NE, encode


def in_random_rotation(embeddings_NE: np.ndarray, seed: int) -> np.ndarray:
    """Embeddings that an SVD made, in axes that are all alike, float32.

    The SVD sorts its components by their weight. Who standardises them one by one, as the
    RQ-VAE does, would give the last and noisiest the weight of the first; after a rotation,
    which changes no distance and no angle, each holds a like share of all.
    """
    noise_EE = np.random.default_rng(seed).normal(size=2 * embeddings_NE.shape[1:])
    rotation_EE = np.linalg.qr(noise_EE)[0]
    return (embeddings_NE @ rotation_EE).astype(np.float32)


def encode_with_model(texts: Sequence[str], model: str) -> np.ndarray:
    """Embeddings of a sentence-transformers model, e.g. the paper's Sentence-T5 (section 4).

    Args:
      texts: a sentence an item.
      model: local folder, or name on the Hugging Face hub, such as
        "sentence-transformers/sentence-t5-base".
    """
    return _encode_with(_load_model(model), texts)


def _load_model(model: str):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            f"encoder {model}: sentence-transformers is not installed; run pip install -e .[text] "
            f"or use encoder {TFIDF}"
        ) from error
    try:
        return SentenceTransformer(model)
    except Exception as error:  # the hub's client and the model's files fail in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"encoder {model}: neither a folder with a sentence-transformers model nor to be had "
            f"from the hub ({reason}); give a local folder, or use encoder {TFIDF}"
        ) from error


def _encode_with(transformer, texts: Sequence[str]) -> np.ndarray:
    vectors = transformer.encode(list(texts), batch_size=64, show_progress_bar=True)
    return np.asarray(vectors, np.float32)


def ready_made(path: str | os.PathLike, rows: Sequence[int], num_rows: int) -> np.ndarray:
    """Embeddings that somebody else made, float32 [N, E].

    Args:
      path: a .npy file, float [num_rows, E], in the order of the file of items.
      rows: which row is that of each item number, from 1 on.
      num_rows: items in the file of items.

    Raises:
      InputError: the file is missing, damaged, or has another number of rows.
    """
    embeddings_NE = map_embeddings(path, num_rows)[rows].astype(np.float32)
    require_usable(embeddings_NE, str(path))
    return embeddings_NE


def map_embeddings(path: str | os.PathLike, num_rows: int) -> np.ndarray:
    """A .npy file of embeddings, float [num_rows, E], mapped into memory.

    Raises:
      InputError: the file is missing, damaged, or has another number of rows.
    """
    embeddings = artifacts.load_array(path, "numpy.save")
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or not embeddings.size:
        raise InputError(
            f"{path}: must be of floats and have two axes, items and width; found "
            f"{embeddings.dtype} {list(embeddings.shape)}"
        )
    if len(embeddings) != num_rows:
        raise InputError(
            f"{path}: has {len(embeddings):,} rows, the file of items {num_rows:,}; give a row an "
            "item, in the order of the file of items"
        )
    return embeddings


def save_items(folder: str | os.PathLike, rows: Sequence[dict[str, Any]]) -> str:
    """Writes the items' metadata, a JSON line an item; returns its checksum."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    with artifacts.atomic_path(pathlib.Path(folder) / _ITEMS) as temporary:
        temporary.write_bytes(data)
    return artifacts.checksum(data)


def load_items(
    folder: str | os.PathLike, sequences: Sequences | None = None
) -> list[dict[str, Any]]:
    """Metadata of a prepared folder; row i belongs to item number i + 1.

    Args:
      folder: the folder.
      sequences: those of the folder, if they have been read already.

    Raises:
      InputError: the file is missing, or not the one that sequences.npz was written with.
    """
    folder = pathlib.Path(folder)
    sequences = sequences or Sequences.load(folder / SEQUENCES)
    path = folder / _ITEMS
    data = path.read_bytes() if path.is_file() else b""
    if artifacts.checksum(data) != sequences.header.get("metadata_checksum"):
        raise InputError(f"{path}: missing or changed; make it again with {MADE_BY}")
    with artifacts.refusing_damage(path, "JSON lines", MADE_BY):
        rows = [json.loads(line) for line in data.splitlines()]
        if [row["item_id"] for row in rows] != list(sequences.item_ids[1:]):
            raise ValueError("rows of other items")
    return rows


def label(row: dict[str, Any]) -> str:
    """What people call an item: its title, else brand and category, else its raw id."""
    if row.get("title"):
        return row["title"]
    category = row["categories"][0][-1] if row.get("categories") else None
    return ", ".join(filter(None, (row.get("brand"), category))) or row["item_id"]


def save_embeddings(
    folder: str | os.PathLike, embeddings_NE: np.ndarray, header: dict[str, Any]
) -> None:
    """Writes content_embeddings.npy, then the .json that vouches for it by its checksum."""
    folder = pathlib.Path(folder)
    with artifacts.atomic_path(folder / _EMBEDDINGS) as temporary, open(temporary, "wb") as file:
        np.save(file, embeddings_NE)
    checksum = artifacts.checksum(embeddings_NE)
    artifacts.save_json(folder / _HEADER, {**header, "checksum": checksum})


def encoder_name(encoder: str) -> str:
    """What an encoder is called wherever it lies: its name on a hub, or the end of its path."""
    return "/".join(pathlib.PurePath(encoder).parts[-2:])


def load_embeddings(folder: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
    """Content embeddings of a prepared folder, float32 [N, E], and their header.

    Row i belongs to item number i + 1.

    Raises:
      InputError: a file is missing or damaged, or was made for other items or other texts.
    """
    folder = pathlib.Path(folder)
    embeddings_NE, header = _load_pair(folder)
    sequences = Sequences.load(folder / SEQUENCES)
    names = ("items_checksum", "metadata_checksum")
    same = all(header[name] == sequences.header.get(name) for name in names)
    if not same or len(embeddings_NE) != sequences.num_items:
        raise InputError(
            f"{folder / _EMBEDDINGS}: belongs to other items than {SEQUENCES}; make it again "
            f"with {MADE_BY}"
        )
    return embeddings_NE, header


def are_alike(ones_NE: np.ndarray, others_NE: np.ndarray) -> bool:
    """Whether one encoder may have made both of the same texts, be it on other processors."""
    return ones_NE.shape == others_NE.shape and np.allclose(ones_NE, others_NE, atol=_ROUNDING)


def earlier_embeddings(folder: str | os.PathLike, made_from: dict[str, Any]) -> np.ndarray | None:
    """Embeddings that the folder holds already, if their header has all of `made_from`."""
    try:
        embeddings_NE, header = _load_pair(pathlib.Path(folder))
    except InputError:
        return None
    return embeddings_NE if made_from.items() <= header.items() else None


def _load_pair(folder: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Embeddings and their header; InputError unless both are whole and belong together."""
    needs = ("checksum", "encoder", "text_fields", "items_checksum", "metadata_checksum")
    header = artifacts.load_json(folder / _HEADER, MADE_BY, needs)
    path = folder / _EMBEDDINGS
    embeddings_NE = np.array(artifacts.load_array(path, MADE_BY))
    if embeddings_NE.ndim != 2 or embeddings_NE.dtype != np.float32 or not embeddings_NE.size:
        raise InputError(f"{path}: holds no embeddings; make it again with {MADE_BY}")
    if artifacts.checksum(embeddings_NE) != header["checksum"]:
        raise InputError(f"{path}: does not fit {_HEADER}; make both again with {MADE_BY}")
    return embeddings_NE, header


def _clauses(template: str, text_fields: Sequence[str]) -> dict[str, str]:
    """The clauses of the chosen fields, in the template's order."""
    known = dict.fromkeys((*METADATA_FIELDS, *text_fields))
    clauses = {}
    for clause in template.split("|"):
        fields = re.findall(r"{([^{}]*)}", clause)
        if len(fields) != 1 or fields[0] not in known:
            raise InputError(
                f"template: {clause!r} must hold one of {{{'}, {'.join(known)}}}; "
                "clauses are separated by |"
            )
        clauses[fields[0]] = clause.strip()
    absent = [field for field in text_fields if field not in clauses]
    if absent:
        raise InputError(
            f"text_fields: the template has no clause for {', '.join(absent)}; it has "
            f"{', '.join(clauses)}"
        )
    return {field: clause for field, clause in clauses.items() if field in text_fields}


def _field_text(value: Any) -> str:
    """A metadata value in words; "" where it is absent."""
    if not value and value != 0:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        return "; ".join(" > ".join(path) for path in value)
    return str(value)
