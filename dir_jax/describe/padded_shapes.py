"""Chooses a few padded shapes for images of many sizes, as each shape is compiled once.

A canvas is the shape of an array in which images that are not larger are put at the top left.

Which program describes an image depends on the image's size and on the shapes that were chosen, and
on nothing else: parts of a list, on any number of devices, get the bytes of the whole list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MAX_CANVASES = 12
# What compiling a program costs, in pixels that the network could have described in that time. A
# canvas that saves less padding than this does not pay. An accelerator describes hundreds of
# megapixels a second, and its compiler takes several times as long, as it also times algorithms.
PROGRAM_CPU, PROGRAM_ACCELERATOR = 4_000_000, 2_000_000_000  # the second estimated, not measured
# The sides of canvases that are larger than their images anyway are multiples of this, so that
# another list is likely to have the same ones, whose programs are compiled already.
_STEP = 16
_MAX_GROUPS = 384  # distinct sizes to begin with; if there are more, sizes are rounded up
_SAMPLE = 2048  # images of a list that shapes are chosen for


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images that share an array."""

    canvas: tuple[int, int]  # width and height of the array in pixels
    rows: int  # how many images it has room for
    places: np.ndarray  # (n,) int64, the places of the images in the list, n <= rows
    exact: bool  # whether every image of the batch fills it: there is no padding to mask


class Shape(NamedTuple):
    """What one device is given at once; each is a program of its own."""

    width: int
    height: int
    rows: int
    exact: bool  # whether its images fill it: there is no padding to mask


