"""Tables of one's own, interactions and items -> interactions and item metadata.

The counterpart of `reviews` for data of any shop; `RawData` is what both end in.
"""

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.data import records
from tiger_jax.data.reviews import METADATA_FIELDS, Dropped, Interactions, RawData
from tiger_jax.data.tables import Table, open_table

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_UNTAKEN = "items of the table that are in no interaction (make_ids --add gives them IDs)"


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns that mean something.

    Attributes:
      user: in the interactions, the user's id.
      item: in the interactions, the item's id.
      time: in the interactions, when it was; "" where a user's rows are in time order already.
      time_format: of dates that are not ISO 8601, as Python's strptime has it; "" for none.
      items_id: in the items, the id; "" for the same name as `item`.
      title: in the items, the name that people read; "" for "title", if there is one.
      category: in the items, a category, or a path "Grooming > Shaving", or several with ";"
        between them; "" for "categories" or "category", if there is one.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    time_format: str = ""
    items_id: str = ""
    title: str = ""
    category: str = ""


def read_raw(
    interactions_path: str | pathlib.Path,
    items_path: str | pathlib.Path | None,
    columns: Columns,
    text_fields: Sequence[str] = (),
) -> RawData:
    """Reads a table of interactions and, if there is one, the table of the items.

    Rows that repeat user, item and time are dropped and counted, and so are items that are in no
    interaction. Items without a row in the table of items are kept, with nothing known of them.

    Args:
      interactions_path: a row an interaction, with the columns user, item and time.
      items_path: a row an item; None where there is no such table.
      columns: what the columns are called.
      text_fields: columns of the items to keep besides those of METADATA_FIELDS.

    Raises:
      InputError: a file is missing, damaged or empty, a column is missing, or a row is at fault;
        names file, line and column.
    """
    interactions_path = pathlib.Path(interactions_path)
    interactions = _read_interactions(open_table(interactions_path), columns)
    metadata, catalogue, fields, dropped = {}, None, METADATA_FIELDS, ()
    if items_path is not None:
        items = open_table(pathlib.Path(items_path))
        chosen = _chosen_columns(items, columns, text_fields)
        metadata, catalogue = _read_items(items, columns, chosen, interactions.item_rows)
        fields = tuple(dict.fromkeys((*METADATA_FIELDS, *chosen)))
        if untaken := len(catalogue) - len(metadata):
            dropped = (Dropped(_UNTAKEN, users=0, items=untaken, interactions=0),)
    name = interactions_path.resolve().parent.name or interactions_path.stem
    raw = interactions.raw_data(name, metadata, fields=fields, catalogue=catalogue, dropped=dropped)
    return _without_repeated_rows(raw)


def only_catalogue(raw: RawData) -> RawData:
    """The data without the items that have no row in the table of items.

    Raises:
      InputError: there is no table of items.
    """
    if raw.catalogue is None:
        raise InputError(
            "embeddings of your own are in the order of the table of items; give that by --items"
        )
    known = np.array([item_id in raw.catalogue for item_id in raw.item_ids])
    return raw.only(known[raw.items], "items without a row in the table of items")


def _read_interactions(table: Table, columns: Columns) -> Interactions:
    table.require(columns.user, "--user_column")
    table.require(columns.item, "--item_column")
    if columns.time:
        table.require(
            columns.time,
            "--time_column (--time_column= where a user's rows are in time order already)",
        )
    clock = _Clock(columns.time, columns.time_format)
    interactions = Interactions()
    wanted = [name for name in (columns.user, columns.item, columns.time) if name]
    for where, row in table.read(wanted):
        user_id = identifier(row, columns.user, where)
        item_id = identifier(row, columns.item, where)
        timestamp = clock.read(row.get(columns.time), where) if columns.time else None
        interactions.add(user_id, item_id, timestamp)
    return interactions


def _without_repeated_rows(raw: RawData) -> RawData:
    """Drops rows with the user, item and time of an earlier one."""
    if raw.timestamps is None:
        return raw
    keys = (raw.timestamps, raw.items, raw.users)
    order = np.lexsort(keys)
    repeated = np.zeros(len(order), bool)
    repeated[order[1:]] = np.all([key[order[1:]] == key[order[:-1]] for key in keys], axis=0)
    if not repeated.any():
        return raw
    return raw.only(~repeated, "rows that repeat user, item and time")


def _chosen_columns(table: Table, columns: Columns, text_fields: Sequence[str]) -> dict[str, str]:
    """Metadata field -> column of the items, of all that are to be kept."""
    table.require(columns.items_id or columns.item, "--items_id_column")
    chosen = {field: field for field in METADATA_FIELDS if field in table.columns}
    if columns.title:
        table.require(columns.title, "--title_column")
        chosen["title"] = columns.title
    if columns.category:
        table.require(columns.category, "--category_column")
        chosen["categories"] = columns.category
    elif "categories" not in chosen and "category" in table.columns:
        chosen["categories"] = "category"
    for field in text_fields:
        if field not in METADATA_FIELDS:
            table.require(field, "--text_fields")
            chosen[field] = field
    return chosen


