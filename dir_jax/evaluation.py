"""The evaluator: how well descriptors retrieve, by the protocol of the data set they are of.

Training, `test_dir` and the Python interface all check a data set with `check_can_be_evaluated`
before any image is described, and then evaluate its descriptors with `evaluate_descriptors`.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError, quoted, shown
from dir_jax.retrieval.blockwise import finite_rows
from dir_jax.retrieval.expansion import augment_database, check_expansion, expand_queries
from dir_jax.retrieval.metrics import count_positives, evaluate_labelled
from dir_jax.retrieval.protocols import (
    check_ground_truth,
    evaluate_classic,
    evaluate_revisited,
    levels_of,
    relevant_and_junk,
)
from dir_jax.retrieval.ranks import Scores
from dir_jax.retrieval.search import rank_all, score_all

log = logging.getLogger(__name__)

TOP_K = (1, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well a data set's queries found what is relevant to them.

    Attributes:
      metrics: name -> mean over the queries that have relevant images, in [0, 1]: 'mAP', 'mP@1',
        'recall@1', …; in the revisited protocol 'mAP-easy' and so on.
      aps: level of the protocol ('easy', 'medium', 'hard'; '' where there is only one) -> (Q,)
        float64, each query's average precision; NaN where it has no relevant image or no
        descriptor.
      first: (Q,) int64, the rank from 0 of each query's first relevant image, or -1 where there is
        none; None except for labelled sets.
    """

    metrics: dict[str, float]
    aps: dict[str, np.ndarray]
    first: np.ndarray | None = None

    def detailed(self) -> dict[str, Any]:
        """The values of each query, as the original's `--detailed` gives them; -1 for none."""
        found: dict[str, Any] = {
            "APs" + (f"-{level}" if level else ""): np.nan_to_num(ap, nan=-1).tolist()
            for level, ap in self.aps.items()
        }
        if self.first is not None:
            found["tops"] = [
                {k: float(0 <= rank < k) for k in TOP_K if f"recall@{k}" in self.metrics}
                for rank in self.first
            ]
        return found


def check_can_be_evaluated(dataset: ImageDataset) -> None:
    """Checks, without opening an image, that a data set says what is relevant to its queries.

    Raises:
      UserError: the data set has neither labels nor a ground truth, nothing is relevant to any
        query, or the ground truth is of two kinds or refers to images outside the list.
    """
    if isinstance(dataset, LabelledDataset):
        queries = dataset.queries
        if queries is not None:
            _check_labels_of_queries(dataset, queries)
        count_positives(dataset.labels, None if queries is None else queries.labels)
    elif isinstance(dataset, RelevantsDataset):
        truth = dataset.ground_truth
        levels = levels_of(truth)
        check_ground_truth(truth, len(dataset), levels)
        if not any(len(relevant_and_junk(each, lv)[0]) for each in truth for lv in levels):
            raise UserError(
                f"the ground truth has no relevant image for any of its {len(truth)} queries, so "
                "there is nothing to evaluate"
            )
    else:
        raise UserError(
            "this data set has neither labels nor a ground truth, so there is nothing to evaluate; "
            "give ImageListLabels or ImageListRelevants, or use python -m dir_jax.extract_features"
        )


def _check_labels_of_queries(dataset: LabelledDataset, queries: LabelledDataset) -> None:
    """Names the queries that no image of the database has the label of; an error if all are."""
    lost = np.flatnonzero(~np.isin(queries.labels, dataset.labels)).tolist()
    some = [
        f"{shown(queries.path(q))} ({quoted(queries.classes[queries.labels[q]])})" for q in lost
    ]
    which = ", ".join(some[:3]) + ", …" * (len(lost) > 3)
    if 0 < len(lost) == len(queries):
        first = quoted(dataset.classes[dataset.labels[0]]) if len(dataset) else "none"
        raise UserError(
            f"none of the {len(lost)} queries has the label of a database image: {which}; the "
            f"database's labels are such as {first}; is the list of queries right?"
        )
    if lost:
        log.warning("%d of %d queries have a label that no image of the database has, so nothing "
                    "is relevant to them: %s", len(lost), len(queries), which)  # fmt: skip


