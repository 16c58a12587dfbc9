"""`index`, `search`, `pairs` and `duplicates` from the command line."""

import json
import re
import shutil
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

import dir_jax


@pytest.fixture(scope="module")
def world(tmp_path_factory, model, photos):
    """Photographs of which 3.png has two near copies."""
    folder = tmp_path_factory.mktemp("search")
    shutil.copytree(photos, folder / "photos")
    pixels = np.asarray(Image.open(folder / "photos/3.png"))
    for i, name in enumerate(("copy0", "copy1")):
        copy = pixels.copy()
        copy[:3, :i] = 0
        Image.fromarray(copy).save(folder / f"photos/{name}.png")
    names = [f"{i}.png" for i in range(10)] + ["copy0.png", "copy1.png"]
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def words(world, name="list.txt"):
    return f'ImageList("{world / name}", "{world / "photos"}")'


@pytest.fixture
def index(world, model, run, tmp_path):
    """The index of list.txt; made once, and copied for each test."""
    made = world / "my.index"
    if not made.exists():
        code, out, err = run("index_images", "--dataset", words(world), "--checkpoint", model,
                             "--output", made)  # fmt: skip
        assert (code, err) == (0, ""), err
        assert out.splitlines()[-1] == f"wrote {made}: 12 images"
        assert not (world / "my.index.partial").exists()
    copy = tmp_path / "my.index"
    shutil.copytree(made, copy)
    return copy


def read_as_hloc(path):
    """The pairs of a file, as hloc's `parse_retrieval` reads them: by query, in order."""
    found = defaultdict(list)
    for row in path.read_text().rstrip("\n").split("\n"):
        if row:
            query, image = row.split()
            found[query].append(image)
    return dict(found)


def test_search_prints_a_table_json_and_a_page(index, world, run, tmp_path):
    page = tmp_path / "results.html"
    photo = world / "photos/3.png"
    code, out, err = run("search_index", index, photo, "--top", 3, "--page", page)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == str(photo)
    assert re.fullmatch(r" +1 +1\.0000  (3|copy0)\.png", lines[2])
    assert {line.split()[2] for line in lines[2:5]} == {"3.png", "copy0.png", "copy1.png"}
    assert len(lines) == 5
    text = page.read_text()
    assert text.count("<img") == 4  # the picture, and three results
    assert "copy1.png" in text
    assert "http://" not in text

    box = "0,0,40,40"
    code, out, _ = run("search_index", index, photo, world / "photos/5.png", "--box", box,
                       "4,4,30,30", "--json", "--top", 2, "--aqe", 2, 3)  # fmt: skip
    assert code == 0
    found = json.loads(out)
    assert [query["box"] for query in found["queries"]] == [[0, 0, 40, 40], [4, 4, 30, 30]]
    expected = dir_jax.open_index(index).search(photo, 2, box=(0, 0, 40, 40), aqe=(2, 3))
    first = found["queries"][0]["results"]
    assert [each["name"] for each in first] == expected.names[0]
    np.testing.assert_allclose([each["score"] for each in first], expected.scores[0], atol=1e-5)
    assert [each["rank"] for each in first] == [1, 2]


def test_images_are_added_and_removed(index, world, model, run):
    flags = ("index_images", "--output", index)
    code, out, err = run(*flags, "--add", "--dataset", words(world, "photos/names.txt"))
    assert code == 0, err
    assert f"added 14 images to {index}, 0 of them in place" in out
    code, out, _ = run(*flags, "--add", "--dataset", words(world, "photos/names.txt"))
    assert code == 0
    assert "added 0 images" in out
    code, out, _ = run(*flags, "--remove", "3.png", "20.png")
    assert code == 0
    assert out == f"removed 2 images from {index}\n"
    code, out, _ = run(*flags, "--remove", "--dataset", words(world), "--on-error", "skip")
    assert (code, out) == (2, "")  # 3.png is not there any more
    assert len(dir_jax.open_index(index)) == 24
    code, out, err = run(*flags, "--engine", "faiss:Flat")
    assert code == 0, err
    assert "faiss:Flat" in repr(dir_jax.open_index(index))


