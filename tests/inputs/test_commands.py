"""The commands take the same inputs: they all go through `create_dataset`."""

from __future__ import annotations

import numpy as np
import pytest

import dir_jax
from dir_jax.errors import UserError
from dir_jax.training.config import default_config
from dir_jax.training.setup import create_setup
from tests.commands.conftest import model, run  # noqa: F401
from tests.inputs.real_world import NAMES, write_lists, write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pictures, and the lists beside them."""
    return write_lists(write_pictures(tmp_path_factory.mktemp("inputs") / "photos", size=(40, 40)))


def test_extract_and_evaluate(run, model, folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HOME", str(folder.parent))
    expected = dir_jax.load(model).extract([folder / name for name in NAMES])
    for number, dataset in enumerate(("~/photos", f"{folder}/*/*", "~/photos/header.csv")):
        output = tmp_path / f"{number}.npy"
        code, *_ = run("extract_features", "--dataset", dataset, "--checkpoint", model,
                       "--output", output)  # fmt: skip
        assert code == 0
        np.testing.assert_array_equal(np.load(output), expected)
    found = dir_jax.evaluate(folder / "words.txt", model)
    for dataset in ("~/photos", f"{folder}/tabs.txt", "~/photos/object.json"):
        code, out, _ = run("test_dir", f"--dataset={dataset}", "--checkpoint", model)
        assert code == 0
        assert f"mAP = {found['mAP']:g}" in out
        assert dir_jax.evaluate(dataset, model) == found
    code, _, err = run("test_dir", "--dataset", folder / "names.txt", "--checkpoint", model)
    assert code == 2
    assert "names.txt, line 1: 'arch/a.png' has no label; expected 'path label'" in err


def test_duplicates(run, model, folder, tmp_path):  # noqa: F811
    (tmp_path / "l.txt").write_text(f"{folder}/arch/a.png\n" * 2)
    for value, rows in (("keep", 2), ("drop", 1)):
        code, *_ = run("extract_features", "--dataset", tmp_path / "l.txt", "--checkpoint", model,
                       "--output", tmp_path / f"{value}.npy", "--on-duplicate", value)  # fmt: skip
        assert code == 0
        assert len(np.load(tmp_path / f"{value}.npy")) == rows


def test_home_after_an_equals_sign(run, model, folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(model)
    code, *_ = run("extract_features", f"--dataset={folder}/arch", "--checkpoint=~/model",
                   "--output=~/new/x.npy")  # fmt: skip
    assert code == 0
    assert np.load(tmp_path / "new/x.npy").shape == (2, 8)


class TestTraining:
    @pytest.fixture
    def config(self, folder):
        config = default_config()
        config.data.train = str(folder)
        config.batch_size, config.data.transform, config.whitening.name = 2, "CenterCrop(8)", ""
        config.sampler.name, config.sampler.images_per_class = "classes", 2
        config.batch_size = 8  # one for each of the virtual devices
        config.sampler.name = "shuffle"
        return config

    @pytest.mark.parametrize("name", ["", "words.txt", "label-first.csv", "classes.json"])
    def test_labels_are_found(self, config, folder, name):
        config.data.train = config.data.eval = f"{folder}/{name}"
        setup = create_setup(config)
        assert setup.dataset.names == setup.held_out.labelled.names == NAMES
        assert setup.dataset.labels.tolist() == [0, 0, 1, 1]

    def test_what_cannot_be_read_is_left_out_of_the_batches(self, config, tmp_path):
        folder = write_pictures(tmp_path / "photos")
        (folder / "arch/a.png").write_text("404")
        config.data.train = str(folder)
        with pytest.raises(UserError, match=r"1 of 4 .* \(--config\.data\.on_error=skip trains on"):
            create_setup(config)
        config.data.on_error = "skip"
        setup = create_setup(config)
        assert setup.skipped.tolist() == [0]
        assert set(setup.sampler(0).tolist()) == {1, 2, 3}
        assert setup.without(config, np.array([3])).usable.tolist() == [0, 1, 2]
