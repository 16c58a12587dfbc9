"""Evaluation by each data set's own protocol, against loops in float64."""

import numpy as np
import pytest

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from dir_jax.evaluation import (
    check_can_be_evaluated,
    check_expansions,
    evaluate_descriptors,
    expand_descriptors,
    rankings_to_show,
)
from torch_reference.evaluation import expand, labelled_map, normalized, revisited_maps
from torch_reference.retrieval import oxford_measures


def draw(count, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, 16)) + 0.5
    return normalized(x).astype(np.float32)


def relevants(truth, database=20):
    names = [f"{i}.jpg" for i in range(database)]
    queries = [f"q{i}.jpg" for i in range(len(truth))]
    truth = [{k: np.array(v, np.int64) for k, v in entry.items()} for entry in truth]
    return RelevantsDataset(names, QueryDataset(queries, "", None), truth)


REVISITED = [
    {"easy": [0, 7], "hard": [3], "junk": [5]},
    {"easy": [], "hard": [4, 11], "junk": []},
    {"easy": [19], "hard": [], "junk": [1, 2]},
]


def test_revisited():
    database, queries = draw(20), draw(3, seed=1)
    found = evaluate_descriptors(relevants(REVISITED), database, queries)
    expected = revisited_maps(queries.astype(float), database.astype(float), REVISITED)
    assert {k: found.metrics[k] for k in expected} == pytest.approx(expected, abs=1e-9)
    assert list(found.metrics)[:3] == ["mAP-easy", "mAP-medium", "mAP-hard"]
    assert np.isnan(found.aps["easy"]).tolist() == [False, True, False]
    assert found.detailed()["APs-easy"][1] == -1
    assert "tops" not in found.detailed()


def test_classic():
    truth = [{"ok": [0, 7, 3], "junk": [5]}, {"ok": [4], "junk": []}]
    database, queries = draw(20), draw(2, seed=1)
    found = evaluate_descriptors(relevants(truth), database, queries)
    expected = [
        oxford_measures(np.argsort(-(database @ q), kind="stable"), set(e["ok"]), set(e["junk"]))[0]
        for q, e in zip(queries, truth, strict=True)
    ]
    assert next(iter(found.metrics)) == "mAP"
    assert found.metrics["mAP"] == pytest.approx(np.mean(expected), abs=1e-9)
    np.testing.assert_allclose(found.aps[""], expected, atol=1e-9, rtol=0)


def test_a_query_without_descriptor_is_left_out():
    database, queries = draw(20), draw(3, seed=1)
    queries[0] = np.nan
    found = evaluate_descriptors(relevants(REVISITED), database, queries, allow_missing=True)
    rest = evaluate_descriptors(relevants(REVISITED[1:]), database, queries[1:])
    assert found.metrics == rest.metrics
    assert np.isnan(found.aps["medium"]).tolist() == [True, False, False]


def test_an_image_without_descriptor_comes_last():
    database, queries = draw(20), draw(3, seed=1)
    lost = database.copy()
    lost[7] = np.nan
    found = evaluate_descriptors(relevants(REVISITED), lost, queries, allow_missing=True)
    database[7] = -100 * queries[0]  # below all
    assert found.aps["easy"][0] == evaluate_descriptors(
        relevants(REVISITED), database, queries
    ).aps["easy"][0]  # fmt: skip


