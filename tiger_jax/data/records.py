"""Raw files line by line, record by record: bounded in memory, every fault one clear line.

It knows text, gzip, JSON and Python literals. What the fields mean is none of its business.
"""

import ast
import gzip
import html
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from tiger_jax.artifacts import InputError

# Far longer than any real line; bounds the memory and time that parsing a hostile one takes.
MAX_LINE_BYTES = 2**20
# Ids are kept for good and printed; what is longer is no id but a column mistaken for one.
MAX_ID_BYTES = 1000

_GZIP_MAGIC = b"\x1f\x8b"


def lines(path: pathlib.Path, keep_blank: bool = False) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file of UTF-8 text, plain or gzip, blank ones left out unless kept.

    Raises:
      InputError: no such file, truncated or damaged gzip, a line that is too long or not UTF-8.
    """
    require_file(path)
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"{path}:{number}: longer than {MAX_LINE_BYTES:,} bytes; is it a text "
                        "file with a record a line?"
                    )
                # Spreadsheets put a byte-order mark at the start.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if keep_blank or text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); ask for the right") from error
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{path}: cannot be read behind line {number} ({error}); the file is truncated, "
            "damaged or no gzip file: get it again"
        ) from error


def require_file(path: pathlib.Path) -> None:
    """InputError unless `path` is a file."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")


def json_record(line: str, where: str) -> dict[str, Any]:
    """A line of JSON as a dictionary; a hostile line costs no more than an error."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({_first_line(error)})") from error
    return _dictionary(record, where)


def literal_record(line: str, where: str) -> dict[str, Any]:
    """A line with a Python literal as a dictionary; nothing in it is ever run."""
    try:
        record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: not a Python literal ({_first_line(error)})") from error
    return _dictionary(record, where)


def identifier(value: Any, field: str, where: str) -> str:
    """An id as a text, white space around it removed.

    Raises:
      InputError: it is empty, too long, or not Unicode.
    """
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: field {field!r} must be a text that is not empty")
    if not is_utf8(value):
        raise InputError(f"{where}: field {field!r} is not valid Unicode")
    value = value.strip()
    if len(value.encode()) > MAX_ID_BYTES:
        raise InputError(
            f"{where}: field {field!r} is longer than {MAX_ID_BYTES:,} bytes, which is no id: "
            f"{value[:20]!r}..."
        )
    return value


def clean(text: str) -> str:
    """HTML entities decoded, white space made single blanks, broken characters replaced."""
    text = " ".join(html.unescape(text).split())
    return text if is_utf8(text) else text.encode("utf-8", "replace").decode()


def is_utf8(text: str) -> bool:
    """False for lone surrogates, which JSON and Python literals can smuggle in."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open(path: pathlib.Path) -> BinaryIO:
    """The bytes of a file, unpacked where its name or its first bytes say gzip."""
    if path.name.endswith(".gz"):
        return gzip.open(path, "rb")
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _dictionary(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InputError(
            f"{where}: must be a dictionary, found {type(record).__name__}; give a record a line"
        )
    return record


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
