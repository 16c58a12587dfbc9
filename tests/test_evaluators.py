"""Each protocol from descriptors to measures, against loops over its definition."""

import numpy as np
import pytest

from dir_jax.data.benchmark_sets import UKBenchDataset
from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from dir_jax.evaluation import evaluate_descriptors, expand_descriptors, protocol_of
from torch_reference import measures as oracle
from torch_reference.evaluation import normalized

DIMS, DATABASE, QUERIES = 8, 40, 9
RNG = np.random.default_rng(0)
OK = [RNG.choice(DATABASE, n, replace=False) for n in (1, 2, 3, 4, 5, 6, 7, 3, 2)]


def draw(count, seed):
    x = np.random.default_rng(seed).standard_normal((count, DIMS)) + 0.3
    return normalized(x).astype(np.float32)


DB, Q = draw(DATABASE, 1), draw(QUERIES, 2)


def relevants(protocol, parts=None, **grades):
    none = np.zeros(0, np.int64)
    truth = [{"ok": ok, "junk": none, **{k: v[i] for k, v in grades.items()}}
             for i, ok in enumerate(OK)]  # fmt: skip
    names = [f"q{i}.jpg" for i in range(QUERIES)]
    return RelevantsDataset([f"{i}.jpg" for i in range(DATABASE)], QueryDataset(names, "", None),
                            truth, "", protocol, parts)  # fmt: skip


def rankings(queries, database):
    return np.argsort(-(queries.astype(float) @ database.T.astype(float)), axis=1, kind="stable")


def test_labels():
    labels = np.random.default_rng(3).integers(0, 12, DATABASE)
    dataset = LabelledDataset([f"{i}.jpg" for i in range(DATABASE)], [str(c) for c in labels])
    found = evaluate_descriptors(dataset, DB).metrics
    ranked = [[j for j in row if j != i] for i, row in enumerate(rankings(DB, DB).tolist())]
    relevant = [set(np.flatnonzero(labels == c).tolist()) - {i} for i, c in enumerate(labels)]
    asked = [q for q, images in enumerate(relevant) if images]  # a class of one is left out
    for k in (1, 2, 4, 5, 8, 10):
        chosen = ([rows[q] for q in asked] for rows in (ranked, relevant))
        expected = oracle.recall_at_k(*chosen, k)
        assert found[f"recall@{k}"] == pytest.approx(expected, abs=1e-9)
    for name, function in (("MAP@R", oracle.map_at_r), ("R-precision", oracle.r_precision)):
        each = [function(r, y) for r, y in zip(ranked, relevant, strict=True) if y]
        assert found[name] == pytest.approx(np.mean(each), abs=1e-6)
    assert protocol_of(dataset).startswith("labels: each image queries the others")


def test_gldv2_retrieval():
    half = np.arange(QUERIES) < 4
    dataset = relevants("gldv2_retrieval", {"public": half, "private": ~half})
    queries = Q.copy()
    queries[5] = np.nan  # it has no results, and scores 0
    found = evaluate_descriptors(dataset, DB, queries, allow_missing=True).metrics
    ranked = {str(i): row for i, row in enumerate(rankings(Q, DB).tolist())} | {"5": []}
    solution = {str(i): set(ok.tolist()) for i, ok in enumerate(OK)}
    for name, chosen in (("", range(9)), ("-public", range(4)), ("-private", range(4, 9))):
        part = {str(i): solution[str(i)] for i in chosen}
        expected = oracle.google_map({i: ranked[i] for i in part}, part, 100)
        assert found[f"mAP@100{name}"] == pytest.approx(expected, abs=1e-9)


