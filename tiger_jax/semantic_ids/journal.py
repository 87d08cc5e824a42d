"""The diary of a training: health as it goes, and the state from which a killed one goes on.

It lives in a folder of its own until the IDs are made; what is trained is none of its business.
"""

import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Sequence

import jax
import numpy as np

from tiger_jax import artifacts

METRICS = "metrics.jsonl"
_STATE = "state.npz"
_KIND = "training state"

# Seconds between two states on disk: a state of the paper's size is written in a few hundredths.
_PERIOD = 20.0


class Journal:
    """Rows and states of one training.

    Args:
      folder: where it is kept; made when there is something to keep.
      identity: all that the training depends on. A state of another identity is not gone on from;
        where it is not known, "", from none.
    """

    def __init__(self, folder: str | os.PathLike, identity: str):
        self.folder = pathlib.Path(folder)
        self.identity = identity
        self._last_saved = time.monotonic()

    def resume(self, state):
        """(state, rows) to go on from; (`state`, []) where there is nothing to go on from.

        Args:
          state: the state a new training starts with: any pytree of arrays.
        """
        try:
            header, arrays = artifacts.load_arrays(self.folder / _STATE, _KIND, "")
        except artifacts.InputError:
            header, arrays = {}, {}
        if not self.identity or header.get("identity") != self.identity:
            self.clear()
            return state, []
        leaves, structure = jax.tree.flatten(state)
        saved = [arrays[str(number)] for number in range(len(leaves))]
        rows = json.loads(header["rows"])
        self._write_rows(rows)
        return jax.tree.unflatten(structure, map(_as_before, saved, leaves)), rows

    def add(self, rows: Sequence[dict], state) -> None:
        """Appends the last of `rows` to the metrics and, now and then, saves the state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        if time.monotonic() - self._last_saved < _PERIOD:
            return
        arrays = {str(i): _as_array(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        # As text: headers sort the names in a row.
        header = {"identity": self.identity, "rows": json.dumps(list(rows))}
        artifacts.save_arrays(self.folder / _STATE, _KIND, header, **arrays)
        self._last_saved = time.monotonic()

    def clear(self) -> None:
        """Forgets everything, and leaves no empty folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _write_rows(self, rows: Sequence[dict]) -> None:
        with artifacts.atomic_path(self.folder / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _as_array(leaf: jax.Array) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _as_before(array: np.ndarray, leaf: jax.Array) -> jax.Array:
    """A saved array as what it was, a random key or numbers."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(array) if is_key else jax.numpy.asarray(array)
