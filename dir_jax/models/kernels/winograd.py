"""3×3 convolutions of stride 1 in 2.25 times fewer multiplications, for CPUs.

This is F(2×2, 3×3) of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016
(arXiv:1509.09308), equation 8: each 2×2 of the output comes from 4×4 of the input through 16
products of matrices, where the plain sum has 36. In float32 it is as exact as the plain sum, since
the transforms only add, subtract and halve. In bfloat16 the transforms are float32 and their
results are rounded again, which doubles the rounding of the plain sum; networks do not notice.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dir_jax.models.kernels import plain

# Tiles below which the kernel's own transform costs more than the products save.
_FEWEST_TILES = 192


def is_faster(shape: tuple[int, ...]) -> bool:
    """Whether a map of shape (N, H, W, C) is convolved faster this way than plainly."""
    tiles = shape[0] * -(-shape[1] // 2) * -(-shape[2] // 2)
    return tiles >= _FEWEST_TILES and shape[3] >= 64


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, precision: str) -> jax.Array:
    """Convolves (N, H, W, C), padded by 1, by (3, 3, C, D) of the same type: (N, H, W, D) of it."""
    return _sum_tiles(x, _transform_kernel(kernel), precision, contracting=0)


def _sum_tiles(
    x: jax.Array, kernels: Sequence[Sequence[jax.Array]], precision: str, *, contracting: int
) -> jax.Array:
    """The convolution by a transformed kernel, whose axis `contracting` is over x's channels."""
    dtype = x.dtype
    count, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    below, right = 1 + 2 * rows - height, 1 + 2 * columns - width
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (1, below), (1, right), (0, 0)))
    inputs = [_input_parts(part, 2) for part in _input_parts(x, 1)]

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(
            a.reshape(-1, channels).astype(dtype),
            b.astype(dtype),
            (((1,), (contracting,)), ((), ())),
            precision=precision,
            preferred_element_type=jnp.float32,
        )

    products = [
        [product(a, b) for a, b in zip(*parts, strict=True)]
        for parts in zip(inputs, kernels, strict=True)
    ]
    of_columns = [_output_parts(row) for row in products]
    tiles = [jnp.stack(_output_parts(rows), axis=1) for rows in zip(*of_columns, strict=True)]
    # (tiles, 2, 2, D): a tile's rows, then its columns.
    y = jnp.stack(tiles, axis=2).reshape(count, rows, columns, 2, 2, -1)
    y = y.transpose(0, 1, 3, 2, 4, 5).reshape(count, 2 * rows, 2 * columns, -1)
    return y[:, :height, :width].astype(dtype)


def _forward(
    x: jax.Array, kernel: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, precision), (x, kernel)


def _backward(
    precision: str, inputs: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    # By the input: the convolution with the kernel turned by 180°, its channels exchanged. Turned,
    # a kernel has the same parts in another order.
    parts = _transform_kernel(kernel)
    turned = [[parts[i][j] for j in _TURNED] for i in _TURNED]
    by_input = _sum_tiles(cotangent, turned, precision, contracting=1)
    by_itself = functools.partial(plain.convolve, x, stride=1, precision=precision)
    (by_kernel,) = jax.linear_transpose(by_itself, kernel)(cotangent)
    return by_input, by_kernel


convolve.defvjp(_forward, _backward)


def _transform_kernel(kernel: jax.Array) -> list[list[jax.Array]]:
    """G k Gᵀ: 4 × 4 parts of (C, D) float32 from (3, 3, C, D)."""
    kernel = kernel.astype(jnp.float32)
    return [_kernel_parts(part) for part in _kernel_parts(kernel)]


def _kernel_parts(kernel: jax.Array) -> list[jax.Array]:
    """G along the first axis, of 3: four parts without it."""
    a, b, c = kernel
    return [a, (a + b + c) / 2, (a - b + c) / 2, c]


_TURNED = (3, 1, 2, 0)  # the parts of (c, b, a) among those of (a, b, c)


def _input_parts(x: jax.Array, axis: int) -> list[jax.Array]:
    """Bᵀ along an axis of 2n + 2: four parts of n."""
    stop = x.shape[axis] - 2
    a, b, c, d = (jax.lax.slice_in_dim(x, i, stop + min(i, 2), 2, axis) for i in range(4))
    return [a - c, b + c, c - b, b - d]


def _output_parts(parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Aᵀ: two from four."""
    a, b, c, d = parts
    return [a + b + c, b - c - d]
