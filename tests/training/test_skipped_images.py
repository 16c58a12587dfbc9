"""Training where pictures are missing or damaged: `config.data.on_error='skip'`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess

import numpy as np
import pytest

from dir_jax.checkpoint import read_model
from dir_jax.models.variables import split_variables
from tests.inputs.real_world import truncate
from tests.training.conftest import ROOT, one_device

SKIP = "--config.data.on_error=skip"


@pytest.fixture(scope="module")
def bad_data(tiny_data, tmp_path_factory):
    """The tiny data with one picture missing, one that is none, and two cut short: one to train on
    and one to evaluate on."""
    root = tmp_path_factory.mktemp("bad") / "data"
    shutil.copytree(tiny_data, root)
    (root / "a1.jpg").unlink()
    (root / "b2.jpg").write_text("<html>404</html>")
    truncate(root / "c0.jpg")
    truncate(root / "e2.jpg")
    return root


@pytest.fixture
def flags(bad_data):
    lists = {"train": "train.txt", "eval": "test.txt"}
    paths = [f'--config.data.{k}=ImageListLabels("{bad_data}/{v}", "{bad_data}")'
             for k, v in lists.items()]  # fmt: skip
    return [*paths, SKIP]


def arrays(workdir):
    _, params, stats = split_variables(read_model(workdir / "model").model)
    return {k: np.asarray(v) for k, v in {**params, **stats}.items()}


def listed(workdir):
    rows = (workdir / "skipped_images.txt").read_text().splitlines()
    return {row.split("\t")[0].rsplit("/")[-1]: row.split("\t")[1] for row in rows}


def test_trains_on_the_rest_and_resumes_bit_equal(run_train, train_command, flags, tmp_path):
    whole = tmp_path / "whole"
    done = run_train(whole, *flags)
    assert done.returncode == 0, done.stderr
    found = listed(whole)
    assert found.keys() == {"a1.jpg", "b2.jpg", "c0.jpg", "e2.jpg"}
    assert found["a1.jpg"].startswith("there is no image file")
    assert "is not an image in a supported format" in found["b2.jpg"]
    assert "cannot be read: " in found["c0.jpg"]
    assert "data: 10 images of 3 classes" in done.stderr
    assert "c0.jpg cannot be read" in done.stderr
    assert np.isfinite(json.loads((whole / "summary.json").read_text())["after"]["mAP"])

    killed = tmp_path / "killed"
    process = subprocess.Popen(
        train_command(killed, *flags), cwd=ROOT, env=one_device(), stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:  # kill once a step is saved
        if list(killed.glob("checkpoints/[1-4]")) or "step 3" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert not (killed / "summary.json").exists()
    done = run_train(killed, *flags)
    assert done.returncode == 0, done.stderr
    ours, theirs = arrays(killed), arrays(whole)
    assert not [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert listed(killed) == found


def test_stops_by_default(run_train, bad_data, tmp_path):
    """At a picture that turns out to be damaged; `create_setup` refuses what headers tell."""
    rows = (bad_data / "train.txt").read_text().splitlines()
    (tmp_path / "l.txt").write_text("".join(f"{bad_data}/{r}\n" for r in rows if r[1] in "03"))
    done = run_train(tmp_path / "run", f"--config.data.train={tmp_path}/l.txt",
                     "--config.data.eval=", "--config.batch_size=6")  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: the image {bad_data}/c0.jpg cannot be read: ")
    assert last.endswith("; --config.data.on_error=skip goes on without it")
    assert not (tmp_path / "run/skipped_images.txt").exists()
