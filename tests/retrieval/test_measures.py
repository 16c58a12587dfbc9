"""The field's measures: cases worked out by hand, and against loops over definitions."""

import jax
import numpy as np
import pytest

from dir_jax.retrieval.measures import (
    average_precision_at_k,
    global_average_precision,
    ilias_average_precision,
    map_at_r,
    r_precision,
    ranked_hits,
    recall_at_k,
    ukbench_score,
)
from dir_jax.retrieval.protocols import evaluate_holidays, holidays_ground_truth
from dir_jax.retrieval.ranks import Scores
from torch_reference import measures as oracle

HITS = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
NUM = np.array([3, 1, 2])


def test_by_hand():
    assert [recall_at_k(HITS, k) for k in (1, 2, 4)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    # R = 3: (1/1 + 2/3) / 3; R = 1: the first result is wrong.
    np.testing.assert_allclose(map_at_r(HITS, NUM), [5 / 9, 0, 0])
    np.testing.assert_allclose(r_precision(HITS, NUM), [2 / 3, 0, 0])
    np.testing.assert_allclose(average_precision_at_k(HITS, NUM), [5 / 9, 1 / 2, 0])
    np.testing.assert_allclose(average_precision_at_k(HITS, NUM, k=2), [1 / 2, 1 / 2, 0])
    # Confidences 0.9 right, 0.8 of an image without a landmark, 0.7 right; 4 show one.
    correct, confidence = np.array([True, True, False]), np.array([0.7, 0.9, 0.8])
    assert global_average_precision(correct, confidence, 4) == pytest.approx((1 + 2 / 3) / 4)
    assert ukbench_score(np.array([[1, 1, 0, 1], [1, 0, 0, 0]], bool)) == 2
    # The first two share a threshold, at which the precision is 1/2.
    ties = np.array([[0.5, 0.5, 0.4, 0.3]])
    np.testing.assert_allclose(
        ilias_average_precision(HITS[:1], ties, NUM[:1]), (1 / 2 + 2 / 3) / 3
    )
    np.testing.assert_allclose(ilias_average_precision(HITS[:1], ties, NUM[:1], k=2), 1 / 4)


def test_what_is_listed_twice_counts_once():
    found = ranked_hits(
        np.array([[4, 4, 2, -1], [-1, -1, 7, 7]]), [np.array([4, 2]), np.array([7])]
    )
    assert found.tolist() == [[True, False, True, False], [False, False, True, False]]


def test_holidays_by_hand():
    truth = holidays_ground_truth([100000, 100001, 100100, 100101])
    # The first query is ranked first by itself, then wrong, then right: (0/1 + 1/2) / 2.
    found = evaluate_holidays(np.array([[0, 2, 1, 3], [3, 2, 1, 0]]), truth)
    np.testing.assert_allclose(found["ap"], [1 / 4, 1])
    assert found["mAP"] == pytest.approx(5 / 8)


def draw(seed):
    rng = np.random.default_rng(seed)
    rankings = np.array([rng.permutation(30) for _ in range(12)])
    relevant = [rng.choice(30, rng.integers(1, 9), replace=False) for _ in rankings]
    scores = -np.sort(-rng.integers(0, 12, rankings.shape) / 8)
    return rankings, relevant, scores


@pytest.mark.parametrize("seed", range(3))
def test_equals_loops_over_the_definitions(seed):
    rankings, relevant, scores = draw(seed)
    hits, num = ranked_hits(rankings, relevant), np.array([len(y) for y in relevant])
    sets, each = [set(y.tolist()) for y in relevant], rankings.tolist()
    for k in (1, 3, 10):
        assert recall_at_k(hits, k) == pytest.approx(oracle.recall_at_k(each, sets, k), abs=1e-12)
        named = {str(q): ranking for q, ranking in enumerate(each)}
        solution = dict(zip(named, sets, strict=True))
        expected = oracle.google_map(named, solution, k)
        assert average_precision_at_k(hits, num, k).mean() == pytest.approx(expected, abs=1e-12)
        expected = [oracle.ilias_ap(s, y, n, k) for s, y, n in zip(scores, hits, num, strict=True)]
        np.testing.assert_allclose(
            ilias_average_precision(hits, scores, num, k), expected, atol=1e-12
        )
    for ours, theirs in ((map_at_r, oracle.map_at_r), (r_precision, oracle.r_precision)):
        expected = [theirs(r, y) for r, y in zip(each, sets, strict=True)]
        np.testing.assert_allclose(ours(hits, num), expected, atol=1e-12)
        np.testing.assert_allclose(jax.jit(ours)(hits, num), expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_gap_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    solution = {f"{i:02}": set(rng.integers(0, 4, rng.integers(0, 3)).tolist()) for i in range(40)}
    # Some without a prediction, many confidences equal.
    predictions = {
        i: (int(rng.integers(4)), float(rng.integers(6))) for i in list(solution)[::2] * 1
    }
    correct = np.array([p[0] in solution[i] for i, p in predictions.items()])
    confidence = np.array([p[1] for p in predictions.values()])
    shows = sum(map(bool, solution.values()))
    expected = oracle.google_gap(predictions, solution)
    assert global_average_precision(correct, confidence, shows) == pytest.approx(
        expected, abs=1e-12
    )


def test_distractors_are_counted_where_the_database_would_rank_them():
    """Scores with ties, in blocks of any size, against one database of all images."""
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 4, (3, 60)).astype(np.float32)
    scores[1, 7] = np.nan
    truth = [{"ok": rng.choice(20, 5, replace=False), "junk": np.arange(2)} for _ in range(3)]
    from dir_jax.retrieval.protocols import evaluate_classic

    whole = evaluate_classic(Scores(scores), truth)
    for size in (1, 7, 40):
        blocks = (scores[:, 20 + i : 20 + i + size] for i in range(0, 40, size))
        found = evaluate_classic(Scores(scores[:, :20], blocks), truth)
        np.testing.assert_array_equal(found["ap"], whole["ap"])
    assert evaluate_classic(Scores(scores[:, :20]), truth)["mAP"] > whole["mAP"]
