"""Items held out of everything before they are to be found: cold start (TIGER section 4.3).

Which items those are, a prepared folder as it was before they came, and who is to find them.
Nothing is trained here, and no item is given an ID.
"""

import dataclasses
import functools
import os

import numpy as np

from tiger_jax import artifacts
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.cooccurrence import COOCCURRENCE
from tiger_jax.data.sequences import SEQUENCES, SHORTEST, Sequences, items_checksum

_SPLITS = ("test", "validation")


@dataclasses.dataclass(frozen=True, eq=False)
class HoldOut:
    """Unseen items of a dataset: in no history and in no training sequence, only ever targets.

    There are two sets, one of test targets and one of validation targets, so that what is chosen on
    the second is not chosen on items that count. The catalogue of a split is the seen items and its
    own unseen ones: item numbers 1 to S are the seen items in their old order, S + 1 and on the
    unseen ones.

    Attributes:
      source: all sequences, in the old numbers.
      seen: old numbers of the seen items, ascending, int64 [S].
      unseen: old numbers of each split's unseen items, ascending.
      share, seed: of `draw`.
    """

    source: Sequences
    seen: np.ndarray
    unseen: dict[str, np.ndarray]
    share: float
    seed: int

    @classmethod
    def draw(cls, source: Sequences, share: float, seed: int) -> "HoldOut":
        """Unseen items at random: a share of the distinct targets of test, and of validation.

        TIGER section 4.3: "we remove 5% of test items from the training data split".

        Raises:
          InputError: the share is none, or leaves nothing to train on.
        """
        if not 0 < share < 1:
            raise InputError(f"share={share}: give a number between 0 and 1; the paper has 0.05")
        random = np.random.default_rng(seed)
        unseen, seen = {}, np.arange(1, source.num_items + 1)
        for split in _SPLITS:
            targets = np.intersect1d(source.split(split)[1], seen)
            count = max(1, round(share * len(targets)))
            unseen[split] = np.sort(random.permutation(targets)[:count])
            seen = np.setdiff1d(seen, unseen[split])
        hold_out = cls(source, seen, unseen, share, seed)
        if not len(hold_out._long_enough):
            raise InputError(f"share={share}: leaves no user with items enough to train on")
        return hold_out

    def catalogue(self, split: str) -> np.ndarray:
        """Old number of each item of a split's catalogue, int64 [N]; that of number 1 first."""
        return np.concatenate([self.seen, self.unseen[split]])

    def seen_sequences(self) -> Sequences:
        """What the shop knew before the unseen items came: sequences of the seen ones alone.

        Users with fewer than three of them are left out. Where the last item, or the one before,
        was unseen, leave-one-out takes one that is earlier: no target of `examples` is ever
        trained on.
        """
        items, rows = self._renumbered(self.source.items, "test"), self._row_of_item
        kept = (items >= 1) & (items <= len(self.seen)) & np.isin(rows, self._long_enough)
        lengths = np.bincount(rows[kept], minlength=self.source.num_users)[self._long_enough]
        item_ids = ("", *(self.source.item_ids[number] for number in self.seen))
        return dataclasses.replace(
            self.source,
            user_ids=tuple(self.source.user_ids[row] for row in self._long_enough),
            item_ids=item_ids,
            items=items[kept],
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            header=self.source.header
            | {
                "num_users": len(lengths),
                "num_items": len(self.seen),
                "items_checksum": items_checksum(item_ids),
                "held_out": {
                    "share": self.share,
                    "seed": self.seed,
                    "source": self.source.checksum(),
                },
            },
        )

    def examples(self, split: str) -> tuple[list[str], list[np.ndarray], np.ndarray]:
        """Who is to find what: the users of a split but those who want the other's unseen items.

        Args:
          split: test or validation.

        Returns:
          Raw ids of the users, their histories of seen items, and their targets, int32 [B].
        """
        histories, targets = self.source.split(split)
        targets = self._renumbered(targets, split)
        rows = np.flatnonzero(targets)
        histories = [self._renumbered(histories[row], split) for row in rows]
        return (
            [self.source.user_ids[row] for row in rows],
            [items[(items >= 1) & (items <= len(self.seen))] for items in histories],
            targets[rows],
        )

    @functools.cached_property
    def _long_enough(self) -> np.ndarray:
        """Rows of the users with seen items enough to train on."""
        is_seen = np.isin(self.source.items, self.seen)
        lengths = np.bincount(self._row_of_item[is_seen], minlength=self.source.num_users)
        return np.flatnonzero(lengths >= SHORTEST)

    @property
    def _row_of_item(self) -> np.ndarray:
        """User row of each interaction."""
        return np.repeat(np.arange(self.source.num_users), np.diff(self.source.offsets))

    def _renumbered(self, items: np.ndarray, split: str) -> np.ndarray:
        """Old numbers -> those of a split's catalogue; 0 where it lacks the item."""
        catalogue = self.catalogue(split)
        numbers = np.zeros(self.source.num_items + 1, np.int32)
        numbers[catalogue] = np.arange(1, len(catalogue) + 1)
        return numbers[items]


def write(hold_out: HoldOut, source: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Makes a prepared folder of the seen items alone, out of that with all of them.

    Args:
      hold_out: of the source's sequences.
      source: the prepared folder with all items.
      folder: the one to make.

    Raises:
      InputError: the source's embeddings come from its sequences, which have the unseen items.
    """
    embeddings_NE, header = content.load_embeddings(source)
    if header["encoder"] == COOCCURRENCE:
        raise InputError(
            f"{source}: its embeddings tell who bought an item that is held out; prepare it with an"
            " encoder of texts"
        )
    rows = content.load_items(source, hold_out.source)
    seen = hold_out.seen_sequences()
    with artifacts.all_together(folder) as staging:
        checksum = content.save_items(staging, [rows[number - 1] for number in hold_out.seen])
        seen = dataclasses.replace(seen, header=seen.header | {"metadata_checksum": checksum})
        names = ("num_users", "num_items", "items_checksum", "metadata_checksum", "held_out")
        header = header | {name: seen.header[name] for name in names}
        content.save_embeddings(staging, embeddings_NE[hold_out.seen - 1], header)
        seen.save(staging / SEQUENCES)
