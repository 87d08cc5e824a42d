"""What may come at every place of the training sequences, beside the item that came.

A file of the prepared folder; who made it is a teacher (teacher.py). There may be imagined users in
it, whose sequences are trained on as well.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from tiger_jax import artifacts
from tiger_jax.data.sequences import Sequences

SOFT_TARGETS = "soft_targets.npz"
_KIND = "soft_targets"
_TEACH = "python -m tiger_jax.teach"


@dataclasses.dataclass(frozen=True)
class SoftTargets:
    """Items to expect at every place of the training sequences, one after another.

    Those of imagined users follow those of the real ones.

    Attributes:
      items_PQ: their numbers, the likeliest first, int32 [P, Q]; 0 in slots without an item.
      shares_PQ: of the Q items' probability, float32 [P, Q]; 0 at the first place of a user.
      exponents: of the opinions that were multiplied.
      imagined: item numbers of each imagined user, int32.
    """

    items_PQ: np.ndarray
    shares_PQ: np.ndarray
    exponents: dict[str, float]
    imagined: Sequence[np.ndarray] = ()

    def checksum(self) -> str:
        """Identifies what it expects."""
        return artifacts.checksum(self.items_PQ, self.shares_PQ, *self.imagined)

    def followed_by(self, imagined: "SoftTargets") -> "SoftTargets":
        """These, and those of imagined users behind them."""
        return dataclasses.replace(
            self,
            items_PQ=np.concatenate([self.items_PQ, imagined.items_PQ]),
            shares_PQ=np.concatenate([self.shares_PQ, imagined.shares_PQ]),
            imagined=(*self.imagined, *imagined.imagined),
        )

    def save(self, folder: str | os.PathLike, header: dict) -> None:
        """Writes FOLDER/soft_targets.npz."""
        artifacts.save_arrays(
            pathlib.Path(folder, SOFT_TARGETS),
            _KIND,
            {**header, "exponents": self.exponents},
            items=self.items_PQ,
            shares=self.shares_PQ,
            imagined_items=np.concatenate([np.zeros(0, np.int32), *self.imagined]),
            imagined_lengths=np.array([len(items) for items in self.imagined], np.int32),
        )

    def require_imagined_users(self, number: int) -> None:
        """InputError unless there are so many."""
        if len(self.imagined) != number:
            raise artifacts.InputError(
                f"the soft targets have {len(self.imagined):,} imagined users, this training is to "
                f"have {number:,}; run {_TEACH} with the same --imagined_users or --gin_file"
            )

    @classmethod
    def load(
        cls, folder: str | os.PathLike, sequences: Sequences, content_checksum: str
    ) -> "SoftTargets":
        """Reads it.

        Args:
          folder: the prepared folder.
          sequences: those of the folder.
          content_checksum: of its content embeddings.

        Raises:
          InputError: the file is missing, damaged, or of other sequences or content.
        """
        path = pathlib.Path(folder, SOFT_TARGETS)
        header, arrays = artifacts.load_arrays(path, _KIND, _TEACH)
        with artifacts.refusing_damage(path, "soft targets", _TEACH):
            if header["sequences"] != sequences.checksum():
                raise artifacts.InputError(
                    f"{path} is of other sequences than {folder} holds now; run {_TEACH} again"
                )
            if header["content"] != content_checksum:
                raise artifacts.InputError(
                    f"{path} is of other content embeddings than {folder} holds now; run {_TEACH} "
                    "again"
                )
            imagined = np.split(arrays["imagined_items"], np.cumsum(arrays["imagined_lengths"]))
            if len(imagined.pop()):
                raise ValueError("imagined items of no user")
            found = cls(arrays["items"], arrays["shares"], header["exponents"], tuple(imagined))
            found._require_sound(sequences)
        return found

    def _require_sound(self, sequences: Sequences) -> None:
        """ValueError unless the arrays are items and shares of every place."""
        items_PQ, shares_PQ = self.items_PQ, self.shares_PQ
        users = [*sequences.training_sequences(), *self.imagined]
        num_places = sum(map(len, users))
        num_places_found, _ = items_PQ.shape
        if num_places_found != num_places or shares_PQ.shape != items_PQ.shape:
            raise ValueError(f"shapes {items_PQ.shape} and {shares_PQ.shape}")
        if items_PQ.dtype != np.int32 or shares_PQ.dtype != np.float32:
            raise ValueError(f"{items_PQ.dtype} and {shares_PQ.dtype}")
        imagined = np.concatenate([np.zeros(0, np.int32), *self.imagined])
        if imagined.dtype != np.int32 or not all(map(len, self.imagined)):
            raise ValueError("imagined users without items")
        if ((imagined < 1) | (imagined > sequences.num_items)).any():
            raise ValueError("imagined items out of range")
        # NaN is in no interval.
        are_shares = ((shares_PQ >= 0) & (shares_PQ <= 1)).all()
        if not (are_shares and (items_PQ >= 0).all() and (items_PQ <= sequences.num_items).all()):
            raise ValueError("items or shares out of range")
