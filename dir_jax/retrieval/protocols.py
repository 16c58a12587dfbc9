"""Evaluation on Oxford-style ground truth, where some images count neither for nor against.

Pure functions of rankings and a ground truth. The classic protocol is that of Philbin et al.,
Object Retrieval with Large Vocabularies, CVPR 2007; the revisited one of Radenović et al.,
Revisiting Oxford and Paris, CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dir_jax.errors import UserError
from dir_jax.retrieval.ranks import (
    Scores,
    distractors_above,
    places_by_ranking,
    places_by_score,
)

# Level of a protocol -> the grades that are relevant, and those that are junk: taken out of the
# ranking, so that they count neither for nor against. The classic protocol has one level, '', and
# so do labelled sets.
CLASSIC_LEVELS = {"": (("ok",), ("junk",))}
REVISITED_LEVELS = {  # CVPR 2018, §3.3
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
LEVELS = CLASSIC_LEVELS | REVISITED_LEVELS
_PRECISIONS = (1, 5, 10)


def evaluate_classic(
    rankings: np.ndarray | Scores, ground_truth: Sequence[Mapping[str, Any]]
) -> dict[str, float | np.ndarray]:
    """Scores rankings by the classic protocol: 'ok' is relevant, 'junk' is taken out.

    As `evaluate_revisited`, but the ground truth has 'ok' and 'junk', and names have no level.
    """
    return _evaluate(rankings, ground_truth, list(CLASSIC_LEVELS))


def evaluate_revisited(
    rankings: np.ndarray | Scores, ground_truth: Sequence[Mapping[str, Any]]
) -> dict[str, float | np.ndarray]:
    """Scores rankings by the revisited protocol, at its three levels.

    What is relevant and what is taken out at each level is in `REVISITED_LEVELS`.

    Args:
      rankings: (Q, N) integers, each row all N database images from the best on; or `Scores`.
      ground_truth: Q dicts of 'easy', 'hard' and 'junk': numbers of database images.

    Returns:
      For each LEVEL of easy, medium, hard: 'mAP-LEVEL', 'mP@1-LEVEL', 'mP@5-LEVEL', 'mP@10-LEVEL',
      means over the queries that have positives at that level, NaN where none has; 'ap-LEVEL':
      (Q,) float64, NaN for queries without positives.

    Raises:
      UserError: the ground truth is of another kind, or refers to images outside the ranking.
    """
    return _evaluate(rankings, ground_truth, list(REVISITED_LEVELS))


def evaluate_holidays(
    rankings: np.ndarray | Scores, ground_truth: Sequence[Mapping[str, Any]]
) -> dict[str, float | np.ndarray]:
    """Scores rankings by the protocol of INRIA Holidays (Jégou et al., ECCV 2008).

    A picture whose number ends in 00 is a query, and the others of its hundred are relevant to it.
    The query itself is taken out of its ranking; AP integrates by trapezoids. Whether pictures were
    turned upright makes a difference of some points, and is to be said beside the result.

    Args:
      rankings: (Q, N) integers, each row all N pictures from the best on; or `Scores`.
      ground_truth: Q dicts, from `holidays_ground_truth`.

    Returns:
      'mAP', the mean over the queries, and 'ap', (Q,) float64.
    """
    found = _evaluate(rankings, ground_truth, list(CLASSIC_LEVELS))
    return {"mAP": found["mAP"], "ap": found["ap"]}


def holidays_ground_truth(numbers: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """What is relevant to each query of Holidays ('ok'), and the query itself ('junk').

    `numbers` are those of all pictures' files, such as 100000.

    >>> holidays_ground_truth([100000, 100001, 100100, 100101, 100102])[1]
    {'ok': array([3, 4]), 'junk': array([2])}
    """
    of_file = np.array(numbers, np.int64)
    truth = []
    for query in np.flatnonzero(of_file % 100 == 0).tolist():
        group = np.flatnonzero(of_file // 100 == of_file[query] // 100)
        truth.append({"ok": group[group != query], "junk": np.array([query])})
    return truth


def levels_of(ground_truth: Sequence[Mapping[str, Any]]) -> list[str]:
    """The levels at which a ground truth is evaluated: those of the revisited protocol, or ''."""
    return list(REVISITED_LEVELS if "easy" in next(iter(ground_truth), {}) else CLASSIC_LEVELS)


def relevant_and_junk(truth: Mapping[str, Any], level: str) -> tuple[np.ndarray, np.ndarray]:
    """The images that count for a query at a level of `LEVELS`, and those taken out: two int64."""
    relevant, junk = (
        np.concatenate([np.asarray(truth[grade], np.int64).reshape(-1) for grade in grades])
        for grades in LEVELS[level]
    )
    # Sets: none counts twice, and what is relevant at a level is not junk there.
    return np.unique(relevant), np.setdiff1d(junk, relevant)


def check_ground_truth(
    ground_truth: Sequence[Mapping[str, Any]], num_images: int, levels: Sequence[str]
) -> None:
    """Raises UserError if a query lacks a grade of the levels, or refers to an image not there.

    Args:
      ground_truth: for each query, its numbers of database images by grade.
      num_images: how many images the database has.
      levels: keys of `LEVELS`.
    """
    needed = dict.fromkeys(grade for level in levels for part in LEVELS[level] for grade in part)
    for query, truth in enumerate(ground_truth):
        missing = [grade for grade in needed if grade not in truth]
        if missing:
            raise UserError(
                f"the ground truth of query {query} has no {missing[0]!r} (it has "
                f"{', '.join(map(repr, truth))}); the classic protocol needs 'ok' and 'junk', the "
                "revisited one 'easy', 'hard' and 'junk'"
            )
        for grade in needed:
            images = np.asarray(truth[grade]).reshape(-1)
            outside = images[(images < 0) | (images >= num_images)]
            if len(outside):
                raise UserError(
                    f"the ground truth of query {query} refers to image {outside[0]}, but "
                    f"{num_images} images are ranked; was it made for another list?"
                )


def positive_ranks(ranking: np.ndarray, positive: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """The ranks of the positives in a ranking from which the junk has been taken out.

    Args:
      ranking: (N,) integers, all database images from the best on.
      positive: (P,) integers, numbers of database images.
      junk: (J,) integers, none of them positive.

    Returns:
      (P,) int64, 0-based and increasing.
    """
    places = places_by_ranking(ranking)
    return _ranks(places[positive], places[junk])


def average_precision(ranks: np.ndarray, num_positives: int) -> float:
    """Area under the precision-recall curve by trapezoids, as the Oxford benchmarks measure it.

    The i-th positive, at rank r (both from 0), raises the recall by 1 / num_positives; the
    precision is i / r before it (1 at the top of the ranking) and (i + 1) / (r + 1) after it, and
    the mean of both counts.

    Args:
      ranks: (P,) integers, 0-based and increasing, of the positives found.
      num_positives: how many there are to find; not 0.
    """
    i = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, i / np.maximum(ranks, 1))
    after = (i + 1) / (ranks + 1)
    return float(np.sum(before + after) / 2 / num_positives)


def precision_at(ranks: np.ndarray, k: int) -> float:
    """Share of positives among the first k results; with k lowered to the last positive's place.

    Lowered, so that a query with fewer than k positives can reach 1 (CVPR 2018, §3.3).

    Args:
      ranks: (P,) integers, 0-based and increasing, of all positives; P > 0.
      k: how many results count.
    """
    k = min(int(ranks[-1]) + 1, k)
    return float(np.sum(ranks < k) / k)


def _evaluate(
    rankings: np.ndarray | Scores, ground_truth: Sequence[Mapping[str, Any]], levels: Sequence[str]
) -> dict[str, float | np.ndarray]:
    rankings = rankings if isinstance(rankings, Scores) else np.asarray(rankings)
    shape = (rankings.values if isinstance(rankings, Scores) else rankings).shape
    if len(shape) != 2 or shape[0] != len(ground_truth):
        raise UserError(
            f"rankings of shape {shape} do not fit a ground truth of {len(ground_truth)} queries; "
            "expected one row for each query"
        )
    check_ground_truth(ground_truth, shape[1], levels)
    names = ["mAP", *(f"mP@{k}" for k in _PRECISIONS)]
    measures = np.full((len(levels), shape[0], len(names)), np.nan)
    graded = [[relevant_and_junk(truth, level) for level in levels] for truth in ground_truth]
    images = [np.unique(np.concatenate([x for pair in each for x in pair])) for each in graded]
    above = distractors_above(rankings, images) if isinstance(rankings, Scores) else []
    for query, parts in enumerate(graded):
        if isinstance(rankings, Scores):
            places = places_by_score(rankings.values[query], images[query], above[query])
        else:
            places = places_by_ranking(rankings[query])
        for row, (positive, junk) in zip(measures, parts, strict=True):
            if len(positive):
                ranks = _ranks(places[positive], places[junk])
                at = [precision_at(ranks, k) for k in _PRECISIONS]
                row[query] = [average_precision(ranks, len(positive)), *at]
    result: dict[str, float | np.ndarray] = {}
    for level, values in zip(levels, measures, strict=True):
        suffix = f"-{level}" if level else ""
        scored = values[~np.isnan(values[:, 0])]
        means = scored.mean(axis=0) if len(scored) else np.full(len(names), np.nan)
        result |= {name + suffix: float(mean) for name, mean in zip(names, means, strict=True)}
        result[f"ap{suffix}"] = values[:, 0]
    return result


def _ranks(positive: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """(P,) int64, increasing: the positives' places, less the junk that comes before each."""
    found = np.sort(positive)
    return found - np.searchsorted(np.sort(junk), found)
