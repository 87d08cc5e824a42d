"""Checkpoints by orbax, whole or absent, in the layout of T5X.

checkpoint_<step>/state       {"target": parameters, "state": {"step": step}}: T5X reads this
checkpoint_<step>/optimizer   the native trainer's optimizer state
checkpoint_<step>/metadata.json
checkpoint_<step>/checksums.json   of all files above but the last, which orbax does not check
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization, traverse_util

from tiger_jax import artifacts

_MADE_BY = "python -m tiger_jax.train"
_CHECKSUMS = "checksums.json"


def save(folder: str | os.PathLike, step: int, params: dict, opt_state: Any, metadata: dict):
    """Writes `checkpoint_<step>`; until it is complete it does not bear that name.

    Args:
      folder: where a run's checkpoints lie.
      step: training steps taken.
      params: parameters.
      opt_state: any tree of arrays, to continue training from.
      metadata: JSON-able facts, read by `load_metadata` without the arrays.
    """
    final = _path(folder, step)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    state = {"target": params, "state": {"step": np.asarray(step, np.int32)}}
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(temporary / "state", state)
            checkpointer.save(
                temporary / "optimizer", {"opt_state": serialization.to_state_dict(opt_state)}
            )
        parts = ("state", "optimizer")
        checksums = {part: _file_checksums(temporary / part) for part in parts}
        artifacts.save_json(temporary / _CHECKSUMS, checksums)
        artifacts.save_json(temporary / "metadata.json", metadata)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except artifacts.InputError:
        raise
    # Of a full disk TensorStore makes a ValueError.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise artifacts.InputError(
            f"{final}: cannot be written ({reason}); free space or choose another folder"
        ) from error


def save_beside_best(
    folder: str | os.PathLike, step: int, params: dict, opt_state: Any, metadata: dict
) -> None:
    """As `save`; then only this checkpoint stays, and the best, metadata["best"]["step"]."""
    save(folder, step, params, opt_state, metadata)
    keep(folder, {step, metadata["best"]["step"]})


class Background:
    """Work for a thread beside the training, one piece at a time and in order.

    A fault of a piece is raised by the next `start` or `wait`. A process that ends, by Ctrl-C too,
    finishes the piece first.
    """

    def __init__(self):
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._piece: concurrent.futures.Future | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work` when the piece before it is done."""
        self.wait()
        self._piece = self._thread.submit(work)

    def wait(self) -> None:
        """Returns when nothing is left to do."""
        piece, self._piece = self._piece, None
        if piece:
            piece.result()


def steps(folder: str | os.PathLike) -> list[int]:
    """Steps of the complete checkpoints in `folder`, ascending."""
    folder = pathlib.Path(folder)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [re.fullmatch(r"checkpoint_(\d+)", name) for name in names]
    return sorted(int(match[1]) for match in found if match)


def keep(folder: str | os.PathLike, wanted: set[int]) -> None:
    """Deletes all checkpoints but those of the `wanted` steps, and what a killed run left."""
    for step in set(steps(folder)) - wanted:
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        os.replace(
            _path(folder, step), _path(folder, step).with_name(f".checkpoint_{step}.deleted")
        )
    for leftover in pathlib.Path(folder).glob(".checkpoint_*"):
        shutil.rmtree(leftover)


def folder_of(run_folder: str | os.PathLike) -> pathlib.Path:
    """Where a run's checkpoints lie: in `checkpoints`; T5X puts them into the run folder itself."""
    own = pathlib.Path(run_folder, "checkpoints")
    return own if own.is_dir() else pathlib.Path(run_folder)


def best_step(folder: str | os.PathLike) -> int:
    """The best checkpoint by validation; the last one of T5X, which chooses none.

    Raises:
      InputError: there is no checkpoint.
    """
    last = last_step(folder)
    metadata = load_metadata(folder, last)
    with artifacts.refusing_damage(folder, "checkpoint", _MADE_BY):
        return int(metadata.get("best", {"step": last})["step"])


def last_step(folder: str | os.PathLike) -> int:
    """The last checkpoint.

    Raises:
      InputError: there is no checkpoint.
    """
    found = steps(folder)
    if not found:
        raise artifacts.InputError(f"{folder}: no checkpoint yet; make one with {_MADE_BY}")
    return found[-1]


