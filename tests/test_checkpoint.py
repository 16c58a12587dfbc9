"""Checkpoints on disk: what is saved is what is read, and what is broken is said."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from dir_jax.checkpoint import (
    Preprocessing,
    find_checkpoint,
    read_model,
    save_model,
)
from dir_jax.errors import UserError
from dir_jax.models import create_model
from dir_jax.models.variables import split_variables
from dir_jax.retrieval.whitening import learn_whitening


@pytest.fixture(scope="module")
def model():
    return create_model("resnet18_rmac", out_dim=8, pooling="max", norm_features=True, seed=4)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    whitening = learn_whitening(np.random.default_rng(0).standard_normal((20, 8)))
    save_model(
        path,
        model,
        preprocessing=Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)),
        whitenings={"Landmarks_clean": whitening},
        notes={"step": 7},
    )
    return path, whitening


def test_round_trip_is_exact(model, saved):
    path, whitening = saved
    loaded = read_model(path)
    assert loaded.model.config == model.config
    for old, new in zip(split_variables(model)[1:], split_variables(loaded.model)[1:], strict=True):
        assert old.keys() == new.keys()
        for name in old:
            np.testing.assert_array_equal(old[name], new[name])
    assert loaded.preprocessing == Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    read = loaded.whitenings["Landmarks_clean"]
    np.testing.assert_array_equal(read.components_, whitening.components_)
    np.testing.assert_array_equal(read.explained_variance_, whitening.explained_variance_)
    assert read.whiten is True


def test_description_is_for_people(saved):
    text = (saved[0] / "model" / "model.json").read_text()
    description = json.loads(text)
    assert description["model"]["arch"] == "resnet18_rmac"
    assert description["whitening"] == ["Landmarks_clean"]
    assert description["step"] == 7
    assert "jax" in description["versions"]


def test_existing_directory_is_refused_unless_overwritten(model, saved, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(saved[0], path)
    with pytest.raises(UserError, match="exists"):
        save_model(path, model)
    save_model(path, model, overwrite=True)
    assert read_model(path).whitenings == {}
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]  # nothing left lying about
    (path / "model/model.json").rename(path / "photo.jpg")
    with pytest.raises(UserError, match=r"copy is not a model; --overwrite replaces nothing else"):
        save_model(path, model, overwrite=True)
    assert (path / "photo.jpg").exists()


def test_a_run_directory_is_found_by_its_model_or_newest_step(saved, tmp_path):
    run = tmp_path / "run"
    for step in (9, 10):
        shutil.copytree(saved[0], run / "checkpoints" / str(step))
    assert find_checkpoint(run) == run / "checkpoints" / "10"
    shutil.copytree(saved[0], run / "model")
    assert find_checkpoint(run) == run / "model"


def test_broken_checkpoints_say_what_is_wrong(saved, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        read_model(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a checkpoint"):
        read_model(tmp_path / "empty")

    def broken(name, change):
        path = tmp_path / name
        shutil.copytree(saved[0], path)
        change(path)
        with pytest.raises(UserError) as e:
            read_model(path)
        assert "\n" not in str(e.value)
        return str(e.value)

    def edit(path, **changes):
        file = path / "model" / "model.json"
        description = json.loads(file.read_text())
        for key, value in changes.items():
            target = description if key == "format_version" else description["model"]
            target[key] = value
        del description["digests"]  # which would say that it was edited
        file.write_text(json.dumps(description))

    assert "format version 99" in broken("version", lambda p: edit(p, format_version=99))
    assert "fc.bias has shape (8,)" in broken("shape", lambda p: edit(p, out_dim=9))
    assert "lacks 1 arrays: adpool.p" in broken("names", lambda p: edit(p, pooling="gem"))
    assert "surplus 2 arrays: fc.bias" in broken("more", lambda p: edit(p, without_fc=True))
    assert "resnet19" in broken("arch", lambda p: edit(p, arch="resnet19_rmac"))
    assert "model.json" in broken("json", lambda p: (p / "model/model.json").write_text("{"))
    assert "cannot be read" in broken("arrays", lambda p: shutil.rmtree(p / "arrays" / "d"))


def test_absurd_values_are_refused_before_anything_is_allocated(saved, tmp_path, monkeypatch):
    path = tmp_path / "absurd"
    shutil.copytree(saved[0], path)
    file = path / "model" / "model.json"
    good = json.loads(file.read_text())
    del good["digests"]
    for part, key, value in (
        ("model", "out_dim", 10**12), ("model", "arch", []), ("model", "gemp", [[]]),
        ("preprocess", "mean", [1, 2]), ("preprocess", "std", 5), ("preprocess", "colour", [1] * 3),
        ("preprocess", "mean", ["a"] * 3), ("preprocess", "mean", [10**400] * 3),
    ):  # fmt: skip
        file.write_text(json.dumps(good | {part: good[part] | {key: value}}))
        with pytest.raises(UserError) as error:
            read_model(path)
        assert len(str(error.value).splitlines()) == 1
    file.write_text(json.dumps(good | {"model": good["model"] | {"out_dim": 9}}))
    listing = path / "arrays" / "_METADATA"
    listed = json.loads(listing.read_text())
    with monkeypatch.context() as m:
        m.setattr("dir_jax.checkpoint.read_arrays", None)  # the arrays' metadata is enough
        with pytest.raises(UserError, match="has shape"):
            read_model(path)
        file.write_text(json.dumps(good))
        more = {"key_metadata": [{"key": "x"}], "value_metadata": {"value_type": "Dict"}}
        arrays = listed["tree_metadata"] | {"x": more}
        listing.write_text(json.dumps(listed | {"tree_metadata": arrays}))
        with pytest.raises(UserError, match="surplus arrays: x"):
            read_model(path)
    listing.write_text(json.dumps(listed))
    read_model(path)


def test_a_changed_array_is_refused_by_its_digest(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "model")
    file = tmp_path / "model" / "model" / "model.json"
    description = json.loads(file.read_text())
    name = next(n for n in description["digests"] if "fc.kernel" in n)
    description["digests"][name] = "0" * 64
    file.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"is damaged: 1 of its arrays .*fc\.kernel"):
        read_model(tmp_path / "model")


def test_full_disk_is_one_message(monkeypatch, tmp_path):
    """Orbax reports what the system says in a ValueError of its own."""

    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing … [os_error_code='28']")

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(UserError, match=r"cannot write .*/model: No space left on device"):
        save_model(tmp_path / "model", create_model("resnet18_rmac", out_dim=4))
    assert list(tmp_path.iterdir()) == []


def test_a_whitening_that_is_not_there_lists_those_that_are(saved):
    checkpoint = read_model(saved[0])
    (name,) = checkpoint.whitenings
    assert checkpoint.whitening(name) is checkpoint.whitenings[name]
    with pytest.raises(UserError, match=f"no whitening 'other'; it has {name}"):
        checkpoint.whitening("other")
