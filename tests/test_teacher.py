"""What counts expect in training sequences, against counting again without each user."""

import dataclasses

import numpy as np
import pytest

from tiger_jax import log_linear, prepare, teach, teacher
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import Sequences
from tiger_jax.data.soft_targets import SoftTargets

NUM_ITEMS = 12
EXPONENTS = {"co_occurrence": 1.5, "content": 3.0, "popularity": 0.2, "transitions": 0.5}


@pytest.fixture(scope="module")
def training():
    """Sequences in which items come back, some of one item, some items bought by one user alone."""
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 11, size) for size in random.integers(1, 9, 30)]
    return [*sequences, np.array([11, 3, 12, 11])]


@pytest.fixture(scope="module")
def embeddings():
    return np.random.default_rng(1).normal(size=(NUM_ITEMS, 5)).astype(np.float32)


def counted_without(training, embeddings, user):
    """Opinions after every history of a user whom nobody has counted."""
    others = log_linear.counted(training[:user] + training[user + 1 :], embeddings)
    return others([training[user][:place] for place in range(len(training[user]))])


def test_opinions_are_those_of_counts_that_never_saw_the_user(training, embeddings):
    found = teacher.held_out(training, embeddings)(training)
    first = 0
    for user, items in enumerate(training):
        rows = slice(first, first + len(items))
        first += len(items)
        for name, opinion_PN in counted_without(training, embeddings, user).items():
            np.testing.assert_allclose(found[name][rows, 1:], opinion_PN[:, 1:], atol=1e-5)
    assert first == len(found["content"])


@pytest.mark.parametrize("num_expected", [4, 11])
def test_the_likeliest_items_that_the_history_lacks(training, embeddings, num_expected):
    """Against sorting exp(sum of exponent x opinion) over all items, place by place."""
    found = teacher.teach(training, embeddings, EXPONENTS, num_expected)
    place = 0
    for user, items in enumerate(training):
        opinions = counted_without(training, embeddings, user)
        scores_PN = sum(EXPONENTS[name] * opinion for name, opinion in opinions.items())
        assert not found.shares_PQ[place].any(), "nothing comes before a user's first item"
        for index in range(1, len(items)):
            scores_N = scores_PN[index].astype(np.float64)
            scores_N[[0, *items[:index]]] = -np.inf
            best = np.argsort(-scores_N, kind="stable")[:num_expected]
            best = best[np.isfinite(scores_N[best])]
            shares = np.exp(scores_N[best])
            row = place + index
            assert found.items_PQ[row, : len(best)].tolist() == best.tolist()
            assert not found.shares_PQ[row, len(best) :].any()
            np.testing.assert_allclose(
                found.shares_PQ[row, : len(best)], shares / shares.sum(), rtol=1e-3
            )
        place += len(items)
    assert place == len(found.items_PQ)


def test_batches_of_users_change_nothing(training, embeddings, monkeypatch):
    whole = teacher.teach(training, embeddings, EXPONENTS, 4)
    monkeypatch.setattr(teacher, "_AT_ONCE", 5)
    parts = teacher.teach(training, embeddings, EXPONENTS, 4)
    np.testing.assert_array_equal(parts.items_PQ, whole.items_PQ)
    np.testing.assert_allclose(parts.shares_PQ, whole.shares_PQ, rtol=1e-5)


def test_imagined_users_take_what_is_expected_of_them(training, embeddings):
    """Against the product of opinions over all items, all real users counted, place by place."""
    opinions = log_linear.counted(training, embeddings)
    lengths = np.array([1, 5, 2, 12, 7])
    found = teacher.imagine(opinions, EXPONENTS, NUM_ITEMS, lengths, 3, np.random.default_rng(5))
    assert [len(items) for items in found.imagined] == lengths.tolist()
    place = 0
    for items in found.imagined:
        assert len(set(items)) == len(items)
        assert not found.shares_PQ[place].any()
        for index in range(1, len(items)):
            scores_N = log_linear.log_probabilities(opinions([items[:index]]), EXPONENTS)[0]
            scores_N[items[:index]] = -np.inf
            best = np.argsort(-scores_N, kind="stable")[: min(3, NUM_ITEMS - index)]
            shares = np.exp(scores_N[best].astype(np.float64))
            row = place + index
            assert found.items_PQ[row, : len(best)].tolist() == best.tolist()
            np.testing.assert_allclose(
                found.shares_PQ[row], np.pad(shares / shares.sum(), (0, 3 - len(best))), rtol=1e-3
            )
            assert items[index] in best
        place += len(items)
    assert place == len(found.items_PQ)
    again = teacher.imagine(opinions, EXPONENTS, NUM_ITEMS, lengths, 3, np.random.default_rng(5))
    assert again.checksum() == found.checksum()
    other = teacher.imagine(opinions, EXPONENTS, NUM_ITEMS, lengths, 3, np.random.default_rng(6))
    assert other.checksum() != found.checksum()


