"""From a feature map to one vector.

`sizes` are those of the images in a map, see `dir_jax.models.padding`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from dir_jax.models.padding import mask_padding, mean_of_positions

_EPSILON = 1e-6  # the least activation, so that any power of it has a finite gradient


class GeM(nnx.Module):
    """Generalised-mean pooling, its power trainable (Radenović et al., TPAMI 2018, eq. 3)."""

    def __init__(self, p: float):
        """`p` is (1,) float32."""
        self.p = nnx.Param(jnp.full(1, p, jnp.float32))

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32: (mean(max(x, 1e-6)^p))^(1/p)."""
        p = self.p[...]
        x = mask_padding(jnp.maximum(x.astype(jnp.float32), _EPSILON), sizes)
        # Powers of the share of the largest: those of x itself leave float32's range for a large
        # p, and the gradient is then NaN. It cancels out, so the gradient need not know of it.
        largest = jax.lax.stop_gradient(jnp.max(x, axis=(1, 2), keepdims=True))
        means = mean_of_positions((x / largest) ** p, sizes)
        return largest[:, 0, 0] * means ** (1 / p)


class MaxPooling(nnx.Module):
    """The largest activation, MAC (Tolias et al., ICLR 2016)."""

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32."""
        return jnp.max(mask_padding(x.astype(jnp.float32), sizes, -jnp.inf), axis=(1, 2))


class AveragePooling(nnx.Module):
    """The mean activation, SPoC."""

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32."""
        return mean_of_positions(mask_padding(x.astype(jnp.float32), sizes), sizes)


def create_pooling(name: str, gemp: float) -> nnx.Module:
    """The pooling called 'max', 'avg', or anything that starts with 'gem'."""
    if name == "max":
        return MaxPooling()
    return AveragePooling() if name == "avg" else GeM(gemp)


def center_bias_map(
    bias: float, height: int, width: int, sizes: jax.Array | None = None
) -> jax.Array:
    """Weights that favour an image's centre: (N, height, width, 1) float32, N = 1 without `sizes`.

    A 4×4 grid of ones whose inner 2×2 is 1 + bias, resized bilinearly with corners aligned.
    """
    if sizes is None:
        sizes = jnp.array([[height, width]])
    grid = jnp.ones((4, 4)).at[1:3, 1:3].add(bias)
    by_row, by_column = _resize_matrices(height, sizes[:, 0]), _resize_matrices(width, sizes[:, 1])
    # Not at the accelerator's default precision, which may be TF32.
    return jnp.einsum("nhi,ij,nwj->nhw", by_row, grid, by_column, precision="highest")[..., None]


def _resize_matrices(length: int, sizes: jax.Array) -> jax.Array:
    """(N, length, 4): linear interpolation from 4 samples to each of `sizes`, ends on ends."""
    steps = jnp.arange(length)[:, None] * 3 / jnp.maximum(sizes[:, None, None] - 1, 1)
    return jnp.maximum(0, 1 - jnp.abs(steps - jnp.arange(4)))
