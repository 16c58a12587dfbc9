"""Holidays, UKBench, ILIAS and Google Landmarks v2, in the layouts that their authors publish."""

import numpy as np
import pytest

from dir_jax.data.datasets import create_dataset
from dir_jax.errors import UserError

INDEX = "id\naaa1\naab2\naac3\nabd4\n"
RETRIEVAL = "id,images,Usage\nqqq2,aac3 aaa1 aac3,Private\nqqq1,abd4,Public\nqqq0,None,Ignored\n"
TRAIN = "landmark_id,images\n7,aaa1 aab2\n12,aac3\n"
RECOGNITION = (
    "id,landmarks,Usage\nqqq3,,Private\nqqq2,12 99,Public\nqqq1,7,Private\nqqq0,7,Ignored\n"
)


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def gldv2(tmp_path):
    return write(tmp_path, {
        "metadata/index.csv": INDEX, "metadata/train_clean.csv": TRAIN,
        "ground_truth/retrieval_solution_v2.1.csv": RETRIEVAL,
        "ground_truth/recognition_solution_v2.1.csv": RECOGNITION,
    })  # fmt: skip


def test_gldv2_retrieval(gldv2):
    found = create_dataset(f'GLDv2Retrieval("{gldv2}/ground_truth/retrieval_solution_v2.1.csv")')
    assert found.names[1] == "index/a/a/b/aab2.jpg"
    assert found.root == str(gldv2)
    assert found.queries.names == ["test/q/q/q/qqq1.jpg", "test/q/q/q/qqq2.jpg"]  # by id
    assert [each["ok"].tolist() for each in found.ground_truth] == [[3], [0, 2]]
    assert {k: v.tolist() for k, v in found.parts.items()} == {
        "public": [True, False], "private": [False, True],
    }  # fmt: skip


def test_gldv2_recognition(gldv2):
    found = create_dataset(
        f'GLDv2Recognition("{gldv2}/ground_truth/recognition_solution_v2.1.csv")'
    )
    assert found.names == [f"train/a/a/{i[2]}/{i}.jpg" for i in ("aaa1", "aab2", "aac3")]
    assert [each["ok"].tolist() for each in found.ground_truth] == [[0, 1], [2], []]
    assert [each["landmarks"].tolist() for each in found.ground_truth] == [[7], [12, 99], []]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "retrieval",
            "abd4",
            "zzz9",
            "line 3: column images: 'zzz9' is not in .*index.csv; is this",
        ),
        ("retrieval", "Public", "public", "line 3: column Usage: 'public'; expected Public"),
        ("retrieval", "id,images", "id,pictures", "line 1: there is no column 'images'"),
        ("retrieval", "abd4,", "", "line 3: it has 2 columns; expected 3: id,images,Usage"),
        (
            "retrieval",
            "abd4",
            "None",
            "line 3: column images: a query whose Usage is Public has none",
        ),
        ("retrieval", "qqq1", "../q", "line 3: column id: '../q' is not an image's id"),
        (
            "recognition",
            "12 99",
            "12 a",
            "line 3: column landmarks: 'a' is not a landmark's number",
        ),
    ],
)
def test_gldv2_names_what_is_wrong(gldv2, file, old, new, message):
    path = gldv2 / f"ground_truth/{file}_solution_v2.1.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=message) as e:
        create_dataset(f'GLDv2{file.title()}("{path}")')
    assert str(path) in str(e.value)


def test_gldv2_names_a_row_of_the_lists(gldv2):
    (gldv2 / "metadata/index.csv").write_text("id\naaa1\na b\n")
    with pytest.raises(
        UserError, match=r"index.csv, line 3: column id: 'a b' is not an image's id"
    ):
        create_dataset(f'GLDv2Retrieval("{gldv2}/ground_truth/retrieval_solution_v2.1.csv")')


def test_holidays(tmp_path):
    for name in ("100100.jpg", "100000.jpg", "100001.jpg", "100101.JPG", "readme.txt"):
        (tmp_path / name).touch()
    found = create_dataset(f'Holidays("{tmp_path}")')
    assert found.names == ["100000.jpg", "100001.jpg", "100100.jpg", "100101.JPG"]
    assert found.queries.names == ["100000.jpg", "100100.jpg"]
    assert [each["ok"].tolist() for each in found.ground_truth] == [[1], [3]]
    assert [each["junk"].tolist() for each in found.ground_truth] == [[0], [2]]
    (tmp_path / "me.jpg").touch()
    with pytest.raises(UserError, match=r"'me\.jpg' is not named as the pictures of Holidays are"):
        create_dataset(f'Holidays("{tmp_path}")')


def test_ukbench(tmp_path):
    for i in range(8):
        (tmp_path / f"ukbench{i:05}.jpg").touch()
    found = create_dataset(f'UKBench("{tmp_path}")')
    assert found.labels.tolist() == [0] * 4 + [1] * 4
    (tmp_path / "ukbench00008.jpg").touch()
    with pytest.raises(UserError, match="has 9 JPEG files; UKBench has four of each"):
        create_dataset(f'UKBench("{tmp_path}")')
    with pytest.raises(UserError, match="cannot be read: No such file"):
        create_dataset('UKBench("nowhere")')


def test_ilias(tmp_path):
    lists = {
        "image_ids/image_query_ids.txt": "b_001/query/Q001_00.jpg,1\na_000/query/Q000_00.jpg,2\n",
        "image_ids/positive_ids.txt": "a_000/pos/P000_01,0.2,4\nb_001/pos/P001_00,0.1,9\n"
        "a_000/pos/P000_00,0.4,2\n",
    }
    write(tmp_path, lists)
    found = create_dataset(f'ILIAS("{tmp_path}")')
    assert found.names[0] == "a_000/pos/P000_00.jpg"
    assert found.queries.names == ["a_000/query/Q000_00.jpg", "b_001/query/Q001_00.jpg"]
    assert [each["ok"].tolist() for each in found.ground_truth] == [[0, 1], [2]]
    write(tmp_path, {"image_ids/positive_ids.txt": "a_000/pos/P000_00,0.4,2\n"})
    with pytest.raises(
        UserError, match=r"query_ids.txt, line 1: the object 'b_001' has no image in"
    ):
        create_dataset(f'ILIAS("{tmp_path}")')
    write(tmp_path, {"image_ids/positive_ids.txt": "\nP000_00,0.4,2\n"})
    with pytest.raises(UserError, match=r"positive_ids.txt, line 2: column 1: 'P000_00' is not an"):
        create_dataset(f'ILIAS("{tmp_path}")')


def test_rows_of_a_gldv2_list_that_is_large(tmp_path):
    """A landmark's images are one field of more than csv's own limit of 131,072 characters."""
    ids = [f"{i:016x}" for i in range(10_000)]
    truth = {"metadata/train_clean.csv": f"landmark_id,images\n3,{' '.join(ids)}\n",
             "ground_truth/r.csv": "id,landmarks,Usage\nffff,3,Public\n"}  # fmt: skip
    found = create_dataset(f'GLDv2Recognition("{write(tmp_path, truth)}/ground_truth/r.csv")')
    assert len(found) == 10_000
    np.testing.assert_array_equal(found.ground_truth[0]["ok"], np.arange(10_000))