def test_imagined_users_begin_anywhere_and_draw_by_the_shares(training, embeddings):
    opinions = log_linear.counted(training, embeddings)
    lengths = np.full(6000, 2)
    random = np.random.default_rng(0)
    found = teacher.imagine(opinions, EXPONENTS, NUM_ITEMS, lengths, NUM_ITEMS, random)
    firsts, seconds = np.array(found.imagined).T
    frequency = np.bincount(firsts, minlength=NUM_ITEMS + 1)[1:] / len(firsts)
    np.testing.assert_allclose(frequency, 1 / NUM_ITEMS, atol=4 * (1 / 12 / 6000) ** 0.5)
    expected = np.zeros(NUM_ITEMS + 1)
    np.add.at(expected, found.items_PQ[1::2], found.shares_PQ[1::2] / len(firsts))
    drawn = np.bincount(seconds, minlength=NUM_ITEMS + 1) / len(firsts)
    np.testing.assert_allclose(drawn, expected, atol=4 * (0.25 / len(firsts)) ** 0.5)


def test_saved_soft_targets_are_of_their_sequences(tmp_path):
    item_ids = ("", "a", "b", "c")
    sequences, others = (
        Sequences(
            ("ann",), item_ids, np.array(items, np.int32), np.array([0, 4]), {"dataset": "own"}
        )
        for items in ([1, 2, 3, 1], [1, 2, 3, 2])
    )
    items_PQ, shares_PQ = np.int32([[1, 2], [3, 0]]), np.float32([[0, 0], [1, 0]])
    found = SoftTargets(items_PQ, shares_PQ, EXPONENTS)
    header = {"sequences": sequences.checksum(), "content": "texts"}
    found.save(tmp_path, header)
    loaded = SoftTargets.load(tmp_path, sequences, "texts")
    assert loaded.checksum() == found.checksum()
    assert loaded.exponents == EXPONENTS
    with pytest.raises(InputError, match=r"is of other sequences .*tiger_jax\.teach"):
        SoftTargets.load(tmp_path, others, "texts")
    with pytest.raises(InputError, match=r"is of other content embeddings .*tiger_jax\.teach"):
        SoftTargets.load(tmp_path, sequences, "pictures")
    with pytest.raises(InputError, match=r"tiger_jax\.teach"):
        SoftTargets.load(tmp_path / "elsewhere", sequences, "texts")
    imagined = (np.int32([3, 2, 1]), np.int32([2]))
    more = found.followed_by(
        SoftTargets(np.ones((4, 2), np.int32), np.zeros((4, 2), np.float32), {}, imagined)
    )
    more.save(tmp_path, header)
    loaded = SoftTargets.load(tmp_path, sequences, "texts")
    assert loaded.checksum() == more.checksum() != found.checksum()
    assert [items.tolist() for items in loaded.imagined] == [[3, 2, 1], [2]]
    np.testing.assert_array_equal(loaded.items_PQ[:2], items_PQ)
    for damaged in (
        (np.int32([3, 4, 1]), np.int32([2])),
        (np.int32([3, 0, 1]), np.int32([2])),
        (np.int32([3, 2, 1, 2]), np.zeros(0, np.int32)),
        (np.int32([3, 2, 1]),),
        (np.int64([3, 2, 1]), np.int64([2])),
    ):
        dataclasses.replace(more, imagined=damaged).save(tmp_path, header)
        with pytest.raises(InputError, match="damaged or not a soft targets file"):
            SoftTargets.load(tmp_path, sequences, "texts")
    for damaged in (
        (items_PQ[:1], shares_PQ[:1]),
        (items_PQ, shares_PQ[:, :1]),
        (items_PQ + 1, shares_PQ),
        (items_PQ, shares_PQ * np.float32(np.nan)),
        (items_PQ.astype(np.int64), shares_PQ),
    ):
        SoftTargets(*damaged, EXPONENTS).save(tmp_path, header)
        with pytest.raises(InputError, match="damaged or not a soft targets file"):
            SoftTargets.load(tmp_path, sequences, "texts")


