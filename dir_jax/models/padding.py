"""Images of several sizes in one array: each is at the top left, and the rest is padding.

A network gives each image what it would give the image alone if padding counts as what lies beyond
an image's edge: zeros where a convolution looks at neighbours, nothing where positions are pooled.
It does not matter what padding holds otherwise. Throughout, `sizes` is (N, 2) int32, the height and
width of each image's own part of a map, or None where images fill the array.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def reduced(sizes: jax.Array | None, factor: int) -> jax.Array | None:
    """The sizes after layers whose strides multiply to `factor`, rounded up at each of them."""
    return sizes if sizes is None or factor == 1 else -(-sizes // factor)


def mask_padding(x: jax.Array, sizes: jax.Array | None, value: float = 0) -> jax.Array:
    """Sets the padding of (N, H, W, C) to `value`."""
    if sizes is None:
        return x
    rows = jnp.arange(x.shape[1]) < sizes[:, :1]
    columns = jnp.arange(x.shape[2]) < sizes[:, 1:]
    return jnp.where((rows[:, :, None] & columns[:, None])[..., None], x, value)


def mean_of_positions(x: jax.Array, sizes: jax.Array | None) -> jax.Array:
    """The mean over each image's own positions: (N, H, W, C), 0 in padding -> (N, C)."""
    if sizes is None:
        return jnp.mean(x, axis=(1, 2))
    return jnp.sum(x, axis=(1, 2)) / jnp.prod(sizes, axis=1, keepdims=True)
