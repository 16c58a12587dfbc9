"""Fills the page's templates and writes the page."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dir_jax.errors import UserError
from dir_jax.report.overview import histogram, mean_curve, metrics_table, query_scores
from dir_jax.report.queries import open_picture, picture_sides, shown_queries
from dir_jax.report.thumbnails import make_thumbnails
from dir_jax.report.verdicts import JudgedRankings
from dir_jax.runtime.files import replacing

if TYPE_CHECKING:
    import jinja2

_MOST_BARS = 120  # more queries than this are shown as a histogram

# Control characters, and lone surrogates: the bytes of a file name that is not UTF-8.
_NOT_FOR_A_PAGE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def write_report(
    path: str | os.PathLike[str], judged: JudgedRankings, *, title: str, settings: Mapping[str, str]
) -> None:
    """Writes an evaluation as one HTML page that holds all it shows and needs no network.

    It has tables and charts of all queries, then the queries to show, from the worst to the best,
    each with its first ten results. A note stands for an image that cannot be opened.

    Args:
      path: the page to write, whole or not at all.
      judged: what was evaluated, and the rankings of the queries to show.
      title: the title of the page.
      settings: what was run, by name, in the order to show.

    Raises:
      UserError: `path` cannot be written.
    """
    few = len(judged.queries) <= _MOST_BARS
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        # Opened first, so that a path that cannot be written fails before any picture is read.
        opener = functools.partial(open_picture, judged)
        thumbnails = make_thumbnails(opener, picture_sides(judged))
        content = {
            "title": title,
            "settings": settings,
            "judged": judged,
            "table": metrics_table(judged),
            "scores": query_scores(judged) if few else None,
            "histogram": None if few else histogram(judged.aps[judged.main_level]),
            "curves": {level: mean_curve(judged, level) for level in judged.aps},
            "queries": shown_queries(judged, thumbnails),
        }
        file.writelines(page_environment().get_template("page.html.j2").generate(content))


def page_environment() -> jinja2.Environment:
    """The templates, with the filters that they use."""
    import jinja2  # here, as training imports this package for its pictures only

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dir_jax.report"), autoescape=True, finalize=_presentable,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "thousands": "{:,}".format}
    environment.tests |= {"nan": math.isnan, "unreadable": lambda copy: isinstance(copy, UserError)}
    environment.globals["number_of"] = _number_of
    return environment


def _presentable(value: Any) -> Any:
    """What a template prints, as text that can stand in a page once it is escaped."""
    return value if hasattr(value, "__html__") else _NOT_FOR_A_PAGE.sub("\ufffd", str(value))


def _percent(share: float, digits: int = 1) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}"


def _number_of(number: int, what: str) -> str:
    """'1 query', '1,200 queries'."""
    if number == 1:
        return f"1 {what}"
    return f"{number:,} {what[:-1]}ies" if what.endswith("y") else f"{number:,} {what}s"
