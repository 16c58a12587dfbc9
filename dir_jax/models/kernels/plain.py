"""The operations as XLA offers them: for GPUs and TPUs, whose compilers know them."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def convolve(x: jax.Array, kernel: jax.Array, stride: int, precision: str) -> jax.Array:
    """(N, H, W, C) by a (size, size, C, D) kernel, padded by (size − 1) / 2."""
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def convolve_scaled(
    x: jax.Array, kernel: jax.Array, factor: jax.Array, stride: int, precision: str
) -> jax.Array:
    """The same times `factor`, (D,) float32: float32.

    The factor goes with the kernel, of C·D numbers. With the map it would be one more pass over it,
    and the factor's own gradient would take the convolution again.
    """
    kernel = (kernel * factor).astype(x.dtype)
    return convolve(x, kernel, stride, precision).astype(jnp.float32)


def add_relu(x: jax.Array, y: jax.Array) -> jax.Array:
    """max(x + y, 0)."""
    return jax.nn.relu(x + y)


def max_pool(x: jax.Array) -> jax.Array:
    """3×3 windows, stride 2, padded by 1."""
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        window_dimensions=(1, 3, 3, 1),
        window_strides=(1, 2, 2, 1),
        padding=((0, 0), (1, 1), (1, 1), (0, 0)),
    )
