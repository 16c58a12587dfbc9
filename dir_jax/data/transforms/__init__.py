"""Transforms of images: resizing and framing for evaluation, and training's random augmentations.

Names, arguments and defaults are those of the original toolbox, so its texts mean the same here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dir_jax.data.calls import parse_calls
from dir_jax.data.transforms.appearance import ColorJitter, RandomErasing
from dir_jax.data.transforms.base import Identity, LazyTransform, Normalize, ToTensor, Transform
from dir_jax.data.transforms.framing import CenterCrop, Pad, PadSquare, RandomBorder, RandomCrop
from dir_jax.data.transforms.resizing import RandomScale, Scale
from dir_jax.data.transforms.shrinking import Interpolate, Thumbnail
from dir_jax.data.transforms.views import Size, SizeRange, View
from dir_jax.data.transforms.warping import RandomFlip, RandomRotation, RandomTilting
from dir_jax.errors import UserError

TRANSFORMS: dict[str, type[Transform]] = {cls.__name__: cls for cls in (
    Identity, Scale, Thumbnail, Interpolate, Pad, PadSquare, CenterCrop, RandomScale, RandomCrop,
    RandomRotation, RandomFlip, RandomTilting, ColorJitter, RandomErasing, RandomBorder, ToTensor,
    Normalize,
)}  # fmt: skip
"""Every transform that a text can name."""
INPUT_SIZE = 224  # what the published models give as `input_size`


@dataclass(frozen=True, repr=False)
class Compose(LazyTransform):
    """Applies transforms in order; its repr is a text that `parse_transforms` reads."""

    transforms: tuple[Transform, ...] = ()

    def view(self, view: View, rng: np.random.Generator) -> View:
        for transform in self.transforms:
            view = transform.view(view, rng)
        return view

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        for transform in self.transforms:
            smallest, largest = transform.output_size(smallest, largest)
        return smallest, largest

    def first_size(self, size: Size) -> Size:
        first = next((t for t in self.transforms if not isinstance(t, Identity)), Identity())
        return first.first_size(size)

    def check_normalize(
        self, where: str, *, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        """Raises UserError where a `Normalize` is not by the model's mean and std."""
        for transform in self.transforms:
            if isinstance(transform, Normalize):
                try:
                    transform.check(mean=mean, std=std)
                except UserError as e:
                    raise UserError(f"{where}: {e}") from e

    def __repr__(self) -> str:
        return ", ".join(map(repr, self.transforms))


def parse_transforms(text: str | None) -> Compose:
    """Makes the chain of transforms that a text describes.

    The text has calls of the classes in `TRANSFORMS`, such as 'Scale(1050), Pad(800)', in which an
    interpolation is BILINEAR or Image.BILINEAR. As in the original's texts, a number may be a
    product, `input_size` is 224, `mean` and `std` are the model's, and ToTensor() and Normalize(…)
    may end a chain. A blank text, or None, leaves images as they are. Raises UserError, which shows
    the place, where it cannot be read or an argument is wrong.
    """
    filters = {method.name: method for method in Image.Resampling}
    # The original evaluates its texts where Pillow's Image is in scope.
    filters |= {f"Image.{name}": method for name, method in filters.items()}
    names = {**filters, "input_size": INPUT_SIZE, "mean": "mean", "std": "std"}
    chain = parse_calls(text or "", TRANSFORMS, what="transform", names=names)
    for before, after in itertools.pairwise(chain):
        if isinstance(before, ToTensor | Normalize) and not isinstance(after, Normalize):
            raise UserError(f"{before!r} must come last, but {after!r} follows it")
    return Compose(tuple(chain))


def without_interpolation(transform: Transform) -> tuple[Transform, float]:
    """A chain without the `Interpolate` at its end, and that one's factor; 1 where it has none."""
    if isinstance(transform, Compose) and transform.transforms:
        *first, last = transform.transforms
        if isinstance(last, Interpolate):
            return Compose(tuple(first)), last.factor
    return transform, 1.0