def _read_items(
    table: Table, columns: Columns, chosen: dict[str, str], wanted: dict[str, int]
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Metadata of the wanted items; row of every item of the table."""
    metadata: dict[str, dict[str, Any]] = {}
    catalogue: dict[str, int] = {}
    id_column = columns.items_id or columns.item
    for where, row in table.read([id_column, *chosen.values()]):
        item_id = identifier(row, id_column, where)
        if item_id in catalogue:
            raise InputError(
                f"{where}: item {item_id!r} has a row already, number {catalogue[item_id] + 1} of "
                "the items; keep one of them"
            )
        catalogue[item_id] = len(catalogue)
        if item_id in wanted:
            known = {
                field: value_of(field, row.get(column), column, where)
                for field, column in chosen.items()
            }
            metadata[item_id] = dict.fromkeys(METADATA_FIELDS) | known
    if not metadata:
        raise InputError(
            f"{table.path}: has none of the items of the interactions, such as "
            f"{next(iter(wanted))!r}; its column {id_column!r} has {next(iter(catalogue))!r}; give "
            "the column with the same ids by --items_id_column"
        )
    return metadata, catalogue


def identifier(row: dict[str, Any], column: str, where: str) -> str:
    """An id as a text, whatever type it has in the file."""
    value = row.get(column)
    if isinstance(value, float) and value.is_integer():
        # Whole numbers become these where a column has gaps.
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**100:
        value = str(value)
    return records.identifier(value, column, where)


def value_of(field: str, value: Any, column: str, where: str) -> Any:
    """A value of the items as metadata; None where there is none."""
    if value is None or value == "" or value != value:  # the last: not a number
        return None
    if field == "categories":
        return _category_paths(value, column, where)
    if field == "price" and type(value) in (int, float) and 0 <= value < float("inf"):
        return float(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "; ".join(value)
    if isinstance(value, dict | list | bytes):
        raise InputError(f"{where}: field {column!r} must be a text or a number")
    text = records.clean(str(value))
    if field == "price" and re.fullmatch(r"\d{1,15}(\.\d{1,15})?", text):
        return float(text)
    return text or None


def _category_paths(value: Any, column: str, where: str) -> list[list[str]] | None:
    """Paths from the department down: a text "a > b; c", a list of names, or a list of paths."""
    if isinstance(value, str):
        value = [path.split(">") for path in value.split(";")]
    elif isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = [value]
    elif not isinstance(value, list) or not all(
        isinstance(path, list) and all(isinstance(name, str) for name in path) for path in value
    ):
        raise InputError(f"{where}: field {column!r} must be a text, a list of texts, or of paths")
    paths = [[name for name in map(records.clean, path) if name] for path in value]
    return [path for path in paths if path] or None


class _Clock:
    """Reads the times of one file, which all have the same kind."""

    def __init__(self, column: str, time_format: str):
        self.column = column
        self.time_format = time_format
        self.kind = ""

    def read(self, value: Any, where: str) -> int | float:
        """A number as it is, a date as microseconds since 1970.

        Raises:
          InputError: it is neither, or of another kind than those before.
        """
        time, kind = self._parsed(value, where)
        if self.kind and kind != self.kind:
            raise InputError(
                f"{where}: field {self.column!r}, {str(value)[:40]!r}, is {kind}, the rows before "
                f"have {self.kind}; write all in one way"
            )
        self.kind = kind
        return time

    def _parsed(self, value: Any, where: str) -> tuple[int | float, str]:
        text = value.strip() if isinstance(value, str) else value
        if not self.time_format:
            number = _number(text)
            if number is not None:
                return number, "a number"
        try:
            date = self._date(text)
        except (ValueError, TypeError, OverflowError) as error:
            form = f"of the form {self.time_format}" if self.time_format else "an ISO 8601 date"
            raise InputError(
                f"{where}: field {self.column!r}, {str(value)[:40]!r}, is neither a number nor "
                f"{form}; mend it, or give the form of dates by --time_format=%d.%m.%Y or the like"
            ) from error
        kind = "a date without a time zone" if date.tzinfo is None else "a date with a time zone"
        aware = date.replace(tzinfo=datetime.UTC) if date.tzinfo is None else date
        return (aware - _EPOCH) // _MICROSECOND, kind

    def _date(self, text: Any) -> datetime.datetime:
        if not isinstance(text, str):
            raise TypeError
        if self.time_format:
            return datetime.datetime.strptime(text, self.time_format)
        return datetime.datetime.fromisoformat(text.replace("/", "-").replace(" UTC", "+00:00"))


def _number(value: Any) -> int | float | None:
    """A number, if it is one that can be stored."""
    if isinstance(value, str):
        if re.fullmatch(r"[+-]?\d{1,19}", value, re.ASCII):
            value = int(value)
        elif re.fullmatch(r"[+-]?\d{1,300}\.\d{0,300}([eE][+-]?\d{1,3})?", value, re.ASCII):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 2**63 else None
