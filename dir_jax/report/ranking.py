"""The page of ranked images: each query with what was found for it, or groups of images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

from dir_jax.data.transforms.views import View
from dir_jax.report.queries import QUERY_SIDE, RESULT_SIDE
from dir_jax.report.thumbnails import make_thumbnails
from dir_jax.report.writing import page_environment
from dir_jax.runtime.files import replacing


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One part of the page.

    Attributes:
      name: its heading.
      images: what its images are called, the best first.
      scores: of the images.
      rows: the numbers by which `open_image` opens them.
      query: opens the picture that was searched for; None for a group without one.
    """

    name: str
    images: Sequence[str]
    scores: Sequence[float]
    rows: Sequence[int]
    query: Callable[[], View] | None = None


def write_rankings(
    path: str | os.PathLike[str],
    rankings: Sequence[Ranking],
    open_image: Callable[[int], View],
    *,
    title: str,
    summary: str,
    settings: Mapping[str, str],
) -> None:
    """Writes rankings as one HTML page that holds all it shows and needs no network.

    Args:
      path: the page to write, whole or not at all.
      rankings: its parts.
      open_image: opens an image by its number; a note stands for one that cannot be opened.
      title: the title of the page.
      summary: the line below it.
      settings: what was run, by name, in the order to show.

    Raises:
      UserError: `path` cannot be written.
    """
    queries = {("query", i): r.query for i, r in enumerate(rankings) if r.query is not None}

    def open_picture(key: tuple[str, int]) -> View:
        query = queries.get(key)
        return query() if query is not None else open_image(key[1])

    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        sides = {key: {QUERY_SIDE} for key in queries}
        sides |= {("image", row): {RESULT_SIDE} for r in rankings for row in r.rows}
        thumbnails = make_thumbnails(open_picture, sides)
        content = {"title": title, "summary": summary, "settings": settings, "rankings": [
            {"number": i, "name": r.name, "query": thumbnails.get((("query", i), QUERY_SIDE)),
             "results": [{"picture": thumbnails[("image", row), RESULT_SIDE], "name": name,
                          "score": score} for name, row, score in
                         zip(r.images, r.rows, r.scores, strict=True)]}
            for i, r in enumerate(rankings)]}  # fmt: skip
        file.writelines(page_environment().get_template("ranking.html.j2").generate(content))
