"""TFDS datasets hold the sequences of `prepare`, on one machine and as a Beam pipeline."""

import importlib
import pathlib
import tempfile

import numpy as np
import pytest
from test_reviews import review, write_gzip

from tiger_jax.artifacts import InputError
from tiger_jax.data import records, reviews, sequences
from tiger_jax.semantic_ids.table import SemanticIdTable

MISSING = "not installed: pip install -e .[seqio]"
tf = pytest.importorskip("tensorflow", reason=f"tensorflow is {MISSING}")
tfds = pytest.importorskip("tensorflow_datasets", reason=f"tensorflow-datasets is {MISSING}")
amazon_reviews = importlib.import_module("tiger_jax.data.amazon_reviews")

SOURCE = pathlib.Path(tempfile.mkdtemp())
SPLIT_SIZES = {"train": 12, "validation": 12, "test": 12}


def write_reviews(folder, seed=0):
    """Files in the true format: 12 users who stay, and some that fall with their items.

    User "lone" leaves first, then item "rare", then user "chain", who needed it.
    """
    random = np.random.default_rng(seed)
    pairs = [(f"user{u}", f"item{i}") for u in range(12) for i in random.permutation(8)[:7]]
    pairs += [("lone", "rare")] + [("chain", f"item{i}") for i in range(4)] + [("chain", "rare")]
    pairs += [(f"user{u}", "rare") for u in range(3)]
    pairs = [pairs[row] for row in random.permutation(len(pairs))]
    # Few moments, many ties.
    lines = [review(*pair, int(random.integers(5))) for pair in pairs]
    meta = [repr({"asin": f"item{i}", "title": f"Item {i}", "price": 1.5 * i}) for i in range(9)]
    meta[3] = repr({"asin": "item3", "categories": [["Beauty", "Hair Care"]]})
    folder.mkdir(parents=True, exist_ok=True)
    write_gzip(folder / "reviews_Beauty_5.json.gz", *lines)
    write_gzip(folder / "meta_Beauty.json.gz", *meta)


write_reviews(SOURCE / "beauty")


@pytest.fixture(scope="module")
def prepared():
    return sequences.build_sequences(reviews.read_raw(SOURCE / "beauty"))


