"""A list of image files, and how one is opened."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from dir_jax.errors import UserError

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
          UserError: the file is missing or damaged; the message names it.
        """
        return open_rgb(self._file(i), self.path(i))

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, from the file's header alone.

        Raises:
          UserError: the file is missing or has no readable header; the message names it.
        """
        return read_size(self._file(i), self.path(i))

    def _file(self, i: int) -> str | io.BytesIO:
        """The path of image `i`, or its bytes."""
        return self.path(i)


def open_rgb(file: str | io.BytesIO, name: str) -> Image.Image:
    """Decodes an image file, given by its path or its bytes, as RGB.

    Raises:
      UserError: the file, which messages call `name`, is missing, damaged, not a regular file, or
        in none of `FORMATS`.
    """
    with _opened(file, name) as image:
        image.load()  # converting what is RGB already would copy it
        return image if image.mode == "RGB" else image.convert("RGB")


def read_size(file: str | io.BytesIO, name: str) -> tuple[int, int]:
    """Width and height of an image in pixels, from its header; otherwise as `open_rgb`."""
    with _opened(file, name) as image:
        return image.size


@contextlib.contextmanager
def _opened(file: str | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """An image whose header has been read; any failure within becomes a UserError."""
    try:
        with contextlib.ExitStack() as stack:
            content = stack.enter_context(_open_regular(file)) if isinstance(file, str) else file
            yield stack.enter_context(Image.open(content, formats=_formats()))
    except FileNotFoundError as e:
        raise UserError(f"there is no image file {name}") from e
    except Image.UnidentifiedImageError as e:
        known = ", ".join(_formats())
        raise UserError(f"{name} is not an image in a supported format: {known}") from e
    except Exception as e:  # Pillow's many decoders raise many types on damaged files
        why = getattr(e, "strerror", None) or str(e) or type(e).__name__
        raise UserError(f"the image {name} cannot be read: {why}") from e


def _open_regular(path: str) -> BinaryIO:
    """Opens a file for reading. A pipe or a device would never end, or never begin."""
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError("it is a folder")
        if not stat.S_ISREG(mode):
            raise OSError("it is a pipe, a socket or a device, not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


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
    """The stripped rows of a text file, without blank ones, each with its line number.

    Raises:
      UserError: the file cannot be read, is not UTF-8 text, or has no rows.
    """
    rows = [(n, row.strip()) for n, row in enumerate(_read_text(file).split("\n"), start=1)]
    rows = [(n, row) for n, row in rows if row]
    if not rows:
        raise UserError(f"the image list {file} is empty; expected a row for each image")
    return rows


def read_json(file: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: the file cannot be read, is not JSON (the message names the line), or does not hold
        an object with something in it.
    """
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
