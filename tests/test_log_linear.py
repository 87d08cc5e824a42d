"""Products of opinions, against sums over all items and known optima."""

import numpy as np
import pytest

from tiger_jax import baselines, log_linear
from tiger_jax.artifacts import InputError
from tiger_jax.log_linear import LogLinear

NUM_ITEMS = 6
TRAINING = [[1, 2, 3, 4], [2, 3, 5], [6, 2, 3]]
HISTORIES = [[1, 2], [6], [3, 4, 5, 1], []]


def test_two_candidates_and_one_opinion_have_a_known_optimum():
    """A share f of targets with opinion 2 instead of 0: exponent log(f / (1 - f)) / 2."""
    opinions_BMK = np.tile(np.array([[[2.0], [0.0], [9.0]]]), (10, 1, 1))
    is_target_BM = np.zeros((10, 3), bool)
    is_target_BM[:7, 0] = is_target_BM[7:9, 1] = True  # the last user's target is no candidate
    is_used_BM = np.tile([True, True, False], (10, 1))
    found = log_linear.fit(opinions_BMK, is_target_BM, is_used_BM)
    assert found == pytest.approx(np.log(7 / 2) / 2, rel=2e-2)


def test_no_other_exponents_make_the_targets_likelier():
    random = np.random.default_rng(0)
    opinions_BMK = random.normal(size=(200, 7, 3)) * [0.01, 1.0, 30.0] + [5.0, 0.0, -3.0]
    opinions_BMK[..., 2] += 10 * opinions_BMK[..., 1]
    truth_K = np.array([40.0, 0.7, -0.02])
    noise_BM = random.gumbel(size=(200, 7))
    is_target_BM = (opinions_BMK @ truth_K + noise_BM).argmax(axis=1)[:, None] == np.arange(7)

    def log_likelihood(exponents_K):
        scores_BM = opinions_BMK @ exponents_K
        return (scores_BM[is_target_BM] - np.log(np.exp(scores_BM).sum(axis=1))).mean()

    found_K = log_linear.fit(opinions_BMK, is_target_BM, np.ones((200, 7), bool))
    for shift_K in np.vstack([np.eye(3), -np.eye(3), random.normal(size=(20, 3))]):
        other_K = found_K + 0.2 * shift_K / opinions_BMK.std(axis=(0, 1))
        assert log_likelihood(other_K) < log_likelihood(found_K)
    np.testing.assert_allclose(found_K, truth_K, rtol=0.5)


def test_what_nobody_can_tell_from_the_targets_gets_no_exponent():
    alike = np.ones((4, 3, 2))
    is_target_BM = np.eye(4, 3, dtype=bool)
    assert log_linear.fit(alike, is_target_BM, np.ones((4, 3), bool)).tolist() == [0, 0]
    assert log_linear.fit(alike, is_target_BM & False, np.ones((4, 3), bool)).tolist() == [0, 0]


def test_opinions_are_counts_and_content_of_the_training_sequences():
    embeddings_NE = np.random.default_rng(1).normal(size=(NUM_ITEMS, 4))
    found = log_linear.counted(TRAINING, embeddings_NE)(HISTORIES)
    counts = baselines.CountsWithContent(TRAINING, embeddings_NE, 1.0, 1.0)
    np.testing.assert_allclose(
        np.exp(found["co_occurrence"]) - 0.01, counts.scores(HISTORIES), atol=1e-6
    )
    assert np.expm1(found["popularity"][0]).round().tolist() == [0, 1, 3, 3, 1, 1, 1]
    assert np.expm1(found["transitions"][0]).round().tolist() == [0, 0, 0, 3, 0, 0, 0]
    assert not found["transitions"][3].any()
    alone = LogLinear(log_linear.counted(TRAINING, embeddings_NE), {"content": 1.0}, NUM_ITEMS)
    neighbours = baselines.CountsWithContent(TRAINING, embeddings_NE, 0.0, 1.0)
    np.testing.assert_allclose(
        np.exp(alone.scores(HISTORIES)), neighbours.scores(HISTORIES), atol=1e-6
    )


def test_candidates_are_the_best_of_the_exponents_before_without_the_history(monkeypatch):
    """One opinion, the item number: the first fit turns it round, the second sees the other end."""
    num_items, calls, fit = 12, [], log_linear.fit

    def opinions(histories):
        return {"number": np.tile(np.arange(num_items + 1.0), (len(histories), 1))}

    def spy(opinions_BMK, is_target_BM, is_used_BM):
        calls.append(np.where(is_used_BM, opinions_BMK[..., 0], 0).astype(int).tolist())
        return fit(opinions_BMK, is_target_BM, is_used_BM)

    monkeypatch.setattr(log_linear, "fit", spy)
    histories = [[12, 3], [11, 1, 2], [2, 3, 4, 5, 6, 7, 8, 9, 10]]
    found = log_linear.choose_exponents(opinions, histories, np.array([8, 9, 1]), ("number",), 4)
    assert calls == [
        [[11, 10, 9, 8], [12, 10, 9, 8], [12, 11, 1, 0]],
        [[1, 2, 4, 5], [3, 4, 5, 6], [1, 11, 12, 0]],
    ]
    assert found["number"] < 0
    # Where no target is among them, nothing is known.
    with pytest.raises(InputError, match=r"of 2 validation users none .* take more users"):
        log_linear.choose_exponents(opinions, [[1], [2]], np.array([3, 4]), ("number",), 4)


def test_the_chosen_exponents_find_what_decides():
    """Targets are drawn by transitions and popularity; content is noise."""
    random = np.random.default_rng(2)
    sequences = [[(first + step) % 30 + 1 for step in range(6)] for first in range(30)]
    histories = [sequence[:4] for sequence in sequences]
    targets = np.array([sequence[4] for sequence in sequences])
    opinions = log_linear.counted(sequences, random.normal(size=(30, 5)))
    names = ("content", "popularity", "transitions")
    exponents = log_linear.choose_exponents(opinions, histories, targets, names, 20)
    assert exponents["transitions"] > 2
    ranked = LogLinear(opinions, exponents, 30).recommend(None, histories, 1)
    np.testing.assert_array_equal(ranked.item_numbers[:, 0], targets)
