"""The data sets that a run is evaluated on, and what their measures are called in the log.

What is measured, and how, is for `dir_jax.evaluation` alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.transforms import Compose
from dir_jax.describe.describer import queries_of
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.image_lists import agree, read_list
from dir_jax.describe.passes import describe_lists
from dir_jax.errors import UserError
from dir_jax.evaluation import check_can_be_evaluated, evaluate_descriptors, rankings_to_show
from dir_jax.report.figures import RankedRow, save_ranked_results
from dir_jax.report.verdicts import JudgedRankings
from dir_jax.retrieval.whitening import Whitening, apply_whitening

_QUERIES_SHOWN, _RESULTS_SHOWN, _SIDE = 6, 8, 512


class DescribedSet(NamedTuple):
    """A data set and its descriptors."""

    dataset: ImageDataset
    database: np.ndarray  # (N, D) float32
    queries: np.ndarray | None  # (Q, D) float32; None if the data set has no queries of its own

    def logged(self) -> dict[str, float]:
        """The measures by their names in the log, where those of the classic protocol end in
        '-classic', as the labelled set has the bare names."""
        oxford = isinstance(self.dataset, RelevantsDataset)
        return {
            f"{name}-classic" if oxford and "-" not in name else name: value
            for name, value in evaluate_descriptors(*self, allow_missing=True).metrics.items()
        }


@dataclasses.dataclass(frozen=True)
class DescribedSets:
    """The held-out data sets as a network describes them."""

    sets: list[DescribedSet]

    def metrics(self) -> dict[str, float]:
        """Every measure of every set, in [0, 1], by its name in the log."""
        return {name: value for each in self.sets for name, value in each.logged().items()}

    def whitened(self, whitening: Whitening, power: float) -> DescribedSets:
        """The same sets with whitened descriptors."""

        def whiten(x: np.ndarray | None) -> Any:
            return None if x is None else np.asarray(apply_whitening(x, whitening, power=power))

        return DescribedSets([DescribedSet(x.dataset, *map(whiten, x[1:])) for x in self.sets])

    def save_ranked_picture(self, path: str | os.PathLike[str]) -> None:
        """Draws some queries of the last set, from the worst to the best, with their results."""
        if self.sets:
            save_ranked_results(path, _ranked_rows(self.sets[-1]))


class HeldOutSets:
    """The data sets of `config.data.eval` and `config.data.eval_oxford`, checked.

    Attributes:
      sets: the data sets by the names of their keys, 'eval' and 'eval_oxford'.
    """

    def __init__(
        self,
        labelled: LabelledDataset | None,
        oxford: RelevantsDataset | None,
        transform: Compose,
        *,
        skip_failures: bool = False,
    ):
        """Checks that the sets can be evaluated, then reads the headers of their images.

        Each image goes through `transform`. Raises UserError where a set cannot be evaluated, or
        naming an image that cannot be used, with `skip_failures` if none of a list can.
        """
        self.labelled, self.transform = labelled, transform
        named = {"eval": labelled, "eval_oxford": oxford}
        self.sets = {key: each for key, each in named.items() if each is not None}
        for key, dataset in self.sets.items():
            try:
                check_can_be_evaluated(dataset)
            except UserError as e:
                raise UserError(f"config.data.{key}: {e}") from e
        lists = []
        for key, dataset in self.sets.items():
            lists.append(read_list(f"evaluate ({key})", dataset))
            if (queries := queries_of(dataset)) is not None:
                lists.append(read_list(f"evaluate ({key}, queries)", queries))
        self._lists = [agree(images, skip=True) for images in lists] if skip_failures else lists
        for images in self._lists:
            if not skip_failures or len(images.unreadable) == len(images):
                images.check(transform)

    def describe(
        self,
        extractor: Extractor,
        params: Mapping[str, Any],
        stats: Mapping[str, Any],
        **hooks: Any,
    ) -> DescribedSets:
        """Describes all sets and their queries; the arguments are those of `describe_lists`."""
        if not self._lists:
            return DescribedSets([])
        how = (self._lists, self.transform)
        rows = iter(describe_lists(extractor, params, stats, *how, **hooks))
        return DescribedSets(
            [
                DescribedSet(each, next(rows), None if queries_of(each) is None else next(rows))
                for each in self.sets.values()
            ]
        )


def _ranked_rows(described: DescribedSet) -> list[RankedRow]:
    dataset, database, queries = described
    evaluation = evaluate_descriptors(*described, allow_missing=True)
    level = "medium" if "medium" in evaluation.aps else ""
    ap = evaluation.aps[level]
    chosen = _spread(ap, _QUERIES_SHOWN)
    shown, rankings, scores = rankings_to_show(
        dataset, evaluation, database, queries, shown=chosen, results=_RESULTS_SHOWN
    )
    judged = JudgedRankings(dataset, evaluation.metrics, evaluation.aps, shown, rankings, scores)
    rows = []
    for place, query in enumerate(shown.tolist()):
        words = [verdict.word for verdict in judged.verdicts(place, level)]
        results = [
            (dataset.view(image).small(_SIDE), word, float(score))
            for image, word, score in zip(rankings[place], words, scores[place], strict=False)
            if np.isfinite(score)  # there are no others where an image could not be described
        ]
        rows.append(RankedRow(judged.queries.view(query).small(_SIDE), results, float(ap[query])))
    return rows


def _spread(ap: np.ndarray, count: int) -> np.ndarray:
    """Queries at even quantiles of average precision, the worst first; those with NaN left out."""
    order = np.argsort(ap)[: np.isfinite(ap).sum()]
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return order[list(dict.fromkeys(places.tolist()))]
