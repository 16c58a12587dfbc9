"""The published data sets by name, from files of their layouts; and what is said of bad ones."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.io

from dir_jax.data.datasets import NAMED, create_dataset
from dir_jax.data.matlab import read_struct_array
from dir_jax.errors import UserError
from tests.data import published


@pytest.fixture
def root(tmp_path):
    published.write_landmarks(tmp_path)
    published.write_metric_learning(tmp_path)
    published.write_distractors(tmp_path)
    published.write_sfm(tmp_path)
    return tmp_path


def labels_of(dataset):
    return [dataset.classes[label] for label in dataset.labels]


@pytest.mark.parametrize("arrays", [False, True])
def test_sfm(root, arrays):
    published.write_sfm(root, arrays=arrays)
    train, val = (
        create_dataset(f"SfM120k_{split}", db_root=str(root)) for split in ("train", "val")
    )
    assert labels_of(train) == list("44499922")
    assert train.pairs.tolist() == [[0, 1], [2, 1], [3, 5], [4, 3], [7, 6]]
    name = published.sfm_id(3)
    assert train.path(3) == f"{root}/train/retrieval-SfM-120k/ims/ef/cd/ab/{name}"
    assert (len(val), labels_of(val)) == (4, ["11", "11", "12", "12"])
    assert val.pairs.tolist() == [[0, 1], [3, 2]]
    for number in ("120k", "30k"):
        whiten = create_dataset(f"SfM{number}_whiten", db_root=str(root))
        assert whiten.pairs.tolist() == train.pairs.tolist()
        assert whiten.path(3) == train.path(3)  # all are SfM-120k's, unless the other has a folder
    (root / "train/retrieval-SfM-30k/ims").mkdir()
    whiten = create_dataset("SfM30k_whiten", db_root=str(root))
    assert whiten.path(3) == f"{root}/train/retrieval-SfM-30k/ims/ef/cd/ab/{name}"


def test_google_landmarks(root):
    train, clean, index, test = (
        create_dataset(f"GLDv2_{split}", db_root=str(root))
        for split in ("train", "train_clean", "index", "test")
    )
    ids = published.landmark_ids(0, 6)
    assert labels_of(train) == ["7", "7", "31", "31", "31", "5"]
    assert labels_of(clean) == ["7", "7", "31", "31", "31"]
    assert clean.path(2) == train.path(2)
    assert train.path(2) == f"{root}/gldv2/train/{ids[2][0]}/{ids[2][1]}/{ids[2][2]}/{ids[2]}.jpg"
    assert [name[:12] for name in index.names] == ["index/a/b/c/"] * 3
    assert [name[:11] for name in test.names] == ["test/a/b/c/"] * 2


def test_a_part_of_the_archives(root, caplog):
    ids = published.landmark_ids(0, 6)
    rows = [f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg\n" for i in (ids[1], ids[3], ids[5])]
    published.write(root / "gldv2/train/images_007.txt", "".join(rows[:2]))
    published.write(root / "gldv2/train/images_499.txt", rows[2])
    clean = create_dataset("GLDv2_train_clean", db_root=str(root))
    assert [name[-20:-4] for name in clean.names] == [ids[1], ids[3]]
    assert clean.classes == ["7", "31"]
    assert "GLDv2 train: 2 of 500 archives are here, with 3 images" in caplog.text
    published.write(root / "revisitop1m/jpg/revisitop1m.100.txt", "1/c.png\n")
    assert create_dataset("R1M", db_root=str(root)).names == ["1/c.png"]
    published.write(root / "gldv2/index/images_000.txt", rows[0])
    with pytest.raises(UserError, match="GLDv2 index: no image of the list is in the archives"):
        create_dataset("GLDv2_index", db_root=str(root))


def test_distractors(root):
    dataset = create_dataset("R1M", db_root=str(root))
    assert dataset.path(2) == f"{root}/revisitop1m/jpg/1/c.png"


def test_metric_learning(root):
    sets = {
        name: create_dataset(name, db_root=str(root))
        for name in NAMED
        if name.startswith(("CUB", "Cars", "SOP", "InShop"))
    }
    assert {name: labels_of(each) for name, each in sets.items()} == {
        "CUB200_train": ["1", "100"], "CUB200_test": ["101", "200", "101"],
        "Cars196_train": ["1", "98"], "Cars196_test": ["99", "196", "99"],
        "SOP_train": ["1", "1"], "SOP_test": ["11319"],
        "InShop_train": ["id_1"], "InShop_test": ["id_2", "id_3"],
    }  # fmt: skip
    assert sets["CUB200_train"].path(0) == f"{root}/CUB_200_2011/images/001.Albatross/a b.jpg"
    assert sets["Cars196_test"].path(1) == f"{root}/cars196/car_ims/000004.jpg"
    assert sets["SOP_train"].path(1) == f"{root}/Stanford_Online_Products/bicycle_final/1_1.JPG"
    queries = sets["InShop_test"].queries
    assert queries.names == ["img/MEN/Tees/id_2/01_1_front.jpg"]
    assert labels_of(queries) == ["id_2"]
    assert queries.classes == sets["InShop_test"].classes


def test_parts_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="GLDv2 has several parts: give one of GLDv2_train, "):
        create_dataset("GLDv2")
    (tmp_path / "GLDv2").mkdir()  # somebody's own folder
    (tmp_path / "GLDv2/a.jpg").touch()
    assert create_dataset("GLDv2").names == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("GLDv2_train", "id,url\nx,y\n", "line 1.*no column landmark_id"),
        ("GLDv2_train", "id,url,landmark_id\nx,y,3\n",
         "line 2: column id has 'x'; expected an id of 16"),
        ("GLDv2_train", "id,url,landmark_id\n\nx,y\n", "line 3: 2 columns"),
        ("GLDv2_train", 'id,url,landmark_id\nx,"y,3\n', "line 2: .*not CSV"),
        ("GLDv2_train_clean", "landmark_id,images\nseven,0123456789abcdef", "is 'seven'"),
        ("GLDv2_test", "", "is empty; expected the columns id"),
        ("GLDv2_index", b"id\n\xff\n", "line 2: it is not CSV in UTF-8"),
        ("R1M", "a.jpg\n../b.jpg\n", "line 2: '../b.jpg' is not a name"),
        ("CUB200_test", "1 a.jpg\n9 b.jpg", "line 2: the class of image '9'"),
        ("CUB200_test", "1\n", "line 1: '1' is not a row of 'image path'"),
        ("SOP_train", "h\n1 1 x.JPG", "line 2: '1 1 x.JPG'"),
        ("SOP_test", "h\n1 1 1 /x.JPG", "row 2: '/x.JPG'"),
        ("InShop_test", "1\nh\na.jpg 1 test", "line 3: evaluation_sta"),
        ("InShop_train", "1\nh\na.jpg 1 query", "no image of this split"),
        ("Cars196_train", b"x" * 200, "does not begin as one"),
        ("SfM120k_val", pickle.dumps({"train": {}}), "has no 'val'"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(root, name, text, message):
    path = published.write(root / NAMED[name][0], text)
    with pytest.raises(UserError, match=message) as e:
        create_dataset(name, db_root=str(root))
    assert str(path) in str(e.value)
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cids": "abc"}, "no list 'cids' of images"),
        ({"cids": ["abcdefg"] * 7 + ["x"]}, "'cids' has 'x'"),
        ({"cids": ["../../../../a"] * 8}, "expected the id of an image"),
        ({"cluster": [1] * 7}, "'cluster' has 7 entries for 8 'cids'"),
        (
            {"qidxs": [0, 1, 2, 3, 8]},
            "'qidxs' has 8 as entry 4; .* from 0 to 7",
        ),
        ({"pidxs": [0, 1]}, "5 'qidxs' and 2 'pidxs'"),
        ({"pidxs": np.zeros((5, 2), int)}, "'pidxs' has"),
        ({"pidxs": None}, "no list 'pidxs' of numbers"),
    ],
)
def test_bad_pairs(root, change, message):
    file = root / "train/retrieval-SfM-120k/retrieval-SfM-120k.pkl"
    content = pickle.loads(file.read_bytes())
    content["train"] |= change
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=message):
        create_dataset("SfM120k_train", db_root=str(root))


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_that_are_cut_or_damaged(tmp_path, compressed):
    """Whatever byte is changed, what is read is a value or one line of error."""
    array = np.empty((1, 3), [("path", object), ("class", object), ("big", object)])
    for i in range(3):
        array[0, i] = (f"bücher/{i}.jpg", np.uint8(i), np.float64(1e6 + i))
    file = tmp_path / "a.mat"
    content = {"other": np.ones((2, 2)), "annotations": array}
    scipy.io.savemat(file, content, do_compression=compressed)
    fields = ("class", "path", "big")
    expected = [[i, f"bücher/{i}.jpg", 1e6 + i] for i in range(3)]
    assert read_struct_array(str(file), "annotations", fields) == expected
    whole = file.read_bytes()
    with pytest.raises(UserError, match="no struct array named nothing"):
        read_struct_array(str(file), "nothing", fields)
    with pytest.raises(UserError, match="no field label; it has path, class, big"):
        read_struct_array(str(file), "annotations", ("label",))
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(whole[: rng.integers(100, len(whole) + 1)])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            read_struct_array(str(file), "annotations", fields)
        except UserError:
            refused += 1
    assert refused > 100


def test_a_matlab_file_that_unpacks_without_end(tmp_path):
    import zlib

    packed = zlib.compress(bytes(200 << 20), 9)
    tag = np.array([15, len(packed)], np.uint32).tobytes()
    (tmp_path / "a.mat").write_bytes(b"M".ljust(126) + b"IM" + tag + packed)
    with pytest.raises(UserError, match="a variable has more than 64 MiB"):
        read_struct_array(str(tmp_path / "a.mat"), "annotations", ("class",))
