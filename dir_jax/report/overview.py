"""The data of the tables and charts above the list of queries, as the templates take it."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from dir_jax.report.verdicts import JudgedRankings
from dir_jax.retrieval.protocols import positive_ranks

_NUM_BINS = 20
NUM_RECALLS = 101


def metrics_table(judged: JudgedRankings) -> dict[str, list[Any]]:
    """All metrics, with a column for each of the 'measures' and one of the 'rows' for each level.

    A row has the 'level', which is '' for metrics of none; their 'shares' in [0, 1], NaN where one
    is not known; and 'num_scored', how many queries they are means of, None if that is unknown.
    """
    rows: dict[str, dict[str, float]] = {level: {} for level in judged.aps}
    for name, value in judged.metrics.items():
        measure, _, level = name.rpartition("-")
        if level not in rows or not measure:
            measure, level = name, ""
        rows.setdefault(level, {})[measure] = value
    measures = list(dict.fromkeys(measure for row in rows.values() for measure in row))
    scored = {level: int(np.sum(~np.isnan(ap))) for level, ap in judged.aps.items()}
    return {
        "measures": measures,
        "rows": [
            {
                "level": level,
                "shares": [row.get(measure, np.nan) for measure in measures],
                "num_scored": scored.get(level),
            }
            for level, row in rows.items()
        ],
    }


def query_scores(judged: JudgedRankings) -> list[dict[str, Any]]:
    """All queries, from the worst at the main level to the best, then those without a score."""
    shown = set(judged.shown.tolist())
    return [
        {
            "number": query,
            "name": judged.queries.names[query],
            "shown": query in shown,
            "aps": {level: float(ap[query]) for level, ap in judged.aps.items()},
        }
        for query in np.argsort(judged.aps[judged.main_level], kind="stable").tolist()
    ]


def histogram(ap: np.ndarray) -> dict[str, list[int]]:
    """The 'counts' of queries in equal parts of [0, 1], and round 'ticks' for their axis.

    Args:
      ap: (Q,) float64 in [0, 1] or NaN, the average precisions of any number of queries.
    """
    counts, _ = np.histogram(ap[~np.isnan(ap)], _NUM_BINS, (0, 1))
    most = int(counts.max())
    # The smallest of 1, 2, 5, 10, 20, … that needs at most four steps.
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    step = next(step for step in steps if 4 * step >= most)
    return {"counts": counts.tolist(), "ticks": list(range(0, max(most, 1) + step, step))}


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
