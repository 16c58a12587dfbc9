"""Transforms of images: resizing and framing for evaluation, and training's random augmentations.

Names, arguments and defaults are those of the original toolbox, so its texts mean the same here.
"""

from dir_jax.data.transforms.appearance import ColorJitter, RandomErasing
from dir_jax.data.transforms.base import Identity, Transform
from dir_jax.data.transforms.chain import Compose, parse_transforms
from dir_jax.data.transforms.framing import CenterCrop, Pad, PadSquare, RandomBorder, RandomCrop
from dir_jax.data.transforms.resizing import RandomScale, Scale
from dir_jax.data.transforms.warping import RandomFlip, RandomRotation, RandomTilting

__all__ = [
    "CenterCrop", "ColorJitter", "Compose", "Identity", "Pad", "PadSquare", "RandomBorder",
    "RandomCrop", "RandomErasing", "RandomFlip", "RandomRotation", "RandomScale", "RandomTilting",
    "Scale", "Transform", "parse_transforms",
]  # fmt: skip
