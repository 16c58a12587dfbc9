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
        return open_rgb(self.path(i), self.path(i))

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, from the file's header alone.

        Raises:
          UserError: the file is missing or has no readable header; the message names it.
        """
        return read_size(self.path(i), self.path(i))


def open_rgb(file: str | io.BytesIO, name: str) -> Image.Image:
    """Decodes an image as RGB.

    Args:
      file: the path of a regular file, or the file's bytes.
      name: what error messages call it.

    Raises:
      UserError: the file is missing, damaged, not a regular file, or in none of `FORMATS`.
    """
    with _opened(file, name) as image:
        image.load()  # converting what is RGB already would copy it
        return image if image.mode == "RGB" else image.convert("RGB")


def read_size(file: str | io.BytesIO, name: str) -> tuple[int, int]:
    """Reads the width and height of an image in pixels from its header.

    Args:
      file: the path of a regular file, or the file's bytes.
      name: what error messages call it.

    Raises:
      UserError: the file is missing, not a regular file, in none of `FORMATS`, or its header makes
        no sense.
    """
    with _opened(file, name) as image:
        return image.size


@contextlib.contextmanager
def _opened(file: str | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """An image of which the header is read; whatever fails meanwhile becomes a UserError."""
    try:
        with contextlib.ExitStack() as stack:
            content = stack.enter_context(_open_regular(file)) if isinstance(file, str) else file
            yield stack.enter_context(Image.open(content, formats=_formats()))
    except UserError:
        raise
    except Exception as e:  # Pillow's many decoders raise many types on damaged files
        raise _cannot_read(name, e) from e


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


def _cannot_read(name: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no image file {name}")
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(
            f"{name} is not an image in a format that is read: {', '.join(_formats())}"
        )
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"the image {name} cannot be read: {why}")


def read_image_list(file: str, root: str = "") -> ImageDataset:
    """Reads a text file that has the path of one image in each row.

    Args:
      file: the list.
      root: the folder that its paths are relative to; the current folder by default.

    Raises:
      UserError: the file does not exist or is empty.
    """
    return ImageDataset([row for _, row in read_rows(file)], root)


def read_rows(file: str) -> list[tuple[int, str]]:
    """The stripped rows of a text file, without blank ones, each with its line number.

    Raises:
      UserError: the file does not exist, is not UTF-8 text, or has no rows.
    """
    rows = [(n, row.strip()) for n, row in enumerate(_read_text(file).split("\n"), start=1)]
    rows = [(n, row) for n, row in rows if row]
    if not rows:
        raise UserError(
            f"the image list {file} is empty; expected the path of one image in each row"
        )
    return rows


def read_json(file: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: the file does not exist, is not JSON (the message names the line), or holds
        something other than an object, or an empty one.
    """
    try:
        content = json.loads(_read_text(file))
    except json.JSONDecodeError as e:
        raise UserError(f"{file}, line {e.lineno}: not JSON: {e.msg}") from e
    except RecursionError as e:
        raise UserError(f"{file}: not an image list: nested too deeply") from e
    if not isinstance(content, dict):
        raise UserError(
            f"{file} holds a {type(content).__name__}; expected an object of image path: label"
        )
    if not content:
        raise UserError(f"the image list {file} is empty; expected image path: label in it")
    return content


def _read_text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")  # a byte-order mark is not part of a path
    except UnicodeDecodeError as e:
        raise UserError(f"the image list {file} is not UTF-8 text (byte {e.start})") from e
    except OSError as e:
        raise UserError(f"the image list {file} cannot be read: {e.strerror}") from e
