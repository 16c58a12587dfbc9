"""The Oxford protocols against known values, an oracle, and the real ground truth."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dir_jax.errors import UserError
from dir_jax.retrieval.protocols import (
    average_precision,
    evaluate_classic,
    evaluate_revisited,
    positive_ranks,
    precision_at,
)
from dir_jax.retrieval.ranks import Scores, places_by_score
from torch_reference.retrieval import oxford_measures

LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def random_case(seed: int, queries: int = 12, images: int = 60) -> tuple[np.ndarray, list[dict]]:
    """Rankings, and a ground truth in which some queries lack some grades."""
    rng = np.random.default_rng(seed)
    rankings = np.stack([rng.permutation(images) for _ in range(queries)])
    truth = []
    for q in range(queries):
        numbers = rng.permutation(images).tolist()
        counts = rng.integers(0, 8, 3) * (rng.random(3) < 0.8)
        parts = np.split(numbers, np.cumsum(counts))
        truth.append(dict(zip(("easy", "hard", "junk"), parts, strict=False)))
        if q % 2:  # both lists and arrays are found in the wild
            truth[-1] = {grade: images.tolist() for grade, images in truth[-1].items()}
    return rankings, truth


@pytest.mark.parametrize("seed", range(4))
def test_revisited_equals_the_oracle(seed: int) -> None:
    rankings, truth = random_case(seed)
    result = evaluate_revisited(rankings, truth)
    for level, (positive_grades, junk_grades) in LEVELS.items():
        ap, at = [], []
        for ranking, entry in zip(rankings, truth, strict=True):
            positive, junk = (
                {i for grade in grades for i in entry[grade]}
                for grades in (positive_grades, junk_grades)
            )
            if positive:
                area, precision = oxford_measures(ranking.tolist(), positive, junk)
                ap.append(area)
                at.append(precision)
            else:
                ap.append(np.nan)
        # Both are float64; they add in different orders.
        np.testing.assert_allclose(result[f"ap-{level}"], ap, atol=1e-14, rtol=0)
        assert result[f"mAP-{level}"] == pytest.approx(np.nanmean(ap), abs=1e-14)
        for k in (1, 5, 10):
            expected = np.mean([precision[k] for precision in at])
            assert result[f"mP@{k}-{level}"] == pytest.approx(expected, abs=1e-14)


def test_classic_is_medium_under_other_names() -> None:
    rankings, truth = random_case(5)
    classic = [{"ok": [*t["easy"], *t["hard"]], "junk": t["junk"]} for t in truth]
    revisited = evaluate_revisited(rankings, truth)
    result = evaluate_classic(rankings, classic)
    assert set(result) == {"mAP", "mP@1", "mP@5", "mP@10", "ap"}
    for name, value in result.items():
        np.testing.assert_array_equal(value, revisited[f"{name}-medium"])


def test_real_ground_truth(shared_data: Path) -> None:
    """The values that the original toolbox gives for these scores."""
    with (shared_data / "revisitop" / "gnd_roxford5k.pkl").open("rb") as f:
        truth = pickle.load(f)["gnd"]
    scores = np.random.default_rng(0).standard_normal((70, 4993)).astype("f")
    for row, entry in zip(scores, truth, strict=True):
        row[entry["easy"]] += 2.0
        row[entry["hard"]] += 1.0
    result = evaluate_revisited(np.argsort(-scores, axis=1, kind="stable"), truth)
    assert result["mAP-easy"] == pytest.approx(0.205547012, abs=1e-9)
    assert result["mAP-medium"] == pytest.approx(0.165860512, abs=1e-9)
    assert result["mAP-hard"] == pytest.approx(0.037957078, abs=1e-9)
    # Two queries have no easy images, none lacks all.
    assert np.isnan(result["ap-easy"]).sum() == sum(not len(t["easy"]) for t in truth) > 0
    assert not np.isnan(result["ap-medium"]).any()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.1000001, 0.5, 1.0, -1.0, np.nan]), min_size=1),
    st.data(),
)
def test_places_by_score_are_those_of_a_stable_sort(values: list[float], data: st.DataObject):
    scores = np.array(values, np.float32)
    order = sorted(
        range(len(scores)), key=lambda i: (np.isnan(scores[i]), -np.nan_to_num(scores[i]), i)
    )
    images = data.draw(st.lists(st.integers(0, len(values) - 1), unique=True))
    expected = [order.index(i) for i in images]
    numbers = np.array(images, np.int64)
    np.testing.assert_array_equal(places_by_score(scores, numbers)[numbers], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [1e-45, 1e-30, 1e-3, 1, 1e30])
def test_places_among_many(dtype: type, spread: float) -> None:
    """As many scores as a table serves: close ones, equal ones, endless ones."""
    rng = np.random.default_rng(3)
    scores = (rng.standard_normal(20_000) * spread + rng.integers(0, 2) * 0.7).astype(dtype)
    scores[rng.integers(0, 20_000, 3000)] = scores[rng.integers(0, 20_000, 3000)]
    scores[:40] = np.repeat([np.inf, -np.inf, np.nan, 0.7], 10)
    place = np.empty(20_000, int)
    place[np.argsort(-np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf),
                     kind="stable")] = np.arange(20_000)  # fmt: skip
    for images in (rng.integers(40, 20_000, 100), rng.integers(0, 20_000, 3), np.arange(60)):
        images = np.unique(images)
        np.testing.assert_array_equal(places_by_score(scores, images)[images], place[images])


def test_scores_are_rankings() -> None:
    rng = np.random.default_rng(5)
    _, truth = random_case(5)
    scores = rng.integers(0, 9, (12, 60)).astype(np.float32)  # many ties
    rankings = np.argsort(-scores, axis=1, kind="stable")
    sorted_, counted = (
        evaluate_revisited(rankings, truth),
        evaluate_revisited(Scores(scores), truth),
    )
    assert sorted_.keys() == counted.keys()
    for name, value in sorted_.items():
        np.testing.assert_array_equal(counted[name], value)


def test_ranks_are_those_without_junk() -> None:
    ranking = np.array([4, 1, 0, 5, 3, 2])
    ranks = positive_ranks(ranking, np.array([3, 4, 0]), np.array([1, 5, 2]))
    np.testing.assert_array_equal(ranks, [0, 1, 2])


def test_average_precision_by_hand() -> None:
    # Positives 2nd and 4th: trapezoids (0 + 1/2)/2 and (1/3 + 2/4)/2, each half as wide as recall.
    assert average_precision(np.array([1, 3]), 2) == pytest.approx((0.25 + 5 / 12) / 2)
    assert average_precision(np.arange(5), 5) == 1
    assert average_precision(np.array([0]), 4) == 0.25  # three were never found


def test_precision_stops_at_the_last_positive() -> None:
    ranks = np.array([0, 2])  # 1st and 3rd
    assert precision_at(ranks, 1) == 1
    assert precision_at(ranks, 2) == 0.5
    assert precision_at(ranks, 10) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ({"ok": [1], "junk": [0, 0]}, {"": 1.0}),
        ({"ok": [1, 1], "junk": []}, {"": 0.25}),
        ({"ok": [2, 1], "junk": [3, 1]}, {"": 5 / 12}),
        ({"easy": [1], "hard": [3], "junk": [1, 0]}, {"easy": 1, "medium": 19 / 24, "hard": 0.25}),
        ({"easy": [1], "hard": [1, 3], "junk": [0]}, {"easy": 1, "medium": 19 / 24}),
        ({"easy": [1], "hard": [1, 3], "junk": [0]}, {"hard": 19 / 24}),
    ],
)
def test_positives_and_junk_are_sets(truth, expected) -> None:
    """By hand, over 0 1 2 3: an image counts once, and is not junk where it is relevant."""
    evaluate = evaluate_classic if "ok" in truth else evaluate_revisited
    found = evaluate(np.arange(4)[None], [truth])
    for level, ap in expected.items():
        assert found["mAP" + f"-{level}" * bool(level)] == pytest.approx(ap, abs=1e-12)


def test_no_query_with_positives() -> None:
    result = evaluate_revisited(np.array([[0, 1]]), [{"easy": [], "hard": [1], "junk": [0]}])
    assert np.isnan(result["mAP-easy"])
    assert np.isnan(result["mP@1-easy"])
    assert result["mAP-hard"] == 1


def test_a_ground_truth_of_the_other_kind() -> None:
    with pytest.raises(UserError, match=r"query 0 has no 'easy' \(it has 'ok', 'junk'\)"):
        evaluate_revisited(np.array([[0, 1]]), [{"ok": [0], "junk": []}])
    with pytest.raises(UserError, match="query 0 has no 'ok'"):
        evaluate_classic(np.array([[0, 1]]), [{"easy": [0], "hard": [], "junk": []}])


@pytest.mark.parametrize("image", [-1, 2])
def test_images_outside_the_list(image: int) -> None:
    with pytest.raises(UserError, match=f"query 0 refers to image {image}, but 2 images"):
        evaluate_classic(np.array([[0, 1]]), [{"ok": [0], "junk": [image]}])


def test_a_row_for_each_query() -> None:
    with pytest.raises(UserError, match="ground truth of 2 queries"):
        evaluate_classic(np.array([[0, 1]]), [{"ok": [0], "junk": []}] * 2)
