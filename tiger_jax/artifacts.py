"""Files that are either whole or absent, each with a header saying what it was made from.

Also the one error that users see. It knows nothing of what the files mean.
"""

import contextlib
import fcntl
import functools
import glob
import hashlib
import json
import numbers
import os
import pathlib
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_HEADER = "header"
# Of the process. It can only be asked for by setting it, which other threads would see.
_UMASK = os.umask(0)
os.umask(_UMASK)
# Folders of `all_together`: still being written; complete.
_STAGING, _COMPLETE = ".new", ".new.complete"
# Open for as long as this process lives: {folder: its handle, which locks it}.
_OWNED = {}


class InputError(ValueError):
    """A fault in what the user gave: one line that says what is wrong, where, and what to do.

    The command line prints it and exits with code 2. Line breaks in what it quotes become blanks.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def require_at_least(least: int, **values: int) -> None:
    """InputError for the first of the named values that is smaller, or no whole number.

    From gin, values come as somebody wrote them: 1e3 is none.
    """
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise InputError(f"{name} is {value!r}, no whole number; give {least} or more")
        if value < least:
            raise InputError(f"{name} is {value}; give {least} or more")


def require_seed(seed: int) -> None:
    """InputError unless JAX, NumPy and scikit-learn take it as it is: of 32 bits."""
    require_at_least(0, seed=seed)
    if seed >= 2**32:
        raise InputError(f"seed is {seed}; give less than 2**32 = {2**32}")


def require_shares(**values: float) -> None:
    """InputError for the first of the named values that is not from 0 to 1."""
    for name, value in values.items():
        if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
            raise InputError(f"{name} is {value!r}; give 0 to 1")


def require_shares_below_one(**values: float) -> None:
    """InputError for the first of the named values that is not from 0 to less than 1."""
    for name, value in values.items():
        if not isinstance(value, numbers.Real) or not 0 <= value < 1:
            raise InputError(f"{name} is {value!r}; give 0 or more, less than 1")


def require_names(**names: str) -> None:
    """InputError for the first that is no name of a file in a folder of the project's own."""
    for what, name in names.items():
        if name in ("", "..") or name != pathlib.PurePath(name).name:
            raise InputError(f"{what}={name!r}: give a name, without /")


def require_same(
    begun: str, found: Mapping[str, Any], settings: Mapping[str, Any], remedy: str
) -> None:
    """InputError for the first setting that is not what it was; of a mapping, for its first entry.

    Args:
      begun: what was made with the settings found, and where: "...: the run was begun".
      found: the settings then, as read from JSON.
      settings: those now, JSON-able.
      remedy: what to do.
    """
    for name, now in json.loads(json.dumps(settings)).items():
        then = found.get(name)
        if isinstance(then, dict) and isinstance(now, dict) and then != now:
            pairs = {
                entry: (then.get(entry, "not set"), now.get(entry, "not set"))
                for entry in then | now
            }
            entry = next(entry for entry, (before, after) in pairs.items() if before != after)
            name, (then, now) = f"{name}.{entry}", pairs[entry]
        if then != now:
            raise InputError(f"{begun} with {name} = {then}, now it is {now}; {remedy}")


class CannotWriteError(InputError):
    """A file cannot be written: the disk is full, or the folder is not ours."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, which takes its name only if the block succeeds.

    Temporary files that killed processes left of the same artifact are removed.

    Raises:
      CannotWriteError: the folder cannot be written, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _locked_temporary(path)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; an artifact is as readable as any other new file.
        temporary.chmod(0o666 & ~_UMASK)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise CannotWriteError(
            f"{path}: cannot be written ({reason}); free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
            os.close(handle)


def _locked_temporary(path: pathlib.Path) -> tuple[int, pathlib.Path]:
    """A new temporary file for `path`, locked as long as its handle is open.

    A lock dies with its process. So a temporary file that nobody locks belongs to nobody, which
    holds while the folder's lock keeps others from standing between making and locking theirs.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        for other in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with contextlib.suppress(OSError), open(other, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                other.unlink()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        fcntl.flock(handle, fcntl.LOCK_EX)
    finally:
        os.close(folder)
    return handle, pathlib.Path(name)


def own(folder: str | os.PathLike) -> None:
    """Keeps other processes out of a folder, if they ask likewise, until this one ends.

    Not for folders in which `atomic_path` writes, which would wait for their lock for ever.

    Raises:
      InputError: another process is at work there.
      CannotWriteError: it is not there and cannot be made.
    """
    folder = pathlib.Path(folder).resolve()
    if folder in _OWNED:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWriteError(
            f"{folder}: cannot be made ({error.strerror or error}); choose another folder"
        ) from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InputError(
            f"{folder}: another process is at work on it; wait for its end, or stop it"
        ) from error
    _OWNED[folder] = handle


def own_if_there(folder: str | os.PathLike) -> None:
    """As `own`, but makes no folder that is not there, which nobody can be at work on."""
    if os.path.isdir(folder):
        own(folder)


