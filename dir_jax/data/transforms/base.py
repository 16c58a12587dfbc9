"""The base of every transform: it changes an image, and knows which sizes can come out."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.transforms.views import Size, SizeRange, View, view_of
from dir_jax.errors import UserError, quoted
from dir_jax.fields import is_whole

LONGEST_SIDE = 65_535  # pixels, the limit of JPEG: a larger argument is a mistake


@dataclasses.dataclass(frozen=True, repr=False)
class Transform(ABC):
    """A change to an image. Immutable, comparable, picklable; its repr can be parsed again.

    Constructors raise ValueError for an argument that makes no sense.
    """

    @abstractmethod
    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Changes an RGB image to another, or returns the image itself; never changes it in place.

        All that is random comes from `rng`. Raises UserError for an image that is too small.
        """

    def view(self, view: View, rng: np.random.Generator) -> View:
        """Changes an image of which only a part may be needed."""
        return view_of(self(view.image(), rng))

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        """The smallest and largest (width, height) of the results, whatever is drawn.

        They are equal only where the size is fixed. Each image is at least as wide and as high as
        `smallest`, and at most as `largest`, both (width, height) in pixels. Raises UserError where
        an image within the bounds is too small for this transform.
        """
        return smallest, largest

    def first_size(self, size: Size) -> Size:
        """The largest size in which the pixels of an image of this size are needed at first.

        It is another one only where the first thing that is done is to scale the image.
        """
        return size

    def __repr__(self) -> str:
        arguments = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            shown = value.name if isinstance(value, Image.Resampling) else repr(value)
            if field.default is dataclasses.MISSING:
                arguments.append(shown)
            elif value != field.default:
                arguments.append(f"{field.name}={shown}")
        return f"{type(self).__name__}({', '.join(arguments)})"

    def _check(self, name: str, check: Callable[..., object], *options: object) -> None:
        """Replaces an argument by what one of the `check_…` returns, in __post_init__."""
        object.__setattr__(self, name, check(name, getattr(self, name), *options))


class LazyTransform(Transform):
    """A transform whose result can be computed in part: it has a `view` of its own."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return self.view(view_of(image), rng).image()


@dataclasses.dataclass(frozen=True, repr=False)
class Identity(Transform):
    """Leaves the image as it is."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image


@dataclasses.dataclass(frozen=True, repr=False)
class ToTensor(Identity):
    """Does nothing: images become arrays of [0, 1] after the last transform, with or without it."""


@dataclasses.dataclass(frozen=True, repr=False)
class Normalize(Identity):
    """Does nothing: the model normalises its input by its own mean and standard deviation.

    Attributes:
      mean: of the red, green and blue channel in [0, 1]; refused if it is not the model's.
      std: the standard deviation, in the same way.
    """

    mean: str | tuple[float, ...] = "mean"
    std: str | tuple[float, ...] = "std"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            self._check(name, _check_channels)

    def check(self, **model: tuple[float, ...]) -> None:
        """Raises UserError unless its `mean` and `std` are the model's, or stand for them."""
        for name, own in model.items():
            given = getattr(self, name)
            if given != name and any(abs(a - b) > 1e-6 for a, b in zip(given, own, strict=True)):
                raise UserError(
                    f"{self!r}: the model's {name} is {list(own)}, and it was trained with that; "
                    "leave Normalize out, or give the same"
                )


def _check_channels(name: str, value: object) -> str | tuple[float, ...]:
    if value == name:
        return name
    if isinstance(value, tuple | list) and len(value) == 3:
        return tuple(check_number(name, each, -1000, 1000) for each in value)
    raise wrong(name, value, f"three numbers, or {name}, which is the model's")


def join(*ranges: SizeRange) -> SizeRange:
    """The smallest range that covers all given ranges."""
    sizes = np.array(ranges)  # (ranges, 2 bounds, 2 sides)
    low, high = sizes[:, 0].min(axis=0).tolist(), sizes[:, 1].max(axis=0).tolist()
    return (low[0], low[1]), (high[0], high[1])


def check_integer(
    name: str, value: object, low: int, parts: tuple[str, ...] = ()
) -> int | tuple[Any, ...]:
    """Checks pixels: an integer in [low, LONGEST_SIDE], or a tuple with one for each of `parts`."""
    if parts and isinstance(value, tuple | list):
        if len(value) != len(parts):
            raise wrong(name, value, f"a number or ({', '.join(parts)})")
        return tuple(check_integer(name, each, low) for each in value)
    if is_whole(value, low, LONGEST_SIDE):
        return int(value)  # type: ignore[call-overload]
    raise wrong(name, value, f"an integer from {low} to {LONGEST_SIDE}")


def check_number(name: str, value: object, low: float, high: float) -> float:
    """Checks that an argument is a number in [low, high]; an integer stays an integer."""
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise wrong(name, value, f"a number from {low} to {high}")


def check_flag(name: str, value: object) -> bool:
    """Checks that an argument is True or False."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise wrong(name, value, "True or False")


def check_color(name: str, color: object) -> tuple[int, ...]:
    """Checks an RGB colour: three integers in [0, 255], or three fractions of 255."""
    if isinstance(color, tuple | list) and len(color) == 3:
        with contextlib.suppress(ValueError):
            if all(isinstance(c, Integral) for c in color):
                return tuple(int(check_number(name, c, 0, 255)) for c in color)
            return tuple(int(255 * check_number(name, c, 0, 1)) for c in color)
    raise wrong(name, color, "three integers from 0 to 255 or three fractions from 0 to 1")


def check_interpolation(
    name: str, value: object, allowed: Iterable[Image.Resampling]
) -> Image.Resampling:
    """Checks one of Pillow's resampling filters, given as itself or by its number."""
    for method in allowed:
        if method == value and not isinstance(value, bool):
            return method
    raise wrong(name, value, f"one of {', '.join(method.name for method in allowed)}")


def wrong(name: str, value: object, expected: str) -> ValueError:
    """The error of an argument that makes no sense."""
    return ValueError(f"{name}={quoted(value)} should be {expected}")
