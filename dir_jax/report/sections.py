"""The parts of the page above the queries: what was run, and how well it did."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.report import charts
from dir_jax.report.curves import NUM_RECALLS, Curve
from dir_jax.report.evaluation import SINGLE_LEVEL, Evaluation
from dir_jax.report.markup import count, escape, list_of, name, percent


def summary(evaluation: Evaluation) -> str:
    """What was searched with what, in a line."""
    images = count(len(evaluation.dataset), "image")
    if evaluation.query_is_an_image:
        return f"{images}, each a query for all the others"
    parts = [count(evaluation.num_queries, "query"), f"{images} in the database"]
    if isinstance(evaluation.dataset, RelevantsDataset):
        classic = evaluation.levels == [SINGLE_LEVEL]
        parts.append("classic protocol" if classic else "revisited protocol")
    return " · ".join(parts)


def metrics_table(evaluation: Evaluation) -> str:
    """A row a level, a column a measure, in per cent; and of how many queries each is the mean."""
    rows: dict[str, dict[str, float]] = {level: {} for level in evaluation.levels}
    for full_name, value in evaluation.metrics.items():
        measure, _, level = full_name.rpartition("-")
        if level not in rows or not measure:
            measure, level = full_name, SINGLE_LEVEL
        rows.setdefault(level, {})[measure] = value
    measures = list(dict.fromkeys(measure for row in rows.values() for measure in row))
    named = len(rows) > 1
    head = "".join(f'<th scope="col">{escape(measure)}</th>' for measure in measures)
    body = "".join(
        "<tr>"
        + (f'<th scope="row">{escape(level)}</th>' if named else "")
        + "".join(f"<td>{percent(row.get(m, np.nan), 2)}</td>" for m in measures)
        + f"<td>{_num_scored(evaluation, level)}</td></tr>"
        for level, row in rows.items()
    )
    corner = '<th scope="col">level</th>' if named else ""
    return (
        '<section aria-labelledby="results"><h2 id="results">Results <small>per cent</small></h2>'
        f'<div class="wide"><table class="metrics"><thead><tr>{corner}{head}'
        f'<th scope="col">queries</th></tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def settings_list(settings: Mapping[str, str]) -> str:
    """What was run, as a definition list."""
    if not settings:
        return ""
    pairs = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{name(value)}</dd></div>"
        for key, value in settings.items()
    )
    return (
        '<section aria-labelledby="settings"><h2 id="settings">Settings</h2>'
        f'<dl class="settings">{pairs}</dl></section>'
    )


def average_precision_section(evaluation: Evaluation) -> str:
    """A bar a query, and the same as a table; of many queries, how many have which."""
    aps, main = evaluation.aps, evaluation.main_level
    if evaluation.num_queries > charts.MOST_BARS:
        at = f" at level {escape(main)}" if main else ""
        note = f"Number of queries by average precision{at}."
        chart, legend, table = charts.average_precision_histogram(aps[main]), "", ""
    else:
        note = "A bar for each query, from the worst to the best."
        if np.isnan(aps[main]).any():
            note += " Grey stubs are queries without relevant images."
        names = evaluation.queries.names
        shown = set(evaluation.shown.tolist())
        chart = charts.average_precision_bars(aps, main, names.__getitem__, shown)
        legend, table = _legend(evaluation, charts.key), _average_precision_table(evaluation)
    return (
        '<section aria-labelledby="ap"><h2 id="ap">Average precision '
        f'<small>per cent</small></h2><div class="plot">{chart}</div>{legend}'
        f'<p class="note">{note}</p>{table}</section>'
    )


def precision_recall_section(evaluation: Evaluation, curves: Mapping[str, Curve]) -> str:
    """The mean precision–recall curves, and what they are the means of."""
    numbers = {level: curve.num_queries for level, curve in curves.items()}
    of = count(next(iter(numbers.values())), "query")
    if len(set(numbers.values())) > 1:
        each = list_of([f"{number} at {level}" for level, number in numbers.items()])
        of = f"the queries with relevant images ({each})"
    junk = ", junk taken out" if isinstance(evaluation.dataset, RelevantsDataset) else ""
    note = (
        f"Interpolated precision, the highest at that recall or a larger one, at {NUM_RECALLS} "
        f"recalls; mean of {of}{junk}."
    )
    missing = evaluation.num_queries - len(evaluation.shown)
    if missing:
        note += (
            f" <strong>Only of the queries shown below, {len(evaluation.shown):,} of "
            f"{evaluation.num_queries:,}.</strong>"
        )
    return (
        '<section aria-labelledby="pr"><h2 id="pr">Precision over recall '
        "<small>per cent</small></h2>"
        f'<div class="plot">{charts.precision_recall(curves)}</div>'
        f'{_legend(evaluation, charts.line_key)}<p class="note">{note}</p></section>'
    )


def _num_scored(evaluation: Evaluation, level: str) -> str:
    if level not in evaluation.aps:
        return "–"
    return f"{np.sum(~np.isnan(evaluation.aps[level])):,}"


def _legend(evaluation: Evaluation, sign: charts.Sign) -> str:
    if len(evaluation.levels) == 1:
        return ""
    items = "".join(f"<li>{sign(level)}{escape(level)}</li>" for level in evaluation.levels)
    return f'<ul class="legend">{items}</ul>'


def _average_precision_table(evaluation: Evaluation) -> str:
    shown = set(evaluation.shown.tolist())
    head = "".join(f'<th scope="col">{level or "AP"}</th>' for level in evaluation.levels)
    rows = []
    for query in np.argsort(evaluation.aps[evaluation.main_level], kind="stable").tolist():
        label = name(evaluation.queries.names[query])
        if query in shown:
            label = f'<a href="#query-{query}">{label}</a>'
        values = "".join(f"<td>{percent(float(ap[query]))}</td>" for ap in evaluation.aps.values())
        rows.append(f'<tr><th scope="row">{label}</th>{values}</tr>')
    return (
        "<details><summary>As a table</summary>"
        f'<div class="wide"><table><thead><tr><th scope="col">query</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )
