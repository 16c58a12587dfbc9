"""`create_dataset`, through which all commands go, takes what people have."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dir_jax.data.datasets import create_dataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.repeats import check_repeats
from dir_jax.errors import UserError
from dir_jax.evaluation import check_can_be_evaluated
from tests.inputs.real_world import LABELLED, LABELS, NAMES, UNLABELLED, write_lists, write_pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The pictures alone."""
    return write_pictures(tmp_path_factory.mktemp("inputs") / "photos")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """The pictures, and the lists beside them."""
    return write_lists(write_pictures(tmp_path_factory.mktemp("inputs") / "listed"))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def refused(spec, *, labelled=False) -> str:
    with pytest.raises(UserError) as caught:
        create_dataset(str(spec), labelled=labelled)
    assert len(str(caught.value).split("\n")) == 1
    return str(caught.value)


def opens(dataset) -> None:
    for i in range(len(dataset)):
        assert dataset.open(i).size == (24, 16)


class TestFolders:
    def test_a_folder_is_read_with_the_folders_in_it(self, photos):
        dataset = create_dataset(str(photos))
        assert type(dataset) is ImageDataset
        assert dataset.names == NAMES
        opens(dataset)

    @pytest.mark.parametrize("spec", ["{}", "{}/", 'ImageFolder("{}")'])
    def test_a_sub_folder_is_a_class_where_labels_are_needed(self, photos, spec):
        dataset = create_dataset(spec.format(photos), labelled=True)
        assert (dataset.names, dataset.texts()) == (NAMES, LABELS)
        opens(dataset)

    def test_links_are_followed_but_not_in_circles(self, photos, tmp_path):
        (tmp_path / "link").symlink_to(photos)
        (tmp_path / "circle").symlink_to(tmp_path)
        assert create_dataset(str(tmp_path)).names == [f"link/{name}" for name in NAMES]

    def test_pictures_without_a_class(self, photos):
        assert "eiffel tower/a.jpg has no class: it lies in no sub-folder" in refused(
            photos / "eiffel tower", labelled=True
        )
        assert "no class" in refused(f'ImageFolder("{photos}/arch")')

    def test_two_levels_can_be_read_in_two_ways(self, photos):
        message = refused(photos.parent, labelled=True)
        assert "read in two ways: the class of photos/arch/a.png is 'photos' or 'photos/arch'" in (
            message
        )
        assert f"ImageFolder('{photos.parent}')" in message
        assert create_dataset(f"ImageFolder('{photos.parent}')").classes == ["photos"]

    def test_none(self, tmp_path):
        assert f"the folder {tmp_path} has no pictures; " in refused(tmp_path)
        (tmp_path / "a.heix").write_text("")
        assert "has no pictures but 1 other files, such as a.heix; pictures end in" in refused(
            tmp_path
        )


class TestPatternsAndPictures:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("*/*.jpg", NAMES[2:3]),
            ("**/*", NAMES),
            ("arch/?.*", NAMES[:2]),
            ("[e]*/*", NAMES[2:]),
        ],
    )
    def test_patterns(self, photos, pattern, names):
        dataset = create_dataset(f"{photos}/{pattern}")
        assert [os.path.relpath(dataset.path(i), photos) for i in range(len(dataset))] == names
        opens(dataset)

    def test_a_pattern_without_pictures(self, photos):
        assert "/*.tif' matches no picture; pictures end in" in refused(f"{photos}/*.tif")
        assert "matches no picture but 3 others, such as" in refused(f"{photos}/*")

    def test_one_picture(self, photos):
        dataset = create_dataset(f"{photos}/eiffel tower/my holiday.JPG")
        assert dataset.names == ["my holiday.JPG"]
        opens(dataset)

    def test_names_with_characters_of_patterns_and_calls(self, photos, tmp_path):
        for name in ("photos (1)", "photos [2]", "what?"):
            (tmp_path / name).symlink_to(photos)
            assert create_dataset(str(tmp_path / name)).names == NAMES


