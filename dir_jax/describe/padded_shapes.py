"""A few padded shapes for images of many sizes: each shape is compiled once.

A canvas is the shape of an array in which images that are not larger stand at the top left.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

MAX_CANVASES = 12
# What compiling a program costs, in pixels that the network could have described meanwhile: below
# this it does not pay to have one canvas more.
_PROGRAM = 4_000_000
# Sides of canvases that are larger than their images anyway: another list may then have the same,
# whose programs are compiled already.
_STEP = 16
_MAX_GROUPS = 384  # distinct sizes to begin with; larger sets are rounded to a coarser grid


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images that share an array.

    Attributes:
      canvas: (width, height) of the array.
      rows: how many images the array has room for.
      places: (n,) int64, which images, n <= rows.
      exact: every image of this canvas fills it, so there is no padding to mask.
    """

    canvas: tuple[int, int]
    rows: int
    places: np.ndarray
    exact: bool


def choose_canvases(sizes: np.ndarray, max_canvases: int = MAX_CANVASES) -> np.ndarray:
    """Chooses shapes that hold all the images with little padding.

    Begins with a canvas for each distinct size, and merges the two whose merging adds the fewest
    pixels of padding in all, until they are few enough and another merger costs more than the
    program that it saves.

    Args:
      sizes: (N, 2) int, width and height of each image; N > 0.
      max_canvases: how many shapes there may be.

    Returns:
      (K, 2) int64, width and height of each canvas, K <= max_canvases, the smallest area first.
    """
    groups, count = _distinct(np.asarray(sizes, np.int64))
    area = groups.prod(axis=1) * count
    # added[i, j]: the pixels that merging i and j adds; inf for those that are no more.
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
      sizes: (N, 2) int, width and height of each image.
      pixels: about how many a batch should have; a canvas with more has `multiple` rows.
      multiple: rows of a batch are a multiple of it: the number of devices.
      max_rows: the most rows a batch has, up to the next multiple.
      canvases: (K, 2) int, those to use, by rising area; by default those chosen for `sizes`.

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
    """Pixels, padding included, of each group's images together with those of group(s) i."""
    return np.maximum(groups[i], groups).prod(axis=-1) * (count[i] + count).astype(float)


def _fit(canvases: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Shrinks canvases to what they hold when each image takes the smallest there is."""
    canvases = canvases[np.argsort(canvases.prod(axis=1), kind="stable")]
    while True:
        assigned = _smallest_that_holds(canvases, sizes)
        members = [sizes[assigned == k] for k in range(len(canvases))]
        fitted = np.unique([_around(m) for m in members if len(m)], axis=0)
        fitted = fitted[np.argsort(fitted.prod(axis=1), kind="stable")]
        # Only as long as it gains: rounded up, canvases may go round in circles.
        if _area(fitted, sizes) >= _area(canvases, sizes):
            return canvases
        canvases = fitted


def _area(canvases: np.ndarray, sizes: np.ndarray) -> int:
    """Pixels of all images with their padding."""
    return int(canvases.prod(axis=1)[_smallest_that_holds(canvases, sizes)].sum())


def _around(members: np.ndarray) -> np.ndarray:
    largest = members.max(axis=0)
    return largest if (members == largest).all() else -(-largest // _STEP) * _STEP


def _smallest_that_holds(canvases: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,): the first canvas that is as wide and as high as each image; they rise in area."""
    holds = (sizes[:, None] <= canvases).all(axis=2)
    return holds.argmax(axis=1)
