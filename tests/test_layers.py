"""What layers begin with, and where and how they drop: as T5X's, by its published numbers."""

import jax
import numpy as np
import pytest

from tiger_jax.model.layers import Dropout
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.vocabulary import Vocabulary

VOCABULARY = Vocabulary((64, 64, 64), 100)
CONFIG = NetworkConfig(
    vocab_size=VOCABULARY.size,
    emb_dim=128,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=1,
    num_decoder_layers=2,
    dropout_rate=0.1,
    logits_via_embedding=False,
)
# Name of a parameter -> its standard deviation: one over the root of what it sums over.
DEVIATIONS = {
    "embedding": 1.0,
    "query": (128 * 64) ** -0.5,  # in place of a division of the logits
    "key": 128**-0.5,
    "value": 128**-0.5,
    "out": (6 * 64) ** -0.5,
    "wi": 128**-0.5,
    "wo": 1024**-0.5,
    "logits_dense": 128**-0.5,
    "rel_embedding": ((6 + 32) / 2) ** -0.5,
    "scale": 0.0,
}


@pytest.fixture(scope="module")
def params():
    return TigerModel(CONFIG, VOCABULARY).init(jax.random.key(0))


def test_parameters_begin_at_the_scale_of_t5(params):
    """Adafactor moves a parameter by a share of its size, so that this is its learning rate too."""
    for path, parameter in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path if entry.key != "kernel"]
        expected = DEVIATIONS[names[-1]]
        # Of as many draws as the parameter has numbers, within five deviations.
        slack = 5 * expected / (2 * parameter.size) ** 0.5
        assert abs(float(parameter.std()) - expected) <= slack, names
        assert abs(float(parameter.mean()) - (names[-1] == "scale")) <= 2 * slack, names


def test_dropout_has_one_mask_for_all_positions():
    ones = np.ones((3, 5, 400), np.float32)
    dropped = Dropout(0.25).apply({}, ones, True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :1], 5, axis=1))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert abs((dropped[:, 0] == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / 1200) ** 0.5
    assert (dropped[0, 0] != dropped[1, 0]).any()
    np.testing.assert_array_equal(Dropout(0.25).apply({}, ones, False), ones)


def num_masks(program):
    """How often a jaxpr draws, with all that it calls."""
    count = 0
    for equation in program.eqns:
        count += equation.primitive.name == "random_bits"
        called = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        count += sum(num_masks(inner) for inner in called if hasattr(inner, "eqns"))
    return count


def test_dropout_is_everywhere_that_t5_has_it(params):
    """Masks of a step: embeddings and output of both stacks; in each layer all parts but norms."""
    batch = {
        "encoder_input_tokens": np.ones((2, 6), np.int32),
        "decoder_target_tokens": np.full((2, 3), 2, np.int32),
    }
    model = TigerModel(CONFIG, VOCABULARY)
    program = jax.make_jaxpr(lambda key: model.loss_fn(params, batch, key)[0])(jax.random.key(0))
    # Of attention its weights and its output, of the MLP its hidden layer and its output.
    in_encoder, in_decoder = 2 + 1 * (2 + 2), 2 + 2 * (2 + 2 + 2)
    assert num_masks(program) == in_encoder + in_decoder
