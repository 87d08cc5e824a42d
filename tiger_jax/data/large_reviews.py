"""The sequences of `prepare` as a Beam pipeline, for interactions beyond one machine's memory.

    tfds build large_reviews --imports=tiger_jax.data.large_reviews --manual_dir=DIR

DIR holds *.json.gz files of JSON lines with reviewerID, asin and unixReviewTime, read in the
order of their names. Only the items must fit into one worker's memory, to be numbered.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import apache_beam as beam
import tensorflow_datasets as tfds

from tiger_jax.artifacts import InputError
from tiger_jax.data import amazon_reviews, reviews, sequences

NAME = "large_reviews"


class Interaction(NamedTuple):
    """A line of a file; `place` is (number of the file, number of the line)."""

    user_id: str
    item_id: str
    timestamp: int
    place: tuple[int, int]


@dataclasses.dataclass(eq=False)
class CoreConfig(tfds.core.BuilderConfig):
    """How interactions are filtered.

    Attributes:
      min_interactions: users and items with fewer are dropped until none is left.
      rounds: how often; a pipeline cannot say "until". Too few are an error, too many cost time.
    """

    min_interactions: int = 5
    rounds: int = 12


class LargeReviews(tfds.core.BeamBasedBuilder):
    """Users' items in time order, with leave-one-out splits (TIGER section 4, "Datasets")."""

    name = NAME
    VERSION = tfds.core.Version(amazon_reviews.VERSION)
    BUILDER_CONFIGS = [CoreConfig(name="five_core")]  # noqa: RUF012 (TFDS wants a list)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "DIR holds *.json.gz files of reviews, a JSON object a line."

    def _info(self) -> tfds.core.DatasetInfo:
        return amazon_reviews.user_info(self, tfds.core.BeamMetadataDict())

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager, pipeline: beam.Pipeline
    ) -> dict[str, beam.PCollection]:
        paths = sorted(str(path) for path in dl_manager.manual_dir.glob("*.json.gz"))
        if not paths:
            raise InputError(f"{dl_manager.manual_dir}: no *.json.gz file; put the reviews there")
        interactions = (
            pipeline
            | beam.Create(list(enumerate(paths)))
            | beam.Reshuffle()
            | "Read" >> beam.FlatMapTuple(_read)
        )
        config = self.builder_config
        users, item_ids = numbered_users(interactions, config.min_interactions, config.rounds)
        self.info.metadata["item_ids"] = item_ids
        self.info.metadata["items_checksum"] = item_ids | "Checksum" >> beam.Map(
            sequences.items_checksum
        )
        return {
            split: users | split >> beam.FlatMapTuple(functools.partial(_example, split=split))
            for split in sequences.SPLITS
        }


def numbered_users(
    interactions: beam.PCollection, min_interactions: int, rounds: int
) -> tuple[beam.PCollection, beam.PCollection]:
    """Filters, orders and numbers as `sequences.build_sequences` does.

    Args:
      interactions: of `Interaction`.
      min_interactions: users and items with fewer are dropped.
      rounds: how often.

    Returns:
      (user_id, item numbers in time order), and one list: raw ids by item number, "" first.

    Raises:
      InputError: when it runs, if some user is still left with too few interactions.
    """
    user_minimum = max(min_interactions, sequences.SHORTEST)
    kept = interactions
    for number in range(rounds):
        kept = _with_enough(kept, "user_id", user_minimum, f"Users{number}")
        kept = _with_enough(kept, "item_id", min_interactions, f"Items{number}")
    first_places = (
        interactions
        | "Places" >> beam.Map(lambda one: (one.user_id, one.place))
        | "FirstPlace" >> beam.CombinePerKey(min)
    )
    in_time_order = (
        kept
        | "ByUser" >> beam.GroupBy("user_id")
        | "InTimeOrder" >> beam.MapTuple(functools.partial(_in_time_order, minimum=user_minimum))
    )
    histories = (
        {"place": first_places, "items": in_time_order}
        | "Together" >> beam.CoGroupByKey()
        | "Left" >> beam.FlatMapTuple(_with_place)
    )
    item_ids = (
        histories
        | "Appearances" >> beam.FlatMapTuple(_appearances)
        | "First" >> beam.CombinePerKey(min)
        | "Items" >> beam.combiners.ToList()
        | "ByAppearance" >> beam.Map(_by_appearance)
    )
    numbers = item_ids | "Numbers" >> beam.Map(
        lambda ids: {item_id: number for number, item_id in enumerate(ids)}
    )
    users = histories | "Number" >> beam.Map(
        lambda user, numbers: (user[0], [numbers[item_id] for item_id in user[1][1]]),
        numbers=beam.pvalue.AsSingleton(numbers),
    )
    return users, item_ids


def _read(file_number: int, path: str) -> Iterator[Interaction]:
    for line_number, review in reviews.read_reviews(path):
        yield Interaction(*review, (file_number, line_number))


def _with_enough(
    interactions: beam.PCollection, field: str, minimum: int, label: str
) -> beam.PCollection:
    return (
        interactions
        | f"{label}Group" >> beam.GroupBy(field)
        | f"{label}Enough" >> beam.FlatMapTuple(functools.partial(_if_enough, minimum=minimum))
    )


def _if_enough(key: str, group: Iterable[Interaction], minimum: int) -> list[Interaction]:
    del key
    group = list(group)
    return group if len(group) >= minimum else []


def _in_time_order(
    user_id: str, group: Iterable[Interaction], minimum: int
) -> tuple[str, list[str]]:
    """(user_id, item ids in time order, ties as in the file)."""
    group = sorted(group, key=lambda interaction: (interaction.timestamp, interaction.place))
    if len(group) < minimum:
        raise InputError(f"user {user_id!r} is left with {len(group)} interactions; raise rounds")
    return user_id, [one.item_id for one in group]


def _with_place(user_id: str, found: Mapping) -> Iterator[tuple[str, tuple]]:
    """(user_id, (place of the user's first line, whether it was dropped or not, item ids))."""
    for item_ids in found["items"]:
        yield user_id, (found["place"][0], item_ids)


def _appearances(user_id: str, history: tuple) -> Iterator[tuple[str, tuple]]:
    del user_id
    first, item_ids = history
    for place, item_id in enumerate(item_ids):
        yield item_id, (first, place)


def _by_appearance(items: list[tuple[str, tuple]]) -> list[str]:
    return ["", *(item_id for item_id, _ in sorted(items, key=lambda item: item[1]))]


def _example(user_id: str, items: list[int], split: str) -> Iterator[tuple[str, dict]]:
    left_out = {"train": 2, "validation": 1, "test": 0}[split]
    items = items[: len(items) - left_out]
    num_targets = len(items) - 1 if split == "train" else 1
    yield user_id, {"user_id": user_id, "items": items, "num_targets": num_targets}
