"""The poolings, from a feature map to one vector: a table of them, and the centre bias.

Throughout, `sizes` are those of the images in a map, see `dir_jax.models.padding`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dir_jax.losses.clamp import clamp_min
from dir_jax.models.padding import mask_padding, mean_of_positions

_EPSILON = 1e-6  # the smallest activation, so that any power of it has a finite gradient


class GeM(nnx.Module):
    """Generalised-mean pooling, its power trainable (Radenović et al., TPAMI 2018, eq. 3)."""

    def __init__(self, p: float):
        """The power `p` is a parameter, (1,) float32."""
        self.p = nnx.Param(jax.device_put(np.array([p], np.float32)))

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32: (mean(max(x, 1e-6)^p))^(1/p)."""
        p = self.p[...]
        x = mask_padding(clamp_min(x.astype(jnp.float32), _EPSILON), sizes)
        # Powers are of x over its largest value, since those of x itself leave float32's range
        # for a large p, and the gradient is then NaN. The largest value cancels out of the result,
        # so the gradient can ignore it.
        largest = jax.lax.stop_gradient(jnp.max(x, axis=(1, 2), keepdims=True))
        means = mean_of_positions((x / largest) ** p, sizes)
        return largest[:, 0, 0] * means ** (1 / p)


class MaxPooling(nnx.Module):
    """The largest activation of each channel: MAC (Tolias et al., ICLR 2016)."""

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32."""
        return jnp.max(mask_padding(x.astype(jnp.float32), sizes, -jnp.inf), axis=(1, 2))


class AveragePooling(nnx.Module):
    """The mean activation of each channel: SPoC (Babenko and Lempitsky, ICCV 2015)."""

    def __call__(self, x: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """(N, H, W, C) -> (N, C) float32."""
        return mean_of_positions(mask_padding(x.astype(jnp.float32), sizes), sizes)


POOLINGS: dict[str, Callable[[float], nnx.Module]] = {
    "gem": GeM,
    "max": lambda gemp: MaxPooling(),
    "avg": lambda gemp: AveragePooling(),
}
"""Name -> what makes the pooling, given the power that a GeM starts from."""


def pooling_kind(name: str) -> str | None:
    """The key of `POOLINGS` that `name` means; None if there is none.

    The original toolbox takes any name that starts with 'gem' for GeM, and so do its checkpoints.
    """
    if name in POOLINGS:
        return name
    return "gem" if name.startswith("gem") else None


def create_pooling(name: str, gemp: float) -> nnx.Module:
    """The pooling of a name for which `pooling_kind` is not None."""
    return POOLINGS[pooling_kind(name) or name](gemp)


def center_bias_map(
    bias: float, height: int, width: int, sizes: jax.Array | None = None
) -> jax.Array:
    """The weights that favour an image's centre: (N, height, width, 1), with N = 1 if no `sizes`.

    They are a 4×4 grid of ones whose inner 2×2 is 1 + bias, resized bilinearly with corners
    aligned, in float32.
    """
    if sizes is None:
        sizes = jnp.array([[height, width]])
    grid = jnp.ones((4, 4)).at[1:3, 1:3].add(bias)
    by_row, by_column = _resize_matrices(height, sizes[:, 0]), _resize_matrices(width, sizes[:, 1])
    # Not at the accelerator's default precision, which may be TF32.
    return jnp.einsum("nhi,ij,nwj->nhw", by_row, grid, by_column, precision="highest")[..., None]


def _resize_matrices(length: int, sizes: jax.Array) -> jax.Array:
    """(N, length, 4) matrices that interpolate linearly from 4 samples to each of `sizes`."""
    steps = jnp.arange(length)[:, None] * 3 / jnp.maximum(sizes[:, None, None] - 1, 1)
    return jnp.maximum(0, 1 - jnp.abs(steps - jnp.arange(4)))
