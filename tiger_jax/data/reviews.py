"""Raw review files -> interactions and item metadata, whatever form the files have.

It reads and cleans; filtering, ordering and numbering are the work of `sequences`.
"""

import array
import dataclasses
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.data import records

METADATA_FIELDS = ("title", "price", "brand", "categories", "keywords")

_NO_BRAND = frozenset({"Unknown", "None", "MISSING"})


@dataclasses.dataclass(frozen=True)
class Dropped:
    """How much of the data was left out for one reason."""

    reason: str
    users: int
    items: int
    interactions: int


@dataclasses.dataclass(frozen=True, eq=False)
class RawData:
    """What was found in the raw files; n interactions in the order of the file.

    Attributes:
      name: of the dataset, for people.
      user_ids: distinct raw user ids, in order of first appearance.
      item_ids: distinct raw item ids, in order of first appearance.
      users: row of `user_ids` of each interaction, int32 [n].
      items: row of `item_ids` of each interaction, int32 [n].
      timestamps: int64 [n], or float64 [n] where some have fractions; only their order counts.
        None where a user's interactions are in time order already.
      metadata: item id -> {field: value or None} for each of `fields`; items of which nothing is
        known may be missing.
      fields: names of the metadata: METADATA_FIELDS, and the columns of own data that were chosen.
      catalogue: item id -> row of the file of items; None where there is no such file.
      dropped: what was left out while reading.
    """

    name: str
    user_ids: list[str]
    item_ids: list[str]
    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    metadata: dict[str, dict[str, Any]]
    fields: tuple[str, ...] = METADATA_FIELDS
    catalogue: dict[str, int] | None = None
    dropped: tuple[Dropped, ...] = ()

    def metadata_of(self, item_id: str) -> dict[str, Any]:
        """{field: value or None} of an item, all None where nothing is known of it."""
        return self.metadata.get(item_id) or dict.fromkeys(self.fields)

    def only(self, kept: np.ndarray, reason: str) -> "RawData":
        """The data without the interactions that are not `kept`, and without whom that leaves bare.

        Args:
          kept: bool [n].
          reason: why the others are dropped, for people.
        """
        user_rows, users = np.unique(self.users[kept], return_inverse=True)
        item_rows, items = np.unique(self.items[kept], return_inverse=True)
        gone = Dropped(
            reason,
            users=len(self.user_ids) - len(user_rows),
            items=len(self.item_ids) - len(item_rows),
            interactions=int((~kept).sum()),
        )
        return dataclasses.replace(
            self,
            user_ids=[self.user_ids[row] for row in user_rows],
            item_ids=[self.item_ids[row] for row in item_rows],
            users=users.astype(np.int32),
            items=items.astype(np.int32),
            timestamps=None if self.timestamps is None else self.timestamps[kept],
            dropped=(*self.dropped, gone),
        )


