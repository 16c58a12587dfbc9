"""From an image's pixels to a network's input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an RGB image in [0, 1] becomes a network's input: minus `mean`, over `std`."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def normalize(
    images: jax.typing.ArrayLike, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Normalises RGB pixels in 0 … 255, (..., 3) uint8: (x / 255 − mean) / std, in float32."""
    x = jnp.asarray(images).astype(jnp.float32) / 255
    return (x - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def interpolate(
    images: jax.Array, sizes: jax.Array | None, factor: float
) -> tuple[jax.Array, jax.Array | None]:
    """Resizes images as torch.nn.functional.interpolate(…, scale_factor=factor, mode='bilinear').

    That is how Radenović et al., TPAMI 2018, describe an image at several scales. A value comes
    from its four nearest neighbours; pixels are squares, whose corners are aligned.

    Args:
      images: (N, H, W, 3) float32; each image is at the top left of its H × W.
      sizes: (N, 2) int32, each image's height and width; None where images fill the array.
      factor: what the sides are multiplied by; they are rounded down, to at least 1.

    Returns:
      The images, (N, H', W', 3), whose padding is not zero, and their sizes.
    """
    for axis in (2, 1):
        side = images.shape[axis]
        shrunk = np.maximum([int(length * factor) for length in range(side + 1)], 1)
        # In float32, as there: where a neighbour lies exactly between two pixels, it decides.
        places = (np.arange(shrunk[-1], dtype=np.float32) + 0.5) * np.float32(1 / factor) - 0.5
        places = np.maximum(places, np.float32(0))
        low = places.astype(np.int32)
        last = jnp.array([[side - 1]]) if sizes is None else sizes[:, axis - 1 : axis] - 1
        shape = (1, -1, 1) if axis == 2 else (-1, 1, 1)
        share = jnp.asarray(places - low).reshape(shape)
        near, far = (
            jnp.take_along_axis(
                images, jnp.minimum(i, last).reshape(len(last), *shape), axis, mode="clip"
            )
            for i in (low, low + 1)
        )
        images = (1 - share) * near + share * far
        if sizes is not None:
            sizes = sizes.at[:, axis - 1].set(jnp.asarray(shrunk, sizes.dtype)[last[:, 0] + 1])
    return images, sizes
