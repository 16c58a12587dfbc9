"""A list of image files, and how one is opened."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from dir_jax.data.pixels import as_rgb, stored_size
from dir_jax.errors import UserError, shown
from dir_jax.runtime.files import check_inside, check_name, open_regular
from dir_jax.runtime.reading import read_rows

# What a picture may be. Pillow knows many more formats, some of which start other programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


class ImageDataset:
    """Images by number. Picklable, so that worker processes can read it too.

    Attributes:
      names: each image's path as its list gives it, relative to `root` or absolute.
      root: the folder to which the names are relative; '' is the current folder.
      pairs: (P, 2) int64, matching pairs of images by number, where the data set lists such pairs.
    """

    pairs: np.ndarray | None = None

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
        """Decodes image `i` as 8-bit RGB, its orientation ignored; see `pixels.as_rgb`.

        Raises:
          UserError: the file, which is named, is missing, damaged, or in none of `FORMATS`.
        """
        with self._failures_named(i), self._file(i) as file, _read_header(file) as image:
            return as_rgb(image)

    def size(self, i: int) -> tuple[int, int]:
        """Width and height of image `i` in pixels, from the header alone; raises as `open`."""
        with self._failures_named(i), self._file(i) as file, _read_header(file) as image:
            return stored_size(image)

    def _file(self, i: int) -> BinaryIO:
        return open_regular(self.path(i))

    @contextlib.contextmanager
    def _failures_named(self, i: int) -> Iterator[None]:
        """Makes any failure with image `i` a UserError that names its file."""
        try:
            yield
        except FileNotFoundError as e:
            raise UserError(f"there is no image file {shown(self.path(i))}") from e
        except Image.UnidentifiedImageError as e:
            path, known = shown(self.path(i)), ", ".join(_formats())
            raise UserError(f"{path} is not an image in a supported format: {known}") from e
        except Image.DecompressionBombError as e:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise UserError(
                f"the image {shown(self.path(i))} has more than {most:,} pixels; make it smaller"
            ) from e
        except Exception as e:  # Pillow's many decoders raise many types on damaged files
            why = getattr(e, "strerror", None) or str(e) or type(e).__name__
            raise UserError(f"the image {shown(self.path(i))} cannot be read: {shown(why)}") from e


def _read_header(file: BinaryIO) -> Image.Image:
    return Image.open(file, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads, and HEIF where pillow-heif is installed."""
    # Half the size that Pillow refuses; its warning says nothing that a user could do.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    Image.init()
    found = tuple(name for name in FORMATS if name in Image.OPEN)
    if importlib.util.find_spec("pillow_heif") is None:
        return found
    import pillow_heif

    pillow_heif.register_heif_opener()
    return (*found, "HEIF")


def read_image_list(file: str, root: str = "") -> ImageDataset:
    """Reads a text file that has the path of one image, relative to `root`, in each row."""
    rows, where = read_list(file)
    return ImageDataset(check_names(rows, root, where), root)


def read_list(file: str) -> tuple[list[str], Callable[[int], str]]:
    """The rows of a list of images that are not blank, and where each of them is."""
    rows = [(number, row) for number, row in read_rows(file) if row]
    if not rows:
        raise UserError(f"the image list {file} is empty; expected a row for each image")
    return [row for _, row in rows], lambda i: f"{file}, line {rows[i][0]}"


def check_names(names: list[str], root: str, where: Callable[[int], str]) -> list[str]:
    """The names of images, which lie in the root folder if there is one; other lists' are paths.

    Raises:
      UserError: a name leads out of the folder, or no file can have it; `where` says what has it.
    """
    for i, name in enumerate(names):
        try:
            if root:
                check_inside(root, name)
            else:
                check_name(name)
        except UserError as e:
            raise UserError(f"{where(i)}: {e}") from e
    return names
