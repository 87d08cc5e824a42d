"""5-core, time order, ties, item numbers, splits and the file of sequences."""

import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiger_jax.artifacts import InputError
from tiger_jax.data import reviews
from tiger_jax.data.sequences import Sequences, build_sequences


def raw_data(rows, with_timestamps=True):
    """Raw data of (user, item, timestamp) rows."""
    user_ids = list(dict.fromkeys(user for user, _, _ in rows))
    item_ids = list(dict.fromkeys(item for _, item, _ in rows))
    timestamps = np.array([timestamp for _, _, timestamp in rows], np.int64)
    return reviews.RawData(
        name="test",
        user_ids=user_ids,
        item_ids=item_ids,
        users=np.array([user_ids.index(user) for user, _, _ in rows], np.int32),
        items=np.array([item_ids.index(item) for _, item, _ in rows], np.int32),
        timestamps=timestamps if with_timestamps else None,
        metadata={},
    )


def named_sequences(sequences):
    """{user id: [item ids]}."""
    return {
        user: [sequences.item_ids[item] for item in sequences.sequence(row)]
        for row, user in enumerate(sequences.user_ids)
    }


# Of two users; the second appears first in the file but last in time.
HAND = [
    ("v", "d", 9),
    ("u", "c", 5),
    ("u", "a", 1),
    ("v", "a", 8),
    ("u", "b", 5),
    ("v", "c", 9),
    ("u", "d", 4),
]


def test_hand_worked_sequences():
    sequences = build_sequences(raw_data(HAND), min_interactions=1)
    assert named_sequences(sequences) == {"v": ["a", "d", "c"], "u": ["a", "d", "c", "b"]}
    assert sequences.user_ids == ("v", "u")
    assert sequences.item_ids == ("", "a", "d", "c", "b")
    np.testing.assert_array_equal(sequences.items, [1, 2, 3, 1, 2, 3, 4])
    np.testing.assert_array_equal(sequences.offsets, [0, 3, 7])
    assert sequences.items.dtype == np.int32
    assert sequences.offsets.dtype == np.int64
    assert sequences.item_number == {"a": 1, "d": 2, "c": 3, "b": 4}
    assert sequences.statistics() == {
        "users": 2,
        "items": 4,
        "interactions": 7,
        "mean_length": 3.5,
        "median_length": 3.5,
    }


def test_hand_worked_splits():
    sequences = build_sequences(raw_data(HAND), min_interactions=1)
    histories, targets = sequences.split("test")
    assert [list(history) for history in histories] == [[1, 2], [1, 2, 3]]
    assert list(targets) == [3, 4]
    histories, targets = sequences.split("validation")
    assert [list(history) for history in histories] == [[1], [1, 2]]
    assert list(targets) == [2, 3]
    assert targets.dtype == np.int32
    assert [list(history) for history in sequences.training_sequences()] == [[1], [1, 2]]
    with pytest.raises(InputError, match="choose validation or test"):
        sequences.split("train")


def test_five_core_is_repeated_until_stable():
    """Dropping user w (2 items) takes item z below the minimum, which takes user v."""
    rows = [("w", "z", 0), ("w", "a", 0)]
    rows += [("v", item, 0) for item in "zab"] + [("u", item, 0) for item in "abc"]
    rows += [("t", item, 0) for item in "abc"] + [("s", item, 0) for item in "abc"]
    sequences = build_sequences(raw_data(rows), min_interactions=3)
    assert named_sequences(sequences) == {user: ["a", "b", "c"] for user in "uts"}
    # Where one purchase is enough, z stays and so does v.
    assert build_sequences(raw_data(rows), min_interactions=1).user_ids == ("v", "u", "t", "s")


def test_users_that_cannot_be_split_are_dropped_whatever_the_minimum():
    rows = [("u", "a", 0), ("u", "b", 1), ("v", "a", 0), ("v", "b", 1), ("v", "c", 2)]
    assert build_sequences(raw_data(rows), min_interactions=0).user_ids == ("v",)


def test_nothing_left_is_an_error():
    with pytest.raises(InputError, match=r"7 interactions read.*lower min_interactions"):
        build_sequences(raw_data(HAND), min_interactions=5)
    with pytest.raises(InputError, match="0 interactions read"):
        build_sequences(raw_data([]))


interactions = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4)), max_size=60
)


def core_by_hand(rows, minimum):
    """The definition, one offender at a time."""
    rows = list(rows)
    while True:
        users = collections.Counter(user for user, _, _ in rows)
        items = collections.Counter(item for _, item, _ in rows)
        for user, item, _ in rows:
            if users[user] < max(minimum, 3):
                rows = [row for row in rows if row[0] != user]
                break
            if items[item] < minimum:
                rows = [row for row in rows if row[1] != item]
                break
        else:
            return rows


@settings(deadline=None, max_examples=200)
@given(interactions, st.integers(1, 5))
def test_sequences_equal_a_plain_reference(rows, minimum):
    rows = [(f"u{user}", f"i{item}", time) for user, item, time in rows]
    core = core_by_hand(rows, minimum)
    if not core:
        with pytest.raises(InputError):
            build_sequences(raw_data(rows), min_interactions=minimum)
        return
    expected = {}
    for user in dict.fromkeys(user for user, _, _ in rows):
        own = sorted((row for row in core if row[0] == user), key=lambda row: row[2])
        if own:
            expected[user] = [item for _, item, _ in own]
    sequences = build_sequences(raw_data(rows), min_interactions=minimum)
    assert named_sequences(sequences) == expected
    assert list(sequences.user_ids) == list(expected)
    appearance = dict.fromkeys(item for items in expected.values() for item in items)
    assert sequences.item_ids == ("", *appearance)


