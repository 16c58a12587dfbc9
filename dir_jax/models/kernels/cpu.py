"""The operations in the forms that XLA's CPU compiler is fast at."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dir_jax.models.kernels import plain, winograd


def convolve(x: jax.Array, kernel: jax.Array, stride: int, precision: str) -> jax.Array:
    """By Winograd's transform, as products of matrices, or plainly: whichever is fastest."""
    size = kernel.shape[0]
    if size == 3 and stride == 1 and winograd.is_faster(x.shape):
        return winograd.convolve(x, kernel, precision)
    # XLA's CPU compiler has no bfloat16 convolution of its own; products are worth what they copy.
    is_slow = size == 3 and x.dtype == jnp.bfloat16 and x.shape[3] >= 128
    # A matrix product is faster than the convolution it is: by far for 1×1 kernels, and sixty
    # times for maps smaller than the kernel (an image of 64 pixels ends in 2×2).
    if size == 1 or min(x.shape[1:3]) <= size * stride or is_slow:
        return _convolve_by_products(x, kernel, stride, precision, add=is_slow)
    return plain.convolve(x, kernel, stride, precision)


def _convolve_by_products(
    x: jax.Array, kernel: jax.Array, stride: int, precision: str, *, add: bool
) -> jax.Array:
    """One product of all the kernel's patches side by side; with `add`, a sum of products."""
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    height, width = (-(-s // stride) for s in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    ends = stride * height, stride * width
    # Flattened, or XLA's CPU compiler transposes all of x for the kernel's gradient.
    patches = [
        x[:, i : i + ends[0] : stride, j : j + ends[1] : stride].reshape(-1, x.shape[3])
        for i in range(size)
        for j in range(size)
    ]
    product = functools.partial(_dot, precision=precision)
    if add:
        parts = kernel.reshape(size * size, x.shape[3], -1)
        y = functools.reduce(jnp.add, map(product, patches, parts))
    else:
        matrix = jnp.concatenate(patches, axis=-1)
        y = product(matrix, kernel.reshape(matrix.shape[1], -1))
    return y.astype(x.dtype).reshape(x.shape[0], height, width, -1)


def convolve_scaled(
    x: jax.Array, kernel: jax.Array, factor: jax.Array, stride: int, precision: str
) -> jax.Array:
    """A 1×1 convolution times `factor`, with gradients that multiply no map by the factor."""
    x = x[:, ::stride, ::stride]
    matrix = x.reshape(-1, x.shape[3])
    return _scaled_product(matrix, kernel[0, 0], factor, precision).reshape(*x.shape[:3], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _scaled_product(
    a: jax.Array, kernel: jax.Array, factor: jax.Array, precision: str
) -> jax.Array:
    """(a · kernel) · factor of (M, C), (C, D) and (D,), the product rounded to a's type."""
    return _dot(a, kernel.astype(a.dtype), precision).astype(a.dtype) * factor


def _scaled_product_forward(
    a: jax.Array, kernel: jax.Array, factor: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _scaled_product(a, kernel, factor, precision), (a, kernel, factor)


def _scaled_product_backward(
    precision: str, inputs: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, ...]:
    # The factor goes with the kernel, of C·D numbers, not with the cotangent, of M·D: that would be
    # another map to write and read, beside the one that a block's shortcut takes.
    a, kernel, factor = inputs
    cotangent = cotangent.astype(a.dtype)
    by_a = _dot(cotangent, (kernel * factor).astype(a.dtype).T, precision).astype(a.dtype)
    by_product = _dot(a.T, cotangent, precision)
    return by_a, by_product * factor, jnp.sum(by_product * kernel, axis=0)


_scaled_product.defvjp(_scaled_product_forward, _scaled_product_backward)


def _dot(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    # A result in float32 is what CPUs with bfloat16 instructions are fast at.
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


@jax.custom_vjp
def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """max(x + y, 0) of finite maps.

    Written so that it ends in a sum of two maps, and as matrices, as the next product takes it:
    XLA's CPU compiler computes a map that is read twice (by the next block, and by its shortcut)
    once if it has two operands, but a function of one again for each reader, and with it all sums
    of the stage so far. −y + y is 0.
    """
    shape, width = x.shape, x.shape[-1]
    x, y = x.reshape(-1, width), y.reshape(-1, width)
    return (jnp.where(x <= -y, -y, x) + y).reshape(shape)


def _add_relu_forward(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add_relu(x, y), x <= -y


def _add_relu_backward(is_zero: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    # One map for both; derived from the sum above they would be two, equal but not seen to be.
    cotangent = jnp.where(is_zero, 0, cotangent)
    return cotangent, cotangent


add_relu.defvjp(_add_relu_forward, _add_relu_backward)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of shifted slices; equal maxima share the gradient.

    The gradient of XLA's own window reduction is a serial scatter, thirty times slower.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        # Windows start at 0, 2, …; for an even size the last row of padding is in none.
        stop = x.shape[axis] - 2
        a, b, c = (jax.lax.slice_in_dim(x, i, stop + i, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(a, b), c)
    return x
