"""An index from photographs: described, searched, changed; what is damaged or does not fit."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import dir_jax
from dir_jax.checkpoint import save_model
from dir_jax.data.datasets import create_dataset
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.search.building import (
    NewImages,
    add_images,
    change_index,
    changing,
    create_index,
    images_of,
    marks_of,
    remove_images,
)
from dir_jax.search.index import Index, describe_model_of

from .conftest import MODEL, descriptors, new_images


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photographs, two models, and the index of the first 10 photographs by the first model."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    (folder / "photos/a").mkdir(parents=True)
    for i in range(12):
        size = (40 + 8 * (i % 2), 56, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"photos/a/{i}.png")
    (folder / "list.txt").write_text("".join(f"a/{i}.png\n" for i in range(10)))
    (folder / "all.txt").write_text("".join(f"a/{i}.png\n" for i in range(12)))
    for seed, name in enumerate(("model", "other")):
        save_model(folder / name, create_model("resnet18_rmac", out_dim=16, seed=seed))
    model = dir_jax.load(folder / "model")
    describer = model._describer(None, None, "stop", None, 0, {})
    images = images_of(dataset(folder, "list.txt"), str(folder / "photos"))
    described = describer.describe([("index", images)]).lists[0]
    create_index(
        folder / "my.index",
        NewImages.of(described, marks_of(images)),
        root=images.root,
        model=describe_model_of(describer, folder / "model", {}),
        recipe=describer.recipe,
        thumbnails=True,
    )
    return folder


def dataset(folder, name):
    return create_dataset(f'ImageList("{folder / name}", "{folder / "photos"}")')


@pytest.fixture
def path(world, tmp_path):
    """A copy of the index."""
    copy = tmp_path / "copy.index"
    subprocess.run(["cp", "-rp", world / "my.index", copy], check=True)
    return copy


def test_paths_pictures_arrays_and_descriptors_find_the_same(world):
    index = dir_jax.open_index(world / "my.index")
    files = [world / f"photos/a/{i}.png" for i in (3, 4)]
    found = index.search(files, k=5)
    assert [names[0] for names in found.names] == ["a/3.png", "a/4.png"]
    assert found.rows[:, 0].tolist() == [3, 4]
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-5)
    scores = index.descriptors[[3, 4]] @ index.descriptors.T
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :5], atol=1e-5)
    pictures = [Image.open(file) for file in files]
    for queries in (pictures, [np.asarray(p) for p in pictures], index.descriptors[[3, 4]]):
        again = index.search(queries, k=5)
        assert again.names == found.names
        np.testing.assert_allclose(again.scores, found.scores, atol=1e-5)
    assert index.search(str(files[0]), k=1).names == [["a/3.png"]]
    assert index.search(index.descriptors[7], k=100).rows.shape == (1, 10)
    assert index.image_path(3) == str(files[0])
    assert len(index) == 10
    assert "10 images, 16 dimensions, exact" in repr(index)


def test_a_box_is_the_part_of_the_picture(world):
    index = dir_jax.open_index(world / "my.index")
    file = world / "photos/a/3.png"
    part = Image.open(file).crop((8, 4, 40, 36))
    boxed = index.search(file, k=10, box=(8, 4, 40, 36))
    np.testing.assert_array_equal(boxed.scores, index.search(part, k=10).scores)
    two = index.search([file, file], k=10, box=[(8, 4, 40, 36), (0, 0, 56, 48)])
    np.testing.assert_allclose(two.scores[0], boxed.scores[0], atol=1e-5)
    assert two.scores[1, 0] == pytest.approx(1, abs=1e-5)
    for box, message in (
        ((8, 4, 60, 36), "the box 8,4,60,36 is not inside the image"),
        ((8, 4, 8, 36), "is not inside"),
        ((1, 2, 3), "expected left, top, right and bottom in pixels for each of 1 pictures"),
        ((1, 2, 3, float("nan")), "expected left, top"),
        ([(0, 0, 9, 9)] * 2, "2 boxes for 1 pictures; expected one for each"),
    ):
        with pytest.raises(UserError, match=message):
            index.search(file, box=box)
    with pytest.raises(UserError, match="the queries are descriptors"):
        index.search(index.descriptors[:1], box=(0, 0, 9, 9))


def test_expansion_is_that_of_the_evaluation(world):
    from dir_jax.retrieval.expansion import expand_queries

    index = dir_jax.open_index(world / "my.index")
    queries = descriptors(3, 16)
    expanded = expand_queries(queries, np.array(index.descriptors), k=4, alpha=2)
    found = index.search(queries, k=10, aqe=(4, 2))
    np.testing.assert_allclose(found.scores, index.search(expanded, k=10).scores, atol=1e-6)
    with pytest.raises(UserError, match="cannot take the 11 nearest"):
        index.search(queries, aqe=(11, 2))


def test_images_are_added_described_again_and_removed(world, path):
    model = dir_jax.load(world / "model")
    index = Index(path)
    photo = world / "photos/a/2.png"
    original, status = photo.read_bytes(), photo.stat()
    try:
        Image.new("RGB", (50, 40), (200, 30, 30)).save(photo)
        with changing(path) as before:
            counts = add_images(before, dataset(world, "all.txt"), index.describer(),
                                f"{path}.partial")  # fmt: skip
        assert counts == (3, 1, 0)
        assert not os.path.exists(f"{path}.partial")
        index = Index(path)
        order = [0, 1, 3, 4, 5, 6, 7, 8, 9, 2, 10, 11]
        assert index.names == [f"a/{i}.png" for i in order]
        fresh = model.extract([world / f"photos/a/{i}.png" for i in order])
        np.testing.assert_allclose(index.descriptors, fresh, atol=2e-6)
        with changing(path) as before:  # nothing is new
            found = add_images(before, dataset(world, "all.txt"), index.describer(), "unused")
        assert found == (0, 0, 0)
    finally:
        photo.write_bytes(original)
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    with changing(path) as before:
        assert remove_images(before, ["a/2.png", "a/0.png"]) == 2
    index = Index(path)
    assert index.names == [f"a/{i}.png" for i in order if i not in (0, 2)]
    # Each kept its own small copy, and ids are not used again.
    for row, name in enumerate(index.names):
        size = Image.open(world / "photos" / name).size
        assert Image.open(io.BytesIO(index.thumbnail(row))).size == size
    assert index._contents.ids.tolist() == [1, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    with changing(path) as before, pytest.raises(UserError, match=r"no image a/0\.png; did you"):
        remove_images(before, ["a/0.png"])
    with changing(path) as before, pytest.raises(UserError, match="would have no image"):
        remove_images(before, before.names)


def test_another_model_is_refused_and_both_are_named(world, path):
    photo = world / "photos/a/1.png"
    with pytest.raises(UserError) as e:
        dir_jax.open_index(path, checkpoint=world / "other").search(photo)
    assert str(world / "model") in str(e.value)
    assert str(world / "other") in str(e.value)
    about = json.loads((path / "index.json").read_text())
    about["model"]["path"] = str(world / "other")
    (path / "index.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"the model .*other .* has changed since the index"):
        dir_jax.open_index(path).search(photo)
    assert dir_jax.open_index(path, checkpoint=world / "model").search(photo, 1).names
    about["model"]["path"] = "gone"
    (path / "index.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="gone"):
        dir_jax.open_index(path).search(photo)


@pytest.mark.parametrize("kind", ["descriptors", "images", "names", "thumbnails"])
def test_files_that_are_not_what_was_written(path, kind):
    (file,) = path.glob(f"{kind}.*")
    content = file.read_bytes()
    for damaged in (content[:-1], b"", content[:5] + b"~" + content[6:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"copy\.index is damaged: {kind} .*; build it again"):
            dir_jax.open_index(path)
    file.write_bytes(content)  # with another time of change, but what was written
    dir_jax.open_index(path)
    file.unlink()
    with pytest.raises(UserError, match=rf"is damaged: {kind}.* is missing"):
        dir_jax.open_index(path)
    file.mkdir()
    with pytest.raises(UserError, match=r"copy\.index cannot be read: it is a folder"):
        dir_jax.open_index(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("count", 0), ("count", 11), ("size", "16"), ("size", 1 << 40), ("files", {}), ("files", 3),
     ("engine", {"name": "exact", "x": 1}), ("engine", {}), ("recipe", {}), ("model", {}),
     ("model", MODEL | {"options": {"seed": 1}}), ("model", MODEL | {"options": {"dtype": 1}}),
     ("format_version", 2), ("root", None)],
)  # fmt: skip
def test_a_description_that_is_not_one(path, key, value):
    about = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps({**about, key: value}))
    with pytest.raises(UserError, match=r"copy\.index") as e:
        dir_jax.open_index(path)
    assert "\n" not in str(e.value)


def test_what_is_no_index(tmp_path, path):
    with pytest.raises(UserError, match="none does not exist; `dir-jax index` makes an index"):
        dir_jax.open_index(tmp_path / "none")
    with pytest.raises(UserError, match=r"is not an index: it has no index\.json"):
        dir_jax.open_index(tmp_path)
    (path / "index.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        dir_jax.open_index(path)


def test_queries_that_do_not_fit(world):
    index = dir_jax.open_index(world / "my.index")
    for queries, message in (
        (np.zeros((2, 5)), "the index has descriptors of 16 dimensions"),
        (np.full((1, 16), np.nan), "not finite"),
        ([], "no picture"),
        ([3], "expected a path"),
        ("nowhere.jpg", "there is no image file nowhere.jpg"),
    ):
        with pytest.raises(UserError, match=message):
            index.search(queries)
    with pytest.raises(UserError, match="cannot find 0 images"):
        index.search(index.descriptors, 0)


_KILLS = """
import os, signal, sys
import numpy as np
from tests.search.conftest import descriptors, new_images
from dir_jax.search import building, store

