"""Files of rows, CSV, JSON lines or Parquet, plain or gzip, one row at a time.

What the columns mean, `own_data` knows.
"""

import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tiger_jax.artifacts import InputError
from tiger_jax.data import records

# What holds a table, by the end of its name; each may have ".gz" behind it.
_DELIMITED = (".csv", ".tsv", ".txt")
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_PARQUET = (".parquet", ".pq")

_DELIMITERS = ",\t;|"
_ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Table:
    """A file of rows.

    Attributes:
      path: the file.
      columns: their names; of JSON lines those of any row.
      rows: from the columns that are wanted, (file and line, {column: value}) of each row; others
        may be in it too.
    """

    path: pathlib.Path
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, dict[str, Any]]]]

    def require(self, column: str, flag: str) -> None:
        """InputError, which lists the columns there are, unless there is this one."""
        if column not in self.columns:
            shown = ", ".join(str(name)[:40] for name in self.columns[:20])
            raise InputError(
                f"{self.path}: no column {column!r}; it has {shown}"
                f"{', ...' if len(self.columns) > 20 else ''}; give the right name by {flag}"
            )

    def read(self, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """`rows`; InputError where there is none."""
        where = ""
        for where, row in self.rows(wanted):
            yield where, row
        if not where:
            raise InputError(f"{self.path}: holds no rows; give a file that has some")


def is_table(path: str | pathlib.Path) -> bool:
    """Whether a file's name says that it holds a table."""
    return _ending(pathlib.Path(path)) in (*_DELIMITED, *_JSON_LINES, *_PARQUET)


def open_table(path: pathlib.Path) -> Table:
    """Opens a table of any form, told apart by the end of its name.

    Raises:
      InputError: no such file, no such form, or no rows in it.
    """
    records.require_file(path)
    ending = _ending(path)
    if ending in _DELIMITED:
        return _delimited(path)
    if ending in _JSON_LINES:
        return _json_lines(path)
    if ending in _PARQUET:
        return _parquet(path)
    raise InputError(
        f"{path}: what form has it? The name must end in one of "
        f"{', '.join((*_DELIMITED, *_JSON_LINES))} (each also with .gz), {', '.join(_PARQUET)}"
    )


def _delimited(path: pathlib.Path) -> Table:
    """CSV with a header; the delimiter is the one that the header has most of."""
    numbered = records.lines(path, keep_blank=True)
    _, first = next(numbered, (1, ""))
    if not first.strip():
        raise InputError(
            f"{path}: is empty or begins with a blank line; give a line of names first"
        )
    delimiter = max(_DELIMITERS, key=first.count)
    table = csv.reader(
        _texts(first, numbered), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    header = next(_csv_rows(path, table))[1]
    columns = tuple(name.strip() for name in header)
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise InputError(f"{path}:1: two columns are called {twice!r}; rename one")

    def rows(_):
        for number, values in _csv_rows(path, table):
            if len(values) != len(columns):
                raise InputError(
                    f"{path}:{number}: has {len(values)} fields, the header {len(columns)}; "
                    "quote fields that hold the delimiter"
                )
            yield f"{path}:{number}", dict(zip(columns, values, strict=True))

    return Table(path, columns, rows)


def _texts(first: str, numbered: Iterable[tuple[int, str]]) -> Iterator[str]:
    yield first
    for _, line in numbered:
        yield line


def _csv_rows(path: pathlib.Path, table: Any) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, values) of each row, blank ones left out."""
    # Where a row begins: one with an open quotation mark may go on to the end of the file.
    begun = table.line_num + 1
    try:
        for values in table:
            if values:
                yield table.line_num, values
            begun = table.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}:{begun}: not CSV ({error}); is a quotation mark in it without its partner?"
        ) from error


def _json_lines(path: pathlib.Path) -> Table:
    def rows(_):
        for number, line in records.lines(path):
            where = f"{path}:{number}"
            yield where, records.json_record(line, where)

    # A row may lack what it has no value for.
    columns = dict.fromkeys(column for _, row in rows(()) for column in row)
    return Table(path, tuple(columns), rows)


def _parquet(path: pathlib.Path) -> Table:
    """Parquet, in batches of rows; times come as microseconds since 1970."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"{path}: pyarrow is not installed; run pip install -e .[parquet] or save it as CSV"
        ) from error

    def plain(column):
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        return column.to_pylist()

    def rows(wanted):
        number = 0
        with _as_input_errors(path):
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(wanted)):
                names = batch.schema.names
                for values in zip(*map(plain, batch.columns), strict=True):
                    number += 1
                    yield f"{path}: row {number}", dict(zip(names, values, strict=True))

    with _as_input_errors(path):
        file = pyarrow.parquet.ParquetFile(path)
        return Table(path, tuple(file.schema_arrow.names), rows)


@contextlib.contextmanager
def _as_input_errors(path: pathlib.Path) -> Iterator[None]:
    """Errors of pyarrow, which are of many kinds, as one of ours."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path}: damaged or no Parquet file ({reason}); get it again") from error


def _ending(path: pathlib.Path) -> str:
    return pathlib.Path(path.name.lower().removesuffix(".gz")).suffix
