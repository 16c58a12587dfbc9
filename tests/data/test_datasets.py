"""Data sets from text: each class and name, what they read, and what they say about bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dir_jax.data.datasets import create_dataset
from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from tests.data.truths import write_truth


@pytest.fixture(autouse=True)
def no_db_root(monkeypatch):
    monkeypatch.delenv("DB_ROOT", raising=False)


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path.as_posix()


class TestImageList:
    def test_rows(self, tmp_path):
        file = write(tmp_path / "list.txt", "\ufeffa.jpg\r\n\r\n  sub/b c.jpg \r\n./d..jpg")
        dataset = create_dataset(f"ImageList({file!r}, 'root')")
        assert type(dataset) is ImageDataset
        assert dataset.names == ["a.jpg", "sub/b c.jpg", "./d..jpg"]
        assert [dataset.path(i) for i in range(2)] == ["root/a.jpg", "root/sub/b c.jpg"]
        assert len(dataset) == 3
        assert create_dataset(f"ImageList({file!r})").path(0) == "a.jpg"

    def test_bad_files(self, tmp_path):
        with pytest.raises(UserError, match=r"none\.txt cannot be read: No such file"):
            create_dataset(f"ImageList('{tmp_path}/none.txt')")
        with pytest.raises(UserError, match=r"empty\.txt is empty"):
            create_dataset(f"ImageList({write(tmp_path / 'empty.txt', '')!r})")
        (tmp_path / "latin.txt").write_bytes(b"caf\xe9.jpg\n")
        with pytest.raises(UserError, match=r"latin\.txt, line 1: it is not UTF-8 text"):
            create_dataset(f"ImageList('{tmp_path}/latin.txt')")


class TestLabelled:
    def test_text(self, tmp_path):
        file = write(tmp_path / "l.txt", "a.jpg 7\nb b.jpg tower\n\nc.jpg\t 7\nd.jpg été\n")
        dataset = create_dataset(f"ImageListLabels({file!r}, root='r')")
        assert isinstance(dataset, LabelledDataset)
        assert dataset.names == ["a.jpg", "b b.jpg", "c.jpg", "d.jpg"]
        assert dataset.classes == ["7", "tower", "été"]
        assert dataset.labels.tolist() == [0, 1, 0, 2]
        assert dataset.labels.dtype == np.int32
        assert dataset.path(1) == "r/b b.jpg"
        assert dataset.queries is None

    @pytest.mark.parametrize(
        ("text", "line"),
        [("a.jpg 1\nb.jpg\n", 2), ("\n\na.jpg", 3), ("a.jpg 1\nmy holiday.JPG\nb.jpg 1", 2)],
    )
    def test_row_without_label(self, tmp_path, text, line):
        file = write(tmp_path / "l.txt", text)
        with pytest.raises(UserError, match=rf"l\.txt, line {line}: .* has no label; expected"):
            create_dataset(f"ImageListLabels({file!r})")

    def test_json(self, tmp_path):
        file = write(tmp_path / "l.json", json.dumps({"a.jpg": "x", "b c.jpg": 3, "d.jpg": "x"}))
        dataset = create_dataset(f"ImageListLabels({file!r})")
        assert dataset.names == ["a.jpg", "b c.jpg", "d.jpg"]
        assert dataset.classes == ["x", "3"]
        assert dataset.labels.tolist() == [0, 1, 0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"a.jpg": 1,\n "b.jpg" 2}', r"l\.json is not JSON: line 2: "),
            ("[1]", "holds 1; expected"),
            ("{}", "is empty"),
            ('{"a.jpg": null}', r"'a\.jpg': the label is None; expected a name or a number"),
            ('{"a.jpg": true}', "is True; expected"),
            ('{"a.jpg": [1]}', r"is \[1\]; expected"),
            ("[" * 100_000, "l.json"),
        ],
    )
    def test_bad_json(self, tmp_path, text, message):
        file = write(tmp_path / "l.json", text)
        with pytest.raises(UserError, match=message):
            create_dataset(f"ImageListLabels({file!r})")

    def test_with_queries(self, tmp_path):
        database = write(tmp_path / "db.txt", "a.jpg x\nb.jpg y\n")
        queries = write(tmp_path / "q.txt", "c.jpg z\nd.jpg y\ne.jpg x\n")
        dataset = create_dataset(f"ImageListLabelsQ({database!r}, {queries!r}, 'r')")
        assert isinstance(dataset, LabelledDataset)
        assert dataset.queries.classes == dataset.classes == ["x", "y", "z"]
        assert dataset.labels.tolist() == [0, 1]
        assert dataset.queries.labels.tolist() == [2, 1, 0]
        assert dataset.queries.path(0) == "r/c.jpg"

    def test_clusters(self, tmp_path):
        file = write(tmp_path / "c.json", json.dumps({"a.jpg": 4, "b.jpg": None, "c.jpg": "k"}))
        dataset = create_dataset(f"ImageClusters({file!r}, 'r')")
        assert dataset.names == ["a.jpg", "c.jpg"]
        assert dataset.classes == ["4", "k"]
        file = write(tmp_path / "n.json", '{"a.jpg": null}')
        with pytest.raises(UserError, match="has a cluster: all are null"):
            create_dataset(f"ImageClusters({file!r})")


LEADING_OUT = ["/etc/passwd", "../a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg"]


@pytest.mark.parametrize("name", LEADING_OUT)
def test_names_that_lead_out_of_the_root(tmp_path, name):
    """Where there is a root, the rows are somebody else's; without one, they are the user's own."""
    labelled = write(tmp_path / "l.txt", f"a.jpg 1\n{name} 1\n")
    plain = write(tmp_path / "p.txt", f"a.jpg\n\n{name}\n")
    mapped = write(tmp_path / "m.json", json.dumps({"a.jpg": 1, name: 1}))
    truths = [
        write_truth(tmp_path / f"{key}.pkl", **{key: [name]}) for key in ("imlist", "qimlist")
    ]
    for spec, where in [
        (f"ImageList({plain!r}, 'r')", r"p\.txt, line 3"),
        (f"ImageListLabels({labelled!r}, 'r')", r"l\.txt, line 2"),
        (f"ImageListLabels({mapped!r}, 'r')", r"m\.json"),
        (f"ImageListLabelsQ({mapped!r}, {labelled!r}, 'r')", r"m\.json"),
        (f"ImageClusters({mapped!r}, 'r')", r"m\.json"),
        (f"ImageListRelevants({truths[0]!r}, 'r', 'jpg')", r"imlist\.pkl: 'imlist'"),
        (f"ImageListRelevants({truths[1]!r})", r"qimlist\.pkl: 'qimlist'"),
    ]:
        with pytest.raises(UserError, match=rf"{where}: .* is not a name inside .*relative path"):
            create_dataset(spec)
    for spec in (f"ImageList({plain!r})", f"ImageListLabels({mapped!r})"):
        assert name in create_dataset(spec).names


@pytest.mark.parametrize("name", ["a\x07.jpg", "a\x1b[2J.jpg", "x" * 256, "é/" * 2000])
@pytest.mark.parametrize("root", ["", ", 'r'"])
def test_names_that_no_file_has(tmp_path, name, root):
    file = write(tmp_path / "l.txt", f"a.jpg\n{name}\n")
    with pytest.raises(UserError, match=r"l\.txt, line 2: .* (not|too long for) a name") as e:
        create_dataset(f"ImageList({file!r}{root})")
    assert len(str(e.value)) < 400
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a\ud800.jpg": 1}, " is not JSON: it has half a character"),
        ({"a.jpg": "\udc80"}, " is not JSON: it has half a character"),
        ({"a.jpg": ""}, "'a.jpg': the label '' is not a name: it is empty"),
        ({"a.jpg": "x" * 5000}, "'a.jpg': the label 'xxx.* is too long for a name"),
        ({"": 1}, "'' is not a name: it is empty"),
        ({"a.jpg": [[1] * 1000]}, r"'a\.jpg': the label is \[\[1, 1,.*; expected a name"),
        ({"a.jpg": 1.5}, r"'a\.jpg': the label is 1\.5; expected a name"),
    ],
)
def test_bad_names_in_json(tmp_path, content, message):
    file = write(tmp_path / "l.json", json.dumps(content))
    with pytest.raises(UserError, match=rf"l\.json:? ?{message}") as e:
        create_dataset(f"ImageListLabels({file!r})")
    assert len(str(e.value)) < 600
    assert str(e.value).isprintable()


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_files_that_are_not_lists(tmp_path, suffix):
    """A pipe, an endless device, a file of a terabyte, and others that are no text."""
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    os.symlink("/dev/zero", tmp_path / f"zero.{suffix}")
    with open(tmp_path / f"large.{suffix}", "wb") as stream:
        stream.truncate(1 << 40)
    (tmp_path / f"utf16.{suffix}").write_text("a.jpg 1\n", encoding="utf-16")
    (tmp_path / f"nul.{suffix}").write_bytes(b"a.jpg\0 1\n")
    (tmp_path / f"long.{suffix}").write_bytes(b"x" * 100_000)
    (tmp_path / f"number.{suffix}").write_bytes(b'{"a.jpg": ' + b"9" * 9_000 + b"}")
    for name in ("pipe", "zero", "large", "utf16", "nul", "long"):
        for kind in ("ImageList", "ImageListLabels"):
            if kind == "ImageList" and suffix == "json" and name != "pipe":
                continue  # as a text file
            with pytest.raises(UserError, match=rf"{name}\.{suffix}") as e:
                create_dataset(f"{kind}('{tmp_path}/{name}.{suffix}')")
            assert len(str(e.value)) < 500
            assert str(e.value).isprintable()
    with pytest.raises(UserError, match=rf"number\.{suffix}"):
        create_dataset(f"ImageListLabels('{tmp_path}/number.{suffix}')")


LABELLED = {
    "Landmarks_clean": "landmarks/annotations/annotation_clean_train.txt",
    "Landmarks_clean_val": "landmarks/annotations/annotation_clean_val.txt",
    "Landmarks_lite": "landmarks/annotations/extra_landmark_images.txt",
    "Landmarks18_train": "landmarks18/lists/train.txt",
    "Landmarks18": "landmarks18/lists/train_all.txt",
    "Landmarks18_lite": "landmarks18/lists/train_lite.txt",
    "Landmarks18_mid": "landmarks18/lists/train_mid.txt",
    "Landmarks18_5K": "landmarks18/lists/train_5K.txt",
    "Landmarks18_val": "landmarks18/lists/val.txt",
    "Landmarks18_valdstr": "landmarks18/lists/val_distractors.txt",
}
LISTS = {
    "Landmarks18_index": "landmarks18/lists/index.txt",
    "Landmarks18_new_index": "landmarks18/lists/index_new.txt",
    "Landmarks18_test": "landmarks18/lists/test.txt",
    "Landmarks18_pca": "landmarks18/lists/train_pca.txt",
    "Landmarks18_missing_index": "landmarks18/lists/missing_index.txt",
}
TRUTHS = {
    "Oxford5K": "oxford5k/gnd_oxford5k.pkl",
    "ROxford5K": "oxford5k/gnd_roxford5k.pkl",
    "Paris6K": "paris6k/gnd_paris6k.pkl",
    "RParis6K": "paris6k/gnd_rparis6k.pkl",
}


class TestNamed:
    @pytest.mark.parametrize("name", LABELLED | LISTS)
    def test_lists(self, tmp_path, monkeypatch, name):
        labelled = name in LABELLED
        file = (LABELLED | LISTS)[name]
        write(tmp_path / file, "x/a.jpg 17\n" if labelled else "x/a.jpg\n")
        dataset = create_dataset(name, db_root=str(tmp_path))
        assert type(dataset) is (LabelledDataset if labelled else ImageDataset)
        assert dataset.path(0) == f"{tmp_path}/{file.split('/')[0]}/x/a.jpg"
        monkeypatch.setenv("DB_ROOT", str(tmp_path))
        assert create_dataset(f"{name}()").names == dataset.names

    @pytest.mark.parametrize("name", TRUTHS)
    def test_ground_truths(self, tmp_path, name):
        write_truth(tmp_path / TRUTHS[name])
        dataset = create_dataset(name, db_root=str(tmp_path))
        assert isinstance(dataset, RelevantsDataset)
        assert dataset.path(0) == f"{tmp_path}/{TRUTHS[name].split('/')[0]}/jpg/a.jpg"

    def test_argument_goes_before_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DB_ROOT", "/elsewhere")
        write_truth(tmp_path / TRUTHS["ROxford5K"])
        assert len(create_dataset("ROxford5K", db_root=str(tmp_path))) == 3

    def test_no_root(self):
        with pytest.raises(UserError, match=r"ROxford5K .* export DB_ROOT=/path/to/datasets"):
            create_dataset("ROxford5K")

    def test_not_there(self, tmp_path):
        with pytest.raises(
            UserError, match=r"RParis6K is missing: there is no file .*gnd_rparis6k\.pkl"
        ):
            create_dataset("RParis6K", db_root=str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("Oxford6K", "Oxford5K"),
        ("ImageList(", r"ImageList\("),
        ("ImageList()", "ImageList"),
        ("ImageList('a.txt', folder='b')", "folder"),
        ("__import__('os').system('true')", "import"),
        ("", "data set"),
        ("ImageList(3)", "paths in quotes, found 3"),
        ("ImageListLabels('a', root=None)", "paths in quotes, found None"),
        ("ImageListRelevants(('a',))", r"paths in quotes, found \('a',\)"),
        ("ROxford5K(1)", r"usage: ROxford5K\(\)"),
        ("ImageList(open('a'))", "ImageList"),
    ],
)
def test_bad_text(spec, message):
    with pytest.raises(UserError, match=message):
        create_dataset(spec)


def test_two_data_sets(tmp_path):
    file = write(tmp_path / "l.txt", "a.jpg")
    with pytest.raises(UserError, match="describes 2 data sets; expected one"):
        create_dataset(f"ImageList({file!r}), ImageList({file!r})")
