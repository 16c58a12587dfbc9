"""A small model, photographs of a few sizes, and the commands run in this process."""

import importlib
import sys

import numpy as np
import pytest
from PIL import Image

from dir_jax.checkpoint import save_model
from dir_jax.commands.running import run_parsed
from dir_jax.models import create_model
from dir_jax.retrieval.whitening import learn_whitening


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A checkpoint with the whitening 'set'."""
    path = tmp_path_factory.mktemp("model") / "net"
    whitening = learn_whitening(np.random.default_rng(0).standard_normal((50, 8)))
    network = create_model("resnet18_rmac", out_dim=8)
    save_model(path, network, whitenings={"set": whitening})
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 24 pictures of a few sizes: 0.png …; names.txt; labels.txt, six classes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(24):
        size = (40 + 8 * (i % 3), 56 - 8 * (i % 2), 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / f"{i}.png")
    (folder / "names.txt").write_text("".join(f"{i}.png\n" for i in range(24)))
    (folder / "labels.txt").write_text("".join(f"{i}.png class{i % 6}\n" for i in range(24)))
    return folder


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs a command: `run('test_dir', *flags) -> (exit code, standard output, error)`."""

    def call(name, *flags):
        module = importlib.import_module(f"dir_jax.{name}")
        monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
        capfd.readouterr()
        code = run_parsed(module._parser(), module._main)
        return code, *capfd.readouterr()

    return call
