"""Images as a caller of the Python interface gives them: paths, pictures, arrays, data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.datasets import create_dataset
from dir_jax.data.ground_truth import round_box
from dir_jax.data.images import ImageDataset
from dir_jax.data.pixels import as_rgb
from dir_jax.errors import UserError, shown


class _Images(ImageDataset):
    """Images of which some are files and others in memory, whole or cut to a box of each."""

    def __init__(self, images: Sequence[Any], boxes: Sequence[Sequence[float]] | None = None):
        super().__init__([_name(i, image) for i, image in enumerate(images)])
        self._images = [None if isinstance(x, str | os.PathLike) else _as_image(x) for x in images]
        self.boxes = None if boxes is None else np.array([list(map(float, b)) for b in boxes])

    def open(self, i: int) -> Image.Image:
        image = self._images[i]
        if image is None:
            picture = super().open(i)
        else:
            with self._failures_named(i):
                image.load()  # so that Pillow has turned it as the caller sees it
                picture = as_rgb(image)
        return picture if self.boxes is None else picture.crop(round_box(self.boxes[i]))

    def size(self, i: int) -> tuple[int, int]:
        image = self._images[i]
        width, height = super().size(i) if image is None else image.size
        if self.boxes is None:
            return width, height
        left, top, right, bottom = round_box(self.boxes[i])
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            box = ",".join(f"{x:g}" for x in self.boxes[i])
            raise UserError(
                f"the box {box} is not inside the image {shown(self.path(i))}, which has {width} x "
                f"{height} pixels; expected left,top,right,bottom"
            )
        return right - left, bottom - top


def as_dataset(images: Any) -> ImageDataset:
    """A data set of its words, of itself, or of images as `Model.extract` takes them."""
    if isinstance(images, str):
        return create_dataset(images)
    return images if isinstance(images, ImageDataset) else _Images(images)


def as_images(images: Any, box: Any = None) -> ImageDataset:
    """A picture or several, or a data set; `box` is that of the picture, or one for each.

    Raises:
      UserError: something is not a picture, or the boxes are not one for each picture.
    """
    if isinstance(images, ImageDataset):
        if box is not None:
            raise UserError("a box is of pictures that are given one by one, not of a data set")
        return images
    if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
        images = [images]
    images = list(images)
    if not images:
        raise UserError("there is no picture to search for")
    if box is None:
        return _Images(images)
    boxes = [box] if np.ndim(box) == 1 else list(box)
    if len(boxes) != len(images) or not all(map(_is_box, boxes)):
        raise UserError(
            f"the boxes are {shown(box)}; expected left, top, right and bottom in pixels for each "
            f"of {len(images)} pictures"
        )
    return _Images(images, boxes)


def _is_box(box: Any) -> bool:
    try:
        return len(box) == 4 and bool(np.isfinite(np.array(box, float)).all())
    except (TypeError, ValueError):
        return False


def _name(i: int, image: Any) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"number {i}"


def _as_image(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    found = type(image).__name__
    if isinstance(image, np.ndarray):
        if (image.dtype, image.ndim, image.shape[-1:]) == (np.uint8, 3, (3,)) and image.size:
            return Image.fromarray(image)
        found = f"{image.dtype} {image.shape}"
    raise UserError(f"expected a path, a Pillow image or a (H, W, 3) uint8 array, found {found}")