class TestLists:
    @pytest.mark.parametrize("name", LABELLED)
    def test_labelled(self, listed, name):
        for spec in (f"{listed}/{name}", f"ImageListLabels('{listed}/{name}', '{listed}')"):
            dataset = create_dataset(spec)
            assert (dataset.names, dataset.texts()) == (NAMES, LABELS)
            opens(dataset)

    @pytest.mark.parametrize("name", UNLABELLED)
    def test_unlabelled(self, listed, name):
        for spec in (f"{listed}/{name}", f"ImageList('{listed}/{name}', '{listed}')"):
            dataset = create_dataset(spec)
            assert type(dataset) is ImageDataset
            assert dataset.names == NAMES
            opens(dataset)
        assert "label" in refused(listed / name, labelled=True)

    @pytest.mark.parametrize("name", [n for n in LABELLED if n.lower()[-3:] in ("csv", "tsv")])
    def test_labels_that_are_not_wanted(self, listed, name):
        assert create_dataset(f"ImageList('{listed}/{name}')").names == NAMES

    def test_home_everywhere(self, listed, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(listed.parent))
        for spec in ("~/listed/words.txt", "ImageListLabels('~/listed/words.txt', '~/listed')"):
            opens(create_dataset(spec))
        assert create_dataset("~/listed/arch").names == ["a.png", "b.jpeg"]
        assert len(create_dataset("~/listed/*/*")) == 4
        for spec in ("{}", "ImageList('{}')"):
            opens(create_dataset(spec.format(write(tmp_path / "l.txt", "~/listed/arch/a.png\n"))))
        (tmp_path / "landmarks/annotations").mkdir(parents=True)
        write(tmp_path / "landmarks/annotations/annotation_clean_val.txt", "a.jpg 1\n")
        monkeypatch.setenv("HOME", str(tmp_path.parent))
        monkeypatch.setenv("DB_ROOT", f"~/{tmp_path.name}")
        assert len(create_dataset("Landmarks_clean_val")) == 1
        monkeypatch.delenv("DB_ROOT")
        assert len(create_dataset("Landmarks_clean_val", db_root=f"~/{tmp_path.name}")) == 1


class TestWherePathsLead:
    """A list's paths are relative to its folder or to the current one, where the pictures are."""

    def test_to_the_current_folder(self, photos, tmp_path, monkeypatch):
        monkeypatch.chdir(photos)
        opens(create_dataset(write(tmp_path / "l.txt", "arch/a.png\n")))

    def test_above_the_list(self, photos, tmp_path):
        (tmp_path / "lists").mkdir()
        (tmp_path / "photos").symlink_to(photos)
        rows = f"../photos/arch/a.png x\n{photos}/arch/b.jpeg y\n"
        opens(create_dataset(write(tmp_path / "lists/l.txt", rows)))

    def test_to_both(self, photos, tmp_path, monkeypatch):
        (tmp_path / "arch").symlink_to(photos / "arch")
        monkeypatch.chdir(photos)
        file = write(tmp_path / "l.txt", "arch/a.png 1\n")
        message = refused(file)
        for call in (f"ImageListLabels('{file}', '.')", f"ImageListLabels('{file}', '{tmp_path}')"):
            assert call in message
            opens(create_dataset(call))


