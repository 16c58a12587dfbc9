"""Evaluation on Oxford-style ground truth, where some images count neither for nor against.

Pure functions of rankings and a ground truth. The classic protocol is that of Philbin et al.,
Object Retrieval with Large Vocabularies, CVPR 2007; the revisited one of Radenović et al.,
Revisiting Oxford and Paris, CVPR 2018.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dir_jax.errors import UserError

# Protocol level -> what counts as positive, and what is taken out of the ranking (CVPR 2018, §3.3).
REVISITED_LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
CLASSIC_LEVELS = {"": (("ok",), ("junk",))}  # the same table of the classic protocol: one level
_PRECISIONS = (1, 5, 10)
_SCORES_PER_CELL, _MOST_CELLS = 16, 1 << 16  # of the grid by which scores are counted


def evaluate_classic(
    rankings: np.ndarray | Scores, ground_truth: Sequence[Mapping[str, Any]]
) -> dict[str, float | np.ndarray]:
    """Scores rankings by the classic protocol: 'ok' is relevant, 'junk' is taken out.

    Args:
      rankings: (Q, N) integers, each row all N database images from the best on; or `Scores`.
      ground_truth: Q dicts of 'ok' and 'junk': numbers of database images.

    Returns:
      'mAP', 'mP@1', 'mP@5', 'mP@10': means over the queries that have positives, NaN where none
      has; 'ap': (Q,) float64, NaN for queries without positives.

    Raises:
      UserError: the ground truth is of another kind, or refers to images outside the ranking.
    """
    return _evaluate(rankings, ground_truth, CLASSIC_LEVELS)


def evaluate_revisited(
    rankings: np.ndarray | Scores, ground_truth: Sequence[Mapping[str, Any]]
) -> dict[str, float | np.ndarray]:
    """Scores rankings by the revisited protocol, at its three levels.

    Easy: the easy images are relevant, junk and hard ones are taken out. Medium: easy and hard are
    relevant, junk is taken out. Hard: the hard ones are relevant, junk and easy are taken out.

    Args:
      rankings: (Q, N) integers, each row all N database images from the best on; or `Scores`.
      ground_truth: Q dicts of 'easy', 'hard' and 'junk': numbers of database images.

    Returns:
      For each LEVEL of easy, medium, hard: 'mAP-LEVEL', 'mP@1-LEVEL', 'mP@5-LEVEL', 'mP@10-LEVEL',
      means over the queries that have positives at that level, NaN where none has; 'ap-LEVEL':
      (Q,) float64, NaN for queries without positives.

    Raises:
      UserError: the ground truth is of another kind, or refers to images outside the ranking.
    """
    levels = {f"-{level}": grades for level, grades in REVISITED_LEVELS.items()}
    return _evaluate(rankings, ground_truth, levels)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Rankings by falling score that need not be sorted: a large database is only counted.

    Attributes:
      values: (Q, N) float; equal scores are in the database's order, NaN comes last.
    """

    values: np.ndarray


