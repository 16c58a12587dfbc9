"""What a report shows, whatever the kind of data set: names, pictures, and who is relevant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from PIL import Image

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.retrieval.protocols import LEVELS, relevant_and_junk

RESULTS_SHOWN = 10
SINGLE_LEVEL = ""  # of the classic protocol and of labelled sets


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a result is, at one level.

    Attributes:
      word: 'relevant', 'wrong' or 'junk'.
      rank: from 1, among the results that are not junk; of junk, its place among all.
    """

    word: str
    rank: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A data set that was evaluated, and the rankings of the queries to show.

    Attributes:
      dataset: a `RelevantsDataset` or a `LabelledDataset`.
      metrics: shares in [0, 1] in the order to show; a name may end in '-LEVEL'.
      aps: level -> (Q,) float64, NaN for queries without relevant images.
      shown: (S,) int, numbers of the queries to show.
      rankings: (S, N) int, or (S, N - 1) where each image queries the others.
      scores: (S, K) float, of the first results.

    Raises:
      ValueError: these do not fit each other, or the data set has no ground truth.
    """

    dataset: ImageDataset
    metrics: Mapping[str, float]
    aps: Mapping[str, np.ndarray]
    shown: np.ndarray
    rankings: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, RelevantsDataset | LabelledDataset):
            raise ValueError(f"a {type(self.dataset).__name__} has no ground truth to report on")
        unknown = set(self.aps) - set(LEVELS)
        if unknown or not self.aps:
            raise ValueError(f"levels {sorted(self.aps)}; expected some of {sorted(LEVELS)}")
        if isinstance(self.dataset, RelevantsDataset):
            grades = {grade for level in self.aps for part in LEVELS[level] for grade in part}
            if not all(grades <= set(truth) for truth in self.dataset.ground_truth):
                raise ValueError(f"the ground truth has not all of the grades {sorted(grades)}")
        if {len(ap) for ap in self.aps.values()} != {self.num_queries}:
            raise ValueError(f"average precisions are not of {self.num_queries} queries each")
        wanted = (len(self.shown), len(self.dataset) - self.query_is_an_image)
        if self.rankings.shape != wanted or len(self.scores) != len(self.shown):
            raise ValueError(
                f"rankings of shape {self.rankings.shape} and scores of {self.scores.shape}; "
                f"expected {wanted}, and as many rows"
            )

    @property
    def query_is_an_image(self) -> bool:
        """Whether each image of the data set queries the others."""
        return isinstance(self.dataset, LabelledDataset) and self.dataset.queries is None

    @property
    def queries(self) -> ImageDataset:
        """The images that query."""
        queries = getattr(self.dataset, "queries", None)
        return self.dataset if queries is None else queries

    @property
    def num_queries(self) -> int:
        """Of all queries, shown or not."""
        return len(self.queries)

    @property
    def levels(self) -> list[str]:
        """The protocol's levels, in the order of `aps`."""
        return list(self.aps)

    @property
    def main_level(self) -> str:
        """The level that the page starts with."""
        return "medium" if "medium" in self.aps else self.levels[0]

    def worst_first(self, level: str) -> np.ndarray:
        """(S,) int64: places in `shown` by rising average precision, those without one last."""
        return np.argsort(self.aps[level][self.shown], kind="stable")

    def query_class(self, query: int) -> str | None:
        """The class of a query, where there are classes."""
        queries = self.queries
        if not isinstance(queries, LabelledDataset):
            return None
        return str(queries.classes[queries.labels[query]])

    def image_class(self, image: int) -> str | None:
        """The class of an image of the database, where there are classes."""
        if not isinstance(self.dataset, LabelledDataset):
            return None
        return str(self.dataset.classes[self.dataset.labels[image]])

    def open_query(self, query: int) -> Image.Image:
        """The whole picture that a query, or its box, is from.

        Raises:
          UserError: it is missing or damaged.
        """
        if isinstance(self.dataset, RelevantsDataset):
            return ImageDataset.open(self.dataset.queries, query)  # its own crops to the box
        return self.queries.open(query)

    def query_box(self, query: int) -> np.ndarray | None:
        """(4,) left, top, right, bottom in pixels of `open_query`; None for a whole picture."""
        if not isinstance(self.dataset, RelevantsDataset) or self.dataset.query_boxes is None:
            return None
        return self.dataset.query_boxes[query]

    def relevant_and_junk(self, query: int, level: str) -> tuple[np.ndarray, np.ndarray]:
        """The images that count for a query, and those that are taken out of its ranking.

        Returns:
          Two arrays of int64, numbers of database images.
        """
        if isinstance(self.dataset, RelevantsDataset):
            return relevant_and_junk(self.dataset.ground_truth[query], level)
        assert isinstance(self.dataset, LabelledDataset)
        if self.dataset.queries is not None:
            label = self.dataset.queries.labels[query]
            return np.flatnonzero(self.dataset.labels == label), np.zeros(0, np.int64)
        relevant = np.flatnonzero(self.dataset.labels == self.dataset.labels[query])
        return relevant[relevant != query], np.array([query])

    def whole_ranking(self, place: int) -> np.ndarray:
        """(N,) int: all images of the database as ranked for query `shown[place]`.

        A query that is one of them is put last, where it changes nothing once junk is taken out.
        """
        if self.query_is_an_image:
            return np.append(self.rankings[place], self.shown[place])
        return self.rankings[place]

    def verdicts(self, place: int, level: str) -> list[Verdict]:
        """What the first results of query `shown[place]` are."""
        first = self.rankings[place, :RESULTS_SHOWN]
        relevant, junk = self.relevant_and_junk(int(self.shown[place]), level)
        is_relevant = np.isin(first, relevant)
        is_junk = np.isin(first, junk) & ~is_relevant
        counted = np.cumsum(~is_junk)
        return [
            Verdict("junk", k + 1)
            if is_junk[k]
            else Verdict("relevant" if is_relevant[k] else "wrong", int(counted[k]))
            for k in range(len(first))
        ]
