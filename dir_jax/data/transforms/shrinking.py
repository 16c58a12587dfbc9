"""How CNN Image Retrieval in PyTorch resizes: Pillow's thumbnails, and torch's interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dir_jax.data.transforms.base import Transform, check_integer, check_number
from dir_jax.data.transforms.views import Size, SizeRange
from dir_jax.errors import UserError


@dataclass(frozen=True, repr=False)
class Thumbnail(Transform):
    """Shrinks the image so that no side is longer than `size`, as Pillow's `thumbnail` does.

    Lanczos's filter is used, and images that are small enough are left as they are.

    Attributes:
      size: the longest side that is left, in pixels.
    """

    size: int

    def __post_init__(self) -> None:
        self._check("size", check_integer, 1)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if max(image.size) <= self.size:
            return image
        image = image.copy()
        image.thumbnail((self.size, self.size), Image.Resampling.LANCZOS)
        return image

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        # Each side of the result grows with its own side and shrinks with the other one.
        (w0, h0), (w1, h1) = smallest, largest
        tall, flat = self._shrunk((w0, h1)), self._shrunk((w1, h0))
        return (tall[0], flat[1]), (flat[0], tall[1])

    def _shrunk(self, size: Size) -> Size:
        """The size that Pillow gives: the shorter side is that of the nearest aspect ratio."""
        w, h = size
        if max(size) <= self.size:
            return size
        aspect, side = w / h, self.size
        if aspect <= 1:
            return _nearest(side * aspect, lambda n: abs(aspect - n / side)), side
        return side, _nearest(side / aspect, lambda n: 0 if n == 0 else abs(aspect - side / n))


def _nearest(length: float, difference: Callable[[int], float]) -> int:
    return max(min(math.floor(length), math.ceil(length), key=difference), 1)


@dataclass(frozen=True, repr=False)
class Interpolate(Transform):
    """Resizes the network's input, for descriptors at several scales; the last of its chain.

    It is what torch calls interpolate(input, scale_factor=factor, mode='bilinear'): four neighbours
    in float32, without a filter against aliasing, after the pixels are normalised. So it is left to
    the device that describes images, and is of no use in training.

    Attributes:
      factor: what the sides are multiplied by, in ]0, 4]; they are rounded down.
    """

    factor: float

    def __post_init__(self) -> None:
        self._check("factor", check_number, 2**-16, 4)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        raise UserError(
            f"{self!r} comes last in a chain of transforms, and only where images are described"
        )
