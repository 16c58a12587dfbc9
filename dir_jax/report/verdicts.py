"""Rankings with what each result is: one view of all kinds of data sets for the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.transforms.views import View
from dir_jax.retrieval.protocols import relevant_and_junk

RESULTS_SHOWN = 10


class Verdict(NamedTuple):
    """What a result is at one level."""

    word: str  # 'relevant', 'wrong' or 'junk'
    rank: int  # from 1, among the results that are not junk; for junk, its place among all


@dataclasses.dataclass(frozen=True)
class JudgedRankings:
    """A data set that was evaluated, and the rankings of the queries to show.

    Attributes:
      dataset: a `RelevantsDataset` or a `LabelledDataset`.
      metrics: shares in [0, 1] in the order to show them; a name may end in '-LEVEL'.
      aps: level ('easy', 'medium', 'hard', or '' where there is only one) -> (Q,) float64 in
        [0, 1], the average precision of each query; NaN for queries without relevant images.
      shown: (S,) int, the numbers of the queries to show.
      rankings: (S, N) int, all images of the database from the best on; (S, N - 1), without the
        query itself, where each image searches the others.
      scores: (S, K) float, the scores of the first K results.
    """

    dataset: ImageDataset
    metrics: Mapping[str, float]
    aps: Mapping[str, np.ndarray]
    shown: np.ndarray
    rankings: np.ndarray
    scores: np.ndarray

    @property
    def query_is_an_image(self) -> bool:
        """Whether each image of the data set searches the others."""
        return isinstance(self.dataset, LabelledDataset) and self.dataset.queries is None

    @property
    def has_junk(self) -> bool:
        """Whether results may be junk, which counts neither for nor against a ranking."""
        return isinstance(self.dataset, RelevantsDataset)

    @property
    def queries(self) -> ImageDataset:
        """The query images."""
        queries = getattr(self.dataset, "queries", None)
        return self.dataset if queries is None else queries

    @property
    def main_level(self) -> str:
        """The level that the page shows at first."""
        return "medium" if "medium" in self.aps else next(iter(self.aps))

    def worst_first(self, level: str) -> np.ndarray:
        """(S,) int64: places in `shown` by rising average precision, then those without one."""
        return np.argsort(self.aps[level][self.shown], kind="stable")

    def open_query(self, query: int) -> View:
        """The whole picture of a query, not cropped to its box; raises as `ImageDataset.open`."""
        return self.queries.view(query, whole=True)

    def query_box(self, query: int) -> np.ndarray | None:
        """(4,) left, top, right, bottom in pixels of `open_query`; None for a whole picture."""
        boxes = getattr(self.queries, "boxes", None)
        return None if boxes is None else boxes[query]

    def relevant_and_junk(self, query: int, level: str) -> tuple[np.ndarray, np.ndarray]:
        """Two int64 arrays: the database images relevant to a query, and those left out for it."""
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

        A query that is itself in the database comes last, and is taken out again as junk.
        """
        if self.query_is_an_image:
            return np.append(self.rankings[place], self.shown[place])
        return self.rankings[place]

    def verdicts(self, place: int, level: str) -> list[Verdict]:
        """What each of the first results of query `shown[place]` is."""
        first = self.rankings[place, :RESULTS_SHOWN]
        relevant, junk = self.relevant_and_junk(int(self.shown[place]), level)
        words = np.where(np.isin(first, junk), "junk", "wrong")
        words = np.where(np.isin(first, relevant), "relevant", words)
        ranks = np.where(words == "junk", np.arange(len(first)) + 1, np.cumsum(words != "junk"))
        return [Verdict(*each) for each in zip(words.tolist(), ranks.tolist(), strict=True)]
