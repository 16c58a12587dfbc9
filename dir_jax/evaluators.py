"""The protocols: for each, what it measures, and its evaluation of a data set's descriptors.

The measures themselves are pure functions, in `dir_jax.retrieval`: `metrics` (labels), `protocols`
(Oxford-style) and `measures` (all others). Here they get rankings, and a data set's ground truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from dir_jax.retrieval.blockwise import Rows, StackedRows, finite_rows
from dir_jax.retrieval.measures import (
    average_precision_at_k,
    global_average_precision,
    ilias_average_precision,
    ranked_hits,
    ukbench_score,
)
from dir_jax.retrieval.metrics import evaluate_labelled
from dir_jax.retrieval.protocols import (
    evaluate_classic,
    evaluate_holidays,
    evaluate_revisited,
    levels_of,
)
from dir_jax.retrieval.ranks import Scores
from dir_jax.retrieval.search import score_all, score_blocks, top_k
from dir_jax.runtime.progress import progress_bar

TOP_K = (1, 5, 10, 20, 50, 100)
_DISTRACTORS = 32768  # scored at once


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


def refuse_non_finite(
    rows: np.ndarray, what: str, allow_missing: bool, numbers: np.ndarray | None = None
) -> None:
    """Raises UserError where rows are not finite; `numbers` are those of the rows, if not 0, 1 …"""
    bad = np.flatnonzero(~finite_rows(rows))
    if allow_missing:
        bad = bad[~np.isnan(rows[bad]).all(axis=1)]
    if len(bad):
        named = bad if numbers is None else numbers[bad]
        first = ", ".join(map(str, named[:5].tolist()))
        among = f"{len(bad)} of {len(rows)}" if numbers is None else f"{len(bad)}"
        raise UserError(
            f"{among} descriptors of the {what} are not finite; they are of the "
            f"images number {first}{', …' if len(bad) > 5 else ''}"
        )


def _evaluate_labelled(
    dataset: LabelledDataset,
    database: np.ndarray,
    queries: np.ndarray | None,
    distractors: None,
    allow_missing: bool,
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
        top_k=sorted({*TOP_K, *dataset.recall_k}),
    )
    ap, first = np.full(len(queries), np.nan), np.full(len(queries), -1)
    ap[valid_queries], first[valid_queries] = result.ap, result.first
    metrics = {"mAP": result.mAP, **{f"recall@{k}": share for k, share in result.top.items()}}
    metrics |= {"MAP@R": result.map_at_r, "R-precision": result.r_precision}
    return Evaluation(metrics, {"": ap}, first)


def _evaluate_ukbench(
    dataset: LabelledDataset,
    database: np.ndarray,
    queries: np.ndarray | None,
    distractors: None,
    allow_missing: bool,
) -> Evaluation:
    queries = database if queries is None else queries
    valid = np.flatnonzero(finite_rows(queries))
    labels = dataset.labels
    of_object = [np.flatnonzero(labels == c) for c in range(len(dataset.classes))]
    _, found = top_k(queries[valid], database, min(4, len(database)))
    hits = ranked_hits(found, [of_object[c] for c in labels[valid].tolist()])
    share = np.full(len(queries), np.nan)
    share[valid] = hits.mean(axis=1)
    return Evaluation({"N-S": ukbench_score(hits)}, {"": share})


_GRADED = {
    "classic": evaluate_classic,
    "revisited": evaluate_revisited,
    "holidays": evaluate_holidays,
}


def _evaluate_graded(
    dataset: RelevantsDataset,
    database: np.ndarray,
    queries: np.ndarray,
    distractors: Rows | None,
    allow_missing: bool,
) -> Evaluation:
    """By the places of all graded images: the classic and revisited protocols, and Holidays."""
    valid = finite_rows(queries)
    truth = [entry for entry, good in zip(dataset.ground_truth, valid, strict=True) if good]
    scores = Scores(
        score_all(queries[valid], database),
        ()
        if distractors is None
        else _distractor_scores(queries[valid], distractors, allow_missing),
    )
    levels = levels_of(dataset.ground_truth)
    found = _GRADED[dataset.protocol](scores, truth)
    aps = {}
    for level in levels:
        aps[level] = np.full(len(queries), np.nan)
        aps[level][valid] = found["ap" + (f"-{level}" if level else "")]
    # All mAP first, as the original prints them.
    names = sorted((n for n in found if n.startswith("m")), key=lambda n: not n.startswith("mAP"))
    return Evaluation({name: float(found[name]) for name in names}, aps)


def _distractor_scores(
    queries: np.ndarray, distractors: Rows, allow_missing: bool
) -> Iterator[np.ndarray]:
    with progress_bar("distractors", len(distractors), "img", shown=True, delay=2) as bar:
        for start, scores in score_blocks(queries, distractors, block_size=_DISTRACTORS):
            # A number that is not finite leaves no score of its row finite.
            if len(scores) and not (finite := np.isfinite(scores[0])).all():
                rows = start + np.flatnonzero(~finite)
                refuse_non_finite(np.asarray(distractors[rows]), "distractors", allow_missing, rows)
            yield scores
            bar.update(scores.shape[1])


def _search(
    queries: np.ndarray, database: np.ndarray, distractors: Rows | None, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first results, (Q, K) each: their scores, and their images; -1 where there is none."""
    rows = database if distractors is None else StackedRows(database, distractors)
    valid = finite_rows(queries)
    found: np.ndarray = np.full((len(queries), min(depth, len(rows))), -1)
    scores = np.full(found.shape, -np.inf, np.float32)
    scores[valid], found[valid] = top_k(queries[valid], rows, found.shape[1])
    if np.isposinf(scores).any():
        raise UserError("descriptors of the distractors are not finite: a score is infinite")
    found[np.isnan(scores)] = -1
    return scores, found


