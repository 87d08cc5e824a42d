"""Batches of tokens: spelled out by hand, in a disturbed order, packed into rows."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_train

from tiger_jax import batching
from tiger_jax.data import examples
from tiger_jax.data.soft_targets import SoftTargets

folder, loaded = test_train.folder, test_train.loaded


def test_assembled_batches_equal_examples_spelled_out(folder):
    sequences, table, vocabulary = loaded(folder)
    made = examples.prefix_examples(sequences, 6)
    data = batching.device_data(made, sequences, table, vocabulary)
    rows = np.random.default_rng(0).permutation(len(made))[:50]
    batch = batching.assemble(data, jnp.asarray(rows), 6)
    for place, row in enumerate(rows):
        target, length = made.targets[row], made.lengths[row]
        user = sequences.user_ids[made.user_rows[row]]
        expected = [*vocabulary.user_tokens([user])]
        for item in made.items[target - length : target]:
            expected.extend(vocabulary.tokens(table.semantic_ids_NI[item]))
        expected.extend([0] * (25 - len(expected)))
        assert batch["encoder_input_tokens"][place].tolist() == expected
        wanted = vocabulary.tokens(table.semantic_ids_NI[made.items[target]])
        assert batch["decoder_target_tokens"][place].tolist() == wanted.tolist()


@pytest.mark.parametrize("kind", examples.KINDS)
def test_a_disturbed_order_has_the_same_items_and_without_noise_the_same_order(folder, kind):
    sequences, table, vocabulary = loaded(folder)
    made = examples.KINDS[kind](sequences, 6)
    data = batching.device_data(made, sequences, table, vocabulary)
    rows = jnp.arange(len(made))
    plain = batching.assemble(data, rows, 6)
    faint, strong = (
        batching.assemble(data, rows, 6, noise, jax.random.key(0)) for noise in (1e-6, 2.0)
    )
    for name, tokens in plain.items():
        np.testing.assert_array_equal(faint[name], tokens)

    def whole_example(batch, row):
        """Tokens of all its items: the history's, and what follows the last of them."""
        length = made.lengths[row]
        history = batch["encoder_input_tokens"][row, 1:].reshape(6, 4).tolist()
        targets = batch["decoder_target_tokens"][row].reshape(-1, 4).tolist()
        return [*history[:length], targets[length - 1 if kind == "sequences" else 0]]

    changed = 0
    for row in range(len(made)):
        expected, found = whole_example(plain, row), whole_example(strong, row)
        assert sorted(found) == sorted(expected)
        changed += found != expected
    assert changed > len(made) / 2


def test_two_neighbours_change_places_as_often_as_two_normal_variables_do(folder):
    """P(z_1 - z_2 > 1) = Phi(-1 / (sigma sqrt 2)), for each of the pairs of a history of one."""
    sequences, table, vocabulary = loaded(folder)
    made = examples.prefix_examples(sequences, 1)
    data = batching.device_data(made, sequences, table, vocabulary)
    rows = jnp.asarray(
        np.flatnonzero(made.items[made.targets - 1] != made.items[made.targets])[:200]
    )
    plain = batching.assemble(data, rows, 1)["decoder_target_tokens"]

    def share_changed(key):
        disturbed = batching.assemble(data, rows, 1, 0.8, key)["decoder_target_tokens"]
        return jnp.mean(jnp.any(disturbed != plain, axis=1))

    shares = jax.vmap(share_changed)(jax.random.split(jax.random.key(0), 200))
    expected = statistics.NormalDist().cdf(-1 / (0.8 * np.sqrt(2)))
    assert float(jnp.mean(shares)) == pytest.approx(expected, abs=0.01)


def test_packed_examples_stand_one_after_another():
    """Two rows of 9 tokens, IDs of two parts: spelled out by hand."""
    batch = {
        "encoder_input_tokens": np.array(
            [[90, 1, 2, 0, 0], [91, 3, 4, 5, 6], [0, 0, 0, 0, 0], [92, 7, 8, 9, 10]] + [[0] * 5] * 2
        ),
        "decoder_target_tokens": np.array(
            [[[3, 4], [0, 0]], [[5, 6], [7, 8]], [[0, 0]] * 2, [[0, 0], [1, 2]]]
            + [[[0, 0]] * 2] * 2
        ),
        # The first item of the last example is no target: another example has it.
        "num_visible": np.array([[3, 0], [3, 5], [0, 0], [0, 5], [0, 0], [0, 0]]),
        "places": np.array([[1, 0], [3, 4], [0, 0], [0, 7], [0, 0], [0, 0]]),
    }
    packed = batching.pack(batch, examples.Packing(room=9, num_rows=2, most=3))
    assert packed["encoder_input_tokens"].tolist() == [
        [90, 1, 2, 91, 3, 4, 5, 6, 0],
        [92, 7, 8, 9, 10, 0, 0, 0, 0],
    ]
    assert packed["encoder_segment_ids"].tolist() == [
        [1, 1, 1, 2, 2, 2, 2, 2, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0],
    ]
    assert packed["decoder_target_tokens"].tolist() == [
        [[3, 4], [5, 6], [7, 8], [0, 0]],
        [[1, 2], [0, 0], [0, 0], [0, 0]],
    ]
    assert packed["decoder_segment_ids"].tolist() == [[1, 2, 2, 0], [1, 0, 0, 0]]
    assert packed["num_visible"].tolist() == [[3, 6, 8, 0], [5, 0, 0, 0]]
    assert packed["places"].tolist() == [[1, 3, 4, 0], [7, 0, 0, 0]]


