"""What training carries from step to step, its optimizers and its schedules."""

import functools
import os
from collections.abc import Sequence

import flax
import jax
import jax.numpy as jnp
import optax

from tiger_jax import checkpoints
from tiger_jax.artifacts import InputError


@flax.struct.dataclass
class TrainState:
    """Parameters, optimizer state and the number of steps taken."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState

    @classmethod
    def create(cls, params: dict, optimizer: optax.GradientTransformation) -> "TrainState":
        """The state before the first step."""
        return cls(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    def apply_gradients(
        self, gradients: dict, optimizer: optax.GradientTransformation
    ) -> "TrainState":
        """The state after one step of `optimizer`."""
        updates, opt_state = optimizer.update(gradients, self.opt_state, self.params)
        return TrainState(self.step + 1, optax.apply_updates(self.params, updates), opt_state)

    def restored(self, folder: str | os.PathLike, step: int) -> "TrainState":
        """The state that a checkpoint holds; it must have this one's shapes."""
        restored = TrainState(
            step=jnp.asarray(step, jnp.int32),
            params=checkpoints.load_params(folder, step, self.params),
            opt_state=checkpoints.load_opt_state(folder, step, self.opt_state),
        )
        return jax.tree.map(jnp.asarray, restored)


def rsqrt_schedule(learning_rate: float, constant_steps: int) -> optax.Schedule:
    """`learning_rate` for `constant_steps`, then falling with 1/sqrt(step) (TIGER section 4).

    T5X's "constant * rsqrt_decay" with `warmup_steps = constant_steps`.
    """

    def schedule(step):
        return learning_rate * jnp.sqrt(constant_steps / jnp.maximum(step, constant_steps))

    return schedule


def cosine_schedule(learning_rate: float, warmup_steps: int, num_steps: int) -> optax.Schedule:
    """Up from 0 in `warmup_steps`, then down to 0 at `num_steps` along a cosine."""
    if not 0 <= warmup_steps < num_steps:
        raise InputError(
            f"cosine_schedule: warmup_steps is {warmup_steps}, of {num_steps} steps in all; "
            "warm up for fewer"
        )
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, num_steps)


def adafactor(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor with parameter scaling, T5X's default and the paper's optimizer.

    Without the scaling the decoder may ignore the encoder (docs/log.md).
    """
    return optax.adafactor(schedule, multiply_by_parameter_scale=True, clipping_threshold=1.0)


def update_sizes(optimizer: optax.GradientTransformation, steps: Sequence[int]) -> list[float]:
    """How far the optimizer moves a parameter of 1 whose gradient is 1, at each of the steps.

    Tells most optimizers and schedules from one another, but not what it does to larger gradients,
    as clipping them. Its other state is that of the first step. With `optax.MultiSteps`, which
    counts batches and steps, there are none, []: nothing is told.
    """
    if isinstance(jax.eval_shape(optimizer.init, jnp.ones((1, 1))), optax.MultiStepsState):
        return []
    return [float(_update_size(optimizer, step)) for step in steps]


@functools.partial(jax.jit, static_argnums=0)
def _update_size(optimizer: optax.GradientTransformation, step: jax.Array) -> jax.Array:
    params = jnp.ones((1, 1))

    def at_step(leaf):
        return jnp.full_like(leaf, step) if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf

    state = jax.tree.map(at_step, optimizer.init(params))
    return jnp.abs(optimizer.update(params, state, params)[0]).squeeze()


def require_rate_to_the_end(optimizer: optax.GradientTransformation, num_steps: int) -> None:
    """InputError where the optimizer's schedule ends before `num_steps` do."""
    # The very last steps of a cosine may be too small for a float.
    late = num_steps - 1 - num_steps // 100
    if update_sizes(optimizer, [late]) == [0.0]:
        raise InputError(
            f"the learning rate is 0 at step {late} of num_steps={num_steps}: the schedule ends "
            f"before the run does; let it last {num_steps} steps"
        )
