"""Small JPEG copies of pictures, as data: URIs that a page can hold."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from dir_jax.data.transforms.views import View
from dir_jax.errors import UserError
from dir_jax.runtime.progress import progress_bar

_QUALITY = 74
_MOST_THREADS = 8  # each holds a whole picture in memory

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A small copy of a picture; the sizes are width and height in pixels."""

    uri: str  # the JPEG as a data: URI
    size: tuple[int, int]
    original: tuple[int, int]


def make_thumbnails(
    open_picture: Callable[[Key], View], sides: Mapping[Key, Iterable[int]]
) -> dict[tuple[Key, int], Thumbnail | UserError]:
    """Copies pictures, several at a time; each is opened once.

    Args:
      open_picture: gives the picture of a key; it may raise UserError.
      sides: key -> the lengths in pixels of the longer sides of the copies.

    Returns:
      (key, side) -> the copy with that longer side, or why the picture cannot be opened.
    """
    made: dict[tuple[Key, int], Thumbnail | UserError] = {}

    def copy(key: Key) -> None:
        try:
            view = open_picture(key)
            image = view.small(4 * max(sides[key]))
        except UserError as e:
            made.update({(key, side): e for side in sides[key]})
            return
        for side in sorted(sides[key], reverse=True):
            # In place: the next, smaller copy is made from this one.
            uri = data_uri(small_jpeg(image, side))
            made[key, side] = Thumbnail(uri, image.size, view.size)

    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))
    try:
        with progress_bar("report", len(sides), "img", shown=True) as bar:
            for _ in pool.map(copy, sides):
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interrupt does not wait for all pictures
    return made


def small_jpeg(image: Image.Image, side: int) -> bytes:
    """A JPEG file of a picture, which is made smaller itself: its longer side is at most `side`."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # Without a comment, or Pillow would copy the one in the file.
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True, comment=b"")
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A JPEG file as a data: URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
