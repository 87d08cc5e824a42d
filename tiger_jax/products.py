"""Matrix products of rounded factors with sums in float32, forward and backward.

For networks of any kind; it knows none.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def product(spec: str, a: jax.Array, b: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """einsum of two arrays rounded to `dtype`, accumulated and returned in float32.

    Its gradient is computed the same way. Left to itself, JAX would multiply a float32 cotangent
    by a bfloat16 operand, which no matrix unit does.

    Args:
      spec: a product of matrices, batch axes first: "...XK,...YK->...XY" or "...XK,...KY->...XY".
      a: first operand.
      b: second operand.
      dtype: what the factors are rounded to; float32 for an ordinary einsum.
    """
    return jnp.einsum(spec, a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


def _product_forward(spec, a, b, dtype):
    a, b = a.astype(dtype), b.astype(dtype)
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32), (a, b)


def _product_backward(spec, dtype, operands, cotangent):
    a, b = operands
    operand_axes, out = spec.split("->")
    axes_a, axes_b = operand_axes.split(",")
    return (
        product(f"{out},{axes_b}->{axes_a}", cotangent, b, dtype),
        jax.lax.platform_dependent(
            a,
            cotangent.astype(dtype),
            cpu=functools.partial(_sum_over_rows, axes_a, out, axes_b),
            default=functools.partial(
                jnp.einsum, f"{axes_a},{out}->{axes_b}", preferred_element_type=jnp.float32
            ),
        ),
    )


def _sum_over_rows(axes_a: str, axes_b: str, out: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum of [..., T, X] and [..., T, Y] over T, in float32.

    A CPU's matrix units want the summed axis last in the first factor; given it elsewhere, XLA
    runs at a fraction of their speed. So one factor is turned, whichever moves fewer numbers.
    """
    first, second = (a, axes_a), (b, axes_b)
    if out[-2] == axes_b[-1]:
        first, second = second, first
    result_size = first[0].size // first[0].shape[-2] * second[0].shape[-1]
    if first[0].size > second[0].size + result_size:
        first, second = second, first
    (first, axes_first), (second, axes_second) = first, second
    turned_axes = axes_first[:-2] + axes_first[-1] + axes_first[-2]
    turned_out = turned_axes[:-1] + axes_second[-1]
    result = jnp.einsum(
        f"{turned_axes},{axes_second}->{turned_out}",
        _turned(first),
        second,
        preferred_element_type=jnp.float32,
    )
    if turned_out == out:
        return result
    return jnp.swapaxes(jax.lax.optimization_barrier(result), -1, -2)


def _turned(x: jax.Array) -> jax.Array:
    """[..., T, X] -> [..., X, T] in memory: a transpose that XLA cannot fold into a product."""
    one = jax.lax.optimization_barrier(jnp.ones((), x.dtype))
    flat = jax.lax.optimization_barrier((jnp.swapaxes(x, -1, -2) * one).reshape(-1))
    return flat.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2])


product.defvjp(_product_forward, _product_backward)
