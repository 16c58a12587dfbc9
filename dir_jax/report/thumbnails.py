"""Small JPEG copies of pictures, as text that a page can hold."""

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
      size: its width and height in pixels.
      original: width and height of the picture it is of.
    """

    uri: str
    size: tuple[int, int]
    original: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture to copy.

    Attributes:
      open: gives it; may raise UserError.
      sides: the longer sides, in pixels, to copy it at.
    """

    open: Callable[[], Image.Image]
    sides: frozenset[int]


def make_thumbnails(
    pictures: Mapping[Key, Picture], *, progress: bool = True
) -> dict[tuple[Key, int], Thumbnail | UserError]:
    """Copies pictures, each opened once, several at a time.

    Args:
      pictures: under any keys.
      progress: show a bar with the rate.

    Returns:
      (key, side) -> the copy at that side, or why the picture cannot be opened.
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
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for all pictures
    return made


def _copies(picture: Picture) -> dict[int, Thumbnail] | UserError:
    try:
        image = picture.open()
    except UserError as e:
        return e
    original = image.size
    made = {}
    for side in sorted(picture.sides, reverse=True):
        image.thumbnail((side, side), Image.Resampling.LANCZOS)  # in place: the next is of this one
        made[side] = Thumbnail(_data_uri(image), image.size, original)
    return made


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    # Without the comment, which Pillow would copy from the file.
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True, comment=b"")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
