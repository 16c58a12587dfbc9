"""Transforms that resample an image at another size, fixed or random."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.transforms.base import (
    LazyTransform,
    Transform,
    check_flag,
    check_integer,
    check_interpolation,
    join,
    wrong,
)
from dir_jax.data.transforms.views import Size, SizeRange, View, resized, view_of
from dir_jax.fields import is_number

BILINEAR = Image.Resampling.BILINEAR


class _Resize(Transform):
    """Resizes to a target size, unless the shorter side would grow or shrink and may not.

    An image whose shorter side would stay the same is left as it is, whatever its longer side.
    """

    can_upscale: bool
    can_downscale: bool

    def _check_options(self) -> None:
        self._check("interpolation", check_interpolation, Image.Resampling)
        for name in ("largest", "can_upscale", "can_downscale"):
            self._check(name, check_flag)

    @property
    @abstractmethod
    def _most(self) -> int:
        """The largest length that the target's shorter side can have."""

    @abstractmethod
    def _targets(self, images: SizeRange) -> SizeRange:
        """Bounds of the target sizes of images within a range."""

    def _size_after(self, size: Size, target: Size) -> Size:
        change = min(target) - min(size)
        if (self.can_upscale and change > 0) or (self.can_downscale and change < 0):
            return max(target[0], 1), max(target[1], 1)  # a sliver keeps one pixel
        return size

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        images = smallest, largest
        grows, shrinks = self.can_upscale, self.can_downscale
        low, high = self._targets(images)
        # The target's shorter side lies in [shortest, longest]: those of images that grow lie below
        # `longest`, and those of images that shrink above `shortest`.
        shortest, longest = min(low), min(*high, self._most)
        grown = _with_shorter_side(images, 0, longest - 1) if grows else None
        shrunk = _with_shorter_side(images, shortest + 1, sys.maxsize) if shrinks else None
        kept = _with_shorter_side(
            images, shortest if grows else 0, longest if shrinks else sys.maxsize
        )
        ranges: list[Any] = [np.maximum(self._targets(x), 1) for x in (grown, shrunk) if x]
        return join(*ranges, *([kept] if kept else []))


@dataclass(frozen=True, repr=False)
class Scale(LazyTransform, _Resize):
    """Resizes the image; sides are rounded to the nearest integer, halves up.

    The image is left as it is where its shorter side would stay the same, or would change in a way
    that is not allowed.

    Attributes:
      size: an integer sets the shorter side in pixels; a float in ]0, 4] multiplies both sides; a
        pair is (width, height), whatever the aspect ratio.
      interpolation: one of Pillow's filters.
      largest: an integer `size` sets the longer side instead.
      can_upscale: whether the shorter side may grow.
      can_downscale: whether the shorter side may shrink.
    """

    size: int | float | tuple[int, int]
    interpolation: Image.Resampling = BILINEAR
    largest: bool = False
    can_upscale: bool = True
    can_downscale: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.size, float):
            self._check("size", check_integer, 1, ("width", "height"))
        elif not 0 < self.size <= 4:
            raise ValueError(f"size={self.size!r}, a float, multiplies the sides: 0 < size <= 4")
        self._check_options()

    def view(self, view: View, rng: np.random.Generator) -> View:
        size = self.first_size(view.size)
        return view if size == view.size else view_of(view.resize(size, self.interpolation))

    def first_size(self, size: Size) -> Size:
        return self._size_after(size, self._target(size))

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        if smallest != largest:
            return super().output_size(smallest, largest)
        size = self.first_size(smallest)
        return size, size

    @property
    def _most(self) -> int:
        if isinstance(self.size, float):
            return sys.maxsize
        return self.size if isinstance(self.size, int) else min(self.size)

    def _target(self, size: Size) -> Size:
        w, h = size
        match self.size:
            case float(factor):
                return int(0.5 + factor * w), int(0.5 + factor * h)
            case int(side):
                # The side that is set is the width if it is the shorter (longer) one.
                if (w >= h) if self.largest else (w <= h):
                    return side, int(0.5 + side * h / w)
                return int(0.5 + side * w / h), side
            case width, height:
                return width, height

    def _targets(self, images: SizeRange) -> SizeRange:
        # Each side of the target grows with its own side and shrinks with the other one, if at all.
        (w0, h0), (w1, h1) = images
        tall, flat = self._target((w0, h1)), self._target((w1, h0))
        return (tall[0], flat[1]), (flat[0], tall[1])