path, remove = sys.argv[1], [1, 5] * (sys.argv[2] == "True")
x = descriptors(60)


def change(step):
    calls = []

    def dies(function):
        def call(*arguments, **named):
            calls.append(function)
            if len(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    os.fsync, os.replace = dies(os.fsync), dies(os.replace)
    store.Path.unlink, store.zlib.crc32 = dies(store.Path.unlink), dies(store.zlib.crc32)
    with building.changing(path) as before:
        new = new_images(x[40:], [f"n{i}" for i in range(20)])
        building.change_index(before, remove=remove, new=new)
    os._exit(0)


for step in range(1, 100):
    child = os.fork() or change(step)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    contents = store.read_contents(path)
    if len(contents) != 40:
        break
    assert killed
    np.testing.assert_array_equal(contents.descriptors, x[:40])
    assert contents.names == [f"db/{i}.jpg" for i in range(40)]
assert step > 10, step
kept = np.delete(np.arange(60), remove)
np.testing.assert_array_equal(contents.descriptors, x[kept])
if killed:  # after the step that counts
    with building.changing(path) as before:
        building.change_index(before, new=new_images(x[:1], ["last"]))
    assert store.read_contents(path).names[-1] == "last"
# No file of another change is left.
assert sorted(os.path.splitext(name)[0] for name in os.listdir(path)) == [
    "descriptors", "images", "index", "lock", "names"], os.listdir(path)
"""


@pytest.mark.parametrize("removes", [False, True])
def test_a_change_that_is_killed_leaves_the_index_as_before_or_as_after(make, removes):
    """Killed at each step, one after the other, until a change comes through."""
    path = make(descriptors(60)[:40])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", _KILLS, path, str(removes)], env=environment,
                            check=False, capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_a_full_disk_leaves_the_index_as_it_was(make, monkeypatch):
    from dir_jax.search import store

    x = descriptors(60)
    path = make(x[:40])
    before_files = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(_):
        raise OSError(28, os.strerror(28))

    for remove in ([], [3]):
        with monkeypatch.context() as patched, changing(path) as before:
            patched.setattr(store.os, "fsync", full)
            with pytest.raises(UserError, match=r"cannot write the index .*: No space left"):
                change_index(before, remove=remove, new=new_images(x[40:]))
        files = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}
        assert files == before_files
        assert Index(path).search(x[5], 1).rows.tolist() == [[5]]


def test_one_process_changes_an_index_at_a_time(make):
    path = make(descriptors(10))
    with (
        changing(path),
        pytest.raises(UserError, match="is being changed by another process"),
        changing(path),
    ):
        pass


def test_no_copy_is_that_of_an_index_that_took_this_ones_place(path):
    index = Index(path)
    assert index.stored_thumbnail(0)
    other = dataclasses.replace(new_images(descriptors(10, 16)), copy=lambda i: bytes(1000))
    create_index(path, other, root="", model=MODEL, recipe=index.recipe, thumbnails=True,
                 overwrite=True)  # fmt: skip
    assert index.stored_thumbnail(0) is None
    assert Index(path).stored_thumbnail(0) == bytes(1000)
