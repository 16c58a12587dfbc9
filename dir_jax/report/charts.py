"""Charts as inline SVG, in per cent of its size: they fit any width, and text keeps its size.

The labels of the axes lie outside the SVG's box, in a margin that page.css gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from dir_jax.report.curves import Curve
from dir_jax.report.markup import count, escape, list_of, percent

# Draws the sign by which a level is known in a legend.
Sign: TypeAlias = Callable[[str], str]

MOST_BARS = 120  # more queries than this are counted in bins
_NUM_BINS = 20
_WIDEST_BAR = 4.0  # per cent of the chart


def average_precision_bars(
    aps: Mapping[str, np.ndarray],
    main_level: str,
    names: Callable[[int], str],
    shown: set[int],
) -> str:
    """A bar a query at the main level, by rising average precision; dots at the other levels.

    Args:
      aps: level -> (Q,) float64 in [0, 1] or NaN.
      main_level: one of them.
      names: gives a query's name.
      shown: numbers of the queries whose bars link to `#query-NUMBER`.
    """
    order = np.argsort(aps[main_level], kind="stable").tolist()
    slot = 100 / len(order)
    width = min(0.72 * slot, _WIDEST_BAR)
    parts = []
    for k, query in enumerate(order):
        title = f"{names(query)}: {_described(aps, query)}"
        mark = [
            f"<title>{escape(title)}</title>",
            f'<rect class="hit" x="{k * slot:.3f}%" y="0" width="{slot:.3f}%" height="100%"/>',
        ]
        middle = (k + 0.5) * slot
        for level in [main_level, *(level for level in aps if level != main_level)]:
            ap = float(aps[level][query])
            if level == main_level:
                mark.append(_bar(middle - width / 2, width, ap))
            elif not math.isnan(ap):
                mark.append(
                    f'<circle class="dot {level}" cx="{middle:.3f}%" cy="{_height(ap)}" r="3"/>'
                )
        # Out of the order of the tab key: the list of queries is further down, as is the table.
        link = f'<a href="#query-{query}" tabindex="-1">' if query in shown else "<g>"
        parts.append(link + "".join(mark) + ("</a>" if query in shown else "</g>"))
    label = f"Average precision of {count(len(order), 'query')}, from the worst to the best."
    return _svg("bars", "group", label, _share_grid() + "".join(parts))


def average_precision_histogram(ap: np.ndarray) -> str:
    """How many queries have an average precision in each twentieth of [0, 1].

    Args:
      ap: (Q,) float64 in [0, 1] or NaN, of any number of queries.
    """
    counts, edges = np.histogram(ap[~np.isnan(ap)], _NUM_BINS, (0, 1))
    step = _round_step(int(counts.max()) / 4)
    top = step * max(math.ceil(int(counts.max()) / step), 1)
    parts = [_grid_line(y / top, f"{y:,}") for y in range(0, top + 1, step)]
    slot = 100 / _NUM_BINS
    for k, number in enumerate(counts.tolist()):
        title = f"{percent(edges[k], 0)} to {percent(edges[k + 1], 0)} %: {count(number, 'query')}"
        bar = _bar((k + 0.08) * slot, 0.84 * slot, number / top)
        parts.append(f"<g><title>{title}</title>{bar}</g>")
    parts.append(_share_ticks_below())
    label = "Number of queries by average precision."
    return _svg("histogram", "img", label, "".join(parts))


def precision_recall(curves: Mapping[str, Curve]) -> str:
    """Precision over recall, a line a level.

    Args:
      curves: level -> its curve; those of no query are left out.
    """
    lines, described = [], []
    for level, curve in curves.items():
        if not curve.num_queries:
            continue
        recalls = np.linspace(0, 100, len(curve.precision))
        points = " ".join(
            f"{r:g},{100 - 100 * p:.2f}" for r, p in zip(recalls, curve.precision, strict=True)
        )
        lines.append(f'<polyline class="line {level}" points="{points}"/>')
        samples = [
            f"{percent(curve.precision[r], 0)} % at {r} % recall" for r in (0, 25, 50, 75, 100)
        ]
        described.append(f"{level or 'precision'}: {list_of(samples)}")
    plot = (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%" '
        f'overflow="visible">{"".join(lines)}</svg>'
    )
    label = f"Precision–recall curves. {'; '.join(described)}."
    return _svg("curves", "img", label, _share_grid() + _share_ticks_below() + plot)


def key(level: str) -> str:
    """The sign by which a level is known in `average_precision_bars`, for its legend."""
    mark = '<circle cx="7" cy="7" r="4"' if level in ("easy", "hard") else "<rect"
    size = "" if level in ("easy", "hard") else ' x="3" y="1" width="8" height="12"'
    kind = "dot" if level in ("easy", "hard") else "bar"
    return (
        f'<svg class="key" width="14" height="14" aria-hidden="true">'
        f'{mark} class="{kind} {level}"{size}/></svg>'
    )


def line_key(level: str) -> str:
    """The line of a level in `precision_recall`, for its legend."""
    return (
        '<svg class="key" width="26" height="14" aria-hidden="true">'
        f'<line class="line {level}" x1="0" y1="7" x2="26" y2="7"/></svg>'
    )


def _described(aps: Mapping[str, np.ndarray], query: int) -> str:
    values = {level: float(ap[query]) for level, ap in aps.items()}
    if all(math.isnan(ap) for ap in values.values()):
        return "no relevant images"
    return ", ".join(
        f"{level or 'AP'} {percent(ap)}{'' if math.isnan(ap) else ' %'}"
        for level, ap in values.items()
    )


def _svg(kind: str, role: str, label: str, content: str) -> str:
    return f'<svg class="chart {kind}" role="{role}" aria-label="{escape(label)}">{content}</svg>'


def _height(share: float) -> str:
    return f"{100 - 100 * share:.2f}%"


def _bar(left: float, width: float, share: float) -> str:
    if math.isnan(share):
        return f'<rect class="none" x="{left:.3f}%" y="97%" width="{width:.3f}%" height="3%"/>'
    return (
        f'<rect class="bar" x="{left:.3f}%" y="{_height(share)}" width="{width:.3f}%" '
        f'height="{100 * share:.2f}%"/>'
    )


def _grid_line(share: float, label: str) -> str:
    y = _height(share)
    return (
        f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        f'<text class="tick" x="-8" y="{y}" dy="0.32em" text-anchor="end">{label}</text>'
    )


def _share_grid() -> str:
    return "".join(_grid_line(tick / 100, str(tick)) for tick in (0, 25, 50, 75, 100))


def _share_ticks_below() -> str:
    return "".join(
        f'<text class="tick" x="{tick}%" y="100%" dy="1.6em" text-anchor="middle">{tick}</text>'
        for tick in (0, 25, 50, 75, 100)
    )


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is not below."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power >= least:
                return digit * power
        power *= 10
