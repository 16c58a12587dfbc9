"""Labelled evaluation against scikit-learn and a float64 oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from dir_jax.errors import UserError
from dir_jax.retrieval import metrics
from dir_jax.retrieval.metrics import evaluate_labelled
from torch_reference.retrieval import average_precision_of_scores, first_positive


def whole_numbers(rng: np.random.Generator, n: int, d: int, labels: np.ndarray) -> np.ndarray:
    """Descriptors that gather by label, of whole numbers: their dot products are exact in float32.

    Both sides of a comparison then rank the same scores, ties included.
    """
    centres = rng.integers(-60, 61, (labels.max() + 1, d))
    return (centres[labels] + rng.integers(-80, 81, (n, d))).astype(np.float32)


def sklearn_ap(descriptors: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    ap = []
    for q in queries:
        others = np.arange(len(labels)) != q
        scores = descriptors.astype(np.float64) @ descriptors[q].astype(np.float64)
        relevant = (labels == labels[q])[others]
        ap.append(average_precision_score(relevant, scores[others]) if relevant.any() else np.nan)
    return np.array(ap)


@pytest.mark.parametrize(("n", "classes"), [(300, 20), (5000, 37), (5000, 2)])
def test_equals_scikit_learn(n: int, classes: int) -> None:
    rng = np.random.default_rng(n + classes)
    labels = rng.integers(classes, size=n)
    descriptors = whole_numbers(rng, n, 32, labels)
    result = evaluate_labelled(descriptors, labels)
    queries = np.arange(0, n, 1 if n < 1000 else 23)
    expected = sklearn_ap(descriptors, labels, queries)
    assert 0.05 < np.nanmean(expected) < 0.95  # neither chance nor solved
    # float32: each precision is rounded (6e-8), and so are the sums of up to 2,500 of them, which
    # XLA takes in tiles, so that errors grow with the logarithm of their number.
    np.testing.assert_allclose(result.ap[queries], expected, atol=5e-7, rtol=0)
    assert result.mAP == pytest.approx(result.ap.mean(), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ties_and_lone_images(data: st.DataObject) -> None:
    """Few distinct scores, zeros of both signs, duplicates, classes of one image; any block."""
    n = data.draw(st.sampled_from([2, 3, 12]))  # few shapes: each one compiles
    labels = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)))
    entries = data.draw(st.lists(st.integers(-1, 1), min_size=2 * n, max_size=2 * n))
    descriptors = np.array(entries, np.float32).reshape(n, 2)
    block_size = data.draw(st.sampled_from([1, 5, 100]))
    alone = [np.sum(labels == label) == 1 for label in labels]
    if all(alone):
        with pytest.raises(UserError, match="same label"):
            evaluate_labelled(descriptors, labels, block_size=block_size)
        return
    result = evaluate_labelled(descriptors, labels, block_size=block_size, top_k=(1, 2, 5))
    expected, first = [], []
    for q in range(n):
        others = [i for i in range(n) if i != q]
        scores = [float(descriptors[q] @ descriptors[i]) for i in others]
        relevant = [bool(labels[i] == labels[q]) for i in others]
        expected.append(np.nan if alone[q] else average_precision_of_scores(scores, relevant))
        if not alone[q]:
            first.append(first_positive(scores, relevant))
    np.testing.assert_allclose(result.ap, expected, atol=3e-7, rtol=0)
    assert result.mAP == pytest.approx(np.nanmean(expected), abs=3e-7)
    expected_top = {k: np.mean(np.array(first) < k) for k in (1, 2, 5) if k < len(labels)}
    assert result.top == expected_top


def test_the_query_itself_is_excluded() -> None:
    """Four images in two pairs, each nearest to an image of the other label."""
    descriptors = np.array([[4, 0], [2, 3], [3, 0], [1, 4]], np.float32)
    result = evaluate_labelled(descriptors, np.array([7, 7, -1, -1]), top_k=(1, 2, 3, 4, 10))
    np.testing.assert_allclose(result.ap, [1 / 2, 1 / 2, 1 / 3, 1 / 3], rtol=1e-6)
    assert result.top == {1: 0.0, 2: 0.5, 3: 1.0}  # for k below the number of images


def test_a_query_without_positives_is_left_out_of_the_means() -> None:
    descriptors = np.eye(3, 2, dtype=np.float32)
    result = evaluate_labelled(descriptors[[0, 0, 1]], np.array([5, 5, 6]))
    np.testing.assert_array_equal(result.ap, [1, 1, np.nan])
    assert result.mAP == 1
    assert result.top[1] == 1


def test_a_query_apart_whose_label_no_image_has_is_a_miss() -> None:
    """It has no average precision, but the original counts it in top-k."""
    descriptors = np.eye(3, dtype=np.float32)
    result = evaluate_labelled(
        descriptors, np.array([5, 6, 7]), queries=descriptors, query_labels=np.array([5, 6, 9])
    )
    assert result.mAP == 1
    assert result.top == {1: pytest.approx(2 / 3)}


@pytest.mark.parametrize("block_size", [1, 7, 100])
def test_queries_apart(block_size: int) -> None:
    """Other images search: nothing is left out, and a label may have none in the database."""
    rng = np.random.default_rng(4)
    labels, query_labels = rng.integers(6, size=120), rng.integers(8, size=15)
    assert query_labels.max() > labels.max()
    everything = whole_numbers(rng, 135, 8, np.concatenate([labels, query_labels]))
    database, queries = everything[:120], everything[120:]
    result = evaluate_labelled(
        database, labels, queries=queries, query_labels=query_labels, block_size=block_size
    )
    ap, first = np.full(15, np.nan), np.full(15, -1)
    for q in range(15):
        relevant = (labels == query_labels[q]).tolist()
        if any(relevant):
            scores = (database.astype(np.float64) @ queries[q]).tolist()
            ap[q] = average_precision_of_scores(scores, relevant)
            first[q] = first_positive(scores, relevant)
    np.testing.assert_allclose(result.ap, ap, atol=3e-7, rtol=0)
    np.testing.assert_array_equal(result.first, first)
    assert result.mAP == pytest.approx(np.nanmean(ap), abs=3e-7)


def test_queries_of_the_same_images_described_otherwise() -> None:
    """Expanded queries: each leaves its own image out of its ranking."""
    rng = np.random.default_rng(5)
    labels = rng.integers(5, size=40)
    database, queries = (whole_numbers(rng, 40, 8, labels) for _ in range(2))
    result = evaluate_labelled(database, labels, queries=queries)
    for q in range(40):
        others = np.arange(40) != q
        scores = (database.astype(np.float64) @ queries[q])[others].tolist()
        relevant = (labels == labels[q])[others].tolist()
        assert result.ap[q] == pytest.approx(
            average_precision_of_scores(scores, relevant), abs=3e-7
        )
        assert result.first[q] == first_positive(scores, relevant)


def test_one_compilation_and_no_matrix_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    n, block_size = 4097, 64  # a last block that is not full
    labels = rng.integers(50, size=n)
    descriptors = whole_numbers(rng, n, 8, labels)
    compiled = metrics._score_block._cache_size()
    evaluate_labelled(descriptors, labels, block_size=block_size)
    assert metrics._score_block._cache_size() == compiled + 1

    program = metrics._score_block.lower(
        *(jnp.asarray(x[:block_size]) for x in (descriptors, labels, np.arange(n), labels)),
        *(jnp.asarray(x) for x in (descriptors, labels)),
    ).compile()
    temporaries = program.memory_analysis().temp_size_in_bytes
    assert block_size * n * 4 < temporaries < n * n * 4 / 4


def test_block_size_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(9, size=157)
    descriptors = whole_numbers(rng, 157, 8, labels)
    results = [evaluate_labelled(descriptors, labels, block_size=b) for b in (1, 50, 157, 1024)]
    for result in results[1:]:  # but, perhaps, the order of a sum
        np.testing.assert_allclose(result.ap, results[0].ap, atol=3e-7, rtol=0)
        assert result.top == results[0].top


def test_accepts_arrays_on_the_device() -> None:
    x = jax.random.normal(jax.random.key(0), (20, 4))
    labels = np.arange(20) % 3
    assert evaluate_labelled(x, labels).mAP == evaluate_labelled(np.asarray(x), labels).mAP


def test_names_the_descriptor_that_is_not_finite() -> None:
    x = np.ones((6, 3), np.float32)
    x[4, 1] = np.nan
    with pytest.raises(UserError, match=r"1 of 6 descriptors are not finite.*number 4"):
        evaluate_labelled(x, np.zeros(6, int))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"shape \(6, 3\) and labels of shape \(5,\) do not"):
        evaluate_labelled(np.ones((6, 3)), np.zeros(5, int))
