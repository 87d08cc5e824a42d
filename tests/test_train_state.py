"""Schedules and optimizers by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tiger_jax import train_state
from tiger_jax.artifacts import InputError


def test_rsqrt_schedule_is_constant_then_falls_with_the_square_root():
    """T5X's constant * rsqrt_decay with base 1 and 10,000 warm-up steps: 1 / sqrt(max(step, w))."""
    schedule = train_state.rsqrt_schedule(0.01, 10000)
    steps = np.array([0, 1, 9999, 10000, 40000, 1000000])
    expected = 1 / np.sqrt(np.maximum(steps, 10000))
    found = [float(schedule(jnp.asarray(step))) for step in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_cosine_schedule_goes_up_and_down_to_nothing():
    schedule = train_state.cosine_schedule(0.5, 10, 110)
    found = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.25, 0], atol=1e-7)


def test_cosine_schedule_needs_steps_behind_the_warm_up():
    with pytest.raises(InputError, match="warmup_steps is 20, of 20 steps in all"):
        train_state.cosine_schedule(0.1, 20, 20)


def test_first_step_of_adafactor_scales_with_the_parameter():
    """The first update is lr * rms(parameter) * gradient / rms(gradient), by its definition."""
    optimizer = train_state.adafactor(train_state.rsqrt_schedule(0.01, 10))
    random = np.random.default_rng(0)
    for scale in (0.5, 8.0):
        params = {"w": jnp.asarray(random.normal(size=7) * scale, jnp.float32)}
        gradient = {"w": jnp.asarray(random.normal(size=7), jnp.float32)}
        state = train_state.TrainState.create(params, optimizer).apply_gradients(
            gradient, optimizer
        )
        rms = np.sqrt(np.mean(np.square(params["w"])))
        # Unfactored, second moment g^2 after the first step: g / sqrt(g^2) is the sign.
        expected = params["w"] - 0.01 * rms * np.sign(gradient["w"])
        np.testing.assert_allclose(state.params["w"], expected, rtol=1e-5)
        assert state.step == 1


def numpy_adafactor(param, gradients, rates):
    """Shazeer and Stern, algorithms 4 and 5, with the parameter's scale; one step a gradient."""
    rms = lambda x: np.sqrt(np.mean(np.square(x)))  # noqa: E731
    means = [0.0] * 3
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        decay = 1 - step**-0.8
        square = gradient.astype(np.float64) ** 2 + 1e-30
        now = (square, square.mean(axis=-1), square.mean(axis=0))
        means = [decay * mean + (1 - decay) * new for mean, new in zip(means, now, strict=True)]
        second = means[0]
        if param.ndim == 2:
            second = np.outer(means[1], means[2]) / means[1].mean()
        update = gradient / np.sqrt(second)
        update /= max(1.0, rms(update))
        param = param - rate * max(rms(param), 1e-3) * update
    return param


@pytest.mark.parametrize("shape", [(130, 140), (150,)])
def test_adafactor_is_the_published_one(shape):
    """Three steps, of which the second has ten times the gradient, so that it is clipped."""
    random = np.random.default_rng(0)
    param = random.normal(0, 0.3, shape).astype(np.float32)
    gradients = [size * random.normal(size=shape).astype(np.float32) for size in (1, 10, 1)]
    schedule = train_state.rsqrt_schedule(0.01, 2)
    optimizer = train_state.adafactor(schedule)
    state = train_state.TrainState.create(jnp.asarray(param), optimizer)
    for gradient in gradients:
        state = state.apply_gradients(jnp.asarray(gradient), optimizer)
    expected = numpy_adafactor(param, gradients, [float(schedule(step)) for step in range(3)])
    np.testing.assert_allclose(state.params, expected, rtol=1e-4, atol=1e-6)


def test_update_sizes_are_those_of_the_steps():
    """Plain descent moves by the rate; schedules that differ late differ there alone."""
    steps = (0, 20, 60, 99, 100)
    short, long = (train_state.cosine_schedule(0.5, 10, num) for num in (100, 120))
    found = train_state.update_sizes(optax.sgd(short), steps)
    np.testing.assert_allclose(found, [short(step) for step in steps], rtol=1e-6)
    assert found[-1] == 0
    others = train_state.update_sizes(train_state.adafactor(long), steps)
    assert others[0] == 0
    assert all(others[1:])
    assert train_state.update_sizes(optax.MultiSteps(optax.sgd(short), 4), steps) == []
