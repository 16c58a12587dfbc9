"""Images as a caller of the Python interface gives them: paths, pictures, arrays, data sets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.datasets import create_dataset
from dir_jax.data.ground_truth import round_box
from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms.views import Box, Size
from dir_jax.errors import UserError, quoted, shown


class _Images(ImageDataset):
    """Images of which some are files and others in memory, whole or cut to a box of each."""

    is_listed = False

    def __init__(self, images: Sequence[Any], boxes: Sequence[Sequence[float]] | None = None):
        super().__init__([_name(i, image) for i, image in enumerate(images)])
        self._images = [None if isinstance(x, str | os.PathLike) else _as_image(x) for x in images]
        self._boxes = boxes

    @contextlib.contextmanager
    def _image(self, i: int) -> Iterator[Image.Image]:
        image = self._images[i]
        if image is None:
            with super()._image(i) as image:
                yield image
        else:
            image.load()  # so that Pillow has turned it as the caller sees it
            yield image

    def _box(self, i: int, size: Size) -> Box:
        if self._boxes is None:
            return super()._box(i, size)
        return check_box(self._boxes[i], size, self.path(i))


def check_box(box: Sequence[float], size: Size, path: str) -> Box:
    """A box in whole pixels; raises UserError where it is not inside the picture of a path."""
    left, top, right, bottom = round_box(box)
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        text = ",".join(f"{x:g}" for x in box)
        raise UserError(
            f"the box {text} is not inside the image {shown(path)}, which has {size[0]} x {size[1]}"
            " pixels; expected left,top,right,bottom"
        )
    return left, top, right, bottom


def read_box(what: str, text: str) -> list[float]:
    """The box that a text such as '10,20,300,200' means; `what` is where the text was given."""
    try:
        box = [float(x) for x in text.split(",")]
    except ValueError:
        box = []
    if not _is_box(box):
        raise UserError(f"{what} is {quoted(text)}; expected left,top,right,bottom in pixels")
    return box


def as_dataset(images: Any) -> ImageDataset:
    """A data set of its words, of itself, or of images as `Model.extract` takes them."""
    if isinstance(images, ImageDataset):
        return images
    if isinstance(images, str | os.PathLike):
        return create_dataset(os.fspath(images))
    return _Images(_as_list(images))


def as_images(images: Any, box: Any = None) -> ImageDataset:
    """A picture or several, or a data set; `box` is that of the picture, or one for each.

    Raises:
      UserError: something is not a picture, or the boxes are not one for each picture.
    """
    if isinstance(images, ImageDataset):
        if box is not None:
            raise UserError("a box is of pictures that are given one by one, not of a data set")
        return images
    images = [images] if isinstance(images, str | os.PathLike) else _as_list(images)
    if not images:
        raise UserError("there is no picture to search for")
    if box is None:
        return _Images(images)
    boxes = [box] if np.ndim(box) == 1 else list(box)
    if len(boxes) != len(images) and all(map(_is_box, boxes)):
        raise UserError(f"{len(boxes)} boxes for {len(images)} pictures; expected one for each")
    if not all(map(_is_box, boxes)):
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


def _as_list(images: Any) -> list[Any]:
    """One image or several, as a list."""
    array = isinstance(images, np.ndarray) and images.dtype != object and images.ndim < 4
    if array or isinstance(images, Image.Image) or not isinstance(images, Iterable):
        return [images]
    return list(images)


def _name(i: int, image: Any) -> str:
    is_path = isinstance(image, str | os.PathLike)
    return os.path.expanduser(os.fspath(image)) if is_path else f"number {i}"


def _as_image(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    found = type(image).__name__
    if isinstance(image, np.ndarray):
        if (image.dtype, image.ndim, image.shape[-1:]) == (np.uint8, 3, (3,)) and image.size:
            return Image.fromarray(image)
        found = f"{image.dtype} {image.shape}"
    raise UserError(f"expected a path, a Pillow image or a (H, W, 3) uint8 array, found {found}")