def places_by_score(scores: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Where images are in the ranking by falling score: how many come before each.

    Args:
      scores: (N,) float; equal ones are in their order, NaN comes last.
      images: (P,) integers, numbers of database images.

    Returns:
      (P,) int64, 0-based.
    """
    if np.isnan(scores).any():
        scores = np.where(np.isnan(scores), -np.inf, scores)
    own = scores[images]
    levels = np.unique(own)
    above, close = _count_above(levels, scores)
    # Scores equal to a level are told apart by their place. By level, then by number: an image's
    # place here, less its level's first, is how many equals come before it.
    order = np.searchsorted(levels, scores[close])
    equal = np.append(levels, np.inf)[order] == scores[close]
    close, order = close[equal], order[equal]
    by_level = np.argsort(order, kind="stable")
    place = np.empty(len(scores), np.int64)
    place[close[by_level]] = np.arange(len(close))
    level = np.searchsorted(levels, own)
    return above[level] + place[images] - np.searchsorted(order[by_level], level)


def _count_above(levels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many scores are above each level.

    Most are only counted by the cell of a regular grid that they lie in, and compared with no
    level: those in a higher cell are above. Rounding keeps the grid's order, so none is told wrong.

    Args:
      levels: (L,) increasing.
      scores: (N,), no NaN.

    Returns:
      above: (L,) int64.
      close: increasing numbers of the scores that share a cell with a level; all that equal one do.
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
    """(N,) intp from 0 (below `low`) to `last`, never falling where x rises."""
    with np.errstate(over="ignore"):
        cells = x - low
        cells *= scale
        cells += 1
    return np.clip(cells, 0, last, out=cells).astype(np.intp)


def _sum_from(counts: np.ndarray) -> np.ndarray:
    """Each count with all that come after it."""
    return counts[::-1].cumsum()[::-1]


def positive_ranks(ranking: np.ndarray, positive: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """Where the positives are in a ranking from which the junk has been taken out.

    Args:
      ranking: (N,) integers, all database images from the best on.
      positive: (P,) integers, numbers of database images.
      junk: (J,) integers, none of them positive.

    Returns:
      (P,) int64, 0-based and increasing.
    """
    return _without(np.sort(_places_in(ranking, positive)), np.sort(_places_in(ranking, junk)))


def average_precision(ranks: np.ndarray, num_positives: int) -> float:
    """Area under the precision-recall curve by trapezoids, as the Oxford benchmarks measure it.

    The i-th positive, at rank r (both from 0), raises the recall by 1 / num_positives; the
    precision is i / r before it (1 at the top of the ranking) and (i + 1) / (r + 1) after it, and
    the mean of both counts.

    Args:
      ranks: (P,) integers, 0-based and increasing, of the positives found.
      num_positives: how many there are to find; not 0.
    """
    i = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, i / np.maximum(ranks, 1))
    after = (i + 1) / (ranks + 1)
    return float(np.sum(before + after) / 2 / num_positives)


def precision_at(ranks: np.ndarray, k: int) -> float:
    """Share of positives among the first k results; with k lowered to the last positive's place.

    Lowered, so that a query with fewer than k positives can reach 1 (CVPR 2018, §3.3).

    Args:
      ranks: (P,) integers, 0-based and increasing, of all positives; P > 0.
      k: how many results count.
    """
    k = min(int(ranks[-1]) + 1, k)
    return float(np.sum(ranks < k) / k)


def _evaluate(
    rankings: np.ndarray | Scores,
    ground_truth: Sequence[Mapping[str, Any]],
    levels: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> dict[str, float | np.ndarray]:
    values = rankings.values if isinstance(rankings, Scores) else np.asarray(rankings)
    if values.ndim != 2 or len(values) != len(ground_truth):
        raise UserError(
            f"rankings of shape {values.shape} do not fit a ground truth of "
            f"{len(ground_truth)} queries; expected a row for each query"
        )
    measures = np.full((len(levels), len(values), 1 + len(_PRECISIONS)), np.nan)
    for q, truth in enumerate(ground_truth):
        graded = [
            tuple(_images(q, truth, grades, values.shape[1]) for grades in level)
            for level in levels.values()
        ]
        images = np.unique(np.concatenate([each for level in graded for each in level]))
        if isinstance(rankings, Scores):
            places = places_by_score(values[q], images)
        else:
            places = _places_in(values[q], images)
        for level, (positive, junk) in zip(measures, graded, strict=True):
            if len(positive):
                found, removed = (places[np.searchsorted(images, x)] for x in (positive, junk))
                ranks = _without(np.sort(found), np.sort(removed))
                level[q, 0] = average_precision(ranks, len(positive))
                level[q, 1:] = [precision_at(ranks, k) for k in _PRECISIONS]
    result: dict[str, float | np.ndarray] = {}
    for suffix, level in zip(levels, measures, strict=True):
        scored = level[~np.isnan(level[:, 0])]
        means = scored.mean(axis=0) if len(scored) else np.full(level.shape[1], np.nan)
        names = ["mAP", *(f"mP@{k}" for k in _PRECISIONS)]
        result |= {name + suffix: float(mean) for name, mean in zip(names, means, strict=True)}
        result[f"ap{suffix}"] = level[:, 0]
    return result


def _places_in(ranking: np.ndarray, images: np.ndarray) -> np.ndarray:
    places = np.empty(len(ranking), np.int64)
    places[ranking] = np.arange(len(ranking))
    return places[images]


def _without(places: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Increasing places after other, increasing ones have been taken out."""
    return places - np.searchsorted(removed, places)


def _images(
    query: int, truth: Mapping[str, Any], grades: Sequence[str], num_images: int
) -> np.ndarray:
    missing = [grade for grade in grades if grade not in truth]
    if missing:
        raise UserError(
            f"the ground truth of query {query} has no {missing[0]!r} (it has "
            f"{', '.join(map(repr, truth))}); the classic protocol needs 'ok' and 'junk', the "
            "revisited one 'easy', 'hard' and 'junk'"
        )
    images = np.concatenate([np.asarray(truth[grade]).reshape(-1) for grade in grades])
    images = images.astype(np.int64)
    outside = images[(images < 0) | (images >= num_images)]
    if len(outside):
        raise UserError(
            f"the ground truth of query {query} refers to image {outside[0]}, but {num_images} "
            "images were ranked; was it made for another list?"
        )
    return images
