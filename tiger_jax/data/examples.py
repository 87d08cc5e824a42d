"""Training examples, and batches in which short histories do not pay for long ones.

Where an example has one target, batches hold as many of each of a few lengths; where it has many,
rows of a batch hold several examples one after another.

Item numbers only: Semantic IDs are looked up when a batch is made.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.data.sequences import Sequences


@dataclasses.dataclass(frozen=True)
class Examples:
    """Pairs (history, next item), each alone or many of one sequence together.

    Attributes:
      items: the training sequences one after another, int32 item numbers.
      user_rows: row of the user of each example, int32 [X].
      targets: place in `items` of the last item to predict, int32 [X].
      lengths: number of items just before it that belong to the example, int32 [X].
      num_targets: how many of an example's last items are to be predicted, each from those
        before it, int32 [X]; None where that is the last one alone.
    """

    items: np.ndarray
    user_rows: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray
    num_targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)


def prefix_examples(
    sequences: Sequences, max_history: int, imagined: Sequence[np.ndarray] = ()
) -> Examples:
    """One example for each item of a training sequence but its first (TIGER appendix C).

    Args:
      sequences: the users' items; the last two of each are held out.
      max_history: only that many items before the target are kept (20 in the paper).
      imagined: items of more users, none held out; their rows come after those of the real ones.
    """
    training = [*sequences.training_sequences(), *imagined]
    sizes = np.array([len(items) for items in training])
    user_rows = np.repeat(np.arange(len(training)), sizes)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = np.arange(sizes.sum())
    has_history = places > starts
    return Examples(
        items=np.concatenate(training).astype(np.int32),
        user_rows=user_rows[has_history].astype(np.int32),
        targets=places[has_history].astype(np.int32),
        lengths=np.minimum(places - starts, max_history)[has_history].astype(np.int32),
    )


def sequence_examples(
    sequences: Sequences, max_history: int, imagined: Sequence[np.ndarray] = ()
) -> Examples:
    """One example for each training sequence, in which every item but the first is predicted.

    The same pairs as those of `prefix_examples`, as long as a sequence has at most
    `max_history` + 1 items. A longer one is cut into windows of that many, each half a history
    further than the one before and predicting what that one did not: from histories of half of
    `max_history` and more.

    Args:
      sequences: the users' items; the last two of each are held out.
      max_history: the longest history.
      imagined: items of more users, as in `prefix_examples`.
    """
    training = [*sequences.training_sequences(), *imagined]
    starts = np.cumsum([0, *(len(items) for items in training)])
    step = -(-max_history // 2)
    rows, ends, num_targets = [], [], []
    for row, items in enumerate(training):
        last = len(items) - 1
        bounds = [0, *range(max_history, last, step), last]
        for before, end in itertools.pairwise(bounds):
            if end > before:
                rows.append(row)
                ends.append(end)
                num_targets.append(end - before)
    rows, ends = np.array(rows, np.int32), np.array(ends, np.int32)
    return Examples(
        items=np.concatenate(training).astype(np.int32),
        user_rows=rows,
        targets=(starts[rows] + ends).astype(np.int32),
        lengths=np.minimum(ends, max_history),
        num_targets=np.array(num_targets, np.int32),
    )


# What a training may be on.
KINDS = {"prefixes": prefix_examples, "sequences": sequence_examples}


def of(
    sequences: Sequences,
    train_on: str,
    max_history: int,
    is_causal: bool,
    imagined: Sequence[np.ndarray] = (),
) -> Examples:
    """What a training is on.

    Args:
      sequences: of the prepared folder.
      train_on: prefixes, an example for each item to predict, or sequences, for all of a user's.
      max_history: items of a history that the model sees, the latest ones.
      is_causal: whether the encoder of the model sees no item before its turn.
      imagined: items of more users, none held out.

    Raises:
      InputError: there is nothing to train on, or the encoder would see the items to predict.
    """
    if train_on not in KINDS:
        raise InputError(f"train_on is {train_on!r}; choose 'prefixes' or 'sequences'")
    if train_on == "sequences" and not is_causal:
        raise InputError("train_on=sequences: set NetworkConfig.causal_encoder = True")
    if all(len(items) < 2 for items in sequences.training_sequences()):
        raise InputError(
            "nothing to train on: no user has two items before those of validation and test; "
            "prepare with a larger min_interactions"
        )
    return KINDS[train_on](sequences, max_history, imagined)


@dataclasses.dataclass(frozen=True)
class LengthGroups:
    """Composition of every batch: `sizes[g]` examples of at most `capacities[g]` history items.

    All batches are alike, so that one compiled step serves them all, and each is a stratified
    random sample of the epoch. Longest group first.
    """

    capacities: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def batch_size(self) -> int:
        """Examples in a batch."""
        return sum(self.sizes)


def length_groups(
    lengths: np.ndarray, batch_size: int, num_groups: int, multiple: int = 1
) -> LengthGroups:
    """The composition of at most `num_groups` groups with the least padding.

    Args:
      lengths: history length of each example.
      batch_size: examples in a batch.
      num_groups: how many lengths the model is compiled for.
      multiple: group sizes are multiples of it (the number of devices that share a batch).

    Raises:
      ValueError: `batch_size` is not a multiple of `multiple`.
    """
    if batch_size % multiple:
        raise ValueError(f"batch size {batch_size} is not a multiple of {multiple}")
    longest = int(lengths.max())
    num_batches, repeats = _epoch_shape(len(lengths), batch_size)
    num_longer = np.array([(lengths > length).sum() for length in range(longest + 1)]) * repeats
    # Slots of a batch for more than `length` items, rounded up: one may hold a shorter history.
    slots = np.ceil(num_longer / num_batches / multiple) * multiple
    slots = np.minimum(slots, batch_size).astype(int)
    # best[length] = (items, capacities): the cheapest way to seat all histories up to `length`.
    best = {0: [(0.0, ())] + [(np.inf, ())] * num_groups}
    for length in range(1, longest + 1):
        best[length] = [(np.inf, ())]
        for used in range(1, num_groups + 1):
            best[length].append(
                min(
                    (
                        best[shorter][used - 1][0] + length * (slots[shorter] - slots[length]),
                        (*best[shorter][used - 1][1], length),
                    )
                    for shorter in range(length)
                )
            )
    capacities = min(best[longest])[1]
    bounds = [0, *capacities]
    sizes = [int(slots[low] - slots[high]) for low, high in itertools.pairwise(bounds)]
    # The shortest histories fill what rounding left over.
    sizes[0] += batch_size - sum(sizes)
    groups = [(cap, size) for cap, size in zip(capacities, sizes, strict=True) if size]
    return LengthGroups(*zip(*reversed(groups), strict=True))


def epoch_plan(lengths: np.ndarray, groups: LengthGroups, seed: int, epoch: int) -> np.ndarray:
    """The batches of one epoch, int32 [num_batches, batch_size] of example numbers.

    Columns stand in the order of the groups. Each example appears at most once; the remainder
    that fills no batch is another one each epoch. Depends on (seed, epoch) alone, so that a
    resumed run sees what an undisturbed one would have seen. Fewer examples than a batch are
    repeated.
    """
    random = np.random.default_rng((seed, epoch))
    num_batches, _ = _epoch_shape(len(lengths), groups.batch_size)
    order = np.resize(random.permutation(len(lengths)), num_batches * groups.batch_size)
    # Longest histories first; equal ones stay in random order.
    order = order[np.argsort(-lengths[order], kind="stable")]
    columns = []
    first = 0
    for size in groups.sizes:
        members = order[first : first + num_batches * size]
        first += num_batches * size
        columns.append(random.permutation(members).reshape(num_batches, size))
    return np.concatenate(columns, axis=1).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Packing:
    """Composition of every batch: rows in which several examples stand one after another.

    Attributes:
      room: tokens of a row.
      num_rows: rows of a batch.
      most: examples that fit into a row.
    """

    room: int
    num_rows: int
    most: int


def packing(sizes: np.ndarray, num_rows: int) -> Packing:
    """Rows as long as the longest example. `sizes`: tokens of each example."""
    room = int(sizes.max())
    return Packing(room, num_rows, room // int(sizes.min()))


def packed_plan(sizes: np.ndarray, packed: Packing, seed: int, epoch: int) -> np.ndarray:
    """The batches of one epoch, int32 [num_batches, num_rows * most] of example numbers.

    Those of a row stand together; -1 where it has no more. Examples come in random order, each
    into the row that it leaves least room in. Each appears at most once; what is beyond whole
    batches, were all rows full, is another remainder each epoch. Depends on (seed, epoch) alone,
    as `epoch_plan` does.

    Args:
      sizes: tokens of each example.
      packed: from `packing`.
      seed: of the order.
      epoch: which one.
    """
    random = np.random.default_rng((seed, epoch))
    rows = []
    rows_by_room = [[] for _ in range(packed.room)]
    for example in random.permutation(len(sizes)).tolist():
        size = int(sizes[example])
        room = next((room for room in range(size, packed.room) if rows_by_room[room]), packed.room)
        if room < packed.room:
            row = rows_by_room[room].pop()
        else:
            row = []
            rows.append(row)
        row.append(example)
        if room > size:
            rows_by_room[room - size].append(row)
    num_batches = max(int(sizes.sum()) // (packed.room * packed.num_rows), 1)
    plan = np.full((num_batches * packed.num_rows, packed.most), -1, np.int32)
    for place, number in enumerate(random.permutation(len(rows))[: len(plan)]):
        plan[place, : len(rows[number])] = rows[number]
    return plan.reshape(num_batches, -1)


def _epoch_shape(num_examples: int, batch_size: int) -> tuple[int, int]:
    """Number of batches of an epoch, and how often an example may stand in it."""
    num_batches = max(num_examples // batch_size, 1)
    return num_batches, -(-num_batches * batch_size // num_examples)
