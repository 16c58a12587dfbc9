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
from tqdm import tqdm

from dir_jax.errors import UserError

_QUALITY = 74
_MOST_THREADS = 8  # each holds a whole picture in memory

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A small copy of a picture.

    Attributes:
      uri: the JPEG as a data: URI.
      size: the width and height of the copy in pixels.
      original: the width and height of the original picture in pixels.
    """

    uri: str
    size: tuple[int, int]
    original: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture to copy.

    Attributes:
      open: decodes the picture; may raise UserError.
      sides: the lengths in pixels of the copies' longer sides.
    """

    open: Callable[[], Image.Image]
    sides: frozenset[int]


def make_thumbnails(
    pictures: Mapping[Key, Picture], *, progress: bool = True
) -> dict[tuple[Key, int], Thumbnail | UserError]:
    """Copies pictures, several at a time; each is opened once.

    Args:
      pictures: the pictures to copy, under any keys.
      progress: whether to show a progress bar with the rate.

    Returns:
      (key, side) -> the copy with that longer side, or why the picture cannot be opened.
    """
    made: dict[tuple[Key, int], Thumbnail | UserError] = {}
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))
    try:
        copies: Iterable[dict[int, Thumbnail] | UserError] = tqdm(
            pool.map(_copies, pictures.values()),
            total=len(pictures),
            desc="report",
            unit="img",
            leave=False,
            disable=not progress,
        )
        for (key, picture), copy in zip(pictures.items(), copies, strict=True):
            for side in picture.sides:
                made[key, side] = copy if isinstance(copy, UserError) else copy[side]
    finally:
        pool.shutdown(cancel_futures=True)  # so that an interrupt does not wait for all pictures
    return made


def _copies(picture: Picture) -> dict[int, Thumbnail] | UserError:
    try:
        image = picture.open()
    except UserError as e:
        return e
    original = image.size
    made = {}
    for side in sorted(picture.sides, reverse=True):
        # In place: the next, smaller copy is made from this one.
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        made[side] = Thumbnail(_data_uri(image), image.size, original)
    return made


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    # Without a comment, or Pillow would copy the one in the file.
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True, comment=b"")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