@contextlib.contextmanager
def all_together(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a folder for new versions of files of `folder`, which take their places together.

    The one moment that counts is the renaming of that folder: killed before it, nothing has
    happened; killed behind it, `finish_together` does the rest.
    """
    folder = pathlib.Path(folder)
    finish_together(folder)
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    staging.rename(folder / _COMPLETE)
    finish_together(folder)


def finish_together(folder: str | os.PathLike) -> None:
    """Moves files that are all there, but not yet all in their places."""
    complete = pathlib.Path(folder, _COMPLETE)
    if not complete.is_dir():
        return
    for path in sorted(complete.rglob("*")):
        if path.is_file():
            path.replace(pathlib.Path(folder, path.relative_to(complete)))
    shutil.rmtree(complete)


def require_settled(folder: str | os.PathLike) -> None:
    """InputError where a process that changed files together was killed while they moved."""
    if pathlib.Path(folder, _COMPLETE).is_dir():
        raise InputError(
            f"{folder}: holds files of two versions, as a command was cut off at its very end; "
            "give that one again (prepare or make_ids --add), which finishes it first"
        )


def save_arrays(path: str | os.PathLike, kind: str, header: dict, **arrays: np.ndarray) -> None:
    """Writes `arrays` and a JSON `header` into one npz file; equal input gives equal bytes."""
    text = json.dumps({"kind": kind, **header}, sort_keys=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)


def load_arrays(
    path: str | os.PathLike, kind: str, made_by: str
) -> tuple[dict, dict[str, np.ndarray]]:
    """Reads what `save_arrays` wrote: (header, arrays). Never unpickles.

    Args:
      path: the npz file.
      kind: what the file must be, as given to `save_arrays`.
      made_by: the command that makes such a file, for the error message.

    Raises:
      InputError: the file is missing, damaged, or of another kind.
    """
    _require_file(path, made_by)
    with refusing_damage(path, kind, made_by), np.errstate(over="raise"):
        _require_plain_zip(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: _numbers(file[name]) for name in file.files}
        header = json.loads(arrays.pop(_HEADER).tobytes().decode())
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise InputError(f"{path}: not a {kind} file; make one with {made_by}")
    return header, arrays


def load_array(path: str | os.PathLike, made_by: str) -> np.ndarray:
    """A .npy file as a read-only map of it; never unpickles.

    A map, so that a header that claims more than the file holds costs no memory.
    """
    _require_file(path, made_by)
    # A shape that overflows would else be a warning.
    with refusing_damage(path, ".npy", made_by), np.errstate(over="raise"):
        return _numbers(np.load(path, mmap_mode="r", allow_pickle=False))


@contextlib.contextmanager
def refusing_damage(path: str | os.PathLike, kind: str, made_by: str) -> Iterator[None]:
    """Makes one InputError of whatever goes wrong in a block that takes a file apart.

    The libraries that do so fail in many ways on bytes that nobody meant for them.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: damaged or not a {kind} file; make it again with {made_by}"
        ) from error


def _numbers(array: np.ndarray) -> np.ndarray:
    """The array; ValueError unless of numbers: of what has no size, a few bytes claim trillions."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"holds {array.dtype}")
    return array


def _require_plain_zip(path: str | os.PathLike) -> None:
    """ValueError where unpacking could need more memory than the file has bytes."""
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                raise ValueError(f"{member.filename} is packed")


def save_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def load_json(path: str | os.PathLike, made_by: str, needs: Sequence[str] = ()) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.
      made_by: the command that makes such a file, for the error message.
      needs: keys that it must have, if any; it is a dictionary then.

    Raises:
      InputError: the file is missing, damaged, or lacks a key.
    """
    _require_file(path, made_by)
    with refusing_damage(path, "JSON", made_by):
        value = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    if needs and not isinstance(value, dict):
        raise InputError(f"{path}: must hold a dictionary; make it again with {made_by}")
    require_keys(path, value, needs, made_by)
    return value


def require_keys(
    path: str | os.PathLike, value: Mapping[str, Any], needs: Sequence[str], made_by: str
) -> None:
    """InputError unless what was read from a file has all the keys that it needs."""
    missing = [name for name in needs if name not in value]
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; make it again with {made_by}")


def checksum(*parts: np.ndarray | bytes | str) -> str:
    """First 16 hex digits of the SHA-256 of `parts`; arrays count with their type and shape."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            data = part.encode() if isinstance(part, str) else part
            digest.update(f"{len(data)}:".encode())
            digest.update(data)
    return digest.hexdigest()[:16]


def file_checksum(path: str | os.PathLike) -> str:
    """First 16 hex digits of the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.cache
def provenance() -> dict[str, str]:
    """The code that makes an artifact: the git commit of this checkout, or "unknown".

    Said once for all: commands ask when they start, and a checkout that is moved on while they run
    does not change what runs.

    A commit with "+" behind it had uncommitted changes in tracked files, other than those in docs/
    and results/, which commands write and which change nothing that is made.
    """
    root = pathlib.Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        made = (":(exclude)docs", ":(exclude)results")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *made)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown"}
    return {"commit": commit + ("+" if changed else "")}


def _require_file(path: str | os.PathLike, made_by: str) -> None:
    if not pathlib.Path(path).is_file():
        raise InputError(f"{path}: no such file; make it with {made_by}")
