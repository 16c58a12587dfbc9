"""Lists of images that are too long for memory, whose rows are read as they are used."""

import pickle
import random
import tracemalloc

import pytest

from dir_jax.data import lists
from dir_jax.data.datasets import create_dataset
from dir_jax.data.lists import NamesInFile, read_image_list
from dir_jax.describe.shards import digest_of_names
from dir_jax.errors import UserError


@pytest.fixture
def long(monkeypatch):
    """All lists are long."""
    monkeypatch.setattr(lists, "_LONG", 0)


def rows_of_all_kinds():
    """Names of very different lengths, blank rows, and comments, of several blocks."""
    rng = random.Random(0)
    rows = ["\ufeffé/first.jpg", "", "# a comment", "b 1.jpg", "  c.jpg \r", "~/d.jpg"]
    for i in range(9_000):
        rows.append(f"folder {i % 7}/{'x' * rng.randrange(60)}{i}.jpg")
        rows += [[], [""], ["   "], ["# 日本語"], [f"e{i}.jpg # a comment"]][rng.randrange(5)]
    return rows


@pytest.mark.parametrize("end", ["", "\n", "\n\n#\n"])
@pytest.mark.parametrize("root", ["", "photos"])
def test_a_long_list_is_that_of_a_short_one(tmp_path, monkeypatch, end, root):
    file = tmp_path / "l.txt"
    file.write_text("\n".join(rows_of_all_kinds()) + end)
    short = read_image_list(str(file), root)
    monkeypatch.setattr(lists, "_LONG", 0)
    long = pickle.loads(pickle.dumps(create_dataset(f'ImageList("{file}", "{root}")')))
    assert isinstance(long.names, NamesInFile)
    assert list(long.names) == short.names
    assert len(long) == len(short)
    assert [long.path(i) for i in (0, 5, -1)] == [short.path(i) for i in (0, 5, -1)]
    assert long.names[7::1111] == short.names[7::1111]
    with pytest.raises(IndexError):
        long.names[len(long)]
    if root:
        assert digest_of_names(long.names) == digest_of_names(short.names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n# none\n", "is empty"),
        (b"a.jpg\n" * 20_000 + b"\xff\n", "line 20001: it is not UTF-8 text"),
        (b"a.jpg\n" * 20_000 + b"a\0b\n", "line 20001: it has a NUL byte"),
        (b"a.jpg\n" * 20_000 + b"a" * 10_001, "line 20001: more than 10000 characters"),
        (b"a.jpg\n" * 20_000 + b"a" * 1_000_000, "line 20001: more than 10000 characters"),
        (b"a.jpg\n" * 20_000 + b"a.jpg # b.jpg\n", "line 20001: .* can be read in two ways"),
        (b"a.jpg\n" * 20_000 + b"../b.jpg\n", "line 20001: '../b.jpg' is not a name inside"),
    ],
)
def test_a_row_that_is_wrong_is_named(long, tmp_path, content, message):
    file = tmp_path / "l.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_image_list(str(file), "photos").names)


def test_a_list_that_changes_is_noticed(long, tmp_path):
    file = tmp_path / "l.txt"
    file.write_text("a.jpg\nb.jpg\n")
    names = read_image_list(str(file)).names
    file.write_text("a.jpg\nb.jpg\nc.jpg\n")
    with pytest.raises(UserError, match=r"l.txt has changed since"):
        names[0]
    file.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        names[1]


def test_what_is_not_done_with_a_long_list(long, tmp_path, monkeypatch):
    file = tmp_path / "l.txt"
    file.write_text("a.jpg\na.jpg\n")
    with pytest.raises(UserError, match="'drop' is not for a list as long"):
        create_dataset(f'ImageList("{file}")', on_duplicate="drop")
    monkeypatch.setattr(lists, "MOST_ROWS", 5)
    with pytest.raises(UserError, match=r"labels are not looked for; ImageList\(file, root\)"):
        create_dataset(str(file))


def test_few_rows_are_in_memory(long, tmp_path):
    file = tmp_path / "l.txt"
    file.write_text("".join(f"photos/{i:040}.jpg\n" for i in range(60_000)))
    tracemalloc.start()
    dataset = read_image_list(str(file), "photos")
    assert sum(len(name) for name in dataset.names) == 60_000 * 51
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < file.stat().st_size  # as a list of texts it would be twice as much
