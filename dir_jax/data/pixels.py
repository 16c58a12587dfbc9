"""From the pixels that a file holds, of any format and depth, to 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

# Orientation -> what undoes the turn that Pillow gives it.
_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
_INTEGER_RANGES = (2**8 - 1, 2**12 - 1, 2**16 - 1, 2**31 - 1)


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels as they are stored, of an image that is not loaded yet."""
    width, height = image.size
    turned = image.format == "TIFF" and image.tag_v2.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)  # type: ignore[attr-defined]
    return (height, width) if turned else (width, height)


def as_rgb(image: Image.Image) -> Image.Image:
    """Loads an image as 8-bit RGB, with its pixels where they are stored.

    Orientation is ignored in every format. Integers of more than 8 bits are scaled by their range:
    8, 12, 16 or 31 bits, whichever is the least that holds the largest. Fractions lie in [0, 1].

    Raises:
      ValueError: it is not clear what the numbers mean; the message names the mode.
    """
    # Pillow turns TIFF as it loads it, and no other format.
    orientation = image.getexif().get(ExifTags.Base.Orientation) if image.format == "TIFF" else 1
    image.load()
    if orientation in _BACK:
        image = image.transpose(_BACK[orientation])
    if image.mode == "RGB":
        return image  # converting it would copy it
    deep = image.mode == "F" or image.mode.startswith("I")
    return (_scaled(image) if deep else image).convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """An image of mode I, I;16… or F as one of 8 bits."""
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
