"""The data of the list of queries: each with its picture, its scores and its first results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from dir_jax.errors import UserError
from dir_jax.report.thumbnails import Picture, Thumbnail
from dir_jax.report.verdicts import RESULTS_SHOWN, JudgedRankings, Verdict

_QUERY_SIDE, _RESULT_SIDE = 320, 200  # pixels

# ('query', number), or ('image', number) for an image of the database.
PictureKey: TypeAlias = tuple[str, int]
Thumbnails: TypeAlias = Mapping[tuple[PictureKey, int], Thumbnail | UserError]


@dataclasses.dataclass(frozen=True)
class Result:
    """One of the first results of a query.

    Attributes:
      picture: its thumbnail, or why there is none.
      name: the image's name in the data set.
      label: the shorter name below the picture: its class, or its file name without the folder.
      score: NaN where it is not known.
      verdicts: level -> what the result is at that level.
    """

    picture: Thumbnail | UserError
    name: str
    label: str
    score: float
    verdicts: dict[str, Verdict]


@dataclasses.dataclass(frozen=True)
class ShownQuery:
    """A query in the list.

    Attributes:
      number: its number in the data set.
      name: its name in the data set.
      orders: level with a name -> the query's place in the list when that level is chosen.
      scores: level -> average precision, NaN without relevant images, and their number.
      picture: its thumbnail, or why there is none.
      box: left, top, right and bottom as shares of the picture; None for a whole picture.
      of_class: its class, where there are classes.
      results: its first results, best first.
    """

    number: int
    name: str
    orders: dict[str, int]
    scores: dict[str, tuple[float, int]]
    picture: Thumbnail | UserError
    box: list[float] | None
    of_class: str | None
    results: list[Result]


def pictures(judged: JudgedRankings) -> dict[PictureKey, Picture]:
    """The pictures that the list shows, each once."""
    sides: dict[PictureKey, set[int]] = {}
    for place, query in enumerate(judged.shown.tolist()):
        sides.setdefault(_query_key(judged, query), set()).add(_QUERY_SIDE)
        for image in judged.rankings[place, :RESULTS_SHOWN].tolist():
            sides.setdefault(("image", image), set()).add(_RESULT_SIDE)

    def picture(kind: str, number: int) -> Picture:
        open_it = judged.open_query if kind == "query" else judged.dataset.open
        return Picture(lambda: open_it(number), frozenset(sides[kind, number]))

    return {key: picture(*key) for key in sides}


def shown_queries(judged: JudgedRankings, thumbnails: Thumbnails) -> Iterator[ShownQuery]:
    """Gives each shown query, from the worst at the main level to the best."""
    orders = {
        level: np.argsort(judged.worst_first(level)).tolist() for level in judged.levels if level
    }
    for place in judged.worst_first(judged.main_level).tolist():
        query = int(judged.shown[place])
        picture = thumbnails[_query_key(judged, query), _QUERY_SIDE]
        yield ShownQuery(
            number=query,
            name=judged.queries.names[query],
            orders={level: order[place] for level, order in orders.items()},
            scores={
                level: (float(ap[query]), len(judged.relevant_and_junk(query, level)[0]))
                for level, ap in judged.aps.items()
            },
            picture=picture,
            box=_box(judged.query_box(query), picture),
            of_class=judged.query_class(query),
            results=_results(judged, place, thumbnails),
        )


def _results(judged: JudgedRankings, place: int, thumbnails: Thumbnails) -> list[Result]:
    verdicts = {level: judged.verdicts(place, level) for level in judged.levels}
    scores = judged.scores[place].tolist()
    results = []
    for k, image in enumerate(judged.rankings[place, :RESULTS_SHOWN].tolist()):
        name, of_class = judged.dataset.names[image], judged.image_class(image)
        results.append(
            Result(
                picture=thumbnails[("image", image), _RESULT_SIDE],
                name=name,
                label=name.rsplit("/", 1)[-1] if of_class is None else of_class,
                score=scores[k] if k < len(scores) else np.nan,
                verdicts={level: each[k] for level, each in verdicts.items()},
            )
        )
    return results


def _box(box: np.ndarray | None, picture: Thumbnail | UserError) -> list[float] | None:
    """A box in pixels as shares of the picture, cut to it."""
    if box is None or isinstance(picture, UserError):
        return None
    return np.clip(box / (picture.original * 2), 0, 1).tolist()


def _query_key(judged: JudgedRankings, query: int) -> PictureKey:
    return ("image" if judged.query_is_an_image else "query", query)
