"""The measures of a data set by its own protocol, from descriptors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from dir_jax.retrieval.expansion import (
    augment_database,
    check_expansion,
    expand_queries,
)
from dir_jax.retrieval.metrics import evaluate_labelled
from dir_jax.retrieval.protocols import (
    REVISITED_LEVELS,
    Scores,
    evaluate_classic,
    evaluate_revisited,
)
from dir_jax.retrieval.search import rank_all, score_all

TOP_K = (1, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a data set's queries found what is relevant to them.

    Attributes:
      metrics: name -> mean over the queries that have positives, in [0, 1]: 'mAP', 'mP@1', 'top1',
        …; in the revisited protocol 'mAP-easy' and so on.
      aps: level of the protocol ('easy', 'medium', 'hard'; '' where there is but one) -> (Q,)
        float64, each query's average precision; NaN where it has no positives or no descriptor.
      first: (Q,) int64, labelled sets only: the rank from 0 of the first relevant image, or -1.
    """

    metrics: dict[str, float]
    aps: dict[str, np.ndarray]
    first: np.ndarray | None = None

    def detailed(self) -> dict[str, Any]:
        """What the original's `--detailed` adds: the queries' own values; -1 for no positives."""
        found: dict[str, Any] = {
            "APs" + (f"-{level}" if level else ""): np.nan_to_num(ap, nan=-1).tolist()
            for level, ap in self.aps.items()
        }
        if self.first is not None:
            found["tops"] = [
                {k: float(rank < k) for k in TOP_K} if rank >= 0 else {} for rank in self.first
            ]
        return found


def check_can_be_evaluated(dataset: ImageDataset) -> None:
    """Raises UserError where a data set does not say what is relevant."""
    if not isinstance(dataset, LabelledDataset | RelevantsDataset):
        raise UserError(
            "this data set has neither labels nor a ground truth, so there is nothing to evaluate; "
            "give ImageListLabels or ImageListRelevants, or use python -m dir_jax.extract_features"
        )


def check_expansions(
    dataset: ImageDataset, aqe: tuple[int, float] | None, adba: tuple[int, float] | None
) -> None:
    """Raises UserError, before any image is read, for what `expand_descriptors` would refuse."""
    for flag, values, available in (("aqe", aqe, len(dataset)), ("adba", adba, len(dataset) - 1)):
        if values is not None:
            try:
                check_expansion(*values, available)
            except UserError as e:
                raise UserError(f"{flag}: {e}") from e


def expand_descriptors(
    database: np.ndarray,
    queries: np.ndarray | None,
    *,
    aqe: tuple[int, float] | None = None,
    adba: tuple[int, float] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Database augmentation and query expansion, in this order.

    Args:
      database: (N, D) float32.
      queries: (Q, D) float32, or None where the database's own images are the queries.
      aqe: k and alpha of `expand_queries`, or None for none.
      adba: k and alpha of `augment_database`, or None for none.

    Returns:
      The database and the queries; None only where queries are still the database's rows.

    Raises:
      UserError: k or alpha is out of range.
    """
    if adba is not None:
        # As in the original, the queries are not augmented with the database.
        queries = database if queries is None else queries
        database = augment_database(database, k=adba[0], alpha=adba[1])
    if aqe is not None:
        queries = database if queries is None else queries
        queries = expand_queries(queries, database, k=aqe[0], alpha=aqe[1])
    return database, queries


def evaluate_descriptors(
    dataset: ImageDataset, database: np.ndarray, queries: np.ndarray | None = None
) -> Evaluation:
    """Evaluates descriptors by the data set's protocol: labelled, classic or revisited.

    Args:
      dataset: a `LabelledDataset` or a `RelevantsDataset`.
      database: (N, D) float32; rows with NaN come last in every ranking, and are left out of a
        labelled set.
      queries: (Q, D) float32, of the data set's queries; where it has none apart, of the same
        images, by default `database` itself. Queries with NaN are left out.

    Raises:
      UserError: the data set does not say what is relevant, or nothing is.
    """
    check_can_be_evaluated(dataset)
    if isinstance(dataset, LabelledDataset):
        return _evaluate_labelled(dataset, database, queries)
    assert isinstance(dataset, RelevantsDataset)
    if queries is None:
        raise ValueError("a data set with queries of its own is evaluated with theirs")
    valid = np.isfinite(queries).all(axis=1)
    truth = [entry for entry, good in zip(dataset.ground_truth, valid, strict=True) if good]
    scores = Scores(score_all(queries[valid], database))
    revisited = "easy" in dataset.ground_truth[0]
    found = (evaluate_revisited if revisited else evaluate_classic)(scores, truth)
    aps = {}
    for level in REVISITED_LEVELS if revisited else ("",):
        aps[level] = np.full(len(queries), np.nan)
        aps[level][valid] = found["ap" + (f"-{level}" if level else "")]
    # All mAP first, as the original prints them.
    names = sorted((n for n in found if n.startswith("m")), key=lambda n: not n.startswith("mAP"))
    return Evaluation({name: float(found[name]) for name in names}, aps)


def _evaluate_labelled(
    dataset: LabelledDataset, database: np.ndarray, queries: np.ndarray | None
) -> Evaluation:
    valid = np.isfinite(database).all(axis=1)
    apart = dataset.queries
    if apart is None:
        valid_queries, labels = valid, None
        queries = database if queries is None else queries
    else:
        assert queries is not None
        valid_queries = np.isfinite(queries).all(axis=1)
        labels = apart.labels[valid_queries]
    result = evaluate_labelled(
        database[valid],
        dataset.labels[valid],
        queries=queries[valid_queries],
        query_labels=labels,
        top_k=TOP_K,
    )
    ap, first = np.full(len(queries), np.nan), np.full(len(queries), -1)
    ap[valid_queries], first[valid_queries] = result.ap, result.first
    tops = {f"top{k}": share for k, share in result.top.items()}
    return Evaluation({"mAP": result.mAP, **tops}, {"": ap}, first)


def rankings_to_show(
    dataset: ImageDataset,
    evaluation: Evaluation,
    database: np.ndarray,
    queries: np.ndarray | None,
    *,
    most: int = 100,
    results: int = 10,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a report shows: all queries of an Oxford-style set, the worst of a labelled one.

    Args:
      dataset: what was evaluated.
      evaluation: how.
      database: (N, D) float32, as it was evaluated.
      queries: (Q, D) likewise; None where the database's images query each other.
      most: queries of a labelled set.
      results: of which the scores are wanted.

    Returns:
      shown: (S,) int64, numbers of queries.
      rankings: (S, N) int32, the database from the best on; (S, N − 1) without the query itself
        where it is one of the database's.
      scores: (S, results) float32, of the first of them.
    """
    own = isinstance(dataset, LabelledDataset) and dataset.queries is None
    queries = database if queries is None else queries
    shown: np.ndarray = np.arange(len(queries))
    if isinstance(dataset, LabelledDataset):
        ap = evaluation.aps[""]
        order = np.argsort(ap, kind="stable")  # NaN last
        shown = np.sort(order[: min(most, max(np.isfinite(ap).sum(), 1))])
    rankings = rank_all(queries[shown], database)
    if own:
        rankings = rankings[rankings != shown[:, None]].reshape(len(shown), -1)
    best = database[rankings[:, :results]]
    return shown, rankings, np.einsum("qd,qkd->qk", queries[shown], best)
