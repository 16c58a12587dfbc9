"""The base of every transform: it changes an image, and knows which sizes can come out."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from numbers import Integral

import numpy as np
from PIL import Image

from dir_jax.data.transforms.views import Size, View, view_of

SizeRange = tuple[Size, Size]  # each side's smallest, each side's largest

LONGEST_SIDE = 65_535  # pixels, the limit of JPEG: a larger argument is a mistake


@dataclasses.dataclass(frozen=True, repr=False)
class Transform(ABC):
    """A change to an image. Immutable, comparable, picklable; its repr can be parsed again.

    Constructors raise ValueError for an argument that makes no sense; `parse_transforms` turns that
    into a UserError that shows where the argument is.
    """

    @abstractmethod
    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Changes an image.

        Args:
          image: an RGB image, which is not changed in place.
          rng: the only source of randomness.

        Returns:
          An RGB image, which may be `image` itself.

        Raises:
          UserError: the image is too small for this transform.
        """

    def view(self, view: View, rng: np.random.Generator) -> View:
        """Changes an image that is not computed yet, and of which only a part may be wanted."""
        return view_of(self(view.image(), rng))

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        """Bounds the sizes that can come out.

        Args:
          smallest: (width, height); every image is at least that wide and that high.
          largest: (width, height); every image is at most that wide and that high.

        Returns:
          The same two bounds for the results. They hold whatever random numbers are drawn, and are
          equal only where the size is fixed.

        Raises:
          UserError: an image within the bounds is too small for this transform.
        """
        return smallest, largest

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

    def _normalize(self, name: str, value: object) -> None:
        """Replaces an argument by its normal form; for use in __post_init__ only."""
        object.__setattr__(self, name, value)


class LazyTransform(Transform):
    """A transform whose result can be computed in part."""

    @abstractmethod
    def view(self, view: View, rng: np.random.Generator) -> View:
        """Changes an image that is not computed yet; see `Transform.view`."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return self.view(view_of(image), rng).image()


@dataclasses.dataclass(frozen=True, repr=False)
class Identity(Transform):
    """Leaves the image as it is."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return image


def join(*ranges: SizeRange) -> SizeRange:
    """The smallest range that covers all given ranges, of which there must be at least one."""
    sizes = np.array(ranges)  # (ranges, 2 bounds, 2 sides)
    low, high = sizes[:, 0].min(axis=0).tolist(), sizes[:, 1].max(axis=0).tolist()
    return (low[0], low[1]), (high[0], high[1])


def check_integer(name: str, value: object, low: int) -> int:
    """Checks an argument that counts pixels.

    Raises:
      ValueError: it is not an integer in [low, LONGEST_SIDE].
    """
    good = isinstance(value, Integral) and not isinstance(value, bool)
    if not good or not low <= int(value) <= LONGEST_SIDE:  # type: ignore[call-overload]
        raise ValueError(f"{name}={value!r} should be an integer from {low} to {LONGEST_SIDE}")
    return int(value)  # type: ignore[call-overload]


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Checks that an argument is a finite number in [low, high]; an integer stays an integer.

    Raises:
      ValueError: it is not such a number.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if good and low <= value <= high and math.isfinite(value):  # type: ignore[operator, arg-type]
        return value  # type: ignore[return-value]
    bounds = f" from {low}" * math.isfinite(low) + f" to {high}" * math.isfinite(high)
    raise ValueError(f"{name}={value!r} should be a number{bounds}")


def check_color(color: object) -> tuple[int, int, int]:
    """Checks an RGB colour: three integers in [0, 255], or three fractions of 255.

    Raises:
      ValueError: it is neither of these.
    """
    if isinstance(color, tuple | list) and len(color) == 3:
        try:
            if all(isinstance(c, Integral) for c in color):
                red, green, blue = (int(check_number("color", c, 0, 255)) for c in color)
            else:
                red, green, blue = (int(255 * check_number("color", c, 0, 1)) for c in color)
            return red, green, blue
        except ValueError:
            pass
    raise ValueError(
        f"color={color!r} should be three integers from 0 to 255 or three fractions from 0 to 1"
    )


def check_interpolation(value: object, allowed: tuple[Image.Resampling, ...]) -> Image.Resampling:
    """Checks one of Pillow's resampling filters, given as itself or by its number.

    Raises:
      ValueError: it is not one of those allowed.
    """
    for method in allowed:
        if method == value and not isinstance(value, bool):
            return method
    names = ", ".join(method.name for method in allowed)
    raise ValueError(f"interpolation={value!r} should be one of {names}")
