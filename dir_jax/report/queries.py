"""The list of queries: each with its picture, its average precision and its first results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.errors import UserError
from dir_jax.report.evaluation import RESULTS_SHOWN, Evaluation, Verdict
from dir_jax.report.markup import count, escape, name, percent
from dir_jax.report.thumbnails import Picture, Thumbnail

_QUERY_SIDE, _RESULT_SIDE = 320, 200  # pixels

_SIGNS = {"relevant": "✓", "wrong": "✗", "junk": "–"}

# ('query', number), or ('image', number) of the database.
PictureKey: TypeAlias = tuple[str, int]
Thumbnails: TypeAlias = Mapping[tuple[PictureKey, int], Thumbnail | UserError]


def pictures(evaluation: Evaluation) -> dict[PictureKey, Picture]:
    """The pictures that the list shows, each once."""
    sides: dict[PictureKey, set[int]] = {}
    for place, query in enumerate(evaluation.shown.tolist()):
        sides.setdefault(_query_key(evaluation, query), set()).add(_QUERY_SIDE)
        for image in evaluation.rankings[place, :RESULTS_SHOWN].tolist():
            sides.setdefault(("image", image), set()).add(_RESULT_SIDE)

    def open_query(number: int) -> Picture:
        return Picture(lambda: evaluation.open_query(number), frozenset(sides["query", number]))

    def open_image(number: int) -> Picture:
        return Picture(lambda: evaluation.dataset.open(number), frozenset(sides["image", number]))

    return {key: open_query(key[1]) if key[0] == "query" else open_image(key[1]) for key in sides}


def queries_section(evaluation: Evaluation, thumbnails: Thumbnails) -> str:
    """All shown queries, from the worst at the main level to the best."""
    # Their order at each level is a CSS property, so that the choice of a level needs no script.
    orders = {
        level: np.argsort(evaluation.worst_first(level)).tolist() for level in evaluation.levels
    }
    articles = []
    for place in evaluation.worst_first(evaluation.main_level).tolist():
        style = ";".join(f"--at-{level}:{order[place]}" for level, order in orders.items() if level)
        articles.append(_article(evaluation, place, style, thumbnails))
    shown, total = len(evaluation.shown), evaluation.num_queries
    number = f"{shown:,} of {total:,}" if shown < total else f"{total:,}"
    return (
        '<section aria-labelledby="queries"><h2 id="queries">Queries '
        f"<small>{number}, worst first</small></h2>{_toolbar(evaluation)}"
        f'<div class="queries">{"".join(articles)}</div></section>'
    )


def _toolbar(evaluation: Evaluation) -> str:
    words = ["relevant", "wrong"]
    notes = ""
    if isinstance(evaluation.dataset, RelevantsDataset):
        words.append("junk")
        notes = " Junk has no rank: its place is in brackets."
    signs = "".join(f'<span class="{word}">{_sign(word)} {word}</span>' for word in words)
    return (
        f'<div class="toolbar">{_level_switch(evaluation)}'
        f'<p class="signs">{signs}</p>'
        f'<p class="note">Below each result: its rank and its score.{notes}</p></div>'
    )


def _level_switch(evaluation: Evaluation) -> str:
    if len(evaluation.levels) == 1:
        return ""
    choices = "".join(
        f'<label><input type="radio" name="level" id="at-{level}" autocomplete="off"'
        f"{' checked' if level == evaluation.main_level else ''}><span>{level}</span></label>"
        for level in evaluation.levels
    )
    return f'<fieldset class="levels"><legend>Judge and sort at level</legend>{choices}</fieldset>'


def _article(evaluation: Evaluation, place: int, style: str, thumbnails: Thumbnails) -> str:
    query = int(evaluation.shown[place])
    scores = "".join(_score(evaluation, query, level) for level in evaluation.levels)
    return (
        f'<article id="query-{query}" style="{style}"><header>'
        f"<h3>{name(evaluation.queries.names[query])}</h3>"
        f'<dl class="aps">{scores}</dl></header>'
        f'<div class="row">{_query(evaluation, query, thumbnails)}'
        f"{_results(evaluation, place, thumbnails)}</div></article>\n"
    )


def _score(evaluation: Evaluation, query: int, level: str) -> str:
    ap = float(evaluation.aps[level][query])
    relevant, _ = evaluation.relevant_and_junk(query, level)
    number = f"{len(relevant):,} relevant" if len(relevant) else "none relevant"
    unit = "" if math.isnan(ap) else "<small>%</small>"
    return (
        f'<div class="{level}"><dt>{level or "AP"}</dt>'
        f"<dd><b>{percent(ap)}{unit}</b> <small>{number}</small></dd></div>"
    )


def _query(evaluation: Evaluation, query: int, thumbnails: Thumbnails) -> str:
    query_name = evaluation.queries.names[query]
    copy = thumbnails[_query_key(evaluation, query), _QUERY_SIDE]
    box = evaluation.query_box(query)
    alt = f"Query {query_name}" + ("" if box is None else ", its box marked")
    picture = _picture(copy, alt)
    if isinstance(copy, Thumbnail):
        width, height = copy.size
        marked = "" if box is None else _box(box, copy.original)
        picture = (
            f'<div class="whole" style="max-width:calc({width / height:.4f}*20rem)">'
            f"{picture}{marked}</div>"
        )
    of_class = evaluation.query_class(query)
    label = "Query" if of_class is None else f"Query · {name(of_class)}"
    return f'<figure class="query">{picture}<figcaption>{label}</figcaption></figure>'


def _box(box: np.ndarray, size: tuple[int, int]) -> str:
    """A box over a picture, cut to it, as an SVG on top."""
    width, height = size
    left, right = np.clip(box[[0, 2]] / width, 0, 1)
    top, bottom = np.clip(box[[1, 3]] / height, 0, 1)
    place = (
        f'x="{100 * left:.2f}%" y="{100 * top:.2f}%" '
        f'width="{100 * (right - left):.2f}%" height="{100 * (bottom - top):.2f}%"'
    )
    return f'<svg class="box" aria-hidden="true"><rect class="under" {place}/><rect {place}/></svg>'


def _results(evaluation: Evaluation, place: int, thumbnails: Thumbnails) -> str:
    verdicts = {level: evaluation.verdicts(place, level) for level in evaluation.levels}
    items = []
    for k, image in enumerate(evaluation.rankings[place, :RESULTS_SHOWN].tolist()):
        image_name = evaluation.dataset.names[image]
        picture = _picture(thumbnails[("image", image), _RESULT_SIDE], image_name)
        marks = "".join(_verdict(verdicts[level][k], level) for level in evaluation.levels)
        label = evaluation.image_class(image)
        label = image_name.rsplit("/", 1)[-1] if label is None else label
        items.append(
            f'<li>{picture}{marks}<p class="score">{_score_text(evaluation.scores[place], k)}</p>'
            f'<p class="name" title="{escape(image_name)}">{name(label)}</p></li>'
        )
    first = count(len(items), "result")
    return f'<ol class="results" aria-label="First {first}">{"".join(items)}</ol>'


def _verdict(verdict: Verdict, level: str) -> str:
    at = f" at-{level}" if level else ""
    rank = f"({verdict.rank})" if verdict.word == "junk" else str(verdict.rank)
    return (
        f'<p class="verdict {verdict.word}{at}"><b>{rank}</b> {_sign(verdict.word)} '
        f"{verdict.word}</p>"
    )


def _score_text(scores: np.ndarray, k: int) -> str:
    if k >= len(scores) or math.isnan(scores[k]):
        return '<span title="no score">–</span>'
    return f"{scores[k]:.3f}".replace("-", "−")


def _sign(word: str) -> str:
    return f'<span class="sign" aria-hidden="true">{_SIGNS[word]}</span>'


def _picture(copy: Thumbnail | UserError, alt: str) -> str:
    if isinstance(copy, UserError):
        return f'<div class="missing" title="{escape(str(copy))}">cannot be opened</div>'
    width, height = copy.size
    return (
        f'<img src="{copy.uri}" width="{width}" height="{height}" alt="{escape(alt)}" '
        'loading="lazy" decoding="async">'
    )


def _query_key(evaluation: Evaluation, query: int) -> PictureKey:
    return ("image" if evaluation.query_is_an_image else "query", query)
