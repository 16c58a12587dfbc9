"""From the pixels that a file holds, of any format, depth and size, to 8-bit RGB."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from dir_jax.data.transforms.views import Box, Size

# Orientation -> what turns an upright picture back to how its pixels are stored.
_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
_UPRIGHT = _BACK | {6: _BACK[8], 8: _BACK[6]}  # the others undo themselves
_TURNED_BY_PILLOW = ("TIFF", "HEIF")
_INTEGER_RANGES = (2**8 - 1, 2**12 - 1, 2**16 - 1, 2**31 - 1)
_STRIP = 1 << 22  # pixels
_FINER = 3  # a large picture is decoded at this many times the size that is wanted, or more
_LARGEST = 178_956_970  # pixels that are decoded whole, as many as Pillow decodes
_LARGEST_TO_SHRINK = 4 * _LARGEST  # to be in memory once, in the file's own mode
_lifting = threading.Lock()


@contextlib.contextmanager
def pillow_unlimited() -> Iterator[None]:
    """Lets Pillow open and load pictures of any size; for one thread of the process at a time."""
    with _lifting:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def too_large(size: Size) -> str:
    """What is to be said of an image that is too large to be decoded whole; '' if it is not."""
    if math.prod(size) <= _LARGEST:
        return ""
    return (
        f" has {size[0]} x {size[1]} pixels, more than the {_LARGEST:,} that are decoded as they "
        "are; make it smaller, or scale it down first, as the transforms 'Scale(1024)' do"
    )


def check_can_shrink(image: Image.Image) -> None:
    """Raises ValueError for a picture that is too large even for `decode_smaller`."""
    # A JPEG that is not progressive is decoded at an eighth of its size, without the rest.
    streamed = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    if not streamed and math.prod(image.size) > _LARGEST_TO_SHRINK:
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, more than the {_LARGEST_TO_SHRINK:,} "
            "that are decoded even to scale them down; make it smaller"
        )


def size_of(image: Image.Image, *, exif: bool) -> Size:
    """Width and height in pixels of what `as_rgb` gives, of an image that is not loaded yet."""
    turned = image.format in _TURNED_BY_PILLOW
    sideways = turned != exif and _orientation(image) in (5, 6, 7, 8)
    return image.size[::-1] if sideways else image.size


def as_rgb(image: Image.Image, *, exif: bool) -> Image.Image:
    """Loads an image as 8-bit RGB.

    With `exif` it is turned as its orientation says; otherwise its pixels are where they are
    stored, in every format. Integers of more than 8 bits are scaled by their range: 8, 12, 16 or 31
    bits, whichever is the least that holds the largest. Fractions lie in [0, 1].

    Raises:
      ValueError: it is not clear what the numbers mean; the message names the mode.
    """
    turn = _turn(image, exif)
    image.load()
    image = _as_8_bits(image if turn is None else image.transpose(turn))
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def decode_smaller(
    image: Image.Image, box: Box, size: Size, resample: Image.Resampling, *, exif: bool
) -> Image.Image:
    """A part of a large image at a smaller size, as 8-bit RGB.

    It is decoded at an integer fraction of its size, by averaging, and then resampled; the fraction
    is at least 3 times as large as what is wanted. JPEG averages while it decodes; of other formats
    all pixels are in memory once, in the file's own mode. To be called in `pillow_unlimited`.

    Args:
      image: what is not loaded yet, or is small enough to be.
      box: the part, in the pixels of what `as_rgb` would give.
      size: width and height that the part comes out in.
      resample: one of Pillow's filters.
      exif: as in `as_rgb`, which says what is raised.
    """
    left, top, right, bottom = box
    factor = max(int(min((right - left) / size[0], (bottom - top) / size[1]) / _FINER), 1)
    turn, (width, height) = _turn(image, exif), image.size
    image.draft(None, (width // factor, height // factor))
    rest = max(factor * image.width // width, 1)  # what the decoder does not do itself
    image.load()
    image = _as_8_bits(image)
    if rest > 1:
        image = _reduced(image, rest)
    if turn is not None:
        image = image.transpose(turn)
    width, height = (height, width) if turn in _SIDEWAYS else (width, height)
    across, down = image.width / width, image.height / height
    part = left * across, top * down, right * across, bottom * down
    return image.convert("RGB").resize(size, resample, part)


def _orientation(image: Image.Image) -> int:
    """How the stored pixels are to be turned, 1 to 8, of an image that is not loaded yet."""
    if image.format == "HEIF":  # pillow-heif takes it out of the EXIF data, as it has turned it
        return image.info.get("original_orientation") or 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _turn(image: Image.Image, exif: bool) -> Image.Transpose | None:
    """What is to be done to an image once it is loaded."""
    turned = image.format in _TURNED_BY_PILLOW
    return None if turned == exif else (_UPRIGHT if exif else _BACK).get(_orientation(image))


_SIDEWAYS = tuple(_BACK[orientation] for orientation in (5, 6, 7, 8))


def _as_8_bits(image: Image.Image) -> Image.Image:
    """A loaded image, with mode I, I;16… or F as L."""
    if not (image.mode == "F" or image.mode.startswith("I")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    ranges = (1,) if image.mode == "F" else _INTEGER_RANGES
    top = next((top for top in ranges if high <= top), None)
    # Between 16 and 31 bits there is no usual range.
    if not low >= 0 or top is None or (top == _INTEGER_RANGES[-1] and high <= top // 2):
        expected = "0 to 1" if image.mode == "F" else "0 to 255, 4095, 65535 or 2147483647"
        raise ValueError(
            f"its pixels, of mode {image.mode}, go from {low} to {high}; expected {expected}"
        )
    return Image.fromarray((values.astype(np.float32) * (255 / top) + 0.5).astype(np.uint8))


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """Averages squares of pixels; the image is converted to RGB a strip at a time."""
    width, height = image.size
    small = Image.new("RGB", (width // factor, height // factor))
    rows = max(_STRIP // (width * factor), 1)  # of the small image in a strip
    for top in range(0, small.height, rows):
        part = (0, top * factor, width, min((top + rows), small.height) * factor)
        small.paste(image.crop(part).convert("RGB").reduce(factor), (0, top))
    return small