def check_expansions(
    dataset: ImageDataset, aqe: tuple[int, float] | None, adba: tuple[int, float] | None
) -> None:
    """Raises UserError, before any image is read, where `expand_descriptors` would raise one."""
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
    dataset: ImageDataset,
    database: np.ndarray,
    queries: np.ndarray | None = None,
    *,
    allow_missing: bool = False,
) -> Evaluation:
    """Evaluates descriptors by the data set's protocol: labelled, classic or revisited.

    Args:
      dataset: a `LabelledDataset` or a `RelevantsDataset`.
      database: (N, D) float32.
      queries: (Q, D) float32, the descriptors of the data set's queries. Where its own images are
        the queries, other descriptors of these; by default `database` itself.
      allow_missing: whether rows may be NaN, as those of images that could not be described are.
        Such queries, and such images of a labelled set, are left out; in an Oxford-style set, such
        images come last in every ranking.

    Raises:
      UserError: as `check_can_be_evaluated`; descriptors are not finite; or nothing is relevant
        among the images that have descriptors.
    """
    check_can_be_evaluated(dataset)
    for rows, what in ((database, "database"), (queries, "queries")):
        if rows is not None:
            _refuse_non_finite(rows, what, allow_missing)
    if isinstance(dataset, LabelledDataset):
        return _evaluate_labelled(dataset, database, queries)
    assert isinstance(dataset, RelevantsDataset)
    if queries is None:
        raise ValueError("a data set with queries of its own is evaluated with theirs")
    valid = finite_rows(queries)
    truth = [entry for entry, good in zip(dataset.ground_truth, valid, strict=True) if good]
    scores = Scores(score_all(queries[valid], database))
    levels = levels_of(dataset.ground_truth)
    found = (evaluate_classic if levels == [""] else evaluate_revisited)(scores, truth)
    aps = {}
    for level in levels:
        aps[level] = np.full(len(queries), np.nan)
        aps[level][valid] = found["ap" + (f"-{level}" if level else "")]
    # All mAP first, as the original prints them.
    names = sorted((n for n in found if n.startswith("m")), key=lambda n: not n.startswith("mAP"))
    return Evaluation({name: float(found[name]) for name in names}, aps)


def _refuse_non_finite(rows: np.ndarray, what: str, allow_missing: bool) -> None:
    bad = np.flatnonzero(~finite_rows(rows))
    if allow_missing:
        bad = bad[~np.isnan(rows[bad]).all(axis=1)]
    if len(bad):
        first = ", ".join(map(str, bad[:5].tolist()))
        raise UserError(
            f"{len(bad)} of {len(rows)} descriptors of the {what} are not finite; they are of the "
            f"images number {first}{', …' if len(bad) > 5 else ''}"
        )


def _evaluate_labelled(
    dataset: LabelledDataset, database: np.ndarray, queries: np.ndarray | None
) -> Evaluation:
    valid = finite_rows(database)
    apart = dataset.queries
    if apart is None:
        valid_queries, labels = valid, None
        queries = database if queries is None else queries
    else:
        assert queries is not None
        valid_queries = finite_rows(queries)
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
    recall = {f"recall@{k}": share for k, share in result.top.items()}
    return Evaluation({"mAP": result.mAP, **recall}, {"": ap}, first)


def rankings_to_show(
    dataset: ImageDataset,
    evaluation: Evaluation,
    database: np.ndarray,
    queries: np.ndarray | None,
    *,
    shown: np.ndarray | None = None,
    most: int = 100,
    results: int = 10,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks the database for the queries that a report or a picture shows.

    Args:
      dataset: what was evaluated.
      evaluation: the result.
      database: (N, D) float32, as it was evaluated.
      queries: (Q, D) float32, in the same way; None where they are the database's rows.
      shown: (S,) integers, numbers of the queries to show; by default all queries of an
        Oxford-style set, and the worst of a labelled one.
      most: how many queries of a labelled set are shown by default.
      results: how many of the first results get their scores.

    Returns:
      shown: (S,) int64, numbers of queries.
      rankings: (S, N) int32, the database from the best on; (S, N − 1), without the query itself,
        where it is one of the database's images.
      scores: (S, results) float32, the scores of the first results.
    """
    own = isinstance(dataset, LabelledDataset) and dataset.queries is None
    queries = database if queries is None else queries
    if shown is None and isinstance(dataset, LabelledDataset):
        ap = evaluation.aps[""]
        order = np.argsort(ap, kind="stable")  # NaN last
        shown = np.sort(order[: min(most, max(np.isfinite(ap).sum(), 1))])
    shown = np.arange(len(queries)) if shown is None else shown
    rankings = rank_all(queries[shown], database)
    if own:
        rankings = rankings[rankings != shown[:, None]].reshape(len(shown), -1)
    best = database[rankings[:, :results]]
    return shown, rankings, np.einsum("qd,qkd->qk", queries[shown], best)
