"""Where images stand in rankings: how many database images come before each of them.

A protocol asks for the places of a few graded images among very many. It can be given rankings, or
`Scores`, from which the same places are counted without sorting the database.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

_SCORES_PER_CELL, _MOST_CELLS = 16, 1 << 16  # of the grid by which scores are counted


@dataclasses.dataclass(frozen=True)
class Scores:
    """Rankings by falling score, which are never sorted.

    Attributes:
      values: (Q, N) float; equal scores are in the database's order, NaN comes last.
      distractors: (Q, n) float each, the scores of further images that are in no ground truth, such
        as a million distractors. They come after equal scores, and are read once.
    """

    values: np.ndarray
    distractors: Iterable[np.ndarray] = ()


def places_by_ranking(ranking: np.ndarray) -> np.ndarray:
    """The place of each image in a ranking: (N,) int64, 0-based, from (N,) integers."""
    places = np.empty(len(ranking), np.int64)
    places[ranking] = np.arange(len(ranking))
    return places


def distractors_above(scores: Scores, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """How many distractors come before images: for each query, (L,) int64 for its L scores.

    `images` are, for each query, numbers of database images; the scores are their different ones,
    rising. Each block of distractors is counted and forgotten.
    """
    levels = [
        np.unique(_nan_last(row[numbers]))
        for row, numbers in zip(scores.values, images, strict=True)
    ]
    above = [np.zeros(len(each), np.int64) for each in levels]
    for block in scores.distractors:
        for total, level, row in zip(above, levels, block, strict=True):
            total += _count_above(level, _nan_last(row))[0]
    return above


def places_by_score(
    scores: np.ndarray, images: np.ndarray, distractors: np.ndarray | int = 0
) -> np.ndarray:
    """The places of images in the ranking by falling score: how many images come before each.

    Args:
      scores: (N,) float; equal scores are in the database's order, NaN comes last.
      images: (P,) integers, numbers of database images, each at most once.
      distractors: (L,) integers, from `distractors_above` for these images.

    Returns:
      (N,) int64, 0-based; only the places of `images` are set.
    """
    scores = _nan_last(scores)
    own = scores[images]
    levels = np.unique(own)
    above, close = _count_above(levels, scores)
    above = above + distractors
    # Scores equal to a level are told apart by their order. Sorted by level, then by number, an
    # image's position less that of its level's first image is how many equals come before it.
    order = np.searchsorted(levels, scores[close])
    equal = np.append(levels, np.inf)[order] == scores[close]
    close, order = close[equal], order[equal]
    by_level = np.argsort(order, kind="stable")
    place = np.empty(len(scores), np.int64)
    place[close[by_level]] = np.arange(len(close))
    level = np.searchsorted(levels, own)
    place[images] += above[level] - np.searchsorted(order[by_level], level)
    return place


def _nan_last(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(scores), -np.inf, scores) if np.isnan(scores).any() else scores


def _count_above(levels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the scores above each level.

    Most scores are compared with no level: a regular grid is laid over the range of the levels, and
    scores in a higher cell are above. Rounding keeps the grid's order, so that none is misplaced.
    Only the scores that share a cell with a level are compared with it.

    Args:
      levels: (L,) increasing.
      scores: (N,), without NaN.

    Returns:
      above: (L,) int64.
      close: increasing numbers of the scores that share a cell with a level, among which are all
        that equal one.
    """
    last = min(len(scores) // _SCORES_PER_CELL + 1, _MOST_CELLS)
    low, high = (levels[0], levels[-1]) if len(levels) else (0, 0)
    with np.errstate(all="ignore"):
        scale = np.divide(last - 1, high - low, dtype=scores.dtype)
    if np.isfinite(low) and np.isfinite(scale) and scale > 0:
        cells, level_cells = (_cells(x, low, scale, last) for x in (scores, levels))
    else:
        cells, level_cells = (np.zeros(len(x), np.intp) for x in (scores, levels))
    holds_level = np.zeros(last + 1, bool)
    holds_level[level_cells] = True
    close = np.flatnonzero(holds_level[cells])
    others = np.where(holds_level, 0, np.bincount(cells, minlength=last + 1))
    levels_below = np.searchsorted(levels, scores[close])
    counts = np.bincount(levels_below, minlength=len(levels) + 1)
    return _sum_from(others)[level_cells] + _sum_from(counts)[1:], close


def _cells(x: np.ndarray, low: float, scale: float, last: int) -> np.ndarray:
    """(N,) intp from 0 (below `low`) to `last`, which never falls where x rises."""
    with np.errstate(over="ignore"):
        cells = x - low
        cells *= scale
        cells += 1
    return np.clip(cells, 0, last, out=cells).astype(np.intp)


def _sum_from(counts: np.ndarray) -> np.ndarray:
    """The sum of each count and all that come after it."""
    return counts[::-1].cumsum()[::-1]