@settings(deadline=None, max_examples=100)
@given(interactions, st.integers(0, 5))
def test_shuffling_ties_moves_items_within_a_timestamp_only(rows, seed):
    rows = [(f"u{user}", f"i{item}@{time}", time) for user, item, time in rows]
    rows += [("u", f"i{n}@{n // 4}", n // 4) for n in range(12)]
    raw = raw_data(rows)
    file_order = build_sequences(raw, min_interactions=1)
    shuffled = build_sequences(raw, ties="shuffle", seed=seed, min_interactions=1)
    assert shuffled.item_ids == file_order.item_ids
    assert shuffled.header["items_checksum"] == file_order.header["items_checksum"]
    before, after = named_sequences(file_order), named_sequences(shuffled)
    for user, items in before.items():
        assert sorted(after[user]) == sorted(items)
        times = [int(item.split("@")[1]) for item in after[user]]
        assert times == sorted(times)


def test_shuffled_ties_depend_on_the_seed_alone():
    raw = raw_data([("u", f"i{n}", n // 20) for n in range(40)])
    build = lambda seed: build_sequences(raw, "shuffle", seed, min_interactions=1)  # noqa: E731
    assert build(1).checksum() == build(1).checksum()
    assert build(1).checksum() != build(2).checksum()
    # Every order of three ties comes about as often as any other.
    raw = raw_data([("u", item, 0) for item in "abc"])
    orders = collections.Counter(tuple(build(seed).items) for seed in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 60


def test_ties_cannot_be_shuffled_without_timestamps():
    with pytest.raises(InputError, match="no timestamps"):
        build_sequences(raw_data(HAND, with_timestamps=False), ties="shuffle")
    with pytest.raises(InputError, match="choose file or shuffle"):
        build_sequences(raw_data(HAND), ties="random")


def test_without_timestamps_the_file_order_is_the_time_order():
    sequences = build_sequences(raw_data(HAND, with_timestamps=False), min_interactions=1)
    assert named_sequences(sequences) == {"v": ["d", "a", "c"], "u": ["c", "a", "b", "d"]}


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "mean", "prefixes"),
    [
        ("beauty", 22_363, 12_101, 198_502, 8.8764, 131_413),
        ("sports", 35_598, 18_357, 296_337, 8.3245, 189_543),
        ("toys", 19_412, 11_924, 167_597, 8.6337, 109_361),
    ],
)
def test_table_6_of_the_paper(amazon_data, name, users, items, interactions, mean, prefixes):
    raw = reviews.read_amazon2014(amazon_data / name)
    sequences = build_sequences(raw)
    statistics = sequences.statistics()
    assert round(statistics.pop("mean_length"), 4) == mean
    assert statistics == {
        "users": users,
        "items": items,
        "interactions": interactions,
        "median_length": 6.0,
    }
    # The numbers are those of the S3Rec files: line n of items.jsonl.gz is item n.
    assert list(sequences.item_ids[1:]) == list(raw.metadata)
    assert sum(len(items) - 1 for items in sequences.training_sequences()) == prefixes


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=3, max_size=8, unique=True))
def test_any_unicode_id_survives_the_file(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("ids") / "sequences.npz"
    rows = [(user * 300, item, 0) for user in ids for item in ids]
    sequences = build_sequences(raw_data(rows), min_interactions=1)
    sequences.save(path)
    again = Sequences.load(path)
    assert again.user_ids == sequences.user_ids
    assert again.item_ids == sequences.item_ids
    assert again.checksum() == sequences.checksum()
    assert sequences.header.items() <= again.header.items()
    np.testing.assert_array_equal(again.items, sequences.items)
    np.testing.assert_array_equal(again.offsets, sequences.offsets)


def test_checksum_sees_every_part_and_not_the_header():
    sequences = build_sequences(raw_data(HAND), min_interactions=1)
    swapped = sequences.items.copy()
    swapped[:2] = swapped[1::-1]
    changed = [
        {"user_ids": ("v", "w")},
        {"item_ids": ("", "a", "dc", "", "b")},
        {"items": swapped},
        {"offsets": np.array([0, 4, 7])},
    ]
    checksums = {dataclasses.replace(sequences, **change).checksum() for change in changed}
    assert len(checksums | {sequences.checksum()}) == 5
    assert dataclasses.replace(sequences, header={}).checksum() == sequences.checksum()


def test_missing_and_damaged_files_name_the_command_that_makes_them(tmp_path):
    path = tmp_path / "sequences.npz"
    with pytest.raises(InputError, match=r"python -m tiger_jax\.prepare"):
        Sequences.load(path)
    build_sequences(raw_data(HAND), min_interactions=1).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"python -m tiger_jax\.prepare"):
        Sequences.load(path)


@pytest.mark.parametrize(("num_users", "found"), [(2, 2), (0, 4), (4, 4), (9, 4)])
def test_a_sample_of_a_split_is_some_of_its_rows_in_order(num_users, found):
    lists = [[row + 1, row + 2, row + 3] for row in range(4)]
    sequences = Sequences(
        user_ids=tuple("abcd"),
        item_ids=("", *"123456"),
        items=np.concatenate(lists).astype(np.int32),
        offsets=np.arange(0, 13, 3),
        header={},
    )
    rows, users, histories, targets = sequences.sampled_split("test", num_users, seed=1)
    assert len(rows) == found
    assert (np.diff(rows) > 0).all()
    for row, user, history, target in zip(rows, users, histories, targets, strict=True):
        assert user == "abcd"[row]
        assert [*history, target] == lists[row]
    again = sequences.sampled_split("test", num_users, seed=1)[0]
    np.testing.assert_array_equal(rows, again)
