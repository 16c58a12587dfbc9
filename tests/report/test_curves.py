"""Precision–recall curves, compared with a plain loop that follows the definition."""

from __future__ import annotations

import numpy as np
import pytest

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.report.overview import interpolated_precision, mean_curve
from dir_jax.report.verdicts import JudgedRankings


def loop(relevance: list[bool]) -> list[float]:
    """Interpolated precision of a ranking without junk, recall by recall."""
    precisions, recalls, found = [], [], 0
    for place, is_relevant in enumerate(relevance, start=1):
        found += is_relevant
        precisions.append(found / place)
        recalls.append(100 * found)
    return [
        max(p for p, r in zip(precisions, recalls, strict=True) if r >= step * sum(relevance))
        for step in range(101)
    ]


@pytest.mark.parametrize("num_positives", [1, 2, 3, 7, 50, 100, 101, 150])
def test_interpolated_precision(num_positives: int) -> None:
    rng = np.random.default_rng(num_positives)
    for _ in range(5):
        ranks = np.sort(rng.choice(200, num_positives, replace=False))
        relevance = np.isin(np.arange(200), ranks).tolist()
        result = interpolated_precision(ranks, num_positives)
        np.testing.assert_allclose(result, loop(relevance), rtol=1e-14)


def test_interpolated_precision_by_hand() -> None:
    # Precision 1/2 at recall 1/4, 2/3 at 2/4; the other two positives are never found.
    result = interpolated_precision(np.array([1, 2]), 4)
    assert set(result[:51]) == {2 / 3}
    assert not result[51:].any()


def test_mean_of_the_revisited_protocol() -> None:
    rng = np.random.default_rng(0)
    grades = rng.choice(["easy", "hard", "junk", "none"], (4, 30))
    grades[2] = "none"
    grades[3, grades[3] == "hard"] = "junk"
    truth = [
        {g: np.flatnonzero(row == g) for g in ("easy", "hard", "junk")}  #
        for row in grades
    ]
    names = [f"{i}.jpg" for i in range(30)]
    dataset = RelevantsDataset(names, QueryDataset(names[:4], "", None), truth)
    shown = np.array([3, 0, 2])
    rankings = np.stack([rng.permutation(30) for _ in shown])
    aps = dict.fromkeys(("easy", "medium", "hard"), np.zeros(4))
    judged = JudgedRankings(dataset, {}, aps, shown, rankings, np.zeros((3, 10)))
    for level, positive, out, queries in (
        ("easy", "easy", "junk hard", 2),
        ("medium", "easy hard", "junk", 2),
        ("hard", "hard", "junk easy", 1),
    ):
        expected = []
        for query, ranking in zip(shown, rankings, strict=True):
            kept = [grades[query, i] for i in ranking if grades[query, i] not in out.split()]
            if any(grade in positive.split() for grade in kept):
                expected.append(loop([grade in positive.split() for grade in kept]))
        curve = mean_curve(judged, level)
        assert curve.num_queries == len(expected) == queries
        np.testing.assert_allclose(curve.precision, np.mean(expected, axis=0), rtol=1e-14)


@pytest.mark.parametrize("apart", [False, True])
def test_mean_of_labelled_images(apart: bool) -> None:
    rng = np.random.default_rng(0)
    classes = ["a", "b", "c", "alone"]
    labels = [*rng.choice(classes[:3], 20).tolist(), "alone"]
    queries = LabelledDataset(["q"] * 3, ["a", "c", "alone"], classes=classes)
    dataset = LabelledDataset(["i"] * 21, labels, "", classes, queries if apart else None)
    shown = np.array([1, 2]) if apart else np.array([4, 20])
    rankings = [rng.permutation(21) for _ in shown]
    if not apart:
        rankings = [row[row != query] for row, query in zip(rankings, shown, strict=True)]
    query_labels = ["c", "alone"] if apart else [labels[4], "alone"]
    expected = [
        loop([labels[i] == label for i in row])
        for row, label in zip(rankings, query_labels, strict=True)
        if label in [labels[i] for i in row]
    ]
    aps = {"": np.zeros(3 if apart else 21)}
    judged = JudgedRankings(dataset, {}, aps, shown, np.stack(rankings), np.zeros((2, 10)))
    curve = mean_curve(judged, "")
    assert curve.num_queries == len(expected) == (2 if apart else 1)
    np.testing.assert_allclose(curve.precision, np.mean(expected, axis=0), rtol=1e-14)


def test_mean_of_no_query() -> None:
    dataset = LabelledDataset(["a", "b"], ["a", "b"])
    nothing = JudgedRankings(
        dataset, {}, {"": np.full(2, np.nan)}, np.array([0]), np.array([[1]]), np.zeros((1, 1))
    )
    curve = mean_curve(nothing, "")
    assert curve.num_queries == 0
    assert np.isnan(curve.precision).all()