def test_pairs_of_queries_with_the_database(index, world, run, tmp_path):
    output = tmp_path / "pairs.txt"
    (tmp_path / "queries.txt").write_text("3.png\n15.png\n")  # in the index, and not
    code, out, err = run("write_pairs", "--queries", tmp_path / "queries.txt", "--database", index,
                         "--top", 4, "--output", output)  # fmt: skip
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {output}: 8 pairs"
    found = read_as_hloc(output)
    opened = dir_jax.open_index(index)
    for query, images in found.items():
        names = opened.search(world / "photos" / query, 5).names[0]
        assert images == [name for name in names if name != query][:4]
    assert found.keys() == {"3.png", "15.png"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my.index", "pairs.txt", "queries.txt"]


def test_queries_that_a_list_has_twice(index, run, tmp_path):
    queries, output = tmp_path / "queries.txt", tmp_path / "pairs.txt"
    flags = ("--queries", queries, "--database", index, "--top", 2, "--output", output)
    found = []
    for text in ("3.png\n5.png\n", "3.png\n3.png\n5.png\n"):
        queries.write_text(text)
        code, _, err = run("write_pairs", *flags)
        assert code == 0, err
        found.append(output.read_text().splitlines())
    once, twice = found
    assert twice == once[:2] + once


def test_pairs_of_the_database_with_itself(index, run, tmp_path):
    output = tmp_path / "pairs.txt"
    flags = ("write_pairs", "--database", index, "--output", output)
    assert run(*flags, "--top", 11)[0] == 0
    opened = dir_jax.open_index(index)
    scores = opened.descriptors @ opened.descriptors.T
    found = read_as_hloc(output)
    assert list(found) == opened.names
    for i, name in enumerate(opened.names):
        assert sorted(found[name]) == sorted(set(opened.names) - {name})
        ranked = scores[i, [opened.row(other) for other in found[name]]]
        assert (np.diff(ranked) <= 1e-6).all()
    least = float(np.sort(scores[np.triu_indices(12, 1)])[-20])
    assert run(*flags, "--top", 11, "--min-score", least - 1e-5)[0] == 0
    assert sum(map(len, read_as_hloc(output).values())) == 40  # each from both sides
    assert run(*flags, "--top", 50, "--query-prefix", "copy", "--db-prefix", "1", "2")[0] == 0
    assert {k: sorted(v) for k, v in read_as_hloc(output).items()} == {
        "copy0.png": ["1.png", "2.png"], "copy1.png": ["1.png", "2.png"]}  # fmt: skip


def test_duplicates_are_grouped(index, run, tmp_path):
    page = tmp_path / "groups.html"
    opened = dir_jax.open_index(index)
    rows = [3, 10, 11]
    scores = opened.descriptors @ opened.descriptors.T
    others = scores.copy()
    others[np.ix_(rows, rows)] = -1
    np.fill_diagonal(others, -1)
    least = float((others.max() + scores[3, 11]) / 2)
    assert others.max() < least < scores[3, 11]
    flags = ("find_duplicates", index, "--min-score", least)
    code, out, err = run(*flags, "--page", page)
    assert code == 0, err
    assert out.splitlines()[0].startswith("1 groups of 3 images, of 12, at scores from")
    assert [line.split()[1] for line in out.splitlines()[2:]] == ["3.png", "copy0.png", "copy1.png"]
    assert page.read_text().count("<img") == 3
    code, out, _ = run(*flags, "--json")
    (group,) = json.loads(out)["groups"]
    assert [each["row"] for each in group] == rows
    assert [each["score"] for each in group] == pytest.approx(scores[3, rows].tolist(), abs=1e-5)
    code, out, _ = run("find_duplicates", index, "--min-score", "1")
    assert "1 groups of 2 images" in out  # 3.png and copy0.png are the same


def test_mistakes_are_one_line(index, world, model, run, tmp_path):
    photo = world / "photos/3.png"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    new = ("index_images", "--output", tmp_path / "new.index")
    adds = ("index_images", "--output", index, "--add")
    pairs = ("write_pairs", "--database", index, "--output", tmp_path / "pairs.txt")
    for call, message in (
        (("search_index", index, photo, "--box", "0,0,400,40"), "box 0,0,400,40 is not inside"),
        (("search_index", index, photo, "--box", "0,0,4"), "--box is '0,0,4'"),
        (("search_index", index, photo, "--box", "0,0,4,4", "0,0,9,9"), "2 boxes for 1 pictures"),
        (("search_index", index, photo, "--page", tmp_path / "empty"), "empty is a folder"),
        (("find_duplicates", index, "--page", tmp_path / "empty"), "empty is a folder"),
        (("write_pairs", "--database", index, "--output", tmp_path / "bad.png/x"),
         "cannot make the folder"),
        (("index_images", "--output", index, "--add", "--dataset", words(world), "--load-feats",
          "x"), "--load-feats is of a new index"),
        ((*new, "--dataset", tmp_path / "empty", "--checkpoint", model), "empty"),
        (("search_index", index, photo, "--top", 0), "--top is 0"),
        (("search_index", index, photo, "--threads", -1), "threads is -1; expected 0 or more"),
        (("search_index", index, photo, "--aqe", "a", 3), "--aqe is a 3"),
        (("search_index", index, tmp_path / "bad.png"), "bad.png is not an image"),
        (("search_index", index, tmp_path / "none.png"), "there is no image file"),
        (("search_index", tmp_path / "empty", photo), "empty is not an index"),
        (("search_index", tmp_path / "none", photo), "none does not exist"),
        (("search_index", index, photo, "--checkpoint", tmp_path), "checkpoint"),
        (("find_duplicates", index, "--min-score", 2), "--min-score is 2.0"),
        ((*pairs, "--top", 0), "--top is 0"),
        ((*pairs, "--db-prefix", "z"), "no name of a database image begins with z"),
        ((*pairs, "--queries", tmp_path / "none.txt"), "none.txt"),
        ((*new, "--dataset", words(world)), "a new index needs --checkpoint"),
        ((*new, "--checkpoint", model), "a new index needs --dataset"),
        ((*new, "--engine", "x"), "there is no engine 'x'"),
        ((*new, "--dataset", words(world), "--add"), "does not exist"),
        (adds, "--add needs --dataset"),
        (("index_images", "--output", index, "--remove"), "--remove needs the names"),
        (("index_images", "--output", index, "--remove", "x.png"), "has no image x.png"),
        (("index_images", "--output", index, "--dataset", words(world), "--checkpoint", model),
         "exists already"),
        ((*adds, "--dataset", words(world), "--trfs", "Scale(9)"), "--trfs is of a new index"),
        ((*adds, "--dataset", words(world), "--multiscale"), "--multiscale is of a new index"),
        ((*adds, "--dataset", words(world), "--thumbnails"), "--thumbnails is of a new index"),
        (("index_images", "--output", world / "photos", "--dataset", words(world), "--checkpoint",
          model, "--overwrite"), "photos is not an index; --overwrite replaces nothing else"),
    ):  # fmt: skip
        code, out, err = run(*call)
        assert (code, out) == (2, ""), (call, out)
        assert message in err, (call, err)
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert not (tmp_path / "new.index").exists()
    assert len(dir_jax.open_index(index)) == 12


def test_an_index_is_replaced_by_another(index, world, model, run):
    (world / "two.txt").write_text("0.png\n1.png\n")
    flags = ("--dataset", words(world, "two.txt"), "--checkpoint", model, "--overwrite")
    code, _, err = run("index_images", "--output", index, *flags)
    assert code == 0, err
    assert dir_jax.open_index(index).names == ["0.png", "1.png"]


def test_names_with_white_space_cannot_be_pairs(index, run, tmp_path, world):
    shutil.copy(world / "photos/1.png", world / "photos/a b.png")
    try:
        (tmp_path / "queries.txt").write_text("a b.png\n")
        queries, output = tmp_path / "queries.txt", tmp_path / "pairs.txt"
        flags = ("--database", index, "--queries", queries, "--output", output)
        code, _, err = run("write_pairs", *flags)
    finally:
        (world / "photos/a b.png").unlink()
    assert code == 2
    assert "'a b.png' cannot be in a list of pairs" in err
