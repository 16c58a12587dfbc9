"""What a killed extraction leaves behind, and what the next one makes of it."""

import json
import os

import numpy as np
import pytest

from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import Identity
from dir_jax.describe.image_lists import ImageList, Pass
from dir_jax.describe.padded_shapes import Batch
from dir_jax.describe.resume import PartialDescriptors
from dir_jax.errors import UserError

IDENTITY = {"weights": "abc", "model": {"arch": "resnet18_rmac", "sizes": (1, 2)}}
ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
NAMES = [f"{i}.png" for i in range(6)]


@pytest.fixture
def photos(tmp_path):
    """A folder with six files; what is in them does not matter here."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (i, i))
    return folder


@pytest.fixture
def open_store(tmp_path, photos):
    """Opens the folder of an extraction of these images, in batches of two."""

    def call(folder="x", identity=IDENTITY, names=NAMES, canvas=(8, 8), **options):
        images = ImageList("database", ImageDataset(list(names), str(photos)), np.zeros((6, 2)))
        places = [np.arange(i, i + 2) for i in range(0, len(names), 2)]
        batches = [Batch(canvas, 2, each, True) for each in places]
        passes = [Pass("database", images, Identity(), batches, {})]
        return PartialDescriptors(tmp_path / folder, identity, passes, **options)

    return call


def fill(store, *batches):
    """Writes batches of two rows each; of the last one the second row has failed."""
    sink = store.sink(store._passes[0], 2)
    for batch in batches:
        rows, failures = ROWS[2 * batch : 2 * batch + 2].copy(), {}
        if batch == 2:
            rows[1], failures = np.nan, {5: "torn\npaper"}
        sink.write(batch, np.arange(2 * batch, 2 * batch + 2), rows, failures)
    return sink


def done(store):
    sink = store.sink(store._passes[0], 2)
    return [batch for batch in range(3) if sink.is_done(batch)]


def test_goes_on_where_it_was(tmp_path, open_store):
    store = open_store()
    fill(store, 2, 0)
    store.close()
    store = open_store()
    sink = store.sink(store._passes[0], 2)
    assert [sink.is_done(batch) for batch in range(3)] == [True, False, True]
    assert sink.failures == {5: "torn\npaper"}
    sink.write(1, np.array([2, 3]), ROWS[2:4], {})
    expected = ROWS.copy()
    expected[5] = np.nan
    np.testing.assert_array_equal(sink.descriptors, expected)
    store.delete()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["database.batches", "database.failures"])
def test_files_that_were_cut_anywhere(tmp_path, open_store, name):
    store = open_store("whole")
    fill(store, 2, 0, 1)
    store.close()
    contents = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    for length in range(len(contents[name]) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        for each, content in contents.items():
            (folder / each).write_bytes(content[:length] if each == name else content)
        store = open_store(folder)
        sink = store.sink(store._passes[0], 2)
        found = [batch for batch in range(3) if sink.is_done(batch)]
        whole = length == len(contents[name])  # a failure that is lost is found again
        assert found == list(range(length // 4 if name == "database.batches" else 2 + whole))
        for batch in set(range(3)) - set(found):
            failures = {5: "again"} if batch == 2 else {}
            sink.write(batch, np.arange(2 * batch, 2 * batch + 2), ROWS[2 * batch :][:2], failures)
        store.close()
        store = open_store(folder)
        assert done(store) == [0, 1, 2]
        assert set(store._open[0].failures) <= {5}
        store.close()


def test_another_extraction_is_refused(open_store):
    store = open_store()
    fill(store, 1)
    store.close()
    with pytest.raises(UserError, match="differs in model; "):
        open_store(identity={**IDENTITY, "model": {"arch": "resnet50_rmac"}})
    store = open_store()
    assert done(store) == [1]
    store.close()


def test_two_at_once_are_refused(open_store):
    store = open_store()
    with pytest.raises(UserError, match="another process"):
        open_store()
    store.close()


def test_a_folder_that_cannot_be_made(tmp_path, open_store):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        open_store("file/x")


REORDERED = [NAMES[i] for i in (0, 1, 2, 4, 3, 5)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (REORDERED, r"images \(number 4 is now \S*4.png, number 5 is now \S*3.png\); "),
        (NAMES[:4], r"images \(there are 4 instead of 6\); "),
        (NAMES[::-1], r"images \(number 1 is now \S*5.png, .*, and so on, 6 in all\); "),
    ],
)
def test_another_list_is_refused_and_the_difference_named(open_store, names, message):
    store = open_store()
    fill(store, 0)
    store.close()
    with pytest.raises(UserError, match=f"differs in {message}"):
        open_store(names=names)
    store = open_store()
    assert done(store) == [0]
    store.close()


@pytest.mark.parametrize(
    "change", [lambda file: os.utime(file, (9, 9)), lambda file: file.write_bytes(bytes(101))]
)
def test_an_image_that_was_replaced(photos, open_store, change):
    """Refused where it has been described; what is still to be described may change."""
    store = open_store()
    fill(store, 0)
    store.close()
    change(photos / "3.png")
    store = open_store()
    sink = fill(store, 1)
    assert [sink.is_done(batch) for batch in range(3)] == [True, False, False]
    store.close()
    change = photos / "2.png"
    change.unlink()
    with pytest.raises(UserError, match=r"differs in images \(\S*2.png has been replaced\); "):
        open_store()
    store = open_store(images_may_change=True)
    assert done(store) == []
    store.close()


@pytest.mark.parametrize("change", [{"names": REORDERED}, {"canvas": (8, 9)}])
def test_images_that_may_change(open_store, change):
    store = open_store()
    fill(store, 0, 2)
    store.close()
    with pytest.raises(UserError, match=r"differs in (images|batches)"):
        open_store(**change)
    with pytest.raises(UserError, match=r"differs in .*, weights; "):
        open_store(identity={**IDENTITY, "weights": "d"}, **change, images_may_change=True)
    store = open_store(**change, images_may_change=True)
    sink = fill(store, 1)
    assert not sink.failures
    store.close()
    store = open_store(**change)
    assert done(store) == [1]
    store.close()


def test_a_folder_without_descriptors_is_deleted(tmp_path, open_store):
    store = open_store()
    sink = store.sink(store._passes[0], 2)
    sink.write(-1, np.array([3]), np.full((1, 2), np.nan), {})  # an image without a batch
    store.close()
    assert not (tmp_path / "x").exists()
    open_store().close()
    assert not (tmp_path / "x").exists()


def test_a_folder_with_descriptors_is_kept(tmp_path, open_store):
    store = open_store()
    fill(store, 1)
    store.close()
    open_store().close()  # stopped before anything was opened
    store = open_store()
    assert done(store) == [1]
    store.close()
    assert (tmp_path / "x").exists()


@pytest.fixture
def kept(tmp_path, open_store):
    """The folder of an extraction of which two batches are done."""
    store = open_store()
    fill(store, 0, 2)
    store.close()
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("identity.json", b"", "not JSON"),
        ("identity.json", b"\xff", "not UTF-8"),
        ("identity.json", b"[" * 100_000, "nested too deeply"),
        ("identity.json", b"[1]", "not what this version"),
        ("identity.json", b"{}", "not what this version"),
        ("images.marks", b"", "expected 144 bytes"),
        ("images.marks", bytes(100), "expected 144 bytes"),
        ("images.marks", bytes(144), "0.png has been replaced"),
        ("database.batches", bytes(13), "expected 12 bytes"),
        ("database.npy", bytes(175), "expected 176 bytes"),
        ("database.npy", None, "expected 176 bytes"),
        ("database.failures", b"no JSON\n", "line 1: line 1: Expecting value"),
        ("database.failures", b'[5, "torn"]\n\xff\n', "line 2: "),
        ("database.failures", b"5\n", "line 1: "),
        ("database.failures", b"{}\n", "line 1: "),
        ("database.failures", b"[1, 2, 3]\n", "line 1: "),
        ("database.failures", b"[NaN, 1]\n", "line 1: expected the number of an image"),
        ("database.failures", b'[1e400, "x"]\n', "line 1: expected the number of an image"),
        ("database.failures", b'[6, "x"]\n', "line 1: expected the number of an image"),
        ("database.failures", b'[-1, "x"]\n', "line 1: expected the number of an image"),
        ("database.failures", b'[1, "\\ud800"]\n', "surrogate"),
        ("database.failures", b"[" * 10_000 + b"\n", "nested too deeply"),
        ("database.failures", b" " * 120_001, "more than 120000 bytes"),
    ],
)
def test_damaged_files_are_one_line(kept, open_store, name, content, message):
    if content is None:
        (kept / name).unlink()
    else:
        (kept / name).write_bytes(content)
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    with pytest.raises(UserError, match=message) as e:
        done(open_store())
    assert len(str(e.value)) < 600
    assert str(e.value).isprintable()
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before


@pytest.mark.parametrize("name", ["database.batches", "database.npy"])
def test_damaged_batches_are_described_again(kept, open_store, name, caplog):
    """Any flipped bit of what says that rows are there, and of the rows of finished batches."""
    good = (kept / name).read_bytes()
    header = 128 * (name == "database.npy")  # written again each time
    for bit in range(8 * (len(good) - header)):
        damaged = bytearray(good)
        damaged[header + bit // 8] ^= 1 << bit % 8
        (kept / name).write_bytes(damaged)
        store = open_store()
        unfinished = name == "database.npy" and 16 <= bit // 8 < 32
        batch = bit // 8 * 3 // (len(good) - header)
        assert done(store) == ([0, 2] if unfinished else [b for b in (0, 2) if b != batch])
        assert ("1 batches are damaged" in caplog.text) == (not unfinished)
        caplog.clear()
        store.close()


@pytest.mark.parametrize("name", ["identity.json", "images.marks", "database.batches", "lock"])
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)],
    ids=["fifo", "folder", "link"],
)
def test_only_regular_files_are_opened(kept, open_store, name, make):
    (kept / name).unlink()
    make(kept / name)
    with pytest.raises(UserError, match="is a link or has links in it"):
        open_store()


def test_the_folder_is_no_link(kept, open_store):
    kept.rename(kept.with_name("elsewhere"))
    kept.symlink_to(kept.with_name("elsewhere"))
    with pytest.raises(UserError, match="is a link or has links in it"):
        open_store()


def test_the_identity_is_small_whatever_the_number_of_images(kept):
    identity = json.loads((kept / "identity.json").read_text())
    assert identity["images"][0] == 6
    assert len(json.dumps([identity["images"], identity["batches"]])) < 200
    assert (kept / "images.marks").stat().st_size == 24 * 6


def test_a_full_disk_keeps_what_was_done(open_store, monkeypatch):
    """Rows that did not reach the disk are not marked, even if a second try to sync succeeds."""
    store = open_store()
    fill(store, 0)
    store.sync()
    sink = store._open[0]

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(UserError, match=r"cannot write .*npy: No space left on device"):
            sink.write(1, np.array([2, 3]), ROWS[2:4], {})
    sink.write(2, np.array([4, 5]), ROWS[4:6], {})
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", full)
        with pytest.raises(UserError, match=r"cannot write .*npy: No space left on device"):
            store.sync()
    store.close()
    store = open_store()
    assert done(store) == [0]
    store.close()
