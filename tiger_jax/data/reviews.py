"""Raw review files -> interactions and item metadata, whatever form the files have.

It reads and cleans; filtering, ordering and numbering are the work of `sequences`.
"""

import array
import ast
import dataclasses
import gzip
import html
import json
import pathlib
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tiger_jax.artifacts import InputError

METADATA_FIELDS = ("title", "price", "brand", "categories", "keywords")

# Far longer than any real line; bounds the memory and time that parsing a hostile one takes.
_MAX_LINE_BYTES = 2**20
_NO_BRAND = frozenset({"Unknown", "None", "MISSING"})


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """What was found in the raw files; n interactions in the order of the file.

    Attributes:
      name: of the dataset, for people.
      user_ids: distinct raw user ids, in order of first appearance.
      item_ids: distinct raw item ids, in order of first appearance.
      users: row of `user_ids` of each interaction, int32 [n].
      items: row of `item_ids` of each interaction, int32 [n].
      timestamps: int64 [n]; None where a user's interactions are in time order already.
      metadata: item id -> {field: value or None} for each of METADATA_FIELDS; items of which
        nothing is known may be missing.
    """

    name: str
    user_ids: list[str]
    item_ids: list[str]
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    metadata: dict[str, dict[str, Any]]

    def metadata_of(self, item_id: str) -> dict[str, Any]:
        """{field: value or None} of an item, all None where nothing is known of it."""
        return self.metadata.get(item_id) or dict.fromkeys(METADATA_FIELDS)


