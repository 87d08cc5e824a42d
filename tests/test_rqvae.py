"""The RQ-VAE's quantiser, loss, gradients and training, each against a reference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tiger_jax.semantic_ids import rqvae


@pytest.fixture
def network():
    """A small network with codebooks of unequal sizes."""
    return rqvae.RqVae(embed_size=6, hidden_sizes=(8,), latent_size=3, codebook_sizes=(4, 5))


@pytest.fixture
def x_NE():  # noqa: N802
    return jnp.asarray(np.random.default_rng(0).normal(size=(40, 6)), jnp.float32)


def started_parameters(network, x_NE):
    parameters = network.init(jax.random.key(1), x_NE[:1])["params"]
    return rqvae.start_codebooks(parameters, x_NE, jax.random.key(2), network=network)


def output_of(parameters, network, x_NE):
    return network.apply({"params": parameters}, x_NE)


def gradients_of(parameters, network, x_NE, beta):
    def loss(parameters):
        return rqvae.loss(output_of(parameters, network, x_NE), x_NE, beta)[0]

    return jax.jit(jax.grad(loss))(parameters)


def brute_force(latent_BZ, codebooks_LCZ):
    """Codes and quantised latents, one vector at a time in float64."""
    codes, quantized = [], []
    for latent_Z in np.asarray(latent_BZ, np.float64):
        residual_Z, code_L = latent_Z, []
        for codebook_CZ in np.asarray(codebooks_LCZ, np.float64):
            code_L.append(int(np.argmin([np.linalg.norm(residual_Z - e_Z) for e_Z in codebook_CZ])))
            residual_Z = residual_Z - codebook_CZ[code_L[-1]]
        codes.append(code_L)
        quantized.append(latent_Z - residual_Z)
    return np.array(codes), np.array(quantized)


@pytest.mark.parametrize("levels", [1, 2, 3, 6])
def test_quantiser_equals_brute_force(levels):
    rng = np.random.default_rng(levels)
    latent_BZ = jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
    codebooks_LCZ = jnp.asarray(rng.normal(size=(levels, 9, 4)), jnp.float32)
    quantized = rqvae.quantize(latent_BZ, codebooks_LCZ)
    codes_BL, quantized_BZ = brute_force(latent_BZ, codebooks_LCZ)
    np.testing.assert_array_equal(quantized.codes_BL, codes_BL)
    np.testing.assert_allclose(quantized.codewords_LBZ.sum(axis=0), quantized_BZ, atol=1e-5)


def test_each_residual_is_what_the_level_above_leaves():
    rng = np.random.default_rng(0)
    codebooks = tuple(jnp.asarray(rng.normal(size=(c, 3)), jnp.float32) for c in (4, 16, 256))
    latent_BZ = jnp.asarray(rng.normal(size=(20, 3)), jnp.float32)
    _, residuals_LBZ, codewords_LBZ, _ = rqvae.quantize(latent_BZ, codebooks)
    np.testing.assert_array_equal(residuals_LBZ[0], latent_BZ)
    np.testing.assert_array_equal(residuals_LBZ[1:], (residuals_LBZ - codewords_LBZ)[:-1])


def test_a_single_code_a_level_subtracts_the_codebooks():
    latent_BZ = jnp.arange(6.0).reshape(3, 2)
    quantized = rqvae.quantize(latent_BZ, (jnp.ones((1, 2)), 2 * jnp.ones((1, 2))))
    assert not quantized.codes_BL.any()
    np.testing.assert_array_equal(quantized.codewords_LBZ.sum(axis=0), np.full((3, 2), 3.0))


def test_figure_three_of_the_paper():
    """Latent (3.1, 0.9): nearest of level 0 is (3, 1), and of what is left (0.1, -0.1)."""
    codebooks = (jnp.array([[0.0, 0], [3, 1]]), jnp.array([[0.0, 0], [0.1, 0.1], [0.1, -0.1]]))
    quantized = rqvae.quantize(jnp.array([[3.1, 0.9]]), codebooks)
    np.testing.assert_array_equal(quantized.codes_BL, [[1, 2]])
    np.testing.assert_allclose(quantized.residuals_LBZ[1], [[0.1, -0.1]], atol=1e-6)


def test_loss_worked_by_hand():
    """Two items; summed over dimensions, averaged over items.

    Item 1: x = (1, 2), x_hat = (0, 0): 5. r_0 = 3, e = 2: 1; r_1 = 1, e = 0.5: 0.25.
    Item 2: x = x_hat: 0.                  r_0 = 0, e = 2: 4; r_1 = -2, e = -2: 0.
    """
    quantized = rqvae.Quantized(
        codes_BL=jnp.zeros((2, 2), jnp.int32),
        residuals_LBZ=jnp.array([[[3.0], [0.0]], [[1.0], [-2.0]]]),
        codewords_LBZ=jnp.array([[[2.0], [2.0]], [[0.5], [-2.0]]]),
        latent_BZ=jnp.array([[2.5], [0.0]]),
    )
    x_BE = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    output = rqvae.Output(jnp.array([[3.0], [0.0]]), quantized, jnp.array([[0.0, 0], [3, 4]]))
    total, terms = rqvae.loss(output, x_BE, beta=0.25)
    assert terms["reconstruction_loss"] == 2.5
    assert terms["quantization_loss"] == 1.25 * (1 + 0.25 + 4) / 2
    assert total == 2.5 + 1.25 * 5.25 / 2


def test_no_quantisation_loss_where_a_codebook_holds_the_latents(network, x_NE):
    x_NE = x_NE[:4]
    parameters = network.init(jax.random.key(1), x_NE)["params"]
    latents_NZ = network.apply({"params": parameters}, x_NE, method="encode")
    parameters = {**parameters, "codebook_0": latents_NZ, "codebook_1": jnp.zeros((5, 3))}
    _, terms = rqvae.loss(output_of(parameters, network, x_NE), x_NE, beta=0.25)
    assert terms["quantization_loss"] < 1e-10


def test_codebooks_learn_from_their_own_term_alone(network, x_NE):
    """d loss / d e_k = 2 / B * sum over the items of code k of (e_k - r_d)."""
    parameters = started_parameters(network, x_NE)
    gradients = gradients_of(parameters, network, x_NE, beta=0.25)
    quantized = jax.tree.map(np.asarray, output_of(parameters, network, x_NE).quantized)
    for level, name in enumerate(network.codebook_names):
        codebook_CZ = np.asarray(parameters[name])
        expected_CZ = np.zeros_like(codebook_CZ)
        for code, residual_Z in zip(
            quantized.codes_BL[:, level], quantized.residuals_LBZ[level], strict=True
        ):
            expected_CZ[code] += 2 / len(x_NE) * (codebook_CZ[code] - residual_Z)
        np.testing.assert_allclose(gradients[name], expected_CZ, atol=1e-5)


def test_encoder_receives_the_decoders_gradient_straight_through(network, x_NE):
    """Without commitment: the encoder's gradient is J_E^T of d recon / d z_hat at z_hat."""
    parameters = started_parameters(network, x_NE)
    gradients = gradients_of(parameters, network, x_NE, beta=0.0)

    def reconstruction_loss(z_hat_NZ):
        x_hat_NE = rqvae.Mlp((8, 6)).apply({"params": parameters["decoder"]}, z_hat_NZ)
        return jnp.sum((x_NE - x_hat_NE) ** 2) / len(x_NE)

    def encode(encoder):
        return rqvae.Mlp((8, 3)).apply({"params": encoder}, x_NE)

    z_hat_NZ = output_of(parameters, network, x_NE).quantized.codewords_LBZ.sum(axis=0)
    _, pull_back = jax.vjp(encode, parameters["encoder"])
    (expected,) = pull_back(jax.grad(reconstruction_loss)(z_hat_NZ))
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5),
        gradients["encoder"],
        expected,
    )


