"""From a feature map to one vector."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_EPSILON = 1e-6  # the least activation, so that any power of it has a finite gradient


class GeM(nnx.Module):
    """Generalised-mean pooling, its power trainable (Radenović et al., TPAMI 2018, eq. 3)."""

    def __init__(self, p: float):
        """`p` is (1,) float32."""
        self.p = nnx.Param(jnp.full(1, p, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32: (mean(max(x, 1e-6)^p))^(1/p)."""
        p = self.p[...]
        x = jnp.maximum(x.astype(jnp.float32), _EPSILON)
        # Powers of the share of the largest: those of x itself leave float32's range for a large
        # p, and the gradient is then NaN. It cancels out, so the gradient need not know of it.
        largest = jax.lax.stop_gradient(jnp.max(x, axis=(1, 2), keepdims=True))
        means = jnp.mean((x / largest) ** p, axis=(1, 2))
        return largest[:, 0, 0] * means ** (1 / p)


class MaxPooling(nnx.Module):
    """The largest activation, MAC (Tolias et al., ICLR 2016)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32."""
        return jnp.max(x.astype(jnp.float32), axis=(1, 2))


class AveragePooling(nnx.Module):
    """The mean activation, SPoC."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32."""
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def create_pooling(name: str, gemp: float) -> nnx.Module:
    """The pooling called 'max', 'avg', or anything that starts with 'gem'."""
    if name == "max":
        return MaxPooling()
    return AveragePooling() if name == "avg" else GeM(gemp)


def center_bias_map(bias: float, height: int, width: int) -> jax.Array:
    """Weights that favour an image's centre: (height, width, 1) float32.

    A 4×4 grid of ones whose inner 2×2 is 1 + bias, resized bilinearly with corners aligned.
    """
    grid = np.ones((4, 4), np.float32)
    grid[1:3, 1:3] += bias
    resized = _resize_matrix(4, height) @ grid @ _resize_matrix(4, width).T
    return jnp.asarray(resized, jnp.float32)[..., None]


def _resize_matrix(source: int, target: int) -> np.ndarray:
    """(target, source): linear interpolation whose first and last samples are the source's."""
    positions = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(source)))
