"""A list of image files, and how one is opened."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Never, Self

import numpy as np
from PIL import Image

from dir_jax.data.pixels import (
    as_rgb,
    check_can_shrink,
    decode_smaller,
    pillow_unlimited,
    size_of,
    too_large,
)
from dir_jax.data.transforms.views import Box, Size, View, view_of
from dir_jax.errors import ImageError, UserError, shown
from dir_jax.runtime.files import open_regular

# What a picture may be. Pillow knows many more formats, some of which start other programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_HEIF = {b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")}

# How the names of such files end, which tells them from other files and from labels.
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".jpe", ".jfif", ".gif", ".apng", ".bmp", ".dib", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".mpo", ".avif", ".avifs", ".heic", ".heif",
)  # fmt: skip


NO_FILE = "there is no image file"


def is_picture(name: str) -> bool:
    """Whether a file's name ends as that of a picture."""
    return name[-6:].lower().endswith(SUFFIXES)


class ImageDataset:
    """Images by number. Picklable, so that worker processes can read it too.

    Attributes:
      names: each image's path as its list gives it, relative to `root` or absolute.
      root: the folder to which the names are relative; '' is the current folder.
      pairs: (P, 2) int64, matching pairs of images by number, where the data set lists such pairs.
      exif: whether images are turned as their EXIF data says.
      is_listed: whether the names are those of a list, not given one by one.
    """

    pairs: np.ndarray | None = None
    exif = False
    is_listed = True

    def __init__(self, names: Sequence[str], root: str = ""):
        self.names = names
        self.root = root

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self)} images in {self.root or 'the current folder'}"

    def __str__(self) -> str:
        return f"{len(self)} images in {self.root or 'the current folder'}"

    def path(self, i: int) -> str:
        """The path of image `i`, as error messages show it."""
        return os.path.join(self.root, self.names[i])

    def with_exif(self, exif: bool) -> Self:
        """The same images, and queries where there are any, turned by their EXIF data or not."""
        if exif == self.exif:
            return self
        other = copy.copy(self)
        other.exif = exif
        if queries := getattr(self, "queries", None):
            vars(other)["queries"] = queries.with_exif(exif)
        return other

    def open(self, i: int) -> Image.Image:
        """Decodes image `i` as 8-bit RGB; see `pixels.as_rgb`.

        Raises:
          UserError: the file, which is named, is missing, damaged, in none of `FORMATS`, or too
            large.
        """
        return self.view(i).image()

    def view(self, i: int, *, whole: bool = False) -> View:
        """Image `i` as a view, which can be scaled down even where it is too large for `open`.

        A query is cropped to its box, unless `whole`. Raises as `open`.
        """
        with self._failures_named(i), self._image(i) as image:
            size = size_of(image, exif=self.exif)
            everything = (0, 0, *size)
            box = everything if whole else self._box(i, size)
            if not too_large(size):
                image = as_rgb(image, exif=self.exif)
                return view_of(image if box == everything else image.crop(box))

        def pull(_: Box) -> Never:
            raise ImageError(f"the image {shown(self.path(i))}{too_large(size)}")

        def scaled(size: Size, resample: Image.Resampling) -> Image.Image:
            with self._failures_named(i), self._image(i) as image, pillow_unlimited():
                return decode_smaller(image, box, size, resample, exif=self.exif)

        return View((box[2] - box[0], box[3] - box[1]), pull, scaled)

    def size(self, i: int) -> Size:
        """Width and height in pixels of what `open` gives, from the header; raises as `open`.

        Images that are too large for `open`, but not to be scaled down, have a size too.
        """
        with self._failures_named(i), self._image(i) as image:
            if too_large(image.size):
                check_can_shrink(image)
            left, top, right, bottom = self._box(i, size_of(image, exif=self.exif))
            return right - left, bottom - top

    def _box(self, i: int, size: Size) -> Box:
        """The part of image `i`, of this size, that is described."""
        del i
        return (0, 0, *size)

    @contextlib.contextmanager
    def _image(self, i: int) -> Iterator[Image.Image]:
        """Image `i`, of which only the header has been read."""
        with self._file(i) as file, _read_header(file) as image:
            yield image

    def _file(self, i: int) -> BinaryIO:
        return open_regular(self.path(i))

    def _is_heif(self, i: int) -> bool:
        with self._file(i) as file:
            return file.read(12)[4:] in _HEIF

    @contextlib.contextmanager
    def _failures_named(self, i: int) -> Iterator[None]:
        """Makes any failure with image `i` an ImageError that names its file."""
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as e:
            raise ImageError(f"{NO_FILE} {shown(self.path(i))}") from e
        except Image.UnidentifiedImageError as e:
            path, known = shown(self.path(i)), ", ".join(_formats())
            if "HEIF" not in known and self._is_heif(i):
                raise ImageError(
                    f"{path} is a HEIC (HEIF) picture; reading those needs the package "
                    "pillow-heif: pip install pillow-heif"
                ) from e
            raise ImageError(f"{path} is not an image in a supported format: {known}") from e
        except Exception as e:  # Pillow's many decoders raise many types on damaged files
            why = getattr(e, "strerror", None) or str(e) or type(e).__name__
            raise ImageError(f"the image {shown(self.path(i))} cannot be read: {shown(why)}") from e


def _read_header(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except Image.DecompressionBombError:
        with pillow_unlimited():
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