def test_commitment_pulls_latents_to_their_codewords(network, x_NE):
    """d loss / d z = 2 beta / B * sum over levels of (r_d - e_{c_d}), the decoder left out."""
    rng = np.random.default_rng(0)
    codebooks = tuple(jnp.asarray(rng.normal(size=(c, 3)), jnp.float32) for c in (4, 5))
    latent_NZ = jnp.asarray(rng.normal(size=(40, 3)), jnp.float32)

    def loss_of_latent(latent_NZ):
        output = rqvae.Output(latent_NZ, rqvae.quantize(latent_NZ, codebooks), x_NE)
        return rqvae.loss(output, x_NE, beta=0.25)[0]

    _, residuals_LNZ, codewords_LNZ, _ = rqvae.quantize(latent_NZ, codebooks)
    expected = 2 * 0.25 / 40 * (residuals_LNZ - codewords_LNZ).sum(axis=0)
    np.testing.assert_allclose(jax.grad(loss_of_latent)(latent_NZ), expected, atol=1e-6)


def test_epochs_on_the_device_equal_a_python_loop_over_the_same_batches(network, x_NE):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adagrad(0.4))
    parameters = started_parameters(network, x_NE)
    settings = {"network": network, "optimizer": optimizer, "beta": 0.25}

    def start():
        copy = jax.tree.map(jnp.array, parameters)
        return rqvae.TrainState(copy, optimizer.init(copy), jax.random.key(7))

    on_device, losses = rqvae.train_epochs(start(), x_NE, batch_size=16, num_epochs=3, **settings)
    state = start()
    for _ in range(3):
        key, shuffle_key = jax.random.split(state.key)
        state = state._replace(key=key)
        batches = rqvae.shuffled_batches(shuffle_key, 40, 16)
        steps = []
        for rows_B in batches:
            state, step_losses = rqvae.train_step(state, x_NE[rows_B], **settings)
            steps.append(step_losses["loss"])
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5),
        on_device.parameters,
        state.parameters,
    )
    assert losses["loss"] == pytest.approx(np.mean(steps), rel=1e-4)


