"""Transforms that add a frame to an image or cut a part out of it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageOps

from dir_jax.data.transforms.base import LazyTransform, Transform, check_color, check_integer, join
from dir_jax.data.transforms.views import Size, SizeRange, View, cropped, view_of
from dir_jax.errors import UserError

GREY = (127, 127, 127)


@dataclass(frozen=True, repr=False)
class Pad(Transform):
    """Centres the image on a canvas whose shorter side is at least `size`.

    The image's shorter side (the height of a square image) grows to `size`, unless it is that long
    already. The other side stays as it is, even where it is shorter than `size`.

    Attributes:
      size: smallest length of the shorter side, in pixels.
      color: RGB colour of the canvas: three integers in [0, 255], or three fractions.
    """

    size: int
    color: tuple[int, int, int] = GREY

    def __post_init__(self) -> None:
        self._check("size", check_integer, 1)
        self._check("color", check_color)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        w, h = image.size
        size = (w, max(h, self.size)) if w >= h else (max(w, self.size), h)
        return _centre(image, size, self.color)

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        (w0, h0), (w1, h1), size = smallest, largest, self.size
        ranges = []
        if w1 >= h0:  # there may be images at least as wide as high
            ranges.append(((max(w0, h0), max(h0, size)), (w1, max(min(h1, w1), size))))
        if h1 > w0:  # there may be images higher than wide
            ranges.append(((max(w0, size), max(h0, w0 + 1)), (max(min(w1, h1 - 1), size), h1)))
        return join(*ranges)


@dataclass(frozen=True, repr=False)
class PadSquare(Transform):
    """Centres the image on a square canvas; a side longer than the canvas is cut on both ends.

    Attributes:
      size: side of the canvas in pixels; None is the longer side of the image.
      color: RGB colour of the canvas: three integers in [0, 255], or three fractions.
    """

    size: int | None = None
    color: tuple[int, int, int] = GREY

    def __post_init__(self) -> None:
        if self.size is not None:
            self._check("size", check_integer, 1)
        self._check("color", check_color)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        side = self.size or max(image.size)
        return _centre(image, (side, side), self.color)

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        low, high = self.size or max(smallest), self.size or max(largest)
        return (low, low), (high, high)


@dataclass(frozen=True, repr=False)
class RandomBorder(Transform):
    """Adds borders: one width for left and right, one for top and bottom.

    Attributes:
      min_size: smallest width in pixels; both widths are integers drawn uniformly from
        [min_size, max_size].
      max_size: largest width in pixels.
      color: RGB colour of the border: three integers in [0, 255], or three fractions.
    """

    min_size: int
    max_size: int
    color: tuple[int, int, int] = GREY

    def __post_init__(self) -> None:
        self._check("min_size", check_integer, 0)
        self._check("max_size", check_integer, self.min_size)
        self._check("color", check_color)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        bw, bh = rng.integers(self.min_size, self.max_size, size=2, endpoint=True).tolist()
        return ImageOps.expand(image, (bw, bh, bw, bh), self.color)

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        low, high = 2 * self.min_size, 2 * self.max_size
        return (smallest[0] + low, smallest[1] + low), (largest[0] + high, largest[1] + high)


@dataclass(frozen=True, repr=False)
class _Crop(LazyTransform):
    size: int | tuple[int, int]
    padding: int | tuple[int, int, int, int] = 0
    _pads: ClassVar = False  # whether a smaller image gets a black frame, instead of being refused

    def __post_init__(self) -> None:
        self._check("size", check_integer, 1, ("height", "width"))
        self._check("padding", check_integer, 0, ("left", "top", "right", "bottom"))

    @abstractmethod
    def _corner(self, free: Size, rng: np.random.Generator) -> Size:
        """Left and top of the crop, which has `free` pixels to move over and down."""

    def view(self, view: View, rng: np.random.Generator) -> View:
        crop_w, crop_h = self._output
        free_w, free_h = self._free(view.size)
        if min(free_w, free_h) < 0 and not self._pads:
            raise self._too_small(f"an image of {_by(view.size)} is", view.size)
        x, y = self._corner((free_w, free_h), rng)
        left, top, _, _ = self._borders
        box = x - left, y - top, x - left + crop_w, y - top + crop_h
        if self.padding or min(free_w, free_h) < 0:
            # Pillow fills with black what lies outside the image: the padding costs nothing.
            return view_of(view.image().crop(box))
        return cropped(view, box)

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        if min(self._free(smallest)) < 0 and not self._pads:
            which = f"an image of {_by(smallest)} is"
            if smallest != largest:
                which = f"images can be as small as {_by(smallest)} here,"
            raise self._too_small(which, smallest)
        return self._output, self._output

    @property
    def _output(self) -> Size:
        return (self.size, self.size) if isinstance(self.size, int) else self.size[::-1]

    @property
    def _borders(self) -> tuple[int, int, int, int]:
        p = self.padding
        return (p, p, p, p) if isinstance(p, int) else p

    def _free(self, size: Size) -> Size:
        left, top, right, bottom = self._borders
        crop_w, crop_h = self._output
        return size[0] + left + right - crop_w, size[1] + top + bottom - crop_h

    def _too_small(self, which: str, size: Size) -> UserError:
        left, top, right, bottom = self._borders
        padded = _by((size[0] + left + right, size[1] + top + bottom))
        return UserError(
            f"{self!r}: {which} smaller than the crop of {_by(self._output)}"
            + f" even when padded to {padded}" * bool(self.padding)
            + "; put a Scale or Pad before it that makes images larger, or use padding"
        )


@dataclass(frozen=True, repr=False)
class CenterCrop(_Crop):
    """Cuts a rectangle of a fixed size out of the middle of the image.

    A side that is shorter than the crop is padded with black on both ends.

    Attributes:
      size: side of a square in pixels, or a pair (height, width). Note that the pair of Scale is
        (width, height).
      padding: black pixels that are added before the crop, on every side alike or on (left, top,
        right, bottom).
    """

    _pads = True

    def _corner(self, free: Size, rng: np.random.Generator) -> Size:
        # Towards zero, as the original rounds: where 2n pixels are lacking, n − 1 go to the left.
        return int(0.5 + free[0] / 2), int(0.5 + free[1] / 2)


@dataclass(frozen=True, repr=False)
class RandomCrop(_Crop):
    """Cuts a rectangle of a fixed size out of the image, at a random place.

    Its arguments are those of `CenterCrop`.
    """

    def _corner(self, free: Size, rng: np.random.Generator) -> Size:
        return tuple(rng.integers(0, free, endpoint=True).tolist())


def _centre(image: Image.Image, size: Size, color: tuple[int, int, int]) -> Image.Image:
    if size == image.size:
        return image
    canvas = Image.new("RGB", size, color)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
