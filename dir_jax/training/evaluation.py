"""How good the network is now: labelled mAP, Oxford-style mAP, and a look at the rankings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.headers import check_dataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.transforms import Compose
from dir_jax.describe.extractor import Extractor
from dir_jax.report.figures import RankedRow, save_ranked_results
from dir_jax.retrieval.metrics import evaluate_labelled
from dir_jax.retrieval.protocols import evaluate_revisited
from dir_jax.retrieval.search import rank_all
from dir_jax.retrieval.whitening import Whitening, apply_whitening

_RESULTS_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """A data set to evaluate on, with the sizes of its images' files."""

    dataset: ImageDataset
    sizes: np.ndarray

    @classmethod
    def checked(cls, dataset: ImageDataset, transform: Compose) -> EvaluationSet:
        """Makes sure that every image can be read and transformed, by its header."""
        sizes = check_dataset(dataset)
        for size in np.unique(sizes, axis=0).tolist():
            transform.output_size(tuple(size), tuple(size))
        return cls(dataset, sizes)


@dataclasses.dataclass
class Evaluator:
    """Evaluates a network's variables on the experiment's evaluation sets."""

    extractor: Extractor
    transform: Compose
    labelled: EvaluationSet | None
    oxford: EvaluationSet | None
    oxford_queries: EvaluationSet | None
    on_batch: Callable[[], None] = lambda: None

    def descriptors(
        self, params: Mapping[str, Any], stats: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """The descriptors of each evaluation set: 'labelled', 'oxford', 'oxford_queries'."""
        sets = {
            name: getattr(self, name)
            for name in ("labelled", "oxford", "oxford_queries")
            if getattr(self, name) is not None
        }
        return {
            name: self.extractor(
                params,
                stats,
                each.dataset,
                self.transform,
                each.sizes,
                description=f"evaluate ({name.replace('_', ' ')})",
                on_batch=self.on_batch,
            )
            for name, each in sets.items()
        }

    def metrics(self, descriptors: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Shares in [0, 1]: 'mAP', 'top1', … of the labelled set, 'mAP-easy', … of the other."""
        found: dict[str, float] = {}
        if self.labelled is not None:
            assert isinstance(self.labelled.dataset, LabelledDataset)
            labelled = evaluate_labelled(descriptors["labelled"], self.labelled.dataset.labels)
            found["mAP"] = float(labelled.mAP)
            found |= {f"top{k}": float(share) for k, share in labelled.top.items()}
        if self.oxford is not None:
            rankings = rank_all(descriptors["oxford_queries"], descriptors["oxford"])
            result = evaluate_revisited(rankings, self._ground_truth())
            found |= {name: float(v) for name, v in result.items() if np.ndim(v) == 0}
        return found

    def whitened(
        self, descriptors: Mapping[str, np.ndarray], whitening: Whitening, power: float
    ) -> dict[str, np.ndarray]:
        """The same descriptors after whitening."""
        return {
            name: np.asarray(apply_whitening(x, whitening, power=power))
            for name, x in descriptors.items()
        }

    def save_ranked_picture(
        self,
        path: str | os.PathLike[str],
        descriptors: Mapping[str, np.ndarray],
        *,
        num_queries: int = 6,
    ) -> None:
        """Draws queries, from the worst to the best, with their first results."""
        if self.oxford is not None:
            save_ranked_results(path, self._oxford_rows(descriptors, num_queries))
        elif self.labelled is not None:
            save_ranked_results(path, self._labelled_rows(descriptors["labelled"], num_queries))

    def _ground_truth(self) -> list[dict[str, np.ndarray]]:
        assert self.oxford is not None
        assert isinstance(self.oxford.dataset, RelevantsDataset)
        return self.oxford.dataset.ground_truth

    def _oxford_rows(
        self, descriptors: Mapping[str, np.ndarray], num_queries: int
    ) -> list[RankedRow]:
        assert self.oxford is not None
        assert self.oxford_queries is not None
        queries, database = descriptors["oxford_queries"], descriptors["oxford"]
        rankings = np.asarray(rank_all(queries, database))
        truth = self._ground_truth()
        ap = np.asarray(evaluate_revisited(rankings, truth)["ap-medium"])
        rows = []
        for q in _spread(ap, num_queries):
            relevant = {*truth[q]["easy"].tolist(), *truth[q]["hard"].tolist()}
            junk = set(truth[q]["junk"].tolist())
            results = [
                (
                    self.oxford.dataset.open(i),
                    "relevant" if i in relevant else "junk" if i in junk else "wrong",
                    float(queries[q] @ database[i]),
                )
                for i in rankings[q, :_RESULTS_SHOWN].tolist()
            ]
            rows.append(RankedRow(self.oxford_queries.dataset.open(q), results, float(ap[q])))
        return rows

    def _labelled_rows(self, descriptors: np.ndarray, num_queries: int) -> list[RankedRow]:
        assert self.labelled is not None
        dataset = self.labelled.dataset
        assert isinstance(dataset, LabelledDataset)
        ap = evaluate_labelled(descriptors, dataset.labels).ap
        rows = []
        for q in _spread(ap, num_queries):
            scores = descriptors @ descriptors[q]
            scores[q] = -np.inf
            results: list[tuple[Image.Image, str, float]] = [
                (
                    dataset.open(i),
                    "relevant" if dataset.labels[i] == dataset.labels[q] else "wrong",
                    float(scores[i]),
                )
                for i in np.argsort(-scores)[:_RESULTS_SHOWN].tolist()
            ]
            rows.append(RankedRow(dataset.open(q), results, float(ap[q])))
        return rows


def _spread(ap: np.ndarray, count: int) -> list[int]:
    """Queries at even quantiles of average precision, the worst first."""
    order = [int(q) for q in np.argsort(ap) if np.isfinite(ap[q])]
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    return [order[i] for i in dict.fromkeys(places.tolist())]
