"""The list of queries for the page: each with its picture, its scores and its first results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.transforms.views import View
from dir_jax.errors import UserError
from dir_jax.report.thumbnails import Thumbnail
from dir_jax.report.verdicts import RESULTS_SHOWN, JudgedRankings

QUERY_SIDE, RESULT_SIDE = 320, 200  # pixels

# ('query', number), or ('image', number) for an image of the database.
PictureKey: TypeAlias = tuple[str, int]
Thumbnails: TypeAlias = Mapping[tuple[PictureKey, int], Thumbnail | UserError]


def picture_sides(judged: JudgedRankings) -> dict[PictureKey, set[int]]:
    """The pictures that the list shows, each once, with the longer sides of their thumbnails."""
    sides: dict[PictureKey, set[int]] = {}
    for place, query in enumerate(judged.shown.tolist()):
        sides.setdefault(_query_key(judged, query), set()).add(QUERY_SIDE)
        for image in judged.rankings[place, :RESULTS_SHOWN].tolist():
            sides.setdefault(("image", image), set()).add(RESULT_SIDE)
    return sides


def open_picture(judged: JudgedRankings, key: PictureKey) -> View:
    """Opens one of those pictures. Raises UserError where it is missing or damaged."""
    kind, number = key
    return judged.open_query(number) if kind == "query" else judged.dataset.view(number)


def shown_queries(judged: JudgedRankings, thumbnails: Thumbnails) -> Iterator[dict[str, Any]]:
    """What the page shows of each query, from the worst at the main level to the best."""
    orders = {level: np.argsort(judged.worst_first(level)).tolist() for level in judged.aps}
    for place in judged.worst_first(judged.main_level).tolist():
        query = int(judged.shown[place])
        picture = thumbnails[_query_key(judged, query), QUERY_SIDE]
        yield {
            "number": query,
            "name": judged.queries.names[query],
            # level with a name -> the query's place in the list when that level is chosen
            "orders": {level: order[place] for level, order in orders.items() if level},
            "scores": {
                level: (float(ap[query]), len(judged.relevant_and_junk(query, level)[0]))
                for level, ap in judged.aps.items()
            },
            "picture": picture,
            "box": _box(judged.query_box(query), picture),
            "of_class": _class_of(judged.queries, query),
            "results": _results(judged, place, thumbnails),
        }


def _results(judged: JudgedRankings, place: int, thumbnails: Thumbnails) -> list[dict[str, Any]]:
    verdicts = {level: judged.verdicts(place, level) for level in judged.aps}
    scores = judged.scores[place].tolist()
    results = []
    for k, image in enumerate(judged.rankings[place, :RESULTS_SHOWN].tolist()):
        name, of_class = judged.dataset.names[image], _class_of(judged.dataset, image)
        results.append(
            {
                "picture": thumbnails[("image", image), RESULT_SIDE],
                "name": name,
                "label": name.rsplit("/", 1)[-1] if of_class is None else of_class,
                "score": scores[k] if k < len(scores) else np.nan,
                "verdicts": {level: each[k] for level, each in verdicts.items()},
            }
        )
    return results


def _class_of(dataset: ImageDataset, image: int) -> str | None:
    return dataset.classes[dataset.labels[image]] if isinstance(dataset, LabelledDataset) else None


def _box(box: np.ndarray | None, picture: Thumbnail | UserError) -> list[float] | None:
    """A box in pixels as left, top, right and bottom shares of the picture, cut to it."""
    if box is None or isinstance(picture, UserError):
        return None
    return np.clip(box / (picture.original * 2), 0, 1).tolist()


def _query_key(judged: JudgedRankings, query: int) -> PictureKey:
    return ("image" if judged.query_is_an_image else "query", query)
