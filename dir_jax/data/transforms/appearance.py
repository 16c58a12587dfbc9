"""Random transforms that change an image's colours but not its geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageStat

from dir_jax.data.transforms.base import Transform, check_number


@dataclass(frozen=True, repr=False)
class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue, in random order, as torchvision does.

    Attributes:
      brightness: the factor is drawn uniformly from [max(0, 1 - brightness), 1 + brightness].
      contrast: the range of its factor, in the same way.
      saturation: the range of its factor, in the same way.
      hue: the shift is drawn uniformly from [-hue, hue], as a fraction of the colour circle; at
        most 0.5.
    """

    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    hue: float = 0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, check_number, 0, 255)
        self._check("hue", check_number, 0, 0.5)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        steps: list[tuple[Callable[[Image.Image, float], Image.Image], float]] = []
        for amount, adjust in (
            (self.brightness, adjust_brightness),
            (self.contrast, adjust_contrast),
            (self.saturation, adjust_saturation),
        ):
            if amount > 0:
                steps.append((adjust, rng.uniform(max(0, 1 - amount), 1 + amount)))
        if self.hue > 0:
            steps.append((adjust_hue, rng.uniform(-self.hue, self.hue)))
        for i in rng.permutation(len(steps)):
            step, drawn = steps[i]
            image = step(image, drawn)
        return image


@dataclass(frozen=True, repr=False)
class RandomErasing(Transform):
    """Covers a random rectangle of the image with noise (Zhong et al., arXiv 1708.04896).

    The rectangle's width is drawn uniformly from area / 2 to area times the image's width, and its
    height in the same way from the image's height. It lies anywhere within the image.

    Attributes:
      area: the largest fraction of each side that is covered, in [0, 1].
    """

    area: float

    def __post_init__(self) -> None:
        self._check("area", check_number, 0, 1)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        sides = np.array(image.size)
        low, high = (sides * (self.area / 2)).astype(int), (sides * self.area).astype(int)
        width, height = rng.integers(low, high, endpoint=True).tolist()
        if not width or not height:
            return image
        x, y = rng.integers(0, sides - (width, height), endpoint=True).tolist()
        image = image.copy()
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        image.paste(Image.fromarray(noise), (x, y))
        return image


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blends an RGB image with black: 0 is black, 1 is the image, more is brighter."""
    return _blend_with_grey(image, 0, factor)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blends an RGB image with its mean luminance: 0 is grey, 1 is the image."""
    mean = ImageStat.Stat(image.convert("L")).mean[0]
    return _blend_with_grey(image, int(mean + 0.5), factor)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blends an RGB image with its luminance: 0 has no colour, 1 is the image."""
    return ImageEnhance.Color(image).enhance(factor)


def adjust_hue(image: Image.Image, shift: float) -> Image.Image:
    """Rotates an RGB image's hues by a fraction `shift` of the circle, in [-0.5, 0.5]."""
    steps = int(shift * 255)  # of 256: torchvision's way
    turned = [(level + steps) % 256 for level in range(256)]
    return image.convert("HSV").point(turned + 2 * list(range(256))).convert("RGB")


def _blend_with_grey(image: Image.Image, grey: int, factor: float) -> Image.Image:
    # What ImageEnhance does to a whole image, applied to the 256 levels instead: 5 times faster.
    levels = Image.frombytes("L", (256, 1), bytes(range(256)))
    table = Image.blend(Image.new("L", levels.size, grey), levels, factor)
    return image.point(list(table.tobytes()) * 3)
