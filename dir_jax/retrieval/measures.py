"""What the benchmarks of the field measure, as functions of which results are relevant.

Each is written from its published definition and needs nothing but arrays. Most take `hits`, (Q, K)
bool: whether each of the first K results of each query is relevant, the best first; `ranked_hits`
makes them from rankings. Those for labelled sets work on JAX's arrays as well, inside `jit` too.

A query with 3 relevant images, of which the first and the third result are two:

>>> hits, num_relevant = np.array([[True, False, True]]), np.array([3])
>>> float(recall_at_k(hits, 1)), round(float(r_precision(hits, num_relevant)[0]), 3)
(1.0, 0.667)
>>> round(float(map_at_r(hits, num_relevant)[0]), 4)  # (1/1 + 2/3) / 3
0.5556
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def ranked_hits(rankings: np.ndarray, relevant: Sequence[np.ndarray]) -> np.ndarray:
    """Whether each result is relevant to its query: (Q, K) bool.

    Args:
      rankings: (Q, K) integers, database images from the best on; -1 is no result. An image that
        is listed twice counts at its first place only.
      relevant: for each query the numbers of its relevant images.
    """
    hits = np.zeros(rankings.shape, bool)
    for row, ranking, images in zip(hits, rankings, relevant, strict=True):
        first = np.unique(ranking, return_index=True)[1]
        row[first] = np.isin(ranking[first], images) & (ranking[first] >= 0)
    return hits


def recall_at_k(hits: Any, k: int) -> Any:
    """Recall@K: the share of queries with a relevant image among the first k results.

    As metric learning measures it on labelled sets (Jégou et al., TPAMI 2011; Oh Song et al., CVPR
    2016): each query is left out of its own ranking, and a query with nothing to find is a miss.
    `hits` is (Q, K) with K >= k.
    """
    return hits[:, :k].any(axis=1).mean()


def map_at_r(hits: Any, num_relevant: Any) -> Any:
    """MAP@R of each query: (1/R) Σ_{i ≤ R} P(i)·rel(i), with R the number of its relevant images.

    P(i) is the precision of the first i results. Musgrave et al., A Metric Learning Reality Check,
    ECCV 2020, section 3.2. (Q,) float from (Q, K >= R) hits and (Q,) numbers; 0 where R is 0.
    """
    places = np.arange(1, hits.shape[1] + 1)
    counted = hits & (places <= num_relevant[:, None])
    return (counted * hits.cumsum(axis=1) / places).sum(axis=1) / num_relevant.clip(1)


def r_precision(hits: Any, num_relevant: Any) -> Any:
    """R-precision of each query: the share of relevant images among its first R results.

    R is the number of its relevant images (Manning et al., Introduction to Information Retrieval,
    section 8.4). (Q,) float from (Q, K >= R) hits and (Q,) numbers; 0 where R is 0.
    """
    places = np.arange(1, hits.shape[1] + 1)
    return (hits & (places <= num_relevant[:, None])).sum(axis=1) / num_relevant.clip(1)


def average_precision_at_k(hits: np.ndarray, num_relevant: np.ndarray, k: int = 100) -> np.ndarray:
    """The AP@k of Google Landmarks v2's retrieval: Σ_{i ≤ k} P(i)·rel(i) / min(num_relevant, k).

    Weyand et al., Google Landmarks Dataset v2, CVPR 2020, section 5.2, with k = 100. mAP@100 is the
    mean over all queries that count; one without results scores 0, as its row has no hit.

    Args:
      hits: (Q, K) bool; fewer than k results are as if wrong ones followed.
      num_relevant: (Q,) integers, at least 1.
      k: how many results count.

    Returns:
      (Q,) float64.
    """
    hits = hits[:, :k]
    precisions = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return np.asarray((hits * precisions).sum(axis=1) / np.minimum(num_relevant, k), np.float64)


def ilias_average_precision(
    hits: np.ndarray, scores: np.ndarray, num_relevant: np.ndarray, k: int = 1000
) -> np.ndarray:
    """The AP@1k of ILIAS: scikit-learn's over the first k results · found / min(k, num_relevant).

    Kordopatis-Zilos et al., ILIAS, CVPR 2025, as its evaluation code has it. It is the sum of the
    precisions at the relevant results, where results of equal score share a threshold: the
    precision at each of them is the one at the last. 0 where none is found.

    Args:
      hits: (Q, K) bool.
      scores: (Q, K) float, by which the results are ranked: falling.
      num_relevant: (Q,) integers, at least 1.
      k: how many results count.

    Returns:
      (Q,) float64.
    """
    hits, scores = hits[:, :k], scores[:, :k]
    total = np.zeros(len(hits))
    for query, (hit, score) in enumerate(zip(hits, scores, strict=True)):
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # place of each threshold
        shared = last[np.searchsorted(last, np.arange(len(score)))]
        total[query] = np.sum((hit.cumsum()[shared] / (shared + 1))[hit])
    return np.asarray(total / np.minimum(num_relevant, k), np.float64)


def global_average_precision(
    correct: np.ndarray, confidence: np.ndarray, num_with_landmark: int
) -> float:
    """GAP, or μAP: Google Landmarks v2's recognition.

    Each image has one prediction at most, a landmark and a confidence. All of them are sorted by
    falling confidence, and GAP = Σ_i P(i)·rel(i) / M, with P(i) the precision of the first i and M
    the number of images that show a landmark. Predictions for images without one count as wrong.
    Perronnin et al., CVPR 2009; Weyand et al., CVPR 2020, section 5.1.

    Args:
      correct: (P,) bool, whether each prediction names a landmark that its image shows.
      confidence: (P,) float; equal ones stay in their order, which is by image id as published.
      num_with_landmark: M, at least 1; images without a prediction count here.
    """
    hits = correct[np.argsort(-confidence, kind="stable")]
    precisions = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(np.sum(precisions[hits]) / num_with_landmark)


def ukbench_score(hits: np.ndarray) -> float:
    """N-S: the mean number of the 4 pictures of an object among the first 4 results, from 0 to 4.

    Nistér and Stewénius, Scalable Recognition with a Vocabulary Tree, CVPR 2006. Every picture is a
    query, and stays in its own ranking. `hits` is (Q, K >= 4).
    """
    return float(hits[:, :4].sum(axis=1).mean())