LABELS = [f"class{i % 4}" for i in range(20)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("labelled", [True, False])
def test_descriptors_that_are_not_finite_are_refused(labelled, value):
    dataset = LabelledDataset([f"{i}.jpg" for i in range(20)], LABELS, "")
    dataset = dataset if labelled else relevants(REVISITED)
    database, queries = draw(20), None if labelled else draw(3, seed=1)
    database[[4, 9], 1] = value
    for allowed in (False, True):  # an image that was left out has no number at all
        with pytest.raises(UserError, match=r"2 of 20 descriptors of .* database .* number 4, 9"):
            evaluate_descriptors(dataset, database, queries, allow_missing=allowed)


def test_labelled():
    dataset = LabelledDataset([f"{i}.jpg" for i in range(20)], LABELS, "")
    database = draw(20)
    found = evaluate_descriptors(dataset, database)
    assert found.metrics["mAP"] == pytest.approx(labelled_map(database, LABELS), abs=1e-6)
    assert list(found.metrics)[:3] == ["mAP", "recall@1", "recall@2"]
    details = found.detailed()
    assert np.mean(details["APs"]) == pytest.approx(found.metrics["mAP"])
    assert np.mean([tops[1] for tops in details["tops"]]) == found.metrics["recall@1"]
    # A lost image is neither a query nor a result; the others keep their places.
    database[3] = np.nan
    kept = [i for i in range(20) if i != 3]
    without = evaluate_descriptors(dataset, database, allow_missing=True)
    expected = labelled_map(database[kept], [LABELS[i] for i in kept])
    assert without.metrics["mAP"] == pytest.approx(expected, abs=1e-6)
    assert np.flatnonzero(np.isnan(without.aps[""])).tolist() == [3]
    assert without.first[3] == -1
    assert without.detailed()["tops"][3] == {1: 0, 5: 0, 10: 0}


def test_labelled_queries_apart():
    names, classes = [f"{i}.jpg" for i in range(20)], sorted(set(LABELS))
    queries = LabelledDataset(["a.jpg", "b.jpg"], ["class2", "class0"], "", classes)
    dataset = LabelledDataset(names, LABELS, "", classes, queries)
    rows, database = draw(2, seed=1), draw(20)
    found = evaluate_descriptors(dataset, database, rows)
    # The protocol itself is held to scikit-learn in test_metrics; this is about who is asked what.
    for i, label in enumerate(["class2", "class0"]):
        order = np.argsort(-(database @ rows[i]))
        hits = np.array([LABELS[j] == label for j in order])
        precision = np.cumsum(hits) / np.arange(1, 21)
        assert found.aps[""][i] == pytest.approx(precision[hits].mean(), abs=1e-6)
        assert found.first[i] == np.argmax(hits)


@pytest.mark.parametrize("aqe", [None, (3, 2), (2, 0.5)])
@pytest.mark.parametrize("adba", [None, (2, 1)])
@pytest.mark.parametrize("apart", [True, False])
def test_expansion_augments_the_database_first(aqe, adba, apart):
    database = draw(20)
    queries = draw(3, seed=1) if apart else None
    found_database, found_queries = expand_descriptors(database, queries, aqe=aqe, adba=adba)
    expected = expand(database, database, *adba, exclude_self=True) if adba else database
    np.testing.assert_allclose(found_database, expected, atol=1e-6, rtol=0)
    if found_queries is None:
        assert queries is aqe is adba is None
        return
    asked = database if queries is None else queries
    asked = expand(asked, expected, *aqe) if aqe else asked
    np.testing.assert_allclose(found_queries, asked, atol=1e-6, rtol=0)


def test_what_cannot_be_expanded_or_evaluated():
    images = ImageDataset(["a.jpg"] * 5, "")
    with pytest.raises(UserError, match="aqe: "):
        check_expansions(images, (6, 1), None)
    with pytest.raises(UserError, match="adba: "):
        check_expansions(images, None, (5, 1))  # an image is not its own neighbour
    check_expansions(images, (5, 1), (4, 1))
    with pytest.raises(UserError, match="neither labels nor a ground truth"):
        evaluate_descriptors(images, draw(5))


def test_a_set_in_which_nothing_is_relevant():
    alone = LabelledDataset(["a.jpg", "b.jpg"], ["a", "b"])
    with pytest.raises(UserError, match="none of the 2 images has the same label"):
        check_can_be_evaluated(alone)
    queries = LabelledDataset(["c.jpg"], ["c"], "", ["a", "b", "c"])
    apart = LabelledDataset(["a.jpg", "b.jpg"], ["a", "b"], "", ["a", "b", "c"], queries)
    with pytest.raises(UserError, match="none of the 1 queries has the label"):
        check_can_be_evaluated(apart)
    with pytest.raises(UserError, match="no relevant image for any of its 1 queries"):
        check_can_be_evaluated(relevants([{"easy": [], "hard": [], "junk": [3]}]))
    check_can_be_evaluated(relevants([{"easy": [], "hard": [2], "junk": [3]}]))


def test_ground_truth_that_does_not_fit():
    with pytest.raises(UserError, match="query 1 has no 'easy'"):
        check_can_be_evaluated(relevants([REVISITED[0], {"ok": [1], "junk": []}]))
    with pytest.raises(UserError, match="query 0 refers to image 7, but 5 images"):
        check_can_be_evaluated(relevants(REVISITED, database=5))


def test_a_report_shows_the_worst_of_labelled_queries():
    dataset = LabelledDataset([f"{i}.jpg" for i in range(20)], LABELS, "")
    database = draw(20)
    found = evaluate_descriptors(dataset, database)
    shown, rankings, scores = rankings_to_show(dataset, found, database, None, most=4, results=3)
    assert set(shown) == set(np.argsort(found.aps[""])[:4])
    assert rankings.shape == (4, 19)
    assert scores.shape == (4, 3)
    for query, ranking, score in zip(shown, rankings, scores, strict=True):
        similarities = database @ database[query]
        expected = np.delete(np.argsort(-similarities), 0)  # the first is the image itself
        np.testing.assert_array_equal(ranking, expected)
        np.testing.assert_allclose(score, similarities[expected[:3]], atol=1e-6)