@pytest.mark.parametrize("kind", examples.KINDS)
def test_every_target_knows_its_place(folder, kind):
    sequences, table, vocabulary = loaded(folder)
    made = examples.KINDS[kind](sequences, 6)
    data = batching.device_data(made, sequences, table, vocabulary)
    for batch_size in (4, 7):
        composition, plan = batching.planned(made, vocabulary, batch_size, 2, 0)
        for batch in batching.parts(
            data, composition, jnp.asarray(plan(0)[0]), 0.0, jax.random.key(0)
        ):
            expected = vocabulary.tokens(table.semantic_ids_NI[made.items[batch["places"]]])
            is_target = np.asarray(batch["decoder_target_tokens"]).any(axis=-1)
            assert is_target.any()
            np.testing.assert_array_equal(
                np.asarray(batch["decoder_target_tokens"])[is_target], expected[is_target]
            )


def test_imagined_users_have_tokens_of_their_own(folder):
    sequences, table, vocabulary = loaded(folder)
    imagined = (np.int32([4, 2, 3]), np.int32([7, 8]))
    made = examples.prefix_examples(sequences, 6, imagined)
    num_places = len(made.items)
    soft_targets = SoftTargets(
        np.ones((num_places, 1), np.int32), np.ones((num_places, 1), np.float32), {}, imagined
    )
    data = batching.device_data(made, sequences, table, vocabulary, soft_targets)
    last_three = jnp.arange(len(made) - 3, len(made))
    batch = batching.assemble(data, last_three, 6)
    tokens = vocabulary.user_tokens(["imagined 0", "imagined 0", "imagined 1"])
    np.testing.assert_array_equal(batch["encoder_input_tokens"][:, 0], tokens)
    targets = vocabulary.tokens(table.semantic_ids_NI[[2, 3, 8]])
    np.testing.assert_array_equal(batch["decoder_target_tokens"], targets)


def test_where_a_teacher_expects_nothing_all_weight_is_the_item_that_came(folder):
    """With the whole of the weight his, there would else be no target."""
    sequences, table, vocabulary = loaded(folder)
    made = examples.prefix_examples(sequences, 6)
    nothing_PQ = np.zeros((len(made.items), 2))
    soft_targets = SoftTargets(nothing_PQ.astype(np.int32), nothing_PQ.astype(np.float32), {})
    data = batching.device_data(made, sequences, table, vocabulary, soft_targets)
    batch = batching.assemble(data, jnp.arange(10), 6)
    taught = batching.taught(batch, data, 1.0, jax.random.key(0))
    np.testing.assert_array_equal(taught["shares"], [[1, 0, 0]] * 10)
    np.testing.assert_array_equal(taught["decoder_target_tokens"], batch["decoder_target_tokens"])


def test_a_taught_target_is_drawn_from_the_mixture(folder):
    """A quarter of the weight is the teacher's, who expects two items 3 to 1."""
    sequences, table, vocabulary = loaded(folder)
    made = examples.prefix_examples(sequences, 6)
    items_PQ = np.tile(np.array([5, 9], np.int32), (len(made.items), 1))
    shares_PQ = np.tile(np.array([0.75, 0.25], np.float32), (len(made.items), 1))
    soft_targets = SoftTargets(items_PQ, shares_PQ, {})
    data = batching.device_data(made, sequences, table, vocabulary, soft_targets)
    others = np.flatnonzero(~np.isin(made.items[made.targets], [5, 9]))
    batch = batching.assemble(data, jnp.asarray(others[:100]), 6)
    taught = jax.jit(batching.taught)(batch, data, 0.25, jax.random.key(0))
    np.testing.assert_allclose(taught["shares"], [[0.75, 0.1875, 0.0625]] * 100)
    np.testing.assert_array_equal(taught["expected_tokens"][:, 0], batch["decoder_target_tokens"])
    tokens_QI = vocabulary.tokens(table.semantic_ids_NI[[5, 9]])
    np.testing.assert_array_equal(taught["expected_tokens"][:, 1:], [tokens_QI] * 100)

    def drawn(key):
        taught = batching.taught(batch, data, 0.25, key)
        targets_Q = taught["decoder_target_tokens"][:, None]
        return jnp.mean(jnp.all(targets_Q == taught["expected_tokens"], axis=-1), axis=0)

    found = jnp.mean(jax.vmap(drawn)(jax.random.split(jax.random.key(1), 500)), axis=0)
    np.testing.assert_allclose(found, [0.75, 0.1875, 0.0625], atol=0.005)
