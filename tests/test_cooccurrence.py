"""Embeddings by co-occurrence: what lies together, and that no target is ever looked at."""

import numpy as np
import pytest

from tiger_jax import prepare
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.cooccurrence import encode_cooccurrence
from tiger_jax.data.sequences import Sequences


def two_worlds(num_users=60, num_items=20, length=5):
    """Users who buy only odd or only even items, item 1 on its own."""
    rng = np.random.default_rng(0)
    return [
        rng.choice(np.arange(2 + user % 2, num_items + 1, 2), length, replace=False)
        for user in range(num_users)
    ]


def test_items_of_one_world_lie_together():
    embeddings = encode_cooccurrence(two_worlds(), 20, width=8, seed=0)
    assert embeddings.shape == (20, 8)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    cosines = embeddings[1:] @ embeddings[1:].T
    same = np.add.outer(np.arange(19), np.arange(19)) % 2 == 0
    assert cosines[same].mean() > cosines[~same].mean() + 0.3
    # No user joins the worlds, so that they span spaces at right angles.
    assert abs(cosines[~same]).max() < 1e-5


def test_full_width_keeps_the_singular_vectors_of_the_mutual_information():
    """Independent reference: dense counts pair by pair, dense SVD."""
    sequences = two_worlds(num_users=30, num_items=12, length=4)
    counts = np.zeros((12, 12))
    for sequence in sequences:
        for place, first in enumerate(sequence):
            for other, second in enumerate(sequence):
                if first != second:
                    counts[first - 1, second - 1] += 1 / abs(place - other)
    totals = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts * totals.sum() / np.outer(totals, totals))
    positive = np.where(counts > 0, np.maximum(information, 0), 0)
    u, s, _ = np.linalg.svd(positive)
    expected = (u * np.sqrt(s))[1:]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    embeddings = encode_cooccurrence(sequences, 12, width=99, seed=0)[1:]
    np.testing.assert_allclose(embeddings @ embeddings.T, expected @ expected.T, atol=1e-4)


def test_items_that_are_always_alone_are_told_apart():
    embeddings = encode_cooccurrence([np.array([1, 2]), np.array([3]), np.array([4])], 5, 4, seed=0)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert len(np.unique(embeddings[2:].round(3), axis=0)) == 3


def test_repeats_of_an_item_say_nothing():
    plain = [np.array([1, 2]), np.array([3, 4]), np.array([1, 3])]
    repeated = [*plain, np.array([2, 2, 2])]
    np.testing.assert_array_equal(
        encode_cooccurrence(plain, 4, 4, seed=0), encode_cooccurrence(repeated, 4, 4, seed=0)
    )


def test_the_seed_alone_decides():
    first = encode_cooccurrence(two_worlds(), 20, 8, seed=5)
    np.testing.assert_array_equal(encode_cooccurrence(two_worlds(), 20, 8, seed=5), first)
    assert not np.array_equal(encode_cooccurrence(two_worlds(), 20, 8, seed=6), first)


def test_histories_without_pairs_are_an_error():
    with pytest.raises(InputError, match="no two items are in one training sequence"):
        encode_cooccurrence([np.array([1]), np.array([2])], 2, 4, seed=0)


def write_orders(path, sequences):
    rows = [
        f"u{user},i{item},{time}"
        for user, sequence in enumerate(sequences)
        for time, item in enumerate(sequence)
    ]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    return str(path)


def test_targets_leave_no_trace(tmp_path):
    """Two shops that differ in every validation and test item, and in nothing else."""
    histories = [row.tolist() for row in two_worlds()]
    rng = np.random.default_rng(1)
    found = []
    for name in ("a", "b"):
        targets = rng.integers(2, 21, (len(histories), 2)).tolist()
        rows = [history + pair for history, pair in zip(histories, targets, strict=True)]
        source = write_orders(tmp_path / f"{name}.csv", rows)
        prepare.prepare(source, str(tmp_path / name), encoder="cooccurrence", min_interactions=1)
        sequences = Sequences.load(tmp_path / name / "sequences.npz")
        embeddings, header = content.load_embeddings(tmp_path / name)
        assert header["encoder"] == "cooccurrence"
        assert header["text_fields"] == []
        order = np.argsort(sequences.item_ids[1:])
        found.append((sequences.split("test")[1], embeddings[order] @ embeddings[order].T))
    assert not np.array_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)


def test_other_sequences_are_encoded_again(tmp_path):
    rows = [row.tolist() for row in two_worlds()]
    source = write_orders(tmp_path / "orders.csv", rows)
    prepare.prepare(source, str(tmp_path / "p"), encoder="cooccurrence", min_interactions=1)
    before, _ = content.load_embeddings(tmp_path / "p")
    rows[0][:2] = rows[0][1::-1]
    rows[1] = rows[1][::-1]
    write_orders(tmp_path / "orders.csv", rows)
    prepare.prepare(source, str(tmp_path / "p"), encoder="cooccurrence", min_interactions=1)
    assert not np.array_equal(content.load_embeddings(tmp_path / "p")[0], before)
