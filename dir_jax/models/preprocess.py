"""From an image's pixels to a network's input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

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