class TestAmazonReviews(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test of a builder."""

    DATASET_CLASS = amazon_reviews.AmazonReviews2014
    BUILDER_CONFIG_NAMES_TO_TEST = ["beauty"]  # noqa: RUF012
    EXAMPLE_DIR = str(SOURCE)
    SPLITS = SPLIT_SIZES
    SKIP_CHECKSUMS = True  # None are published.


def build(builder, manual_dir):
    config = tfds.download.DownloadConfig(manual_dir=str(manual_dir))
    if hasattr(config, "beam_runner"):
        config.beam_runner = "DirectRunner"
    builder.download_and_prepare(download_config=config)
    return builder


def users(builder, split):
    rows = tfds.as_numpy(builder.as_dataset(split=split))
    return {
        row["user_id"].decode(): (row["items"].tolist(), int(row["num_targets"])) for row in rows
    }


def assert_same_users(builder, prepared):
    assert tuple(builder.info.metadata["item_ids"]) == prepared.item_ids
    assert builder.info.metadata["items_checksum"] == prepared.header["items_checksum"]
    for split in sequences.SPLITS:
        items, num_targets = prepared.users_of_split(split)
        expected = zip((one.tolist() for one in items), num_targets, strict=True)
        assert users(builder, split) == dict(zip(prepared.user_ids, expected, strict=True))


def test_sequences_equal_those_of_prepare(prepared, tmp_path):
    builder = build(amazon_reviews.AmazonReviews2014(config="beauty", data_dir=tmp_path), SOURCE)
    assert prepared.num_users == 12
    assert prepared.num_items == 8
    assert_same_users(builder, prepared)
    dataset = f"{amazon_reviews.NAME}/beauty"
    found = amazon_reviews.metadata(dataset, str(tmp_path))
    assert found["items_checksum"] == prepared.header["items_checksum"]
    with pytest.raises(InputError, match="not built; run tfds build"):
        amazon_reviews.metadata(f"{amazon_reviews.NAME}/toys", str(tmp_path))


def test_items_carry_what_is_known_of_them(prepared, tmp_path):
    builder = build(amazon_reviews.AmazonItems2014(config="beauty", data_dir=tmp_path), SOURCE)
    rows = list(tfds.as_numpy(builder.as_dataset(split="items")))
    by_number = {int(row["item_number"]): row for row in rows}
    assert sorted(by_number) == list(range(1, 9))
    for number, row in by_number.items():
        assert row["item_id"].decode() == prepared.item_ids[number]
    item3 = by_number[prepared.item_number["item3"]]
    assert item3["title"] == b""
    assert np.isnan(item3["price"])
    assert item3["categories"].tolist() == [b"Beauty > Hair Care"]
    assert by_number[prepared.item_number["item2"]]["price"] == 3.0


@pytest.mark.parametrize("num_files", [1, 3])
def test_the_pipeline_builds_the_sequences_of_prepare(num_files, prepared, tmp_path):
    """However the lines are spread over files."""
    pytest.importorskip(
        "apache_beam", reason="apache-beam is not installed: pip install -e .[beam]"
    )
    large_reviews = importlib.import_module("tiger_jax.data.large_reviews")
    path = SOURCE / "beauty" / "reviews_Beauty_5.json.gz"
    lines = [line.rstrip() for _, line in records.lines(path)]
    (tmp_path / "raw").mkdir()
    for number, part in enumerate(np.array_split(lines, num_files)):
        write_gzip(tmp_path / "raw" / f"part{number}.json.gz", *part)
    builder = build(large_reviews.LargeReviews(data_dir=tmp_path / "tfds"), tmp_path / "raw")
    assert_same_users(builder, prepared)


def test_users_keep_the_order_of_their_first_lines_dropped_or_not(tmp_path):
    """The first line of all is dropped, its item being rare; its user is still the first."""
    beam = pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    large_reviews = importlib.import_module("tiger_jax.data.large_reviews")
    bought = [("ann", "rare"), *(("bob", item) for item in "vwxyz")]
    bought += [("ann", item) for item in "zyxwv"]
    bought += [(f"more {number}", item) for number in range(3) for item in "vwxyz"]
    user_ids, item_ids = (list(dict.fromkeys(names)) for names in zip(*bought, strict=True))
    raw = reviews.RawData(
        "own",
        user_ids,
        item_ids,
        np.int32([user_ids.index(user) for user, _ in bought]),
        np.int32([item_ids.index(item) for _, item in bought]),
        np.arange(len(bought)),
        {},
    )
    expected = sequences.build_sequences(raw)
    assert expected.item_ids[1] == "z"
    interactions = [
        large_reviews.Interaction(*pair, number, (0, number)) for number, pair in enumerate(bought)
    ]
    testing = importlib.import_module("apache_beam.testing.util")
    with beam.Pipeline("DirectRunner") as pipeline:
        created = pipeline | beam.Create(interactions)
        _, found = large_reviews.numbered_users(created, 5, rounds=2)
        testing.assert_that(found, testing.equal_to([list(expected.item_ids)]))


def test_too_few_rounds_are_an_error(tmp_path):
    beam = pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    large_reviews = importlib.import_module("tiger_jax.data.large_reviews")
    rows = reviews.read_reviews(SOURCE / "beauty" / "reviews_Beauty_5.json.gz")
    interactions = [large_reviews.Interaction(*row, (0, number)) for number, row in rows]
    with pytest.raises(Exception, match="raise rounds"), beam.Pipeline("DirectRunner") as pipeline:
        large_reviews.numbered_users(pipeline | beam.Create(interactions), 5, rounds=1)


def test_a_seqio_task_of_the_dataset_has_the_examples_of_the_prepared_folder(prepared, tmp_path):
    seqio = pytest.importorskip("seqio", reason=f"seqio is {MISSING}")
    amazon = importlib.import_module("tasks.amazon")
    build(amazon_reviews.AmazonReviews2014(config="beauty", data_dir=tmp_path), SOURCE)
    header = {"items_checksum": prepared.header["items_checksum"]}
    codes = np.random.default_rng(0).integers(0, 8, (prepared.num_items, 3))
    table = SemanticIdTable.from_codes(codes, (8, 8, 8), header, collision_size=16)
    table.save(tmp_path / "prepared" / "ids" / "codes" / "semantic_ids.npz")
    prepared.save(tmp_path / "prepared" / "sequences.npz")
    dataset = f"{amazon_reviews.NAME}/beauty"
    table_path = tmp_path / "prepared" / "ids" / "codes" / "semantic_ids.npz"
    ours = amazon.register(str(tmp_path / "prepared"), "codes", 20, 3)
    theirs = amazon.register_tfds(dataset, str(table_path), 20, 3, str(tmp_path))
    assert theirs == "amazon_reviews_2014_beauty_codes"
    for split in sequences.SPLITS:
        examples = [
            sorted(
                (row["user_id"], tuple(row["inputs"]), tuple(row["targets"]))
                for row in seqio.get_mixture_or_task(task)
                .get_dataset(None, split, shuffle=False)
                .as_numpy_iterator()
            )
            for task in (ours, theirs)
        ]
        assert examples[0] == examples[1]
