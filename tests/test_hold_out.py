"""Items held out: nobody learns of them, and those who want them look for them."""

import numpy as np
import pytest

from tiger_jax import prepare
from tiger_jax.artifacts import InputError
from tiger_jax.data import content, hold_out
from tiger_jax.data.hold_out import HoldOut
from tiger_jax.data.sequences import Sequences

SEQUENCES = [
    ("ann", [1, 2, 3, 4, 5]),
    ("bob", [2, 3, 4, 5, 6]),
    ("cid", [6, 5, 1, 4, 3]),
    ("dan", [4, 6, 3]),
]


def hand_made():
    """Of the targets of test, 5, 6 and 3, item 6 is unseen; of those of validation, item 4."""
    lists = [items for _, items in SEQUENCES]
    source = Sequences(
        user_ids=tuple(user for user, _ in SEQUENCES),
        item_ids=("", *"abcdef"),
        items=np.concatenate(lists).astype(np.int32),
        offsets=np.cumsum([0, *map(len, lists)]),
        header={"dataset": "hand"},
    )
    unseen = {"test": np.array([6]), "validation": np.array([4])}
    return HoldOut(source, np.array([1, 2, 3, 5]), unseen, 0.3, 0)


def test_training_data_are_the_sequences_less_all_unseen_items():
    seen = hand_made().seen_sequences()
    # 5 is number 4 now; dan has one item left and is gone.
    assert seen.user_ids == ("ann", "bob", "cid")
    assert seen.item_ids == ("", "a", "b", "c", "e")
    rows = [seen.sequence(row).tolist() for row in range(3)]
    assert rows == [[1, 2, 3, 4], [2, 3, 4], [4, 1, 3]]


def test_users_of_a_split_want_its_unseen_items_or_seen_ones_after_seen_ones():
    users, histories, targets = hand_made().examples("test")
    assert users == ["ann", "bob", "cid", "dan"]
    assert [history.tolist() for history in histories] == [[1, 2, 3], [2, 3, 4], [4, 1], []]
    assert targets.tolist() == [4, 5, 3, 3]  # 6 is number 5, the first unseen one
    users, histories, targets = hand_made().examples("validation")
    # dan's target, 6, is unseen in test: no item of this catalogue.
    assert users == ["ann", "bob", "cid"]
    assert [history.tolist() for history in histories] == [[1, 2, 3], [2, 3], [4, 1]]
    assert targets.tolist() == [5, 4, 5]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "all"
    prepare.prepare("synthetic", str(folder), width=16, synthetic_users=200, synthetic_items=120)
    return folder


@pytest.mark.parametrize("seed", [0, 1])
def test_no_unseen_item_and_no_target_is_ever_trained_on(prepared, seed):
    source = Sequences.load(prepared / "sequences.npz")
    held_out = HoldOut.draw(source, 0.1, seed)
    seen = held_out.seen_sequences()
    trained = {
        user: [seen.item_ids[item] for item in items]
        for user, items in zip(seen.user_ids, seen.training_sequences(), strict=True)
    }
    for split in ("test", "validation"):
        distinct = np.unique(source.split(split)[1])
        unseen_ids = {source.item_ids[number] for number in held_out.unseen[split]}
        assert not unseen_ids & {raw for items in trained.values() for raw in items}
        ids = [source.item_ids[number] for number in held_out.catalogue(split)]
        users, histories, targets = held_out.examples(split)
        position = {"test": 1, "validation": 2}[split]
        for user, history, target in zip(users, histories, targets, strict=True):
            whole = source.sequence(source.user_ids.index(user))
            assert ids[target - 1] == source.item_ids[whole[-position]]
            # What the user was trained on is a beginning of the history, and the target is none.
            known = [ids[item - 1] for item in history]
            training = trained.get(user, [])
            assert training == known[: len(training)]
        if split == "test":
            assert len(held_out.unseen[split]) == round(0.1 * len(distinct))
    other = held_out.unseen["test"], held_out.unseen["validation"]
    assert not np.intersect1d(*other).size


def test_folder_of_seen_items_is_a_prepared_folder(prepared, tmp_path):
    source = Sequences.load(prepared / "sequences.npz")
    held_out = HoldOut.draw(source, 0.1, 0)
    hold_out.write(held_out, prepared, tmp_path / "seen")
    seen = Sequences.load(tmp_path / "seen" / "sequences.npz")
    assert seen.checksum() == held_out.seen_sequences().checksum()
    rows = content.load_items(tmp_path / "seen")
    embeddings_NE, _ = content.load_embeddings(tmp_path / "seen")
    everything = {row["item_id"]: i for i, row in enumerate(content.load_items(prepared))}
    own = [everything[row["item_id"]] for row in rows]
    np.testing.assert_array_equal(embeddings_NE, content.load_embeddings(prepared)[0][own])


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_share_of_none_or_all_is_refused(share):
    with pytest.raises(InputError, match="between 0 and 1"):
        HoldOut.draw(hand_made().source, share, 0)


def test_share_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(InputError, match="leaves no user"):
        HoldOut.draw(hand_made().source, 0.9, 0)


def test_embeddings_of_the_sequences_are_refused(tmp_path):
    """They tell who bought the items that nobody is to know yet."""
    prepare.prepare("synthetic", str(tmp_path / "all"), encoder="cooccurrence", width=8)
    held_out = HoldOut.draw(Sequences.load(tmp_path / "all" / "sequences.npz"), 0.05, 0)
    with pytest.raises(InputError, match="prepare it with an encoder of texts"):
        hold_out.write(held_out, tmp_path / "all", tmp_path / "seen")
    assert not (tmp_path / "seen").exists()
