"""Images of which only the part that is needed is computed.

A crop throws away half of what a rotation before it computed. In a chain, such transforms therefore
pass on a `View`: the last one is asked for pixels, and asks the one before it for those it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]  # (width, height) in pixels
SizeRange = tuple[Size, Size]  # each side's smallest, each side's largest
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class View:
    """An image that is computed when its pixels are asked for."""

    size: Size
    pull: Callable[[Box], Image.Image]  # computes the pixels of a box, which lies within the size
    # Makes it smaller, where that takes less memory than `pull`; None where it does not.
    scaled: Callable[[Size, Image.Resampling], Image.Image] | None = None

    def image(self) -> Image.Image:
        """Computes the whole image."""
        return self.pull((0, 0, *self.size))

    def resize(self, size: Size, resample: Image.Resampling) -> Image.Image:
        """The whole image at another size, by one of Pillow's filters."""
        if self.scaled is not None:
            return self.scaled(size, resample)
        return self.image().resize(size, resample)

    def small(self, side: int) -> Image.Image:
        """The whole image or, where it takes less memory, a copy whose longer side is `side`."""
        if self.scaled is None:
            return self.image()
        factor = side / max(self.size)
        width, height = (max(round(length * factor), 1) for length in self.size)
        return self.scaled((width, height), Image.Resampling.BILINEAR)


def view_of(image: Image.Image) -> View:
    """A view of an image that is computed already."""
    whole = (0, 0, *image.size)
    return View(image.size, lambda box: image if box == whole else image.crop(box))


def transformed(view: View, matrix: list[float], resample: Image.Resampling) -> View:
    """The image under an affine map, resampled by BILINEAR or BICUBIC.

    With a matrix (a, b, c, d, e, f), the result shows at (x, y) what the image shows at
    (ax + by + c, dx + ey + f), and black where that lies outside the image.
    """
    a, b, c, d, e, f = matrix

    def pull(box: Box) -> Image.Image:
        left, top, right, bottom = box
        corners = [(x, y) for x in (left, right) for y in (top, bottom)]
        across = [a * x + b * y + c for x, y in corners]
        down = [d * x + e * y + f for x, y in corners]
        width, height = view.size
        # Interpolation looks at no more than two neighbours on each side.
        x0, x1 = (min(max(x, 0), width) for x in (int(min(across)) - 3, int(max(across)) + 4))
        y0, y1 = (min(max(y, 0), height) for y in (int(min(down)) - 3, int(max(down)) + 4))
        moved = (a, b, a * left + b * top + c - x0, d, e, d * left + e * top + f - y0)
        size = right - left, bottom - top
        if x0 >= x1 or y0 >= y1:
            return Image.new("RGB", size)
        part = view.pull((x0, y0, x1, y1))
        return part.transform(size, Image.Transform.AFFINE, moved, resample)

    return View(view.size, pull)


def resized(view: View, size: Size, resample: Image.Resampling) -> View:
    """The image at another size.

    Pillow stores the bounds of a part in single precision, so some pixels of a part differ from
    those of the whole by one of 255 levels. Do not use it in a transform whose pixels must be those
    of the original.
    """
    if view.scaled is not None:
        return view_of(view.resize(size, resample))
    width, height = view.size
    across, down = width / size[0], height / size[1]

    def pull(box: Box) -> Image.Image:
        left, top, right, bottom = box
        end = min(right * across, width), min(bottom * down, height)
        source = (left * across, top * down, *end)
        return view.image().resize((right - left, bottom - top), resample, source)

    return View(size, pull)


def cropped(view: View, box: Box) -> View:
    """A part of the image."""
    left, top, right, bottom = box
    return View(
        (right - left, bottom - top),
        lambda part: view.pull((left + part[0], top + part[1], left + part[2], top + part[3])),
    )
