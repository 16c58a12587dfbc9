"""Putting the page together and writing it."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Mapping

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.report import queries, sections
from dir_jax.report.curves import mean_curve
from dir_jax.report.evaluation import Evaluation
from dir_jax.report.markup import escape, name
from dir_jax.report.thumbnails import make_thumbnails
from dir_jax.runtime.files import replacing

# The page asks for nothing and runs nothing, whatever it was made from.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    path: str | os.PathLike[str],
    dataset: ImageDataset,
    *,
    title: str,
    metrics: Mapping[str, float],
    aps: Mapping[str, np.ndarray],
    shown: np.ndarray,
    rankings: np.ndarray,
    scores: np.ndarray,
    settings: Mapping[str, str],
    progress: bool = True,
) -> None:
    """Writes an evaluation as one HTML page that holds all it shows and needs no network.

    Tables and charts of all queries, then the shown ones from the worst to the best, each with its
    first ten results. Images that cannot be opened are replaced by a note.

    Args:
      path: the page to write, whole or not at all.
      dataset: what was evaluated: a `RelevantsDataset`, or a `LabelledDataset` of which either each
        image queries the others, or `queries` query it.
      title: of the page.
      metrics: shares in [0, 1] in the order to show; a name may end in '-LEVEL'.
      aps: level ('easy', 'medium', 'hard', or '' where there is one) -> (Q,) float64 in [0, 1] of
        all queries, NaN for those without relevant images.
      shown: (S,) integers, numbers of the queries to show one by one.
      rankings: (S, N) integers, of each shown query all images of the database from the best on;
        (S, N - 1), without the query itself, where each image queries the others.
      scores: (S, K) floats, of the first K results; the first ten are shown.
      settings: what was run, by name, in the order to show.
      progress: show a bar with the rate.

    Raises:
      UserError: `path` cannot be written.
      ValueError: the arrays do not fit the data set, or it has no ground truth for the levels.
    """
    evaluation = Evaluation(
        dataset, metrics, aps, np.asarray(shown), np.asarray(rankings), np.asarray(scores)
    )
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        # Opened first: whether it can be written should not be known only after all pictures.
        thumbnails = make_thumbnails(queries.pictures(evaluation), progress=progress)
        file.write(_page(evaluation, title, settings, thumbnails))


def _page(
    evaluation: Evaluation, title: str, settings: Mapping[str, str], thumbnails: queries.Thumbnails
) -> str:
    css = importlib.resources.files(__package__).joinpath("page.css").read_text("utf-8")
    curves = {level: mean_curve(evaluation, level) for level in evaluation.levels}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="dir_jax">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<header class="top">
<h1>{name(title)}</h1>
<p>{sections.summary(evaluation)}</p>
</header>
<main>
<div class="pair">
{sections.metrics_table(evaluation)}
{sections.settings_list(settings)}
</div>
<div class="pair">
{sections.average_precision_section(evaluation)}
{sections.precision_recall_section(evaluation, curves)}
</div>
{queries.queries_section(evaluation, thumbnails)}
</main>
</body>
</html>
"""
