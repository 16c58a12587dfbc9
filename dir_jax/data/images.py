"""A list of image files, and how one is opened."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image

from dir_jax.errors import UserError


class ImageDataset:
    """Images by number. Picklable, so that worker processes can read it too.

    Attributes:
      names: what the list calls each image: a path relative to `root`, or a whole path.
      root: the folder that the names are relative to; '' is the current folder.
    """

    def __init__(self, names: list[str], root: str = ""):
        self.names = names
        self.root = root

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self)} images in {self.root or 'the current folder'}"

    def path(self, i: int) -> str:
        """Where image `i` is, as error messages say it."""
        return os.path.join(self.root, self.names[i])

    def open(self, i: int) -> Image.Image:
        """Decodes image `i` as RGB, its EXIF orientation ignored.

        Raises:
          UserError: it is missing or damaged; names the file.
        """
        return open_rgb(self.path(i), self.path(i))

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, from the file's header alone.

        Raises:
          UserError: it is missing or has no readable header; names the file.
        """
        return read_size(self.path(i), self.path(i))


def open_rgb(file: str | io.BytesIO, name: str) -> Image.Image:
    """Decodes an image file, or its bytes, as RGB; errors call it `name`.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        with Image.open(file) as image:
            image.load()  # converting what is RGB already would copy it
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as e:  # Pillow's many decoders raise many types on damaged files
        raise _cannot_read(name, e) from e


def read_size(file: str | io.BytesIO, name: str) -> tuple[int, int]:
    """Width and height in pixels from an image's header; errors call it `name`.

    Raises:
      UserError: it is missing, or the header makes no sense.
    """
    try:
        with Image.open(file) as image:
            return image.size
    except Exception as e:  # as in open_rgb
        raise _cannot_read(name, e) from e


def _cannot_read(name: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no image file {name}")
    if isinstance(error, Image.UnidentifiedImageError):
        return UserError(f"{name} is not an image that can be read")
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"the image {name} cannot be read: {why}")


def read_image_list(file: str, root: str = "") -> ImageDataset:
    """Reads a text file with the path of one image a row.

    Args:
      file: the list.
      root: the folder that its paths are relative to; the current folder by default.

    Raises:
      UserError: there is no such file, or it is empty.
    """
    return ImageDataset([row for _, row in read_rows(file)], root)


def read_rows(file: str) -> list[tuple[int, str]]:
    """The rows of a text file that are not blank, stripped, each after its line number.

    Raises:
      UserError: there is no such file, it is not UTF-8 text, or nothing is in it.
    """
    rows = [(n, row.strip()) for n, row in enumerate(_read_text(file).split("\n"), start=1)]
    rows = [(n, row) for n, row in rows if row]
    if not rows:
        raise UserError(f"the image list {file} is empty; expected one image a row")
    return rows


def read_json(file: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: there is no such file, it is not JSON (names the line), or something else than an
        object is in it, or an empty one.
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
        return Path(file).read_text(encoding="utf-8-sig")  # a byte-order mark is no part of a path
    except UnicodeDecodeError as e:
        raise UserError(f"the image list {file} is not UTF-8 text (byte {e.start})") from e
    except OSError as e:
        raise UserError(f"the image list {file} cannot be read: {e.strerror}") from e
