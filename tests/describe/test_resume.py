"""What a killed extraction leaves behind, and what the next one makes of it."""

import numpy as np
import pytest

from dir_jax.describe.resume import PartialDescriptors
from dir_jax.errors import UserError

IDENTITY = {"images": "abc", "model": {"arch": "resnet18_rmac"}}
ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


def fill(store, *batches):
    """Writes batches of two rows each; of the last one the second row has failed."""
    sink = store.sink("database", 6, 2)
    for batch in batches:
        rows, failures = ROWS[2 * batch : 2 * batch + 2].copy(), {}
        if batch == 2:
            rows[1], failures = np.nan, {5: "torn\npaper"}
        sink.write(batch, np.arange(2 * batch, 2 * batch + 2), rows, failures)
    return sink


def test_goes_on_where_it_was(tmp_path):
    store = PartialDescriptors(tmp_path / "x.partial", IDENTITY)
    fill(store, 2, 0)
    store.close()
    store = PartialDescriptors(tmp_path / "x.partial", IDENTITY)
    sink = store.sink("database", 6, 2)
    assert [sink.is_done(batch) for batch in range(3)] == [True, False, True]
    assert sink.failures == {5: "torn\npaper"}
    sink.write(1, np.array([2, 3]), ROWS[2:4], {})
    expected = ROWS.copy()
    expected[5] = np.nan
    np.testing.assert_array_equal(sink.descriptors, expected)
    store.delete()
    assert not (tmp_path / "x.partial").exists()


@pytest.mark.parametrize("name", ["database.batches", "database.failures"])
def test_files_that_were_cut_anywhere(tmp_path, name):
    store = PartialDescriptors(tmp_path / "whole", IDENTITY)
    fill(store, 2, 0, 1)
    store.close()
    contents = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}
    for length in range(len(contents[name]) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        for each, content in contents.items():
            (folder / each).write_bytes(content[:length] if each == name else content)
        store = PartialDescriptors(folder, IDENTITY)
        sink = store.sink("database", 6, 2)
        done = [batch for batch in range(3) if sink.is_done(batch)]
        kept = [2, 0, 1][: length // 4] if name == "database.batches" else [2, 0, 1]
        assert sorted(done) == sorted(kept)
        for batch in set(range(3)) - set(done):
            failures = {5: "again"} if batch == 2 else {}
            sink.write(batch, np.arange(2 * batch, 2 * batch + 2), ROWS[2 * batch :][:2], failures)
        store.close()
        store = PartialDescriptors(folder, IDENTITY)
        sink = store.sink("database", 6, 2)
        assert all(map(sink.is_done, range(3)))
        assert set(sink.failures) <= {5}
        store.close()


def test_another_extraction_is_refused(tmp_path):
    PartialDescriptors(tmp_path / "x", IDENTITY).close()
    with pytest.raises(UserError, match="differs in model; "):
        PartialDescriptors(tmp_path / "x", {**IDENTITY, "model": {"arch": "resnet50_rmac"}})
    PartialDescriptors(tmp_path / "x", IDENTITY).close()


def test_two_at_once_are_refused(tmp_path):
    store = PartialDescriptors(tmp_path / "x", IDENTITY)
    with pytest.raises(UserError, match="another process"):
        PartialDescriptors(tmp_path / "x", IDENTITY)
    store.close()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        PartialDescriptors(tmp_path / "file" / "x", IDENTITY)


@pytest.mark.parametrize("change", [{"images": "def"}, {"images": "def", "batches": 3}])
def test_what_may_change_starts_again(tmp_path, change):
    before = {**IDENTITY, "batches": 2}
    store = PartialDescriptors(tmp_path / "x", before)
    fill(store, 0, 2)
    store.close()
    with pytest.raises(UserError, match=r"differs in .*images"):
        PartialDescriptors(tmp_path / "x", {**before, **change})
    other = {**before, **change, "model": {}}
    with pytest.raises(UserError, match=r"differs in .*images, model"):
        PartialDescriptors(tmp_path / "x", other, may_change=("images", "batches"))
    changed = {**before, **change}
    store = PartialDescriptors(tmp_path / "x", changed, may_change=("images", "batches"))
    sink = fill(store, 1)
    assert not sink.failures
    store.close()
    store = PartialDescriptors(tmp_path / "x", changed)
    sink = store.sink("database", 6, 2)
    assert [sink.is_done(batch) for batch in range(3)] == [False, True, False]
    store.close()


def test_a_folder_without_descriptors_is_deleted(tmp_path):
    store = PartialDescriptors(tmp_path / "x", IDENTITY)
    sink = store.sink("database", 6, 2)
    sink.write(-1, np.array([3]), np.full((1, 2), np.nan), {})  # an image without a batch
    store.close()
    assert not (tmp_path / "x").exists()


def test_a_folder_with_descriptors_is_kept(tmp_path):
    store = PartialDescriptors(tmp_path / "x", IDENTITY)
    fill(store, 1)
    store.close()
    PartialDescriptors(tmp_path / "x", IDENTITY).close()  # stopped before anything was opened
    store = PartialDescriptors(tmp_path / "x", IDENTITY)
    assert store.sink("database", 6, 2).is_done(1)
    store.sink("queries", 6, 2)
    store.close()
    assert (tmp_path / "x").exists()