def test_an_epoch_shows_no_item_twice_and_all_where_batches_are_full():
    batches = np.asarray(rqvae.shuffled_batches(jax.random.key(0), 40, 16))
    assert batches.shape == (2, 16)
    assert len(np.unique(batches)) == 32
    full = np.asarray(rqvae.shuffled_batches(jax.random.key(0), 40, 8))
    np.testing.assert_array_equal(np.sort(full.ravel()), np.arange(40))


def test_start_puts_codebooks_onto_clusters_of_the_latents(network, x_NE):
    """Four well separated groups of equal items: the first level answers them exactly."""
    x_NE = jnp.repeat(x_NE[:4], 10, axis=0)
    quantized = output_of(started_parameters(network, x_NE), network, x_NE).quantized
    np.testing.assert_allclose(
        quantized.codewords_LBZ[0], quantized.residuals_LBZ[0], rtol=1e-4, atol=1e-5
    )


def test_restart_moves_dead_codes_onto_residuals_and_leaves_the_others(network, x_NE):
    parameters = started_parameters(network, x_NE)
    dead = parameters["codebook_1"].at[jnp.array([1, 3])].set(1e3)
    parameters = {**parameters, "codebook_1": dead}
    restarted = rqvae.restart_dead_codes(parameters, x_NE, jax.random.key(3), network=network)
    np.testing.assert_array_equal(restarted["codebook_0"], parameters["codebook_0"])
    used = np.array([0, 2, 4])
    np.testing.assert_array_equal(restarted["codebook_1"][used], dead[used])
    residuals_NZ = np.asarray(output_of(parameters, network, x_NE).quantized.residuals_LBZ[1])
    for code in (1, 3):
        distances = np.abs(residuals_NZ - np.asarray(restarted["codebook_1"])[code]).max(axis=1)
        assert distances.min() < 1e-6
    codes_NL, _ = rqvae.measure(restarted, x_NE, jnp.ones(6), network=network)
    assert set(np.asarray(codes_NL)[:, 1].tolist()) == {0, 1, 2, 3, 4}