def test_gldv2_recognition():
    landmark = np.random.default_rng(4).integers(0, 5, DATABASE)
    shows = [[0], [1], [], [2, 3], [4], [], [77], [0], [1]]
    ok = [np.flatnonzero(np.isin(landmark, each)) for each in shows]
    dataset = relevants("gldv2_recognition", ok=ok, landmarks=[np.array(s, int) for s in shows])
    scores = Q.astype(float) @ DB.T.astype(float)
    predictions = {f"{i}": (landmark[row.argmax()], row.max()) for i, row in enumerate(scores)}
    expected = oracle.google_gap(predictions, {f"{i}": set(s) for i, s in enumerate(shows)})
    found = evaluate_descriptors(dataset, DB, Q).metrics
    assert found == {"GAP": pytest.approx(expected, abs=1e-9)}
    assert 0 < expected < 1


def test_ilias_with_its_distractors():
    dataset, more = relevants("ilias"), draw(2000, 5)
    found = evaluate_descriptors(dataset, DB, Q, distractors=more).metrics["mAP@1k"]
    everything = np.concatenate([DB, more])
    each = []
    for query, ok in zip(Q, OK, strict=True):
        order = np.argsort(-(everything @ query), kind="stable")
        hits = np.isin(order, ok).tolist()
        each.append(oracle.ilias_ap((everything @ query)[order].tolist(), hits, len(ok), 1000))
    assert found == pytest.approx(np.mean(each), abs=1e-6)
    assert evaluate_descriptors(dataset, DB, Q).metrics["mAP@1k"] > found


def test_ukbench():
    dataset = UKBenchDataset([f"{i}.jpg" for i in range(40)], [str(i // 4) for i in range(40)])
    found = evaluate_descriptors(dataset, DB).metrics
    first = rankings(DB, DB)[:, :4]
    assert found == {
        "N-S": pytest.approx(np.mean((first // 4 == np.arange(40)[:, None] // 4).sum(1)))
    }
    assert evaluate_descriptors(
        dataset, np.eye(40, 40)[np.arange(40) // 4].astype(np.float32)
    ).metrics["N-S"] == pytest.approx(4)


def test_holidays_measures_only_map():
    found = evaluate_descriptors(relevants("holidays"), DB, Q).metrics
    assert list(found) == ["mAP"]
    assert found["mAP"] == evaluate_descriptors(relevants("classic"), DB, Q).metrics["mAP"]


@pytest.mark.parametrize("protocol", ["classic", "gldv2_retrieval"])
def test_distractors_are_as_database_images_that_no_query_names(protocol):
    more = draw(300, 6)
    more[17] = np.nan  # an image that could not be described comes last
    dataset = relevants(protocol)
    found = evaluate_descriptors(dataset, DB, Q, distractors=more, allow_missing=True)
    dataset.names = [f"{i}.jpg" for i in range(DATABASE + 300)]
    database = np.concatenate([DB, more])
    whole = evaluate_descriptors(dataset, database, Q, allow_missing=True)
    np.testing.assert_array_equal(found.aps[""], whole.aps[""])
    dataset.names = dataset.names[:DATABASE]
    _, expanded = expand_descriptors(DB, Q, distractors=more, aqe=(5, 3))
    np.testing.assert_allclose(
        expanded, expand_descriptors(database, Q, aqe=(5, 3))[1], atol=1e-6, rtol=0
    )


def test_distractors_that_do_not_fit():
    dataset, more = relevants("classic"), draw(300, 6)
    more[20, 3] = np.inf
    message = "1 descriptors of the distractors are not finite; they are of the images number 20"
    with pytest.raises(UserError, match=message):
        evaluate_descriptors(dataset, DB, Q, distractors=more, allow_missing=True)
    with pytest.raises(UserError, match="have descriptors of 4 dimensions, the database has 8"):
        evaluate_descriptors(dataset, DB, Q, distractors=draw(300, 6)[:, :4])
    with pytest.raises(UserError, match="not offered with distractors"):
        expand_descriptors(DB, Q, distractors=more, adba=(2, 1))
    labelled = LabelledDataset(["a.jpg", "b.jpg"], ["x", "x"])
    with pytest.raises(UserError, match="go with a set that has a ground truth"):
        evaluate_descriptors(labelled, DB[:2], distractors=more)