class TestTwoReadings:
    """What is ambiguous is refused, and both readings are shown."""

    @pytest.mark.parametrize(
        ("name", "text", "readings"),
        [
            ("l.txt", "a.jpg new york\nb.jpg new delhi\n", ("'new'", "'new york'")),
            ("l.txt", "x a.jpg b.jpg 1\n", ("'x a.jpg' or 'x a.jpg b.jpg'",)),
            ("l.txt", "abc eiffel tower\n", ("path is 'abc' or 'abc eiffel',",)),
            ("l.txt", "a.jpg tower #2\n", ("'tower #2'", "comment")),
            ("l.txt", "a.jpg # b.jpg\n", ("one path", "'a.jpg' with a comment")),
            ("l.txt", "a.jpg 1\nb.jpg\n", ("has a label", "has none")),
            ("l.csv", "a.jpg,1,2\nb.jpg,3,4\n", ("'1' (column 2)", "'2' (column 3)")),
            ("l.csv", "a.jpg,b.jpg\n", ("'a.jpg' (column 1)", "'b.jpg' (column 2)")),
            ("l.csv", "p,class,label\na.jpg,1,2\n", ("'1' (column class)", "'2' (column label)")),
            ("l.csv", "foo,bar\na.jpg,1\n", ("names of the columns", "image 'foo'")),
        ],
    )
    def test_refused(self, tmp_path, name, text, readings):
        file = write(tmp_path / name, text)
        message = refused(file)
        for words in (file, *readings):
            assert words in message

    def test_words_one_and_two_as_in_the_original(self, tmp_path, caplog):
        rows = "x/a.jpg 7 0.1 0.2\nb.jpg 8\nc.jpg 7 0.3 0.4\n"
        file = write(tmp_path / "l.txt", rows)
        for spec in (file, f"ImageListLabels('{file}')"):
            caplog.clear()
            dataset = create_dataset(spec)
            assert (dataset.names, dataset.texts()) == (["x/a.jpg", "b.jpg", "c.jpg"], list("787"))
            [warning] = caplog.messages
            assert "l.txt, line 1: 'x/a.jpg' is followed by several words (2 such" in warning
            assert "if the label is '7 0.1 0.2', put a tab" in warning
        assert create_dataset(write(tmp_path / "n.txt", "0a1 7 0.1\n")).texts() == ["7"]

    def test_queries_and_database_are_read_alike(self, tmp_path):
        database = write(tmp_path / "d.txt", "a.jpg new york\nb.jpg paris\n")
        queries = write(tmp_path / "q.txt", "c.jpg new delhi\n")
        assert len(create_dataset(database)) == 2
        message = refused(f"ImageListLabelsQ('{database}', '{queries}')")
        assert "'new', and the rest is not read, or it is 'new york'" in message
        write(tmp_path / "q.txt", "c.jpg new york\n")
        found = create_dataset(f"ImageListLabelsQ('{database}', '{queries}')")
        assert found.queries.texts() == ["new york"]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("l.csv", "a.jpg,1\nb.jpg\n", "line 2: 1 cells, and line 1 has 2: 'b.jpg'"),
            ("l.csv", 'a.jpg,"1\n', "line 1: 'a.jpg,\"1' is no row of a table"),
            ("l.csv", "path,size\na.jpg,1\n", "has the columns path, size; expected one that is"),
            ("l.csv", "path,label\n", "has a header and no rows"),
            ("l.csv", "# none\n", "is empty"),
            ("l.txt", "# none\n", "is empty"),
            ("l.csv", "path,label\na.jpg,\nb.jpg,1\n", "line 2: 'a.jpg': the label '' is not a"),
            ("l.json", '[{"url": "a.jpg"}]', "holds an object of url; expected"),
            ("l.json", '[{"path": 1, "label": 2}]', "object 1: the path is 1; expected a text"),
            ("l.json", '[["a.jpg", 1, 2]]', "holds ['a.jpg', 1, 2]; expected"),
            ("l.json", '["a.jpg", 1]', "holds 'a.jpg'; expected"),
            ("l.json", '"a.jpg"', "holds a str; expected"),
        ],
    )
    def test_bad_lists(self, tmp_path, name, text, message):
        assert message in refused(write(tmp_path / name, text), labelled=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/path/list.txt", "there is no file and no folder /path/list.txt"),
        ("list.txt", "there is no file and no folder list.txt"),
        ("my photos/x", "there is no file and no folder my photos/x"),
        ("Roxford5k", "there is no file, no folder and no data set Roxford5k; did you mean ROxf"),
        ("photos", "there is no file, no folder and no data set photos; the names are Oxford5K, R"),
    ],
)
def test_what_is_not_there(spec, message):
    assert refused(spec).startswith(message)


