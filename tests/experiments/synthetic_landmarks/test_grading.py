"""The grades follow visibility, viewing angle and scale, and the lists are consistent."""

import dataclasses

import numpy as np
import pytest

from experiments.synthetic_landmarks import grading
from experiments.synthetic_landmarks.photograph import View


def view(visibility: float = 1.0, degrees: float = 0.0, scale: float = 0.01) -> View:
    a = np.radians(degrees)
    axis = (float(np.sin(a)), 0.0, float(-np.cos(a)))
    return View((64, 48), (3, 4, 50, 40), visibility, axis, scale, "day", "clear")


def test_angle_and_scale_ratio_are_symmetric() -> None:
    a, b = view(degrees=-15, scale=0.01), view(degrees=20, scale=0.03)
    assert grading.angle_between(a, b) == pytest.approx(35)
    assert grading.angle_between(b, a) == pytest.approx(35)
    assert grading.scale_ratio(a, b) == grading.scale_ratio(b, a) == pytest.approx(3)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (view(), "easy"),
        (view(visibility=0.6), "easy"),
        (view(visibility=0.59), "hard"),
        (view(visibility=0.3), "hard"),
        (view(visibility=0.29), "junk"),
        (view(visibility=0.29, degrees=60), "junk"),
        (view(degrees=39.9), "easy"),
        (view(degrees=-40.1), "hard"),
        (view(scale=0.0199), "easy"),
        (view(scale=0.0201), "hard"),
        (view(scale=0.0049), "hard"),
    ],
)
def test_grade(other: View, expected: str) -> None:
    assert grading.grade(view(), other) == expected


def test_queries_are_the_first_clear_views_then_the_best_of_the_rest() -> None:
    shares = {"a": 0.2, "b": 0.7, "c": 0.5, "d": 0.9, "e": 0.55}
    views = {name: view(visibility=v) for name, v in shares.items()}
    assert grading.choose_queries(views, 1) == ["b"]
    assert grading.choose_queries(views, 4) == ["b", "d", "e", "c"]


def test_ground_truth_of_two_landmarks() -> None:
    first = {"x_0": view(), "x_1": view(visibility=0.4), "x_2": view(visibility=0.1)}
    second = {"y_0": view(visibility=0.5), "y_1": view(), "y_2": view(degrees=30)}
    truth = grading.ground_truth([first, second])
    assert truth["qimlist"] == ["x_0", "y_1"]
    assert truth["imlist"] == ["x_1", "x_2", "y_0", "y_2"]
    box = list(first["x_0"].box)
    assert truth["gnd"] == [
        {"bbx": box, "easy": [], "hard": [0], "junk": [1]},
        {"bbx": box, "easy": [3], "hard": [2], "junk": []},
    ]


def test_one_view_in_five_is_a_query() -> None:
    views = {f"z_{k}": dataclasses.replace(view(), scale=0.01 + k * 1e-4) for k in range(15)}
    truth = grading.ground_truth([views])
    assert (len(truth["qimlist"]), len(truth["imlist"])) == (3, 12)
