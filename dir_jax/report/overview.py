"""The data of the tables and charts above the list of queries."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from dir_jax.report.verdicts import JudgedRankings

_NUM_BINS = 20


@dataclasses.dataclass(frozen=True)
class MetricsRow:
    """The metrics of one level.

    Attributes:
      level: its name; empty where there is only one level.
      values: shares in [0, 1] in the order of the table's measures; NaN where one is not known.
      num_scored: the number of queries that these are means of; None for an unknown level.
    """

    level: str
    values: list[float]
    num_scored: int | None


@dataclasses.dataclass(frozen=True)
class MetricsTable:
    """All metrics: a column for each measure and a row for each level."""

    measures: list[str]
    rows: list[MetricsRow]


@dataclasses.dataclass(frozen=True)
class QueryScore:
    """The average precision of a query: level -> a share in [0, 1], or NaN."""

    number: int
    name: str
    shown: bool
    aps: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """The number of queries in each of the equal parts of [0, 1], and round ticks for its axis."""

    counts: list[int]
    ticks: list[int]


def metrics_table(judged: JudgedRankings) -> MetricsTable:
    """Sorts the metrics by level and measure; those of no level have a row without a name."""
    rows: dict[str, dict[str, float]] = {level: {} for level in judged.levels}
    for name, value in judged.metrics.items():
        measure, _, level = name.rpartition("-")
        if level not in rows or not measure:
            measure, level = name, ""
        rows.setdefault(level, {})[measure] = value
    measures = list(dict.fromkeys(measure for row in rows.values() for measure in row))
    scored = {level: int(np.sum(~np.isnan(ap))) for level, ap in judged.aps.items()}
    return MetricsTable(
        measures,
        [
            MetricsRow(level, [row.get(m, np.nan) for m in measures], scored.get(level))
            for level, row in rows.items()
        ],
    )


def query_scores(judged: JudgedRankings) -> list[QueryScore]:
    """All queries, from the worst at the main level to the best, then those without a score."""
    shown = set(judged.shown.tolist())
    return [
        QueryScore(
            query,
            judged.queries.names[query],
            query in shown,
            {level: float(ap[query]) for level, ap in judged.aps.items()},
        )
        for query in np.argsort(judged.aps[judged.main_level], kind="stable").tolist()
    ]


def histogram(ap: np.ndarray) -> Histogram:
    """Counts queries by average precision.

    Args:
      ap: (Q,) float64 in [0, 1] or NaN, of any number of queries.
    """
    counts, _ = np.histogram(ap[~np.isnan(ap)], _NUM_BINS, (0, 1))
    most = int(counts.max())
    # The smallest of 1, 2, 5, 10, 20, … that needs at most four steps.
    step = next(
        digit * 10**power
        for power in itertools.count()
        for digit in (1, 2, 5)
        if 4 * digit * 10**power >= most
    )
    return Histogram(counts.tolist(), list(range(0, max(most, 1) + step, step)))