def load_metadata(folder: str | os.PathLike, step: int) -> dict:
    """The facts that were saved with a checkpoint; none with one of T5X."""
    path = _path(folder, step) / "metadata.json"
    # A file of orbax's own, which T5X's folders have and ours lack.
    if not path.exists() and (path.parent / "_CHECKPOINT_METADATA").exists():
        return {}
    return artifacts.load_json(path, _MADE_BY)


def load_params(folder: str | os.PathLike, step: int, like: dict) -> dict:
    """Parameters of a checkpoint of this trainer or of T5X.

    Args:
      folder: where a run's checkpoints lie.
      step: which one.
      like: parameters of the same network (arrays or shapes), to check against.

    Raises:
      InputError: the checkpoint is missing, damaged, or of another network.
    """
    return _restore(_path(folder, step) / "state", {"target": like})["target"]


def load_opt_state(folder: str | os.PathLike, step: int, like: Any) -> Any:
    """Optimizer state of a checkpoint, of the same structure as `like`."""
    return _restore(_path(folder, step) / "optimizer", {"opt_state": like})["opt_state"]


def _path(folder: str | os.PathLike, step: int) -> pathlib.Path:
    return pathlib.Path(folder).resolve() / f"checkpoint_{step}"


def _checkpointer() -> ocp.Checkpointer:
    """Orbax for this process alone: of several, one writes, and each reads for itself."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process_{jax.process_index()}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _restore(path: pathlib.Path, like: Any) -> Any:
    """The tree at `path`, checked leaf by leaf against `like`, as numpy arrays."""
    if not path.is_dir():
        others = ", ".join(map(str, steps(path.parent.parent)))
        remedy = f"there are those of steps {others}" if others else f"make it with {_MADE_BY}"
        raise artifacts.InputError(f"{path.parent}: no such checkpoint; {remedy}")
    _require_unchanged(path)
    try:
        with _checkpointer() as checkpointer:
            saved = checkpointer.metadata(path).item_metadata.tree
            # As numpy: the devices of the run that saved it need not exist here.
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            found = _leaves(checkpointer.restore(path, restore_args=as_numpy))
    except Exception as error:  # orbax fails in many ways
        raise artifacts.InputError(f"{path}: damaged; train again with {_MADE_BY}") from error
    wanted = _leaves(serialization.to_state_dict(like))
    for name, leaf in wanted.items():
        if leaf is traverse_util.empty_node:
            continue
        if name not in found:
            raise artifacts.InputError(f"{path}: lacks {name}; it is of another configuration")
        if np.shape(found[name]) != np.shape(leaf):
            raise artifacts.InputError(
                f"{path}: {name} has shape {np.shape(found[name])}, this configuration needs "
                f"{np.shape(leaf)}; use the configuration saved with the run"
            )
        wanted[name] = found[name]
    return serialization.from_state_dict(like, traverse_util.unflatten_dict(wanted, sep="/"))


def identity(folder: str | os.PathLike, step: int) -> str:
    """Tells a checkpoint from others of the same step, by its bytes; T5X's, by the step alone."""
    path = _path(folder, step) / _CHECKSUMS
    return artifacts.checksum(str(step), path.read_bytes() if path.exists() else b"")


def _require_unchanged(part: pathlib.Path) -> None:
    """InputError where a file of a checkpoint of ours is missing or has other bytes than saved."""
    path = part.parent / _CHECKSUMS
    if not path.exists():
        return  # T5X's
    with artifacts.refusing_damage(path, "checksums", _MADE_BY):
        saved = dict(artifacts.load_json(path, _MADE_BY)[part.name])
    found = _file_checksums(part)
    for name, checksum in saved.items():
        if found.get(name) != checksum:
            raise artifacts.InputError(
                f"{part / name}: missing or damaged; delete {part.parent} to go on from the "
                f"checkpoint before it, or train again with {_MADE_BY}"
            )


def _file_checksums(part: pathlib.Path) -> dict[str, str]:
    """{file: checksum} of all in a part of a checkpoint."""
    return {
        str(path.relative_to(part)): artifacts.file_checksum(path)
        for path in sorted(part.rglob("*"))
        if path.is_file()
    }


def _leaves(tree: dict) -> dict:
    return traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")
