"""Signs of trouble, by hand."""

import jax
import numpy as np
import pytest

from tiger_jax import guard_rails
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.vocabulary import Vocabulary


def test_bigram_loss_by_hand():
    # Items 1, 2 have code 0, items 3, 4 code 1. Transitions 0->1 twice, 1->0 once.
    codes = np.array([0, 0, 0, 1, 1])
    training = [np.array([1, 3]), np.array([2, 4, 1])]
    # P(1) overall = (2 + 1) / (3 + 2) = .6; P(1 | 0) = (2 + .6) / (2 + 1).
    found = guard_rails.bigram_first_code_loss(training, np.array([2]), np.array([3]), codes, 2)
    assert found == pytest.approx(-np.log(2.6 / 3))
    # P(1 | 1) = (0 + .6) / (1 + 1).
    found = guard_rails.bigram_first_code_loss(training, np.array([3]), np.array([4]), codes, 2)
    assert found == pytest.approx(-np.log(0.3))


def test_bigram_probabilities_sum_to_one():
    codes = np.array([0, 0, 1, 2, 2, 1])
    training = [np.array([1, 2, 3, 4, 5]), np.array([5, 1, 3])]
    losses = [
        guard_rails.bigram_first_code_loss(training, np.array([2]), np.array([target]), codes, 3)
        for target in (1, 2, 3)
    ]
    assert np.exp(-np.array(losses)).sum() == pytest.approx(1)


def test_validation_losses_are_means_over_all_users_in_any_batches(key, monkeypatch):
    vocabulary = Vocabulary((4, 3), 2)
    config = NetworkConfig(vocabulary.size, 8, 2, 4, 16, 1, 1, 0.1, True)
    model = TigerModel(config, vocabulary)
    params = model.init(key)
    random = np.random.default_rng(0)
    tokens = random.integers(0, vocabulary.size, (7, 5))
    targets = vocabulary.tokens(random.integers(0, (4, 3), (7, 2)))
    batch = {"encoder_input_tokens": tokens, "decoder_target_tokens": targets}
    _, aux = jax.jit(model.loss_fn)(params, batch, None)
    for size in (3, 100):
        monkeypatch.setattr(guard_rails, "_BATCH", size)
        losses, without = guard_rails.make_validation_losses(model, tokens, targets)(params)
        np.testing.assert_allclose(losses, aux["level_losses"] / 7, rtol=1e-5)
        assert not np.allclose(losses, without)


def test_a_decoder_that_ignores_the_encoder_is_seen(key):
    vocabulary = Vocabulary((4, 3), 2)
    config = NetworkConfig(vocabulary.size, 8, 2, 4, 16, 1, 1, 0.1, True)
    model = TigerModel(config, vocabulary)
    params = model.init(key)
    layer = params["decoder"]["layers_0"]["encoder_decoder_attention"]
    layer["out"]["kernel"] = np.zeros_like(layer["out"]["kernel"])
    tokens = np.full((3, 5), 2)
    targets = vocabulary.tokens(np.zeros((3, 2), int))
    losses, without = guard_rails.make_validation_losses(model, tokens, targets)(params)
    assert losses == without