@dataclasses.dataclass(frozen=True)
class Room:
    """How much one device is given at once.

    Attributes:
      pixels: about how many pixels; a canvas that is larger has one row.
      rows: the most images.
      program: what compiling a shape's program costs, in pixels described in that time.
    """

    pixels: int
    rows: int = 64
    program: int = PROGRAM_CPU

    def for_canvas(self, width: int, height: int) -> int:
        """How many images of a canvas there is room for."""
        return min(max(self.pixels // (width * height), 1), self.rows)


def sample_places(total: int) -> np.ndarray:
    """The places of a list of `total` images, evenly spread, for which shapes are chosen."""
    return np.arange(total) if total <= _SAMPLE else np.arange(_SAMPLE) * total // _SAMPLE


def choose_canvases(
    sizes: np.ndarray, max_canvases: int = MAX_CANVASES, *, program: float = PROGRAM_CPU
) -> np.ndarray:
    """Chooses at most `max_canvases` shapes that hold all the images with little padding.

    Starts with a canvas for each distinct size, and merges the two whose merger adds the fewest
    pixels of padding in all, until there are few enough and another merger would cost more than the
    `program` that it saves, in pixels.

    `sizes` is (N, 2) int, width and height of each image in pixels, N > 0; the result is (K, 2)
    int64, width and height of each canvas, the smallest area first.
    """
    groups, count = _distinct(np.asarray(sizes, np.int64))
    area = groups.prod(axis=1) * count
    # added[i, j]: the pixels that merging i and j adds; inf for those already merged.
    added = _merged_area(groups, count, np.arange(len(groups))[:, None])
    added = added - area[:, None] - area
    np.fill_diagonal(added, np.inf)
    alive = len(groups)
    while alive > 1:
        i, j = np.unravel_index(np.argmin(added), added.shape)
        if alive <= max_canvases and added[i, j] > program:
            break
        groups[i] = np.maximum(groups[i], groups[j])
        count[i], count[j] = count[i] + count[j], 0
        area = groups.prod(axis=1) * count
        row = _merged_area(groups, count, i) - area[i] - area
        row[(count == 0) | (np.arange(len(groups)) == i)] = np.inf
        added[i], added[:, i] = row, row
        added[j], added[:, j] = np.inf, np.inf
        alive -= 1
    return _fit(groups[count > 0], np.asarray(sizes, np.int64))


def choose_shapes(scales: Sequence[np.ndarray], room: Room, *, share: float = 1) -> list[Shape]:
    """Chooses padded shapes for a list of images that are described at some scales.

    Args:
      scales: (N, 2) int for each scale, width and height of each image in pixels.
      room: how much one device is given at once.
      share: how much of the list these images are.
    """
    sizes = np.concatenate([np.asarray(each, np.int64) for each in scales])
    if not len(sizes):
        return []
    canvases = choose_canvases(sizes, program=room.program * share)
    members = [
        np.bincount(_smallest_that_holds(canvases, each), minlength=len(canvases))
        for each in scales
        if len(each)
    ]
    assigned = _smallest_that_holds(canvases, sizes)
    shapes = []
    for k, (width, height) in enumerate(canvases.tolist()):
        if not (assigned == k).any():
            continue
        rows = room.for_canvas(width, height)
        while rows >= 2 * max(each[k] for each in members) / share:
            rows //= 2  # by halves, so that lists of similar lengths share them
        exact = bool((sizes[assigned == k] == canvases[k]).all())
        shapes.append(Shape(width, height, rows, exact))
    return shapes


def plan_batches(
    sizes: np.ndarray, shapes: Sequence[Shape], room: Room, *, devices: int = 1
) -> list[Batch]:
    """Groups images into batches of padded shapes; the same images always give the same batches.

    An image takes the smallest shape that holds it. Where there is none, because the shapes were
    chosen for others, its sides are rounded up.

    Args:
      sizes: (N, 2) int, width and height of each image in pixels.
      shapes: from `choose_shapes`.
      room: how much one device is given at once.
      devices: how many devices share a batch; each gets a shape.

    Returns:
      Batches whose `places` together are 0 … N − 1, each once.
    """
    sizes = np.asarray(sizes, np.int64)
    if not len(sizes):
        return []
    canvases = np.array([shape[:2] for shape in shapes], np.int64).reshape(-1, 2)
    found: dict[Shape, list[np.ndarray]] = {shape: [] for shape in shapes}
    distinct, inverse = np.unique(sizes, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    order = np.argsort(inverse, kind="stable")
    for size, places in zip(
        distinct.tolist(),
        np.split(order, np.searchsorted(inverse[order], range(1, len(distinct)))),
        strict=True,
    ):
        holding = np.flatnonzero((canvases >= size).all(axis=1))
        if len(holding):
            shape = shapes[holding[0]]
            if shape.exact and size != list(shape[:2]):
                shape = shape._replace(exact=False)
        else:
            width, height = map(_rounded_up, size)
            shape = Shape(width, height, room.for_canvas(width, height), exact=False)
        found.setdefault(shape, []).append(places)
    batches = []
    for (width, height, rows, exact), groups in found.items():
        members = np.sort(np.concatenate(groups)) if groups else np.zeros(0, np.int64)
        batches += [
            Batch((width, height), rows * devices, members[i : i + rows * devices], exact)
            for i in range(0, len(members), rows * devices)
        ]
    return batches


def _rounded_up(side: int) -> int:
    """A side of few possible ones, at most an eighth longer."""
    step = max(_STEP, 1 << max(side.bit_length() - 4, 0))
    return -(-side // step) * step


def _distinct(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = 1
    while True:
        groups, count = np.unique(-(-sizes // step) * step, axis=0, return_counts=True)
        if len(groups) <= _MAX_GROUPS:
            return groups, count
        step *= 2


def _merged_area(groups: np.ndarray, count: np.ndarray, i: Any) -> np.ndarray:
    """The pixels, padding included, of each group's images merged with those of group(s) i."""
    return np.maximum(groups[i], groups).prod(axis=-1) * (count[i] + count).astype(float)


def _fit(canvases: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Shrinks canvases to what they hold when each image takes the smallest that holds it."""
    canvases = canvases[np.argsort(canvases.prod(axis=1), kind="stable")]
    while True:
        assigned = _smallest_that_holds(canvases, sizes)
        members = [sizes[assigned == k] for k in range(len(canvases))]
        fitted = np.unique([_around(m) for m in members if len(m)], axis=0)
        fitted = fitted[np.argsort(fitted.prod(axis=1), kind="stable")]
        # Stops when nothing is gained: as sides are rounded up, this could go on for ever.
        if _area(fitted, sizes) >= _area(canvases, sizes):
            return canvases
        canvases = fitted


def _area(canvases: np.ndarray, sizes: np.ndarray) -> int:
    """The pixels of all images with their padding."""
    return int(canvases.prod(axis=1)[_smallest_that_holds(canvases, sizes)].sum())


def _around(members: np.ndarray) -> np.ndarray:
    largest = members.max(axis=0)
    return largest if (members == largest).all() else -(-largest // _STEP) * _STEP


def _smallest_that_holds(canvases: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,): for each image the first canvas, by rising area, that is as wide and as high."""
    holds = (sizes[:, None] <= canvases).all(axis=2)
    return holds.argmax(axis=1)
