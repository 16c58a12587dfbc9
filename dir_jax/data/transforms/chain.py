"""Chains of transforms, and the texts that describe them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dir_jax.data.calls import parse_calls
from dir_jax.data.transforms.appearance import ColorJitter, RandomErasing
from dir_jax.data.transforms.base import Identity, Size, SizeRange, Transform
from dir_jax.data.transforms.framing import CenterCrop, Pad, PadSquare, RandomBorder, RandomCrop
from dir_jax.data.transforms.resizing import RandomScale, Scale
from dir_jax.data.transforms.views import view_of
from dir_jax.data.transforms.warping import RandomFlip, RandomRotation, RandomTilting


@dataclass(frozen=True, repr=False)
class Compose(Transform):
    """Transforms one after the other; its repr is the text that `parse_transforms` reads.

    Attributes:
      transforms: in the order of application; none is the identity.
    """

    transforms: tuple[Transform, ...] = ()

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        view = view_of(image)
        for transform in self.transforms:
            view = transform.view(view, rng)
        return view.image()

    def output_size(self, smallest: Size, largest: Size) -> SizeRange:
        for transform in self.transforms:
            smallest, largest = transform.output_size(smallest, largest)
        return smallest, largest

    def __repr__(self) -> str:
        return ", ".join(map(repr, self.transforms))


def parse_transforms(text: str | None) -> Compose:
    """Makes the chain of transforms that a text describes.

    Args:
      text: such as 'Scale(1050), Pad(800)'; the classes of `dir_jax.data.transforms` by their
        names, interpolations as BILINEAR or Image.BILINEAR. Blank or None is the identity.

    Raises:
      UserError: the text cannot be read, or an argument is wrong; shows where.
    """
    classes: tuple[type[Transform], ...] = (
        Identity,
        Scale,
        Pad,
        PadSquare,
        CenterCrop,
        RandomScale,
        RandomCrop,
        RandomRotation,
        RandomFlip,
        RandomTilting,
        ColorJitter,
        RandomErasing,
        RandomBorder,
    )
    filters = {method.name: method for method in Image.Resampling}
    # The original's texts were run with Pillow's Image in reach.
    filters |= {f"Image.{name}": method for name, method in filters.items()}
    constructors = {cls.__name__: cls for cls in classes}
    return Compose(tuple(parse_calls(text or "", constructors, what="transform", names=filters)))