class TestRepeats:
    def test_labels_that_look_alike(self, tmp_path, caplog):
        rows = "a.jpg 1\nb.jpg 01\nc.jpg Tower\nd.jpg tower\ne.jpg 2\n"
        dataset = create_dataset(write(tmp_path / "l.txt", rows))
        assert dataset.classes == ["1", "01", "Tower", "tower", "2"]
        assert caplog.messages == [
            "labels that look alike, but are different classes: 2, '1' and '01'; "
            "'Tower' and 'tower'"
        ]

    ROWS = "a.jpg 1\n./a.jpg 1\nb.jpg 2\nx/../b.jpg 3\nc.jpg 3\n"

    def test_kept_and_named(self, tmp_path, caplog):
        dataset = create_dataset(write(tmp_path / "l.txt", self.ROWS))
        assert dataset.texts() == list("11233")
        two, twice = caplog.messages
        assert two.startswith(
            f"images listed under two labels: 1, {tmp_path}/b.jpg ('2', '3') (all"
        )
        assert twice.startswith(f"images listed twice: 1, {tmp_path}/a.jpg (all rows are kept; on_")

    def test_dropped(self, tmp_path, caplog):
        file = write(tmp_path / "l.txt", self.ROWS)
        dataset = create_dataset(file, on_duplicate="drop")
        assert [os.path.basename(name) for name in dataset.names] == ["a.jpg", "b.jpg", "c.jpg"]
        assert dataset.texts() == list("123")
        assert all("the first row of each is kept" in message for message in caplog.messages)
        plain = write(tmp_path / "p.txt", "a.jpg\nb.jpg\na.jpg\n")
        assert create_dataset(plain, on_duplicate="drop").names == ["a.jpg", "b.jpg"]
        queries = create_dataset(f"ImageListLabelsQ('{file}', '{file}')", on_duplicate="drop")
        assert (len(queries), len(queries.queries)) == (3, 3)
        published = LabelledDataset(["a.jpg", "b.jpg", "a.jpg"], ["x", "y", "x"], str(tmp_path))
        published.recall_k = (1, 10)
        fewer = check_repeats(published, "drop")
        assert (fewer.names, fewer.texts()) == (["a.jpg", "b.jpg"], ["x", "y"])
        assert fewer.recall_k == (1, 10)
        assert len(published) == len(published.labels) == 3
        with pytest.raises(UserError, match="on_duplicate is 'merge'; expected 'keep' or 'drop'"):
            create_dataset(plain, on_duplicate="merge")

    def test_first_few(self, tmp_path, caplog):
        rows = "".join(f"{i}.jpg {label}\n" for label in "ab" for i in range(9))
        create_dataset(write(tmp_path / "l.txt", rows))
        assert "under two labels: 9, " in caplog.text
        assert "2.jpg ('a', 'b'), and 6 more (" in caplog.text

    def test_a_key_twice_in_json(self, tmp_path, caplog):
        file = write(tmp_path / "l.json", '{"a.jpg": 1, "a.jpg": 2}')
        assert isinstance(create_dataset(file), LabelledDataset)
        assert "under two labels: 1, " in caplog.text

    def test_nothing_is_said_of_a_clean_list(self, listed, caplog):
        with caplog.at_level(logging.INFO):
            create_dataset(f"{listed}/words.txt")
        assert not caplog.messages


def test_queries_whose_labels_the_database_lacks(tmp_path, caplog):
    database = write(tmp_path / "d.txt", "a.jpg x\nb.jpg y\n")
    queries = write(tmp_path / "q.txt", "c.jpg z\nd.jpg y\n")
    spec = f"ImageListLabelsQ('{database}', '{queries}')"
    check_can_be_evaluated(create_dataset(spec))
    assert caplog.messages == [
        "1 of 2 queries have a label that no image of the database has, so nothing is relevant to "
        "them: c.jpg ('z')"
    ]
    write(tmp_path / "q.txt", "c.jpg z\n")
    with pytest.raises(
        UserError, match=r"c\.jpg \('z'\); the .* 'x'; is the list of queries right"
    ):
        check_can_be_evaluated(create_dataset(spec))
