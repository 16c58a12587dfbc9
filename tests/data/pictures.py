"""Small pictures, in memory and on disk, and how the tests of transforms apply and compare them."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(width, height, seed=0):
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def write_image(path: Path, size=(12, 8), color=(200, 10, 30), **options) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)
    return path.as_posix()


def apply(transform, image, seed=0):
    before = image.tobytes()
    result = transform(image, np.random.default_rng(seed))
    assert image.tobytes() == before  # the input is left as it is
    assert result.mode == "RGB"
    return result


def assert_same(a, b):
    assert a.size == b.size
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
