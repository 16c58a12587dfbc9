"""Features that are there already: `--load-feats` of files and of shards."""

import json
import shutil

import numpy as np
import pytest

import dir_jax
from dir_jax.checkpoint import save_model
from dir_jax.describe.sharded_files import open_descriptors
from dir_jax.models import create_model


@pytest.fixture(scope="module")
def words(photos):
    return f'ImageListLabels("{photos}/labels.txt", "{photos}")'


@pytest.fixture
def features(tmp_path_factory, model, words, run):
    """A folder with `out`, in three shards, and `x.npy`, both without whitening; made once."""
    folder = tmp_path_factory.getbasetemp() / "stored-features"
    if not folder.exists():
        flags = ("--dataset", words, "--checkpoint", model, "--whiten", "")
        for output in (("out", "--shards", 3), ("x.npy",)):
            code, _, err = run("extract_features", *flags, "--output", folder / output[0],
                               *output[1:])  # fmt: skip
            assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model, whose descriptors are as long."""
    path = tmp_path_factory.mktemp("other") / "net"
    save_model(path, create_model("resnet18_rmac", out_dim=8, seed=1))
    return path


def numbers(out):
    return [line for line in out.splitlines() if line.startswith(" * ")]


@pytest.mark.parametrize("name", ["out", "x.npy"])
def test_an_index_of_features(name, features, model, words, run, tmp_path, photos):
    new = ("index_images", "--dataset", words, "--checkpoint", model, "--load-feats",
           features / name, "--output")  # fmt: skip
    code, out, err = run(*new, tmp_path / "a.index")
    assert code == 0, err
    assert out.splitlines()[-1] == f"wrote {tmp_path}/a.index: 24 images"
    index = dir_jax.open_index(tmp_path / "a.index")
    np.testing.assert_array_equal(index.descriptors, np.load(features / "x.npy"))
    assert index.names == [f"{i}.png" for i in range(24)]
    assert index.search(photos / "5.png", 1).names == [["5.png"]]  # by the model that made it
    for flags, message in (
        (("--trfs", "Scale(9)"), "--trfs: --load-feats has features that were described with"),
        (("--whiten", "set"), "--whiten: --load-feats has features"),
        (("--dtype", "bfloat16"), "has descriptors of another model"),
        (("--load-feats", photos), "is a folder without manifest.json; expected that of"),
    ):
        code, _, err = run(*new, tmp_path / "b.index", *flags)
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
    assert not (tmp_path / "b.index").exists()


def test_features_of_a_list_that_has_an_image_twice(features, model, photos, run, tmp_path):
    (photos / "twice.txt").write_text("0.png\n1.png\n0.png\n2.png\n")
    twice = f'ImageList("{photos}/twice.txt", "{photos}")'
    x = np.load(features / "x.npy")[[0, 1, 0, 2]]
    x[1] = np.nan
    np.save(tmp_path / "t.npy", x)
    shutil.copy(features / "x.npy.recipe.json", tmp_path / "t.npy.recipe.json")
    new = ("index_images", "--dataset", twice, "--checkpoint", model, "--load-feats",
           tmp_path / "t.npy", "--output", tmp_path / "t.index")  # fmt: skip
    code, _, err = run(*new)
    assert (code, "1 of 4 descriptors in" in err) == (2, True), err
    code, out, err = run(*new, "--on-error", "skip")
    assert (code, "2 images; 1 could not be described" in out) == (0, True), err
    index = dir_jax.open_index(tmp_path / "t.index")
    assert index.names == ["0.png", "2.png"]
    np.testing.assert_array_equal(index.descriptors, x[[0, 3]])


def test_another_model_is_refused(features, other, words, run, tmp_path):
    for name in ("out", "x.npy"):
        for call in (
            ("test_dir", "--load-feats", features / name),
            ("index_images", "--output", tmp_path / "i", "--load-feats", features / name),
        ):
            code, out, err = run(*call, "--dataset", words, "--checkpoint", other)
            assert (code, "has descriptors of another model" in err, numbers(out)) == (2, True, [])
            assert err.count("\n") == 1
    code, _, err = run("whiten", "--dataset", words, "--checkpoint", other, "--load-feats",
                       features / "out", "--name", "a", "--output", tmp_path / "w")  # fmt: skip
    assert (code, "has descriptors of another model" in err) == (2, True), err
    assert list(tmp_path.iterdir()) == []


def test_a_whitening_that_is_learned_for_features(features, model, words, run):
    load = ("test_dir", "--dataset", words, "--checkpoint", model, "--load-feats", features / "x")
    code, _, err = run(*load, "--whiten", f"learn:{words}", "--trfs", "Scale(20)")
    assert (code, "--trfs: --load-feats has features" in err) == (2, True), err
    assert run(*load, "--multiscale")[0] == 2


def test_rows_of_shards_that_are_not_finite(features, words, run, tmp_path):
    shutil.copytree(features / "out", tmp_path / "out")
    whole = run("test_dir", "--dataset", words, "--load-feats", tmp_path / "out")
    assert (whole[0], len(numbers(whole[1])) > 0) == (0, True), whole
    rows = np.load(tmp_path / "out/00001/database.npy", mmap_mode="r+")
    rows[2] = np.nan
    rows.flush()
    load = ("test_dir", "--dataset", words, "--load-feats", tmp_path / "out")
    code, _, err = run(*load)
    message = "no .failed.txt in it lists their images: rows 10 (10.png); --on-error skip"
    assert (code, message in err) == (2, True), err
    code, out, _ = run(*load, "--on-error", "skip")
    assert (code, "left out: 1 images" in out) == (0, True)
    assert open_descriptors(tmp_path / "out").failures == {}


def test_there_is_nothing_to_load(words, run, tmp_path, monkeypatch, features, model):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("test_dir", "--dataset", words, "--load-feats", "nothing")
    assert (code, "there is neither a file nor a folder nothing; expected" in err) == (2, True), err
    recipe = json.loads((features / "x.npy.recipe.json").read_text())
    assert len(recipe.pop("model")) == 64
    shutil.copy(features / "x.npy", "x.npy")
    new = ("index_images", "--dataset", words, "--checkpoint", model, "--load-feats", "x.npy",
           "--output", "i")  # fmt: skip
    for content in (None, recipe, {**recipe, "model": 3}):
        if content is not None:
            (tmp_path / "x.npy.recipe.json").write_text(json.dumps(content))
        code, _, err = run(*new)
        message = "model is 3" if content and "model" in content else "it is not known which model"
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
