"""TFDS builders: the sequences of `prepare` as TensorFlow datasets, and the items behind them.

    tfds build amazon_reviews_2014/beauty --imports=tiger_jax.data.amazon_reviews --manual_dir=DIR

DIR/beauty holds raw files of any form that `prepare` reads; without it the original files are
downloaded. Those of 2014 come without published checksums: TFDS records what it found.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from tiger_jax.artifacts import InputError
from tiger_jax.data import reviews, sequences

NAME = "amazon_reviews_2014"
# Of all builders here; a change of what they write raises it.
VERSION = "1.0.0"

_URL = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
_INSTRUCTIONS = """DIR/CONFIG (beauty, sports or toys) may hold reviews_<Category>_5.json.gz and
meta_<Category>.json.gz, or sequences.txt.gz and items.jsonl.gz; else the first two are downloaded.
"""
_CITATION = """@inproceedings{mcauley2015image,
  title={Image-based recommendations on styles and substitutes},
  author={McAuley, Julian and Targett, Christopher and Shi, Qinfeng and van den Hengel, Anton},
  booktitle={SIGIR},
  year={2015}
}"""


@dataclasses.dataclass(eq=False)
class CategoryConfig(tfds.core.BuilderConfig):
    """One category of products, 5-core.

    Attributes:
      category: as it stands in the names of the files.
    """

    category: str = ""


_CONFIGS = [
    CategoryConfig(name="beauty", category="Beauty"),
    CategoryConfig(name="sports", category="Sports_and_Outdoors"),
    CategoryConfig(name="toys", category="Toys_and_Games"),
]


class AmazonReviews2014(tfds.core.GeneratorBasedBuilder):
    """Users' items in time order, with leave-one-out splits (TIGER section 4, "Datasets").

    The items that an example holds before its last `num_targets` are history. Its metadata name
    the items and hold the checksum that Semantic-ID tables are made for.
    """

    name = NAME
    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = _CONFIGS
    MANUAL_DOWNLOAD_INSTRUCTIONS = _INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return user_info(self, tfds.core.MetadataDict())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        prepared = sequences.build_sequences(_read_raw(self.builder_config, dl_manager))
        self.info.metadata["item_ids"] = list(prepared.item_ids)
        self.info.metadata["items_checksum"] = prepared.header["items_checksum"]
        return {split: self._generate_examples(prepared, split) for split in sequences.SPLITS}

    def _generate_examples(self, prepared: sequences.Sequences, split: str) -> Iterator:
        items, num_targets = prepared.users_of_split(split)
        for user_id, *user in zip(prepared.user_ids, items, num_targets, strict=True):
            yield user_id, {"user_id": user_id, "items": user[0], "num_targets": user[1]}


class AmazonItems2014(tfds.core.GeneratorBasedBuilder):
    """What is known of the items that AmazonReviews2014 numbers; "" and nan where nothing is."""

    name = "amazon_items_2014"
    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = _CONFIGS
    MANUAL_DOWNLOAD_INSTRUCTIONS = _INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "item_number": np.int32,
                    "item_id": text,
                    "title": text,
                    "brand": text,
                    "price": np.float32,
                    # Each from the department down: "Beauty > Hair Care".
                    "categories": tfds.features.Sequence(text),
                }
            ),
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        raw = _read_raw(self.builder_config, dl_manager)
        return {"items": self._generate_examples(raw, sequences.build_sequences(raw))}

    def _generate_examples(
        self, raw: reviews.RawData, prepared: sequences.Sequences
    ) -> Iterator[tuple[int, dict]]:
        for number, item_id in enumerate(prepared.item_ids[1:], start=1):
            known = raw.metadata_of(item_id)
            yield (
                number,
                {
                    "item_number": number,
                    "item_id": item_id,
                    "title": known["title"] or "",
                    "brand": known["brand"] or "",
                    "price": float("nan") if known["price"] is None else known["price"],
                    "categories": [" > ".join(path) for path in known["categories"] or []],
                },
            )


def metadata(dataset: str, data_dir: str | None = None) -> dict:
    """The items of a built dataset: {"item_ids": raw ids [N + 1], "items_checksum"}.

    Args:
      dataset: name of the builder, and its config if it has any: amazon_reviews_2014/beauty.
      data_dir: where TFDS keeps its datasets; its own default if not given.

    Raises:
      InputError: it is not built.
    """
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
        built = pathlib.Path(builder.data_dir, "dataset_info.json").exists()
    except tfds.core.DatasetNotFoundError:
        built = False
    if not built:
        raise InputError(f"TFDS dataset {dataset}: not built; run tfds build (docs/t5x.md)")
    return builder.info.metadata


def user_info(builder: tfds.core.DatasetBuilder, items: dict) -> tfds.core.DatasetInfo:
    """Features of users, as tasks/amazon.py reads them."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description=type(builder).__doc__,
        features=tfds.features.FeaturesDict(
            {
                "user_id": tfds.features.Text(),
                "items": tfds.features.Sequence(np.int32),
                "num_targets": np.int32,
            }
        ),
        metadata=items,
        citation=_CITATION,
    )


def _read_raw(config: CategoryConfig, dl_manager: tfds.download.DownloadManager) -> reviews.RawData:
    """The files at hand, else those of the web."""
    try:
        folder = pathlib.Path(dl_manager.manual_dir, config.name)
    except AssertionError:  # There is no manual_dir.
        folder = None
    if folder and folder.is_dir():
        return reviews.read_raw(folder)
    paths = dl_manager.download(
        {
            "reviews": f"{_URL}reviews_{config.category}_5.json.gz",
            "meta": f"{_URL}meta_{config.category}.json.gz",
        }
    )
    return reviews.read_mcauley(paths["reviews"], paths["meta"])
