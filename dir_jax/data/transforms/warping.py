"""Random transforms that move an image's pixels and keep its size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dir_jax.data.transforms.base import (
    LazyTransform,
    Transform,
    check_interpolation,
    check_number,
    wrong,
)
from dir_jax.data.transforms.views import Size, View, transformed, view_of

BILINEAR = Image.Resampling.BILINEAR
_ROTATION_FILTERS = (Image.Resampling.NEAREST, BILINEAR, Image.Resampling.BICUBIC)
_DIRECTIONS = ("left", "right", "up", "down")


@dataclass(frozen=True, repr=False)
class RandomRotation(LazyTransform):
    """Rotates the image about its centre; corners that come into view are black.

    Attributes:
      degrees: the angle is drawn uniformly from [-degrees, degrees].
      interpolation: NEAREST, BILINEAR or BICUBIC.
    """

    degrees: float
    interpolation: Image.Resampling = BILINEAR

    def __post_init__(self) -> None:
        self._check("degrees", check_number, 0, 180)
        self._check("interpolation", check_interpolation, _ROTATION_FILTERS)

    def view(self, view: View, rng: np.random.Generator) -> View:
        degrees = rng.uniform(-self.degrees, self.degrees)
        if self.interpolation == Image.Resampling.NEAREST:
            # Pillow computes this map in fixed point: a part would be rounded in other places.
            return view_of(view.image().rotate(degrees))
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        x, y = view.size[0] / 2, view.size[1] / 2
        matrix = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]
        return transformed(view, matrix, self.interpolation)


@dataclass(frozen=True, repr=False)
class RandomFlip(Transform):
    """Mirrors the image left to right, with probability 1/2."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() < 0.5:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


@dataclass(frozen=True, repr=False)
class RandomTilting(Transform):
    """Tilts the image in perspective: one of its sides comes nearer and extends beyond the frame.

    The two corners of that side move outwards along it, by a whole number of pixels that is drawn
    uniformly from 1 to `magnitude` times the longer side of the image, rounded up.

    Attributes:
      magnitude: the largest move as a fraction of the longer side, in [0, 1]; 0 leaves the image as
        it is.
      directions: the sides that may come nearer, all equally likely: 'all', or some of left, right,
        up and down, as in 'left,right' or 'up-down'.
    """

    magnitude: float
    directions: str = "all"

    def __post_init__(self) -> None:
        self._check("magnitude", check_number, 0, 1)
        sides = self._sides if isinstance(self.directions, str) else ()
        if not sides or not set(sides) <= set(_DIRECTIONS):
            raise wrong("directions", self.directions, "'all', or some of left, right, up and down")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        largest = math.ceil(max(image.size) * self.magnitude)
        if largest == 0:
            return image
        move = int(rng.integers(1, largest, endpoint=True))
        homography = _tilt(image.size, self._sides[rng.integers(len(self._sides))], move)
        perspective, bicubic = Image.Transform.PERSPECTIVE, Image.Resampling.BICUBIC
        return image.transform(image.size, perspective, homography, bicubic)

    @property
    def _sides(self) -> tuple[str, ...]:
        words = self.directions.lower().replace(",", " ").replace("-", " ").split()
        return _DIRECTIONS if words == ["all"] else tuple(words)


def _tilt(size: Size, side: str, move: int) -> list[float]:
    """The map from tilted to original pixels in Pillow's form: a homography's first 8 entries."""
    w, h = size
    original = np.array([(0, 0), (w, 0), (w, h), (0, h)], float)  # clockwise from the top left
    along = (0, 1) if side in ("left", "right") else (1, 0)
    signs = {"left": (-1, 0, 0, 1), "right": (0, -1, 1, 0), "up": (-1, 1, 0, 0)}
    tilted = original + move * np.outer(signs.get(side, (0, 0, 1, -1)), along)
    # Two equations for each corner: (a x + b y + c) / (g x + h y + 1) = x of the original, and y.
    points, zeros = np.c_[tilted, np.ones(4)], np.zeros((4, 3))
    equations = np.r_[
        np.c_[points, zeros, -original[:, :1] * tilted],
        np.c_[zeros, points, -original[:, 1:] * tilted],
    ]
    return np.linalg.solve(equations, original.T.ravel()).tolist()