def read_raw(folder: str | pathlib.Path) -> RawData:
    """Reads a folder of either known form, told apart by the names of its files.

    Raises:
      InputError: the folder holds neither, or a file of it is at fault.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the raw files")
    if (folder / "sequences.txt.gz").is_file():
        return read_amazon2014(folder)
    reviews = sorted(folder.glob("reviews_*.json.gz"))
    meta = sorted(folder.glob("meta_*.json.gz"))
    if len(reviews) == 1 and len(meta) == 1:
        return read_mcauley(reviews[0], meta[0])
    raise InputError(
        f"{folder}: must hold sequences.txt.gz and items.jsonl.gz, or one reviews_*.json.gz and "
        f"one meta_*.json.gz; found {len(reviews)} and {len(meta)} of the latter two"
    )


def read_amazon2014(folder: str | pathlib.Path) -> RawData:
    """Reads `sequences.txt.gz` (a line: user, items in time order) and `items.jsonl.gz`.

    Raises:
      InputError: a file is missing or damaged, or a line is malformed.
    """
    folder = pathlib.Path(folder)
    interactions = _Interactions()
    path = folder / "sequences.txt.gz"
    for number, line in _lines(path):
        user_id, *item_ids = line.split()
        if not item_ids:
            raise InputError(f"{path}:{number}: user {user_id!r} without items")
        if user_id in interactions.user_rows:
            raise InputError(f"{path}:{number}: user {user_id!r} has a line already")
        for item_id in item_ids:
            interactions.add(user_id, item_id)
    metadata = _read_metadata(folder / "items.jsonl.gz", _parse_json, interactions)
    return interactions.raw_data(folder.name, metadata)


def read_mcauley(reviews_path: str | pathlib.Path, meta_path: str | pathlib.Path) -> RawData:
    """Reads the original files of McAuley et al. (2014).

    Args:
      reviews_path: `reviews_<Category>_5.json.gz`: JSON lines with reviewerID, asin and
        unixReviewTime.
      meta_path: `meta_<Category>.json.gz`: a Python literal a line with asin and, where known,
        title, price, brand and categories. Parsed as a literal; nothing in it is ever run.

    Raises:
      InputError: a file is missing or damaged, or a line is malformed.
    """
    reviews_path = pathlib.Path(reviews_path)
    interactions = _Interactions()
    for number, line in _lines(reviews_path):
        where = f"{reviews_path}:{number}"
        review = _record(_parse_json, line, where)
        user_id = _identifier(review, "reviewerID", where)
        item_id = _identifier(review, "asin", where)
        interactions.add(user_id, item_id, _timestamp(review, where))
    metadata = _read_metadata(pathlib.Path(meta_path), _parse_literal, interactions)
    name = reviews_path.name.removesuffix(".json.gz").removeprefix("reviews_").removesuffix("_5")
    return interactions.raw_data(name, metadata)


class _Interactions:
    """Interactions as they are read, with ids replaced by rows."""

    def __init__(self):
        self.user_rows: dict[str, int] = {}
        self.item_rows: dict[str, int] = {}
        self.users = array.array("i")
        self.items = array.array("i")
        self.timestamps = array.array("q")

    def add(self, user_id: str, item_id: str, timestamp: int | None = None):
        self.users.append(self.user_rows.setdefault(user_id, len(self.user_rows)))
        self.items.append(self.item_rows.setdefault(item_id, len(self.item_rows)))
        if timestamp is not None:
            self.timestamps.append(timestamp)

    def raw_data(self, name: str, metadata: dict[str, dict]) -> RawData:
        return RawData(
            name=name,
            user_ids=list(self.user_rows),
            item_ids=list(self.item_rows),
            users=np.array(self.users, np.int32),
            items=np.array(self.items, np.int32),
            timestamps=np.array(self.timestamps, np.int64) if self.timestamps else None,
            metadata=metadata,
        )


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a gzip file of UTF-8 text, blank ones left out."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(_MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > _MAX_LINE_BYTES:
                    raise InputError(f"{path}:{number}: longer than {_MAX_LINE_BYTES:,} bytes")
                text = line.decode()
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: not UTF-8 text ({error.reason})") from error
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{path}: cannot be read behind line {number} ({error}); the file is truncated, "
            "damaged or no gzip file: get it again"
        ) from error


def _parse_json(line: str) -> Any:
    return json.loads(line)


def _parse_literal(line: str) -> Any:
    return ast.literal_eval(line.strip())


def _record(parse: Callable[[str], Any], line: str, where: str) -> dict[str, Any]:
    """One line as a dictionary; a hostile line costs no more than an error."""
    try:
        record = parse(line)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        kind = "JSON" if parse is _parse_json else "a Python literal"
        raise InputError(f"{where}: not {kind} ({_first_line(error)})") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: must be a dictionary, found {type(record).__name__}")
    return record


def _read_metadata(
    path: pathlib.Path, parse: Callable[[str], Any], interactions: _Interactions
) -> dict[str, dict[str, Any]]:
    """Metadata of the items that have interactions; of two lines of an item the first counts."""
    metadata: dict[str, dict[str, Any]] = {}
    with warnings.catch_warnings():
        # Literals hold invalid escapes such as "\d", which Python's parser complains about.
        warnings.simplefilter("ignore")
        for number, line in _lines(path):
            where = f"{path}:{number}"
            record = _record(parse, line, where)
            item_id = _identifier(record, "asin", where)
            if item_id in interactions.item_rows and item_id not in metadata:
                metadata[item_id] = _metadata_row(record, where)
    return metadata


def _metadata_row(record: dict[str, Any], where: str) -> dict[str, Any]:
    brand = _text(record, "brand", where)
    return {
        "title": _text(record, "title", where),
        "price": _price(record, where),
        "brand": None if brand in _NO_BRAND else brand,
        "categories": _categories(record, where),
        "keywords": _text(record, "keywords", where),
    }


def _identifier(record: dict[str, Any], field: str, where: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: field {field!r} must be a text that is not empty")
    if not _is_utf8(value):
        raise InputError(f"{where}: field {field!r} is not valid Unicode")
    return value


def _timestamp(review: dict[str, Any], where: str) -> int:
    value = review.get("unixReviewTime")
    if type(value) is not int or abs(value) >= 2**63:
        raise InputError(f"{where}: field 'unixReviewTime' must be a whole number of seconds")
    return value


def _text(record: dict[str, Any], field: str, where: str) -> str | None:
    value = record.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{where}: field {field!r} must be a text")
    return _clean(value) or None


def _price(record: dict[str, Any], where: str) -> float | None:
    value = record.get("price")
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise InputError(f"{where}: field 'price' must be a number that is not negative")
    return float(value)


def _categories(record: dict[str, Any], where: str) -> list[list[str]] | None:
    """Paths from the department down; those without a name in them are left out."""
    value = record.get("categories")
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(path, list) for path in value):
        raise InputError(f"{where}: field 'categories' must be a list of paths, each a list")
    if not all(isinstance(name, str) for path in value for name in path):
        raise InputError(f"{where}: field 'categories' must hold texts")
    paths = [[name for name in map(_clean, path) if name] for path in value]
    return [path for path in paths if path] or None


def _clean(text: str) -> str:
    """HTML entities decoded, white space made single blanks, broken characters replaced."""
    text = " ".join(html.unescape(text).split())
    return text if _is_utf8(text) else text.encode("utf-8", "replace").decode()


def _is_utf8(text: str) -> bool:
    """False for lone surrogates, which JSON and Python literals can smuggle in."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