def read_raw(folder: str | pathlib.Path) -> RawData:
    """Reads a folder of either known form, told apart by the names of its files.

    Raises:
      InputError: the folder holds neither, or a file of it is at fault.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder, nor a table of a known kind; give the folder that holds "
            "the raw files, or a .csv, .jsonl or .parquet file"
        )
    if (folder / "sequences.txt.gz").is_file():
        return read_amazon2014(folder)
    reviews = sorted(folder.glob("reviews_*.json.gz"))
    meta = sorted(folder.glob("meta_*.json.gz"))
    if len(reviews) == 1 and len(meta) == 1:
        return read_mcauley(reviews[0], meta[0])
    raise InputError(
        f"{folder}: must hold sequences.txt.gz and items.jsonl.gz, or one reviews_*.json.gz and "
        f"one meta_*.json.gz; found {len(reviews)} and {len(meta)} of the latter two; "
        "a table of your own is given itself, not its folder"
    )


def read_amazon2014(folder: str | pathlib.Path) -> RawData:
    """Reads `sequences.txt.gz` (a line: user, items in time order) and `items.jsonl.gz`.

    Raises:
      InputError: a file is missing or damaged, or a line is malformed.
    """
    folder = pathlib.Path(folder)
    interactions = Interactions()
    path = folder / "sequences.txt.gz"
    for number, line in records.lines(path):
        where = f"{path}:{number}"
        user_id, *item_ids = (records.identifier(word, "id", where) for word in line.split())
        if not item_ids:
            raise InputError(f"{where}: user {user_id!r} without items")
        if user_id in interactions.user_rows:
            raise InputError(f"{where}: user {user_id!r} has a line already")
        for item_id in item_ids:
            interactions.add(user_id, item_id)
    metadata = _read_metadata(folder / "items.jsonl.gz", records.json_record, interactions)
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
    interactions = Interactions()
    for _, review in read_reviews(reviews_path):
        interactions.add(*review)
    metadata = _read_metadata(pathlib.Path(meta_path), records.literal_record, interactions)
    name = reviews_path.name.removesuffix(".json.gz").removeprefix("reviews_").removesuffix("_5")
    return interactions.raw_data(name, metadata)


def read_reviews(path: str | pathlib.Path) -> Iterator[tuple[int, tuple[str, str, int]]]:
    """Numbered lines of a file of reviews: (user id, item id, seconds since 1970).

    Raises:
      InputError: the file is missing or damaged, or a line is malformed.
    """
    path = pathlib.Path(path)
    for number, line in records.lines(path):
        where = f"{path}:{number}"
        review = records.json_record(line, where)
        user_id = records.identifier(review.get("reviewerID"), "reviewerID", where)
        item_id = records.identifier(review.get("asin"), "asin", where)
        yield number, (user_id, item_id, _timestamp(review, where))


class Interactions:
    """Interactions as they are read, with ids replaced by rows."""

    def __init__(self):
        self.user_rows: dict[str, int] = {}
        self.item_rows: dict[str, int] = {}
        self.users = array.array("i")
        self.items = array.array("i")
        self.timestamps = array.array("q")

    def add(self, user_id: str, item_id: str, timestamp: int | float | None = None):
        """One more; all have a timestamp or none has."""
        self.users.append(self.user_rows.setdefault(user_id, len(self.user_rows)))
        self.items.append(self.item_rows.setdefault(item_id, len(self.item_rows)))
        if timestamp is not None:
            if isinstance(timestamp, float) and self.timestamps.typecode == "q":
                self.timestamps = array.array("d", self.timestamps)
            self.timestamps.append(timestamp)

    def raw_data(self, name: str, metadata: dict[str, dict], **more: Any) -> RawData:
        """All that was added, and what is known of its items."""
        return RawData(
            name=name,
            user_ids=list(self.user_rows),
            item_ids=list(self.item_rows),
            users=np.array(self.users, np.int32),
            items=np.array(self.items, np.int32),
            timestamps=np.array(self.timestamps) if self.timestamps else None,
            metadata=metadata,
            **more,
        )


def _read_metadata(
    path: pathlib.Path, parse: Callable[[str, str], dict[str, Any]], interactions: Interactions
) -> dict[str, dict[str, Any]]:
    """Metadata of the items that have interactions; of two lines of an item the first counts."""
    metadata: dict[str, dict[str, Any]] = {}
    with warnings.catch_warnings():
        # Literals hold invalid escapes such as "\d", which Python's parser complains about.
        warnings.simplefilter("ignore")
        for number, line in records.lines(path):
            where = f"{path}:{number}"
            record = parse(line, where)
            item_id = records.identifier(record.get("asin"), "asin", where)
            if item_id in interactions.item_rows and item_id not in metadata:
                metadata[item_id] = metadata_row(record, where)
    return metadata


def metadata_row(record: dict[str, Any], where: str) -> dict[str, Any]:
    """{field: value or None} of a record with any of METADATA_FIELDS.

    Raises:
      InputError: a value is of the wrong kind.
    """
    brand = _text(record, "brand", where)
    return {
        "title": _text(record, "title", where),
        "price": _price(record, where),
        "brand": None if brand in _NO_BRAND else brand,
        "categories": _categories(record, where),
        "keywords": _text(record, "keywords", where),
    }


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
    return records.clean(value) or None


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
    paths = [[name for name in map(records.clean, path) if name] for path in value]
    return [path for path in paths if path] or None