def test_measures_equal_numpy(network, x_NE):
    parameters = started_parameters(network, x_NE)
    std_E = np.arange(1.0, 7.0, dtype=np.float32)
    codes_NL, measures = rqvae.measure(parameters, x_NE, std_E, network=network)
    output = output_of(parameters, network, x_NE)
    codebooks = [np.asarray(parameters[name]) for name in network.codebook_names]
    z_NZ, x = np.asarray(output.latent_BZ), std_E * np.asarray(x_NE)
    z_hat_NZ = sum(book[codes_NL[:, level]] for level, book in enumerate(codebooks))
    r_1 = z_NZ - codebooks[0][codes_NL[:, 0]]
    norms = [np.linalg.norm(r, axis=1).mean() for r in (z_NZ, r_1, z_NZ - z_hat_NZ)]
    np.testing.assert_allclose(measures["residual_norms"], norms, rtol=1e-5)
    latent = 1 - ((z_NZ - z_hat_NZ) ** 2).sum() / ((z_NZ - z_NZ.mean(axis=0)) ** 2).sum()
    assert measures["latent_explained_variance"] == pytest.approx(latent, rel=1e-4)
    error = ((x - std_E * np.asarray(output.reconstruction_BE)) ** 2).sum()
    explained = 1 - error / ((x - x.mean(axis=0)) ** 2).sum()
    assert measures["explained_variance"] == pytest.approx(explained, abs=1e-5)


def test_standardised_dimensions_have_mean_zero_and_deviation_one():
    embeddings_NE = np.random.default_rng(0).normal(3, [1, 0.1, 7], (500, 3)).astype(np.float32)
    embeddings_NE = np.column_stack([embeddings_NE, np.full(500, 0.7, np.float32)])
    x_NE, statistics = rqvae.standardize(embeddings_NE)
    np.testing.assert_allclose(x_NE.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(x_NE.std(axis=0), [1, 1, 1, 0], atol=1e-5)
    np.testing.assert_allclose((embeddings_NE - statistics["mean"]) / statistics["std"], x_NE)


def test_bfloat16_rounds_the_factors_of_products_and_nothing_else():
    """Small integers, which bfloat16 holds: all is as in float32, gradients too; others round."""
    random = np.random.default_rng(0)
    x_BE = random.integers(-3, 4, (6, 5)).astype(np.float32)
    layers = rqvae.Mlp((4, 3)).init(jax.random.key(0), x_BE)["params"]
    layers = jax.tree.map(lambda x: random.integers(-3, 4, x.shape).astype(np.float32), layers)

    def squares(layers, x_BE, dtype):
        return (rqvae.Mlp((4, 3), dtype).apply({"params": layers}, x_BE) ** 2).sum()

    exact, rounded = (
        jax.value_and_grad(squares)(layers, x_BE, dtype) for dtype in ("float32", "bfloat16")
    )
    jax.tree.map(np.testing.assert_array_equal, exact, rounded)
    third = x_BE + np.float32(1 / 3)
    found = rqvae.Mlp((3,), "bfloat16").apply(
        {"params": {"Dense_0": layers["Dense_1"]}}, third[:, :4]
    )
    kernel, bias = layers["Dense_1"]["kernel"], layers["Dense_1"]["bias"]
    by_hand = np.asarray(jnp.asarray(third[:, :4], jnp.bfloat16), np.float32) @ kernel + bias
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    assert (np.asarray(found) != third[:, :4] @ kernel + bias).any()