def _means(
    measure: str, values: np.ndarray, dataset: RelevantsDataset, counts: np.ndarray
) -> Evaluation:
    """The mean over the queries that count, and over those of each part of the data set."""
    values = np.where(counts, values, np.nan)
    metrics = {f"{measure}-{part}": float(np.nanmean(values[of]))
               for part, of in dataset.parts.items()}  # fmt: skip
    return Evaluation({measure: float(np.nanmean(values)), **metrics}, {"": values})


def _evaluate_gldv2_retrieval(
    dataset: RelevantsDataset,
    database: np.ndarray,
    queries: np.ndarray,
    distractors: Rows | None,
    allow_missing: bool,
) -> Evaluation:
    relevant = [entry["ok"] for entry in dataset.ground_truth]
    hits = ranked_hits(_search(queries, database, distractors, 100)[1], relevant)
    count = np.array([len(images) for images in relevant])
    # A query without a descriptor has no results, and scores 0, as published.
    return _means("mAP@100", average_precision_at_k(hits, count.clip(1)), dataset, count > 0)


def _evaluate_ilias(
    dataset: RelevantsDataset,
    database: np.ndarray,
    queries: np.ndarray,
    distractors: Rows | None,
    allow_missing: bool,
) -> Evaluation:
    relevant = [entry["ok"] for entry in dataset.ground_truth]
    scores, found = _search(queries, database, distractors, 1000)
    count = np.array([len(images) for images in relevant])
    ap = ilias_average_precision(ranked_hits(found, relevant), scores, count.clip(1))
    return _means("mAP@1k", ap, dataset, (count > 0) & finite_rows(queries))


def _evaluate_gldv2_recognition(
    dataset: RelevantsDataset,
    database: np.ndarray,
    queries: np.ndarray,
    distractors: Rows | None,
    allow_missing: bool,
) -> Evaluation:
    scores, found = _search(queries, database, distractors, 1)
    correct = ranked_hits(found, [entry["ok"] for entry in dataset.ground_truth])[:, 0]
    shows = np.array([len(entry["landmarks"]) > 0 for entry in dataset.ground_truth])
    predicted = found[:, 0] >= 0
    metrics = {}
    for part, of in ({"": np.ones(len(shows), bool)} | dict(dataset.parts)).items():
        chosen, total = of & predicted, int((of & shows).sum())
        metrics["GAP" + f"-{part}" * bool(part)] = (
            global_average_precision(correct[chosen], scores[chosen, 0], total)
            if total else float("nan")
        )  # fmt: skip
    return Evaluation(metrics, {"": np.where(shows, correct, np.nan)})


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A row of `PROTOCOLS`.

    Attributes:
      title: the benchmark, or the kind of data set.
      measures: what is measured, in a line.
      evaluate: `evaluate(dataset, database, queries, distractors, allow_missing)`, with the
        arguments of `evaluate_descriptors`, checked.
    """

    title: str
    measures: str
    evaluate: Callable[..., Evaluation]


PROTOCOLS = {
    "labels": Protocol(
        "labels",
        "each image queries the others: mAP, recall@K, MAP@R, R-precision",
        _evaluate_labelled,
    ),
    "classic": Protocol(
        "classic, as Oxford5K", "mAP by trapezoids, junk taken out; mP@k", _evaluate_graded
    ),
    "revisited": Protocol(
        "revisited, as ROxford5K",
        "mAP by trapezoids, junk taken out, at three levels; mP@k",
        _evaluate_graded,
    ),
    "holidays": Protocol(
        "INRIA Holidays",
        "mAP by trapezoids, the query left out; pictures as stored, or turned upright by --exif",
        _evaluate_graded,
    ),
    "ukbench": Protocol(
        "UKBench", "N-S, how many of an object's 4 pictures are the first 4", _evaluate_ukbench
    ),
    "gldv2_retrieval": Protocol(
        "Google Landmarks v2, retrieval", "mAP@100", _evaluate_gldv2_retrieval
    ),
    "gldv2_recognition": Protocol(
        "Google Landmarks v2, recognition",
        "GAP (μAP), each image's landmark being its nearest training image's, by similarity",
        _evaluate_gldv2_recognition,
    ),
    "ilias": Protocol("ILIAS", "mAP@1k", _evaluate_ilias),
}
"""Name in a data set's `protocol` -> what is measured, and how."""
