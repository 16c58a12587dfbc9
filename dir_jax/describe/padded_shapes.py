"""Chooses a few padded shapes for images of many sizes, as each shape is compiled once.

A canvas is the shape of an array in which images that are not larger are put at the top left.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

MAX_CANVASES = 12
# What compiling a program costs, in pixels that the network could have described in that time. A
# canvas that saves less padding than this does not pay.
_PROGRAM = 4_000_000
# The sides of canvases that are larger than their images anyway are multiples of this, so that
# another list is likely to have the same ones, whose programs are compiled already.
_STEP = 16
_MAX_GROUPS = 384  # distinct sizes to begin with; if there are more, sizes are rounded up


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images that share an array."""

    canvas: tuple[int, int]  # width and height of the array in pixels
    rows: int  # how many images it has room for
    places: np.ndarray  # (n,) int64, the places of the images in the list, n <= rows
    exact: bool  # whether every image of this canvas fills it: there is no padding to mask


def choose_canvases(sizes: np.ndarray, max_canvases: int = MAX_CANVASES) -> np.ndarray:
    """Chooses at most `max_canvases` shapes that hold all the images with little padding.

    Starts with a canvas for each distinct size, and merges the two whose merger adds the fewest
    pixels of padding in all, until there are few enough and another merger would cost more than the
    program that it saves.

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
        if alive <= max_canvases and added[i, j] > _PROGRAM:
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


def plan_batches(
    sizes: np.ndarray,
    *,
    pixels: int,
    multiple: int = 1,
    max_rows: int = 64,
    canvases: np.ndarray | None = None,
) -> list[Batch]:
    """Groups images into batches of padded shapes; the same images always give the same batches.

    Args:
      sizes: (N, 2) int, width and height of each image in pixels.
      pixels: about how many pixels a batch should have; batches of a larger canvas have `multiple`
        rows.
      multiple: the number of devices; the rows of a batch are a multiple of it.
      max_rows: the most rows of a batch, rounded up to the next multiple.
      canvases: (K, 2) int, the canvases to use, by rising area; by default those chosen for
        `sizes`.

    Returns:
      Batches whose `places` together are 0 … N − 1, each once.
    """
    sizes = np.asarray(sizes, np.int64)
    if not len(sizes):
        return []
    canvases = choose_canvases(sizes) if canvases is None else np.asarray(canvases)
    assigned = _smallest_that_holds(canvases, sizes)
    batches = []
    for k, canvas in enumerate(canvases.tolist()):
        members = np.flatnonzero(assigned == k)
        if not len(members):
            continue
        rows = min(max(pixels // (canvas[0] * canvas[1]), 1), max_rows)
        while rows >= 2 * len(members):  # by halves, so that lists of similar lengths share them
            rows //= 2
        rows = -(-rows // multiple) * multiple
        exact = bool((sizes[members] == canvas).all())
        batches += [
            Batch((canvas[0], canvas[1]), rows, members[i : i + rows], exact)
            for i in range(0, len(members), rows)
        ]
    return batches


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
