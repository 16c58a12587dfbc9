"""A list of image files, and how one is opened."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from dir_jax.errors import UserError
from dir_jax.runtime.files import open_regular

# What a picture may be. Pillow knows many more formats, some of which start other programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


class ImageDataset:
    """Images by number. Picklable, so that worker processes can read it too.

    Attributes:
      names: each image's path as its list gives it, relative to `root` or absolute.
      root: the folder to which the names are relative; '' is the current folder.
    """

    def __init__(self, names: list[str], root: str = ""):
        self.names = names
        self.root = root

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self)} images in {self.root or 'the current folder'}"

    def path(self, i: int) -> str:
        """The path of image `i`, as error messages show it."""
        return os.path.join(self.root, self.names[i])

    def open(self, i: int) -> Image.Image:
        """Decodes image `i` as RGB, its EXIF orientation ignored.

        Raises:
          UserError: the file is missing, damaged, not a regular file, or in none of `FORMATS`; the
            message names it.
        """
        with self._opened(i) as image:
            image.load()  # converting what is RGB already would copy it
            return image if image.mode == "RGB" else image.convert("RGB")

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, from the header alone; raises as `open`."""
        with self._opened(i) as image:
            return image.size

    def _file(self, i: int) -> BinaryIO:
        return open_regular(self.path(i))

    @contextlib.contextmanager
    def _opened(self, i: int) -> Iterator[Image.Image]:
        """An image whose header has been read; any failure within becomes a UserError."""
        try:
            with self._file(i) as file, Image.open(file, formats=_formats()) as image:
                yield image
        except FileNotFoundError as e:
            raise UserError(f"there is no image file {self.path(i)}") from e
        except Image.UnidentifiedImageError as e:
            known = ", ".join(_formats())
            raise UserError(f"{self.path(i)} is not an image in a supported format: {known}") from e
        except Exception as e:  # Pillow's many decoders raise many types on damaged files
            why = getattr(e, "strerror", None) or str(e) or type(e).__name__
            raise UserError(f"the image {self.path(i)} cannot be read: {why}") from e


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads, and HEIF where pillow-heif is installed."""
    Image.init()
    found = tuple(name for name in FORMATS if name in Image.OPEN)
    if importlib.util.find_spec("pillow_heif") is None:
        return found
    import pillow_heif

    pillow_heif.register_heif_opener()
    return (*found, "HEIF")


def read_image_list(file: str, root: str = "") -> ImageDataset:
    """Reads a text file that has the path of one image, relative to `root`, in each row."""
    return ImageDataset([row for _, row in read_rows(file)], root)


def read_rows(file: str) -> list[tuple[int, str]]:
    """The stripped rows of a UTF-8 text file, without blank ones, each with its line number."""
    rows = [(n, row.strip()) for n, row in enumerate(_read_text(file).split("\n"), start=1)]
    rows = [(n, row) for n, row in rows if row]
    if not rows:
        raise UserError(f"the image list {file} is empty; expected a row for each image")
    return rows


def read_json(file: str) -> dict[str, Any]:
    """The object in a JSON file, which must have something in it."""
    try:
        content = json.loads(_read_text(file))
    except json.JSONDecodeError as e:
        raise UserError(f"{file}, line {e.lineno}: not JSON: {e.msg}") from e
    except RecursionError as e:
        raise UserError(f"{file}: not an image list: nested too deeply") from e
    expected = 'expected an object such as {"path of an image": "its label"}'
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}; {expected}")
    if not content:
        raise UserError(f"the image list {file} is empty; {expected}")
    return content


def _read_text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")  # a byte-order mark is not part of a path
    except UnicodeDecodeError as e:
        raise UserError(f"the image list {file} is not UTF-8 text (byte {e.start})") from e
    except OSError as e:
        raise UserError(f"the image list {file} cannot be read: {e.strerror}") from e
