"""The commands of README's "Train on your own photos" and "Use a model", run as they are printed.

What is added only makes them small: fewer and smaller images, a narrower network. Networks that the
README has by name, which would be fetched, are small ones in files.
"""

import importlib
import json
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from dir_jax.checkpoint import save_model
from dir_jax.commands.recipes import load_config
from dir_jax.models import create_model

from .markdown import ROOT

_SMALL = """--config.model.arch=resnet18_rmac --config.model.out_dim=8 --config.num_steps=1
    --config.batch_size=8 --config.chunk_size=8 --config.data.num_workers=0
    --config.whitening.transform=CenterCrop(32) --config.eval.transform=CenterCrop(32)
    --config.data.transform=CenterCrop(32)"""


def commands(title):
    """The command lines of a section, in order, without `python`."""
    text = (ROOT / "README.md").read_text()
    section = re.search(rf"^## {title}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    return [shlex.split(line)[2:] for line in blocks.replace("\\\n", " ").splitlines()]


TRAIN, USE = commands("Train on your own photos"), commands("Use a model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photos/train and photos/test with their classes, and the networks to start from."""
    root = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for i in range(24):
        part = root / "photos" / ("test" if i % 3 == 0 else "train") / f"class{i % 4}"
        part.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(part / f"{i}.jpg")
    for name in ("resnet18.pth", "resnet50.pth"):  # a directory will do as well as a file
        save_model(root / name, create_model("resnet18_rmac", out_dim=8))
    return root


def run(words, monkeypatch, *more):
    module, *flags = [re.sub(r"=(resnet\d+)-imagenet$", r"=\1.pth", word) for word in words]
    command = importlib.import_module(module)
    monkeypatch.setattr(sys, "argv", [module, *flags, *more])
    assert command.main() == 0


def test_there_are_commands():
    assert [words[0] for words in TRAIN] == ["dir_jax.train"] * 2
    assert [words[0] for words in USE] == ["dir_jax.test_dir", "dir_jax.extract_features"]


@pytest.mark.parametrize("words", TRAIN, ids=lambda words: words[2])
def test_training_needs_no_more_than_is_printed(words, folder, monkeypatch):
    """All but the training itself, of the sizes that are printed."""
    from dir_jax.training.config import validate_config

    monkeypatch.chdir(folder)
    validate_config(load_config(words[2], [w for w in words if w.startswith("--config.")]))


def test_train_and_use(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    run(TRAIN[1], monkeypatch, *_SMALL.split())
    summary = json.loads((folder / "runs/mine/summary.json").read_text())
    assert "recall@1" in summary["before"]
    said = capfd.readouterr().err
    before = f"before training: mAP {summary['before']['mAP']:.4f}"
    assert before in said
    assert said.index(before) < said.index("step 1: mAP")  # as soon as it is known
    for words in USE:
        run(words, monkeypatch)
    out = capfd.readouterr().out
    assert f" * mAP = {summary['after_whitened']['mAP']:g}" in out
    assert (folder / "report.html").exists()
    assert np.load(folder / "photos.npy").shape[0] == 24


def test_the_gpu_variant_starts(folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["runs/gpu" if word == "runs/mine" else word for word in TRAIN[0]]
    small = [*_SMALL.split(), "--config.eval.every=0", "--config.whitening.name="]
    run(words, monkeypatch, *small)
    assert (folder / "runs/gpu/summary.json").exists()
