"""What each engine finds, against brute force; adding and removing; bad engines."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from dir_jax.errors import UserError
from dir_jax.search import exact
from dir_jax.search.building import change_index, changing
from dir_jax.search.index import Index
from dir_jax.search.milvus_engine import Milvus

from .conftest import descriptors, new_images

FAISS = ["faiss:Flat", "faiss:IVF8,SQ8", "faiss:HNSW16", "faiss:IVF4,PQ8x4"]


def brute_force(queries, x, k):
    scores = queries.astype(np.float64) @ x.T.astype(np.float64)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


def engines(tmp_path):
    return ["exact", *FAISS, f"milvus:{tmp_path / 'milvus.db'}"]


def needs(engine):
    kind = engine.partition(":")[0]
    if package := {"faiss": "faiss", "milvus": "milvus_lite"}.get(kind):
        pytest.importorskip(package)
    return engine


@pytest.fixture(params=["exact", *FAISS, "milvus"])
def engine(request, tmp_path):
    name = request.param
    return needs(f"milvus:{tmp_path / 'milvus.db'}" if name == "milvus" else name)


def test_finds_what_brute_force_finds(engine, make):
    x, queries = descriptors(600), descriptors(20, seed=1)
    index = Index(make(x, engine))
    found = index.search(queries, 5)
    scores, rows = brute_force(queries, x, 5)
    shared = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), rows.tolist(), strict=True)]
    lossless = engine in ("exact", "faiss:Flat") or engine.startswith("milvus")
    assert sum(shared) >= (100 if lossless else 90)
    # Scores are exact, whatever the engine keeps.
    own = np.einsum("qd,qkd->qk", queries, x[found.rows])
    np.testing.assert_allclose(found.scores, own, atol=1e-6)
    if lossless:
        np.testing.assert_array_equal(found.rows, rows)
        np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert found.names[3] == [f"db/{row}.jpg" for row in found.rows[3]]


def test_images_are_added_and_removed(engine, make, tmp_path):
    x = descriptors(300)
    path = make(x[:200], engine)
    with changing(path) as before:
        change_index(before, new=new_images(x[200:], [f"new/{i}.jpg" for i in range(100)]))
    with changing(path) as before:
        change_index(before, remove=range(0, 150, 3))
    kept = np.delete(np.arange(300), np.arange(0, 150, 3))
    index = Index(path)
    assert len(index) == 250
    np.testing.assert_array_equal(index.descriptors, x[kept])
    found = index.search(x[kept], 1)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(250))
    assert index.search(x[299], 1).names == [["new/99.jpg"]]
    assert index.row("new/99.jpg") == 249
    assert index.row("db/0.jpg") is None
    # What was removed is found no more, even as the best of all.
    assert "db/0.jpg" not in index.search(x[0], 250).names[0]


def test_engine_of_an_index_is_changed(make):
    needs("faiss:Flat")
    x = descriptors(100)
    path = make(x)
    for engine in ("faiss:HNSW16", "exact"):
        with changing(path) as before:
            change_index(before, engine=engine)
        index = Index(path)
        assert engine in repr(index)
        assert index.search(x[5], 1).rows.tolist() == [[5]]
    assert not list(path.glob("engine.*"))


def test_recall_is_measured_and_kept(make, capsys):
    needs("faiss:Flat")
    path = make(descriptors(500), "faiss:IVF16,PQ8x4")
    words = re.search(r"faiss:IVF16,PQ8x4: recall@10 (\d\.\d+) of exact search, \S+ ms a query, "
                      r"by 200 held-out images", capsys.readouterr().out)  # fmt: skip
    assert float(words[1]) >= 0.95  # more lists and more candidates were tried until it was
    about = json.loads((path / "index.json").read_text())["engine"]
    assert about["recall"] == pytest.approx(float(words[1]), abs=1e-3)
    assert about["effort"] * about["candidates"] > 1


def test_exact_search_in_slabs_is_that_of_the_whole(make, monkeypatch):
    x = descriptors(1000)
    x[700] = x[3]  # of equal scores the lower row comes first
    contents = Index(make(x))._contents
    queries = np.concatenate([descriptors(5, seed=1), x[3:4]])
    whole = exact.exact_search(contents, queries, 30)
    monkeypatch.setattr(exact, "_SLAB_ROWS", 64)
    monkeypatch.setattr(exact, "_SLAB", 1)
    parts = exact.exact_search(contents, queries, 30)
    np.testing.assert_array_equal(parts[1], whole[1])
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-6)
    assert whole[1][5, :2].tolist() == [3, 700]
    among = np.arange(1, 1000, 2)
    some = exact.exact_search(contents, queries, 30, among)
    np.testing.assert_array_equal(some[1], among[brute_force(queries, x[among], 30)[1]])


def test_changes_that_were_killed_in_milvus_are_mended(make, tmp_path):
    """Vectors of a change that never became the index are not found, and go with the next one."""
    needs("milvus")
    pytest.importorskip("milvus_lite")
    x = descriptors(60)
    path = make(x[:40], f"milvus:{tmp_path / 'm.db'}")
    before = (path / "index.json").read_bytes()
    with changing(path) as contents:
        change_index(contents, new=new_images(x[40:], [f"n/{i}.jpg" for i in range(20)]))
    after = (path / "index.json").read_bytes()
    (path / "index.json").write_bytes(before)  # as if it had been killed before the last step
    found = Index(path).search(x[50], 20)
    assert all(name.startswith(("db/", "")) for name in found.names[0])
    assert (found.rows < 40).all()
    with changing(path) as contents:
        change_index(contents, new=new_images(x[45:], [f"m/{i}.jpg" for i in range(15)]))
    index = Index(path)
    assert after != before
    assert index.search(x[45:], 1).names == [[f"m/{i}.jpg"] for i in range(15)]
    index._engine._count_others(55)  # raises, were there fewer
    assert index._engine._count_others(55) == 0


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("fais:Flat", "there is no engine 'fais:Flat'; did you mean faiss?; expected one of exact"),
        ("faiss", "the engine 'faiss' is not whole; expected faiss:SPEC"),
        ("exact:x", "there is no engine 'exact:x'"),
        ("faiss:bogus", "the engine faiss:bogus is not an index for 32 dimensions"),
        ("faiss:IVF4096,SQ8", "needs 4096 images at least, and there are 50"),
        ("faiss:PQ5", "should be a multiple of the number of subquantizers"),
        ("milvus:http://127.0.0.1:9", "the engine milvus:http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_engines_that_cannot_be_used_leave_nothing(make, engine, message, tmp_path):
    if engine.partition(":")[2]:
        needs(engine.replace("fais:", "exact:"))
    with pytest.raises(UserError) as e:
        make(descriptors(50), engine)
    assert message in str(e.value)
    assert "\n" not in str(e.value)
    assert [p for p in tmp_path.iterdir() if p.suffix != ".db"] == []


def test_an_engine_that_is_not_installed(make, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UserError, match=r"needs the package faiss.*pip install 'dir_jax\[faiss\]'"):
        make(descriptors(20), "faiss:Flat")


def test_a_collection_of_an_earlier_version_has_no_number_of_candidates():
    settings = {"uri": "m.db", "collection": "dir_jax_1"}
    engine = Milvus("m.db", SimpleNamespace(folder="my.index"), settings)
    assert engine._count(20) == 40
