"""The peers of the training benchmark are the same network, and its counts are right."""

import jax
import numpy as np
import pytest

from benchmarks import training
from tiger_jax.artifacts import InputError
from tiger_jax.data.examples import LengthGroups
from tiger_jax.model.model import TigerModel, num_parameters
from tiger_jax.model.network import NetworkConfig
from tiger_jax.vocabulary import Vocabulary

CONFIG = NetworkConfig(
    vocab_size=50,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.1,
    logits_via_embedding=True,
)


@pytest.fixture(scope="module")
def model():
    return TigerModel(CONFIG, Vocabulary((8, 8, 8, 8), 10))


@pytest.fixture(scope="module")
def params(model):
    # Norms start at one and would hide a swap of two of them.
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) * np.random.default_rng(leaf.size).uniform(0.5, 1.5),
        model.init(jax.random.key(0)),
    )


def test_hugging_faces_t5_has_the_same_loss(model, params):
    pytest.importorskip("torch", reason="Hugging Face's T5 needs torch and transformers")
    pytest.importorskip("transformers", reason="Hugging Face's T5 needs torch and transformers")
    random = np.random.default_rng(1)
    inputs = random.integers(2, 44, (5, 13))
    inputs[2, 5:] = inputs[4, 9:] = 0  # shorter histories
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": random.integers(2, 34, (5, 4)),
    }
    summed, _ = model.loss_fn(params, batch, None)
    peer = training.hugging_face(model, params, None, None, seed=0)
    np.testing.assert_allclose(peer.loss(batch), summed / 5, rtol=1e-5)
    assert sum(value.size for value in training.hugging_face_names(params).values()) == (
        num_parameters(params)
    )


def test_different_losses_void_the_ratio():
    training.require_equal({"a": 30.0, "b": 30.0002}, "float32")
    with pytest.raises(InputError, match="no ratio"):
        training.require_equal({"a": 30.0, "b": 30.01}, "float32")


def test_operations_of_an_example_by_hand():
    """One encoder and one decoder layer, all widths 1, one item of one token."""
    config = NetworkConfig(3, 1, 1, 1, 1, 1, 1, 0.0, True)
    groups = LengthGroups((1,), (1,))
    # Encoder, 2 positions: 4 projections, 2 of the MLP, 2 attention products with 2 keys each.
    encoder = 2 * (4 + 2 + 2 * 2)
    # Decoder, 1 position: 2 x (query, out) and key, value of its own; MLP; attention to 1 and 2
    # keys; keys and values of the encoder's 2 positions; the logits of 3 tokens.
    decoder = (2 * 2 + 2) + 2 + 2 * (1 + 2) + 2 * 2 + 3
    assert training.flops_per_example(config, groups, 1) == 3 * 2 * (encoder + decoder)