@dataclass(frozen=True, repr=False)
class RandomScale(LazyTransform, _Resize):
    """Resizes the image so that its shorter side is random, and maybe its aspect ratio too.

    The shorter side is drawn log-uniformly from [min_size, max_size]. Where the changed
    aspect ratio would leave the other side under min_size, both grow until it has that. As with
    Scale, an image is left as it is where its shorter side would change in a way that is not
    allowed: by default, one with a shorter side than the one drawn.

    Attributes:
      min_size: smallest side that is drawn, in pixels.
      max_size: largest side that is drawn, in pixels.
      ar: the ratio of width to height is multiplied by a factor that is drawn log-uniformly from
        [1 / ar, ar], or from a pair (low, high). All must lie in ]0.2, 5[.
      can_upscale: whether the shorter side may grow.
      can_downscale: whether the shorter side may shrink.
      interpolation: one of Pillow's filters.
      largest: the longer side is drawn instead; where the changed aspect ratio would leave the
        other side over max_size, both shrink until it has that.
    """

    min_size: int
    max_size: int
    ar: float | tuple[float, float] = 1
    can_upscale: bool = False
    can_downscale: bool = True
    interpolation: Image.Resampling = BILINEAR
    largest: bool = False

    def __post_init__(self) -> None:
        self._check("min_size", check_integer, 1)
        self._check("max_size", check_integer, self.min_size)
        self._check("ar", _check_aspect)
        self._check_options()

    def view(self, view: View, rng: np.random.Generator) -> View:
        low, high = self._aspects
        drawn = int(0.5 + _log_uniform(rng, self.min_size, self.max_size))
        side = min(max(drawn, self.min_size), self.max_size)
        target = self._target(view.size, side, _log_uniform(rng, low, high))
        size = self._size_after(view.size, target)
        if size == view.size:
            return view
        if self.interpolation == BILINEAR:
            return resized(view, size, BILINEAR)
        # A rounded bound moves the steeper filters by more than a level, and NEAREST by a pixel.
        return view_of(view.resize(size, self.interpolation))

    def first_size(self, size: Size) -> Size:
        return self.output_size(size, size)[1]

    @property
    def _most(self) -> int:
        return self.max_size

    @property
    def _aspects(self) -> tuple[float, float]:
        if isinstance(self.ar, tuple):
            return self.ar
        return min(1 / self.ar, self.ar), max(1 / self.ar, self.ar)

    def _target(self, size: Size, side: int, aspect: float) -> Size:
        w, h = size
        sets_height = w <= h if self.largest else w >= h
        other = int(0.5 + (side * w / h * aspect if sets_height else side * h / w / aspect))
        if self.largest and other > self.max_size:
            side, other = int(0.5 + side * self.max_size / other), self.max_size
        elif not self.largest and other < self.min_size:
            side, other = int(0.5 + side * self.min_size / max(other, 1)), self.min_size
        return (other, side) if sets_height else (side, other)

    def _targets(self, images: SizeRange) -> SizeRange:
        (w0, h0), (w1, h1) = images
        low, high = self._aspects
        ranges = []
        if (w0 <= h1) if self.largest else (w1 >= h0):
            (side0, side1), (other0, other1) = self._sides((w0, h0), (w1, h1), low, high)
            ranges.append(((other0, side0), (other1, side1)))
        if (h0 <= w1) if self.largest else (h1 >= w0):
            (side0, side1), (other0, other1) = self._sides((h0, w0), (h1, w1), 1 / high, 1 / low)
            ranges.append(((side0, other0), (side1, other1)))
        return join(*ranges)

    def _sides(
        self, smallest: Size, largest: Size, low: float, high: float
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Bounds of the target's side that is drawn, and of its other side.

        The images' bounds are (other side, drawn side); the factors on the other side lie in
        [low, high].
        """
        # Only images whose other side is the longer one (or, with `largest`, the shorter one).
        if self.largest:
            least, most = smallest[0] / largest[1], min(largest[0] / smallest[1], 1)
        else:
            least, most = max(smallest[0] / largest[1], 1), largest[0] / smallest[1]
        a, b = self.min_size, self.max_size
        # Products are rounded in another order than in _target: allow for it.
        other0 = int(0.5 + a * least * low * (1 - 1e-12))
        other1 = int(0.5 + b * most * high * (1 + 1e-12))
        if self.largest:
            side0 = a
            if other1 > b:
                side0 = min(a, int(b * a / (a * most * high + 0.5)))
            return (side0, b), (min(other0, b), min(other1, b))
        side1 = b if other0 >= a else max(b, int(0.5 + b * a / max(other0, 1)))
        return (a, side1), (max(other0, a), max(other1, a))


def _check_aspect(name: str, value: Any) -> float | tuple[float, ...]:
    pair = isinstance(value, tuple | list)
    low, high = value if pair and len(value) == 2 else (value, value)
    if not (is_number(low, 0.2, 5) and is_number(high, low, 5) and low > 0.2):
        raise wrong(name, value, "a number or a pair low <= high in ]0.2, 5[")
    return (low, high) if pair else low


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high] whose logarithm is uniform."""
    return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)


def _with_shorter_side(images: SizeRange, low: int, high: int) -> SizeRange | None:
    """The part of a range of sizes where the shorter side is in [low, high]; None where none is."""
    (w0, h0), (w1, h1) = images
    w0, h0 = max(w0, low), max(h0, low)
    if w0 > w1 or h0 > h1 or min(w0, h0) > high:
        return None
    # One side may be longer than `high` if the other one does not have to be.
    return (w0, h0), (w1 if h0 <= high else min(w1, high), h1 if w0 <= high else min(h1, high))
