"""Rankings, protocols and whitening in float64 NumPy, by definition and one item at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def average_precision_of_scores(scores: Sequence[float], relevant: Sequence[bool]) -> float:
    """Σ over thresholds of (recall gained at the threshold) · (precision at it)."""
    num_positives = sum(relevant)
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        let_in = [y for s, y in zip(scores, relevant, strict=True) if s >= threshold]
        new_recall = sum(let_in) / num_positives
        total += (new_recall - recall) * sum(let_in) / len(let_in)
        recall = new_recall
    return total


def first_positive(scores: Sequence[float], relevant: Sequence[bool]) -> int:
    """0-based place of the first positive, equal scores in order."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return next(place for place, i in enumerate(order) if relevant[i])


def oxford_measures(
    ranking: Sequence[int], positive: set[int], junk: set[int]
) -> tuple[float, dict[int, float]]:
    """AP by trapezoids under the precision-recall curve, and mP@k, walking down the ranking."""
    area, precision, found, seen, places = 0.0, 1.0, 0, 0, []
    for image in ranking:
        if image in junk:
            continue
        seen += 1
        if image in positive:
            found += 1
            places.append(seen)
            area += (precision + found / seen) / 2 / len(positive)
        precision = found / seen
    at = {}
    for k in (1, 5, 10):
        cut = min(places[-1], k)
        at[k] = sum(place <= cut for place in places) / cut
    return area, at


def whiten(
    x: np.ndarray,
    mean: np.ndarray,
    components: np.ndarray,
    variance: np.ndarray,
    *,
    power: float,
    dims: int,
    m: float,
) -> np.ndarray:
    """Whitened rows of x, normalised."""
    rows = []
    for row in x.astype(np.float64):
        projected = np.array([c @ (row - mean) for c in components[:dims]])
        projected /= m * variance[:dims] ** power
        rows.append(projected / max(np.sqrt(np.sum(projected**2)), 1e-12))
    return np.array(rows)
