"""Precision–recall curves of rankings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dir_jax.report.verdicts import JudgedRankings
from dir_jax.retrieval.protocols import positive_ranks

NUM_RECALLS = 101


class Curve(NamedTuple):
    """A mean precision–recall curve."""

    precision: np.ndarray  # (101,) float64 at the recalls 0, 0.01, …, 1; NaN for the mean of none
    num_queries: int  # how many queries it is the mean of


def interpolated_precision(ranks: np.ndarray, num_positives: int) -> np.ndarray:
    """Precision at evenly spaced recalls: the highest at that recall or at a larger one.

    Args:
      ranks: (P,) integers, the 0-based and increasing ranks of the positives found.
      num_positives: the number of positives to find; not 0.

    Returns:
      (101,) float64 at the recalls 0, 0.01, …, 1; 0 at recalls that are never reached.
    """
    precision = np.arange(1, len(ranks) + 1) / (np.asarray(ranks) + 1)
    highest = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # In integers, because 0.07 * 100 in floats is above 7 and would ask for the eighth positive.
    steps = NUM_RECALLS - 1
    needed = -(-np.arange(NUM_RECALLS) * num_positives // steps)
    return highest[np.clip(needed - 1, 0, len(ranks))]


def mean_curve(judged: JudgedRankings, level: str) -> Curve:
    """The mean over the shown queries that have relevant images at a level, without junk."""
    curves = []
    for place, query in enumerate(judged.shown.tolist()):
        relevant, junk = judged.relevant_and_junk(query, level)
        if len(relevant):
            ranks = positive_ranks(judged.whole_ranking(place), relevant, junk)
            curves.append(interpolated_precision(ranks, len(relevant)))
    if not curves:
        return Curve(np.full(NUM_RECALLS, np.nan), 0)
    return Curve(np.mean(curves, axis=0), len(curves))
