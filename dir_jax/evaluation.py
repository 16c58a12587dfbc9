"""The evaluator: how well descriptors retrieve, by the protocol of the data set they are of.

Training, `test_dir` and the Python interface all check a data set with `check_can_be_evaluated`
before any image is described, and then evaluate its descriptors with `evaluate_descriptors`.
"""

from __future__ import annotations

import logging

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError, quoted, shown
from dir_jax.evaluators import PROTOCOLS, Evaluation, refuse_non_finite
from dir_jax.retrieval.blockwise import Rows, StackedRows
from dir_jax.retrieval.expansion import augment_database, check_expansion, expand_queries
from dir_jax.retrieval.metrics import count_positives
from dir_jax.retrieval.protocols import check_ground_truth, levels_of, relevant_and_junk
from dir_jax.retrieval.search import rank_all

log = logging.getLogger(__name__)


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
    dataset: ImageDataset,
    aqe: tuple[int, float] | None,
    adba: tuple[int, float] | None,
    *,
    distractors: bool = False,
) -> None:
    """Raises UserError, before any image is read, where `expand_descriptors` would raise one."""
    if adba is not None:
        _refuse_augmentation(distractors)
    for flag, values, available in (("aqe", aqe, len(dataset)), ("adba", adba, len(dataset) - 1)):
        if values is not None:
            try:
                check_expansion(*values, available)
            except UserError as e:
                raise UserError(f"{flag}: {e}") from e


def _refuse_augmentation(distractors: bool) -> None:
    if distractors:
        raise UserError(
            "adba: database augmentation is not offered with distractors, each of which it would "
            "compare with all others"
        )


def expand_descriptors(
    database: np.ndarray,
    queries: np.ndarray | None,
    *,
    distractors: Rows | None = None,
    aqe: tuple[int, float] | None = None,
    adba: tuple[int, float] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Database augmentation and query expansion, in this order.

    Args:
      database: (N, D) float32.
      queries: (Q, D) float32, or None where the database's own images are the queries.
      distractors: (M, D) float, among which queries also find neighbours; not with `adba`.
      aqe: k and alpha of `expand_queries`, or None for none.
      adba: k and alpha of `augment_database`, or None for none.

    Returns:
      The database and the queries; None only where queries are still the database's rows.

    Raises:
      UserError: k or alpha is out of range, or a database with distractors is to be augmented.
    """
    if adba is not None:
        _refuse_augmentation(distractors is not None)
        # As in the original, the queries are not augmented with the database.
        queries = database if queries is None else queries
        database = augment_database(database, k=adba[0], alpha=adba[1])
    if aqe is not None:
        queries = database if queries is None else queries
        searched = database if distractors is None else StackedRows(database, distractors)
        queries = expand_queries(queries, searched, k=aqe[0], alpha=aqe[1])
    return database, queries


def evaluate_descriptors(
    dataset: ImageDataset,
    database: np.ndarray,
    queries: np.ndarray | None = None,
    *,
    distractors: Rows | None = None,
    allow_missing: bool = False,
) -> Evaluation:
    """Evaluates descriptors by the data set's protocol, which is a row of `PROTOCOLS`.

    Args:
      dataset: a `LabelledDataset` or a `RelevantsDataset`.
      database: (N, D) float32.
      queries: (Q, D) float32, the descriptors of the data set's queries. Where its own images are
        the queries, other descriptors of these; by default `database` itself.
      distractors: (M, D) float, more images to search, which are neither relevant nor junk. They
        are read once, in blocks, so that they may be larger than memory.
      allow_missing: whether rows may be NaN, as those of images that could not be described are.
        Such queries, and such images of a labelled set, are left out; in other sets, such images
        come last in every ranking.

    Raises:
      UserError: as `check_can_be_evaluated`; descriptors are not finite; nothing is relevant among
        the images that have descriptors; or there are distractors for a labelled set.
    """
    check_can_be_evaluated(dataset)
    check_distractors(dataset, distractors is not None)
    for rows, what in ((database, "database"), (queries, "queries")):
        if rows is not None:
            refuse_non_finite(rows, what, allow_missing)
    if queries is None and isinstance(dataset, RelevantsDataset):
        raise ValueError("a data set with queries of its own is evaluated with theirs")
    if distractors is not None and distractors.shape[1] != database.shape[1]:
        raise UserError(
            f"the distractors have descriptors of {distractors.shape[1]} dimensions, the database "
            f"has {database.shape[1]}"
        )
    evaluate = PROTOCOLS[_protocol_name(dataset)].evaluate
    return evaluate(dataset, database, queries, distractors, allow_missing)


def check_distractors(dataset: ImageDataset, given: bool) -> None:
    """Raises UserError where distractors are given for a set that is not evaluated with any."""
    if given and not isinstance(dataset, RelevantsDataset):
        raise UserError(
            "distractors go with a set that has a ground truth, such as ROxford5K; in a labelled "
            "set, give them a label of their own in the list"
        )


def protocol_of(dataset: ImageDataset) -> str:
    """What is measured on a data set that can be evaluated, in a line."""
    row = PROTOCOLS[_protocol_name(dataset)]
    return f"{row.title}: {row.measures}"


def _protocol_name(dataset: ImageDataset) -> str:
    assert isinstance(dataset, LabelledDataset | RelevantsDataset)
    return dataset.protocol


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
