"""test_dir --distractors: images or stored features, with a database of either kind."""

import json
import pickle

import numpy as np
import pytest

import dir_jax
from dir_jax.describe.stored_rows import StoredRows
from dir_jax.errors import UserError


@pytest.fixture
def sets(photos):
    """A ground truth over ten of the pictures, and a list of ten others."""
    truth = {
        "imlist": [f"{i}.png" for i in range(2, 12)],
        "qimlist": ["0.png", "1.png"],
        "gnd": [{"ok": [0, 6], "junk": [1]}, {"ok": [4, 5], "junk": []}],
    }
    (photos / "ten.pkl").write_bytes(pickle.dumps(truth))
    (photos / "more.txt").write_text("".join(f"{i}.png\n" for i in range(12, 22)))
    all_names = truth | {"imlist": [f"{i}.png" for i in range(2, 22)]}
    (photos / "twenty.pkl").write_bytes(pickle.dumps(all_names))
    made = (
        f'ImageListRelevants("{photos}/{x}.pkl", "{photos}", img_dir="")' for x in ("ten", "twenty")
    )
    return *made, f'ImageList("{photos}/more.txt", "{photos}")'


def closing_lines(out):
    return [line for line in out.splitlines() if line.startswith(" * ")]


def test_images_or_features(run, model, sets, tmp_path):
    base, whole, more = sets
    flags = ["--checkpoint", model, "--whiten", "set"]
    _, expected, _ = run("test_dir", "--dataset", whole, *flags)
    expected = closing_lines(expected)
    code, out, _ = run("test_dir", "--dataset", base, *flags, "--distractors", more,
                       "--save-feats", tmp_path)  # fmt: skip
    assert code == 0
    assert "Protocol: classic, as Oxford5K: mAP" in out
    assert "Searched: 10 images and 10 distractors" in out
    assert closing_lines(out) == expected != []
    assert np.load(tmp_path / "feats.ddescs.npy").shape == (10, 8)
    # What was saved, by the list or by the file; and what extract_features writes, whitened.
    run("extract_features", "--dataset", more, *flags, "--output", tmp_path / "more.npy")
    run("extract_features", "--dataset", more, *flags, "--output", tmp_path / "more", "--shards", 3)
    load = ["--load-feats", tmp_path]
    for given in ([more, *load], [tmp_path / "feats.ddescs.npy", *load], [tmp_path / "more.npy"],
                  [tmp_path / "more"]):  # fmt: skip
        code, out, err = run("test_dir", "--dataset", base, *flags, "--distractors", *given)
        assert (code, closing_lines(out)) == (0, expected), err
    for distractors in (more, np.load(tmp_path / "more.npy", mmap_mode="r")):
        found = dir_jax.evaluate(base, model, whiten="set", distractors=distractors)
        assert [f" * {name} = {value:g}" for name, value in found.items()] == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--distractors", "no.npy"], "--distractors: there is no file no.npy"),
        (
            ["--distractors", "r1m"],
            "--distractors: there is no file, no folder and no data set r1m",
        ),
        (["--distractors", "MORE", "--adba", 2, 1], "adba: database augmentation is not offered"),
        (
            ["--distractors", "MORE", "--report", "r.html"],
            "--report shows the data set's own images",
        ),
    ],
)
def test_what_cannot_be(run, model, sets, monkeypatch, tmp_path, flags, message):
    monkeypatch.chdir(tmp_path)
    flags = [sets[2] if flag == "MORE" else flag for flag in flags]
    code, _, err = run("test_dir", "--dataset", sets[0], "--checkpoint", model, *flags)
    assert (code, message in err) == (2, True), err


def test_features_of_another_making_are_refused(run, model, sets, tmp_path):
    base, _, more = sets
    flags = ["--checkpoint", model]
    for words, name, file in ((more, "set", "w.npy"), (base, "", "b.npy")):
        run("extract_features", "--dataset", words, *flags, "--whiten", name,
            "--output", tmp_path / file)  # fmt: skip
    given = ["--load-feats", tmp_path / "b.npy", "--distractors", tmp_path / "w.npy"]
    code, _, err = run("test_dir", "--dataset", base, *given)
    assert (code, "has the whitening 'set', the database ''" in err) == (2, True), err
    given = ["--checkpoint", model, "--distractors", tmp_path / "w.npy"]
    code, _, err = run("test_dir", "--dataset", base, *given, "--whiten", "")
    assert (code, "has the whitening 'set', the database ''" in err) == (2, True), err
    code, _, err = run("test_dir", "--dataset", base, *given, "--whiten", "set", "--whitenp", 0.5)
    message = "was whitened with --whitenp 0.25, the database with 0.5"
    assert (code, message in err) == (2, True), err
    made = json.loads((tmp_path / "b.dbdescs.npy.recipe.json").read_text()) | {"model": "f" * 64}
    (tmp_path / "w.npy.recipe.json").write_text(json.dumps(made))
    given = ["--load-feats", tmp_path / "b.npy", "--distractors", tmp_path / "w.npy"]
    code, _, err = run("test_dir", "--dataset", base, *given)
    assert (code, "w.npy has descriptors of another model (ffffffffff)" in err) == (2, True), err


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["<f4", ">f2"])
def test_stored_rows(tmp_path, order, dtype):
    path = str(tmp_path / "x.npy")
    x = np.arange(35, dtype=dtype).reshape(7, 5, order=order)
    np.save(path, x)
    stored = StoredRows(path)
    assert stored.shape == (7, 5)
    for rows in (slice(2, 5), np.array([6, 0, 3])):
        np.testing.assert_array_equal(stored[rows], x[rows])
        assert stored[rows].dtype == np.float32
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"x\.npy is damaged"):
        StoredRows(path)