def test_who_has_seen_everything_has_nothing_to_learn():
    sequence = np.array([1, 2, 3, 4, 5, 1])
    embeddings_NE = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    found = teacher.teach([sequence, sequence[::-1]], embeddings_NE, EXPONENTS, 3)
    sums_P = found.shares_PQ.sum(axis=1)
    np.testing.assert_allclose(sums_P, [0, 1, 1, 1, 1, 0] * 2, rtol=1e-6)


def test_the_verb_teaches_cards_that_have_a_teacher(tmp_path, capsys):
    folder = str(tmp_path / "data")
    prepare.prepare("synthetic", folder, synthetic_users=200, synthetic_items=60)
    assert teach.teach(folder, teacher_weight=0.0) == {"exponents": {}}
    assert "no teacher" in capsys.readouterr().out
    sequences = Sequences.load(tmp_path / "data" / "sequences.npz")
    _, source = content.load_embeddings(folder)
    with pytest.raises(InputError, match=r"soft_targets\.npz: no such file"):
        SoftTargets.load(folder, sequences, source["checksum"])
    with pytest.raises(InputError, match="num_expected is 0; give 1 or more"):
        teach.teach(folder, num_expected=0)
    with pytest.raises(InputError, match="num_users is -1; give 0 or more"):
        teach.teach(folder, num_users=-1)
    with pytest.raises(InputError, match=r"teacher_weight is -1\.0; give 0 to 1"):
        teach.teach(folder, teacher_weight=-1.0)
    result = teach.teach(folder, num_expected=6)
    found = SoftTargets.load(folder, sequences, source["checksum"])
    assert found.exponents == result["exponents"]
    training = sequences.training_sequences()
    embeddings_NE, _ = content.load_embeddings(folder)
    expected = teacher.teach(training, embeddings_NE, result["exponents"], 6)
    assert found.checksum() == expected.checksum()
    with pytest.raises(InputError, match="imagined_users is -1; give 0 or more"):
        teach.teach(folder, imagined_users=-1)
    teach.teach(folder, num_expected=6, imagined_users=300, max_history=4)
    assert "300 imagined users" in capsys.readouterr().out
    with_imagined = SoftTargets.load(folder, sequences, source["checksum"])
    lengths = {len(items) for items in with_imagined.imagined}
    assert len(with_imagined.imagined) == 300
    assert lengths == {min(max(len(items), 2), 5) for items in training}
    np.testing.assert_array_equal(with_imagined.items_PQ[: len(found.items_PQ)], found.items_PQ)
    # The first place of each user has nobody to learn from.
    firsts = np.cumsum([0, *(len(items) for items in training)])[:-1]
    sums_P = found.shares_PQ.sum(axis=1)
    np.testing.assert_allclose(sums_P[firsts], 0)
    np.testing.assert_allclose(np.delete(sums_P, firsts), 1, rtol=1e-5)


def test_embeddings_of_who_took_what_teach_nobody(tmp_path):
    folder = str(tmp_path / "data")
    sizes = {"synthetic_users": 60, "synthetic_items": 40}
    prepare.prepare("synthetic", folder, encoder="cooccurrence", **sizes)
    with pytest.raises(InputError, match=r"which a teacher must not know; prepare it with an enc"):
        teach.teach(folder)
    assert not (tmp_path / "data" / "soft_targets.npz").exists()


def test_no_test_target_reaches_the_teacher(tmp_path):
    """Other items planted at the last place of every user: the same exponents and soft targets."""
    folder = str(tmp_path / "data")
    prepare.prepare("synthetic", folder, synthetic_users=200, synthetic_items=60)
    path = tmp_path / "data" / "sequences.npz"
    sequences = Sequences.load(path)
    texts = content.load_embeddings(folder)[1]["checksum"]

    def taught(sequences):
        result = teach.teach(folder, num_expected=6)
        return result, SoftTargets.load(folder, sequences, texts).checksum()

    before = taught(sequences)
    items = sequences.items.copy()
    last = sequences.offsets[1:] - 1
    items[last] = items[last] % sequences.num_items + 1
    planted = dataclasses.replace(sequences, items=items)
    planted.save(path)
    after = taught(planted)
    assert after == before
    # Those at the last place but one, which are validation's, choose the exponents.
    items[last - 1] = items[last - 1] % sequences.num_items + 1
    dataclasses.replace(sequences, items=items).save(path)
    assert teach.teach(folder, num_expected=6) != before[0]
