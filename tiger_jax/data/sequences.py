"""Interactions -> sequences of item numbers in time order, and their leave-one-out splits.

It knows nothing of Semantic IDs: sequences stay in item numbers, so that another ID scheme
prepares nothing again.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence

import numpy as np

from tiger_jax import artifacts
from tiger_jax.artifacts import InputError
from tiger_jax.data.reviews import Dropped, RawData

SEQUENCES = "sequences.npz"
MADE_BY = "python -m tiger_jax.prepare"
SPLITS = ("train", "validation", "test")
_KIND = "sequences"

# Leave-one-out takes two items of a user; a history needs at least one more.
SHORTEST = 3

# What becomes of an interaction, and for whose sake: `_outside_core`.
_KEPT, _OF_USER, _OF_ITEM = range(3)


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Every user's items in time order (TIGER section 4, "Datasets").

    Attributes:
      user_ids: raw ids [U], in order of first appearance in the raw file.
      item_ids: raw ids [N + 1]; item numbers start at 1, item_ids[0] is "".
      items: item numbers, int32 [interactions], user after user, oldest first.
      offsets: user row u owns items[offsets[u]:offsets[u + 1]], int64 [U + 1].
      header: what it was made from.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    items: np.ndarray
    offsets: np.ndarray
    header: dict

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_ids) - 1

    @functools.cached_property
    def item_number(self) -> dict[str, int]:
        """Raw item id -> item number."""
        return {item_id: number for number, item_id in enumerate(self.item_ids) if number}

    def sequence(self, row: int) -> np.ndarray:
        """All items of user `row`, oldest first, int32."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def training_sequences(self) -> list[np.ndarray]:
        """Each user's sequence without the validation and the test item."""
        return self._without_last(2)

    def split(self, name: str) -> tuple[list[np.ndarray], np.ndarray]:
        """Leave-one-out: whole histories [U] and the item that follows each, int32 [U].

        Args:
          name: "test": the target is the last item; "validation": the last but one.
        """
        if name not in ("validation", "test"):
            raise InputError(f"no split {name!r}; choose validation or test")
        left_out = 1 if name == "test" else 2
        return self._without_last(left_out), self.items[self.offsets[1:] - left_out]

    def sampled_split(
        self, name: str, num_users: int, seed: int
    ) -> tuple[np.ndarray, list[str], list[np.ndarray], np.ndarray]:
        """A random sample of the users of a split, in the order of their rows.

        Args:
          name: see `split`.
          num_users: B; all where it is 0 or more than there are.
          seed: of the sample.

        Returns:
          Rows, int64 [B]; raw ids; histories; targets, int32 [B].
        """
        histories, targets = self.split(name)
        rows = np.arange(self.num_users)
        if 0 < num_users < len(rows):
            rows = np.sort(np.random.default_rng(seed).choice(len(rows), num_users, replace=False))
        users = [self.user_ids[row] for row in rows]
        return rows, users, [histories[row] for row in rows], targets[rows]

    def users_of_split(self, name: str) -> tuple[list[np.ndarray], list[int]]:
        """Each user's items up to the last target of a split, and how many of them are targets.

        Args:
          name: "train", where every item but the first is a target; "validation" or "test", where
            the one left out is.
        """
        if name == "train":
            items = self.training_sequences()
            return items, [len(user_items) - 1 for user_items in items]
        items = self._without_last(1 if name == "validation" else 0)
        return items, [1] * len(items)

    def statistics(self) -> dict:
        """The row of TIGER's Table 6: users, items, interactions, mean and median length."""
        lengths = np.diff(self.offsets)
        return {
            "users": self.num_users,
            "items": self.num_items,
            "interactions": len(self.items),
            "mean_length": float(lengths.mean()),
            "median_length": float(np.median(lengths)),
        }

    def items_checksum(self, num_items: int) -> str:
        """Of the first items; of all of them it is `items_checksum` in the header."""
        return items_checksum(self.item_ids[: num_items + 1])

    def with_items(self, item_ids: Sequence[str], metadata_checksum: str) -> "Sequences":
        """The same sequences with further items, which are in none of them yet."""
        grown = dataclasses.replace(self, item_ids=(*self.item_ids, *item_ids))
        header = self.header | {
            "num_items": grown.num_items,
            "items_checksum": grown.items_checksum(grown.num_items),
            "metadata_checksum": metadata_checksum,
        }
        return dataclasses.replace(grown, header=header)

    def checksum(self) -> str:
        """Of users, items and sequences; the header does not count."""
        return artifacts.checksum(
            *_packed(self.user_ids), *_packed(self.item_ids), self.items, self.offsets
        )

    def interactions_checksum(self) -> str:
        """Of users and sequences, whatever further items there are that nobody bought yet."""
        return artifacts.checksum(*_packed(self.user_ids), self.items, self.offsets)

    def save(self, path: str | os.PathLike) -> None:
        """Writes one npz file; raw ids are stored as UTF-8 bytes, however long they are."""
        user_bytes, user_ends = _packed(self.user_ids)
        item_bytes, item_ends = _packed(self.item_ids)
        artifacts.save_arrays(
            path,
            _KIND,
            self.header,
            items=self.items,
            offsets=self.offsets,
            user_bytes=user_bytes,
            user_ends=user_ends,
            item_bytes=item_bytes,
            item_ends=item_ends,
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Sequences":
        """Reads what `save` wrote; InputError where the file is missing or damaged."""
        artifacts.require_settled(os.path.dirname(path))
        header, arrays = artifacts.load_arrays(path, _KIND, MADE_BY)
        with artifacts.refusing_damage(path, _KIND, MADE_BY):
            sequences = cls(
                user_ids=_unpacked(arrays["user_bytes"], arrays["user_ends"]),
                item_ids=_unpacked(arrays["item_bytes"], arrays["item_ends"]),
                items=arrays["items"],
                offsets=arrays["offsets"],
                header=header,
            )
            sequences._require_sound()
        return sequences

    def _require_sound(self) -> None:
        """ValueError unless every user has items enough to split, and every item is one."""
        if not (
            self.items.dtype == np.int32
            and self.offsets.dtype == np.int64
            and self.items.ndim == self.offsets.ndim == 1
            and len(self.offsets) == self.num_users + 1
            and self.offsets[0] == 0
            and self.offsets[-1] == len(self.items)
            and (np.diff(self.offsets) >= SHORTEST).all()
            and self.num_users > 0
            and self.item_ids[0] == ""
            and self.items.min() >= 1
            and self.items.max() <= self.num_items
            and isinstance(self.header["items_checksum"], str)
        ):
            raise ValueError("sequences that do not hang together")

    def _without_last(self, left_out: int) -> list[np.ndarray]:
        ends = self.offsets[1:] - left_out
        bounds = zip(self.offsets[:-1].tolist(), ends.tolist(), strict=True)
        return [self.items[start:end] for start, end in bounds]


def build_sequences(
    raw: RawData,
    ties: str = "file",
    seed: int = 0,
    min_interactions: int = 5,
    min_item_interactions: int | None = None,
) -> Sequences:
    """Filters, orders and numbers the interactions (TIGER section 4, "Datasets").

    Users keep the order of their first appearance in the file. Items are numbered by first
    appearance in the finished sequences, user after user, with ties in file order: the same
    numbers for every way of ordering ties (so that embeddings and Semantic IDs still fit), and
    those of the S3Rec files on the Amazon data.

    Args:
      raw: the interactions.
      ties: how a user's interactions with equal timestamps are ordered: "file" (as in the raw
        file, what published results use) or "shuffle" (at random, by `seed`).
      seed: of the shuffling.
      min_interactions: users and items with fewer are dropped, again and again until none is
        left (5-core). Users with fewer than 3 are always dropped: they cannot be split.
      min_item_interactions: the number for items, where it is another than for users.

    Raises:
      InputError: ties are to be shuffled without timestamps, or nothing is left.
    """
    if ties not in ("file", "shuffle"):
        raise InputError(f"ties={ties!r}: choose file or shuffle")
    if ties == "shuffle" and raw.timestamps is None:
        raise InputError(
            f"ties=shuffle: the {raw.name} data is in time order but has no timestamps, so ties "
            "cannot be told; use ties=file or the original reviews file"
        )
    if not len(raw.items):
        raise InputError(f"{raw.name}: 0 interactions read; give data that has some")
    if min_item_interactions is None:
        min_item_interactions = min_interactions
    user_minimum = max(min_interactions, SHORTEST)
    too_few = _outside_core(raw.users, raw.items, user_minimum, min_item_interactions)
    kept = too_few == _KEPT
    if not kept.any():
        raise InputError(
            f"no user of {raw.name} has {user_minimum} interactions with items that have "
            f"{min_item_interactions} ({len(raw.users)} interactions read); lower "
            f"min_interactions, down to the {SHORTEST} that leave-one-out takes of a user, or "
            "min_item_interactions, down to 1"
        )
    users, items = raw.users[kept], raw.items[kept]
    timestamps = np.zeros(len(users), np.int64) if raw.timestamps is None else raw.timestamps[kept]
    file_order = np.lexsort((timestamps, users))
    numbers, item_rows = _numbers_by_appearance(items[file_order], len(raw.item_ids))
    order = file_order
    if ties == "shuffle":
        tie_break = np.random.default_rng(seed).permutation(len(users))
        order = np.lexsort((tie_break, timestamps, users))
    user_rows, lengths = np.unique(users, return_counts=True)
    dropped = [
        *raw.dropped,
        Dropped(
            f"users with fewer than {user_minimum} interactions"
            + (" (leave-one-out takes that many)" if user_minimum > min_interactions else ""),
            users=len(raw.user_ids) - len(user_rows),
            items=0,
            interactions=int((too_few == _OF_USER).sum()),
        ),
        Dropped(
            f"items with fewer than {min_item_interactions} interactions",
            users=0,
            items=len(raw.item_ids) - len(item_rows),
            interactions=int((too_few == _OF_ITEM).sum()),
        ),
    ]
    item_ids = ("", *(raw.item_ids[row] for row in item_rows))
    return Sequences(
        user_ids=tuple(raw.user_ids[row] for row in user_rows),
        item_ids=item_ids,
        items=numbers[items[order]],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        header={
            "dataset": raw.name,
            "ties": ties,
            "seed": seed,
            "min_interactions": user_minimum,
            "min_item_interactions": min_item_interactions,
            "dropped": [dataclasses.asdict(gone) for gone in dropped],
            "num_users": len(user_rows),
            "num_items": len(item_rows),
            "items_checksum": items_checksum(item_ids),
        },
    )


def _outside_core(
    users: np.ndarray, items: np.ndarray, user_minimum: int, item_minimum: int
) -> np.ndarray:
    """Which interactions have users and items with too few of the others, and whose fault it is.

    Returns:
      _KEPT, _OF_USER or _OF_ITEM for each interaction, int8 [n].
    """
    too_few = np.full(len(users), _KEPT, np.int8)
    changed = True
    while changed:
        changed = False
        for rows, minimum, fault in (
            (users, user_minimum, _OF_USER),
            (items, item_minimum, _OF_ITEM),
        ):
            kept = too_few == _KEPT
            counts = np.bincount(rows[kept], minlength=rows.max() + 1)
            new = kept & (counts[rows] < minimum)
            too_few[new] = fault
            changed |= bool(new.any())
    return too_few


def _numbers_by_appearance(rows: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Item number of each raw row (0 where absent), int32 [num_rows]; raw row of each number."""
    distinct, first = np.unique(rows, return_index=True)
    item_rows = distinct[np.argsort(first)]
    numbers = np.zeros(num_rows, np.int32)
    numbers[item_rows] = np.arange(1, len(item_rows) + 1)
    return numbers, item_rows


def items_checksum(item_ids: Sequence[str]) -> str:
    """By which a Semantic-ID table tells whether it was made for these items.

    Args:
      item_ids: raw ids by item number, the first is "".
    """
    return artifacts.checksum(*_packed(item_ids))


def _packed(strings: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes of all strings, uint8, and where each ends, int64.

    An array of numpy strings would give every id the width of the longest.
    """
    encoded = [string.encode() for string in strings]
    ends = np.cumsum([len(data) for data in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def _unpacked(data: np.ndarray, ends: np.ndarray) -> tuple[str, ...]:
    buffer = data.tobytes()
    stops = ends.tolist()
    starts = [0, *stops[:-1]]
    return tuple(buffer[a:b].decode() for a, b in zip(starts, stops, strict=True))
