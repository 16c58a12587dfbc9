"""A tiny labelled set of real JPEG files, and the command that trains on it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dir_jax import train

ROOT = Path(__file__).resolve().parents[2]

_CONFIG = '''
"""A run of seconds, for tests."""
from dir_jax.training.config import default_config

def get_config():
    config = default_config()
    config.num_steps = 6
    config.batch_size = 8
    config.chunk_size = 4
    config.batch_norm = "trained"
    config.model.arch = "resnet18_rmac"
    config.model.out_dim = 8
    config.data.train = 'ImageListLabels("{data}/train.txt", "{data}")'
    config.data.eval = 'ImageListLabels("{data}/test.txt", "{data}")'
    config.data.transform = "RandomCrop(40), RandomFlip(), ColorJitter(0.2, 0.2, 0.2, 0.1)"
    config.data.num_workers = 0
    config.optimizer.learning_rate = 1e-3
    config.eval.transform = "CenterCrop(40)"
    config.eval.batch_size = 8
    config.eval.every = 3
    config.checkpoint.every = 1
    return config
'''


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Twelve training images of three classes and six test images of two others."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for split, classes, count in (("train", "abc", 4), ("test", "de", 3)):
        rows = []
        for name in classes:
            pattern = rng.integers(0, 256, (6, 6, 3), np.uint8)
            for i in range(count):
                picture = Image.fromarray(pattern).resize((56, 48), Image.Resampling.BICUBIC)
                noise = rng.normal(0, 25, (48, 56, 3))
                pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / f"{name}{i}.jpg")
                rows.append(f"{name}{i}.jpg {name}\n")
        (root / f"{split}.txt").write_text("".join(rows))
    return root


@pytest.fixture
def tiny_config(tiny_data, tmp_path):
    """The path of a config over `tiny_data`."""
    path = tmp_path / "tiny.py"
    path.write_text(_CONFIG.replace("{data}", str(tiny_data)))
    return path


@pytest.fixture
def train_command(tiny_config):
    """`command(workdir, *flags)`: the training command as a list."""

    def command(workdir, *flags, config=tiny_config):
        start = [sys.executable, "-m", "dir_jax.train"]
        return [*start, f"--config={config}", f"--workdir={workdir}", *flags]

    return command


@pytest.fixture
def run_train(train_command):
    """Runs the training command to its end: `run(workdir, *flags) -> CompletedProcess`."""

    def run(workdir, *flags, **options):
        return subprocess.run(
            train_command(workdir, *flags, **options),
            cwd=ROOT,
            env=one_device(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def run_here(train_command, monkeypatch, capfd):
    """`run_train` in this process: for what is refused before it trains."""
    devices = jax.devices()[:1]
    monkeypatch.setattr("jax.devices", lambda: devices)
    monkeypatch.setattr("jax.device_count", lambda: 1)

    def run(workdir, *flags, **options):
        command = train_command(workdir, *flags, **options)
        monkeypatch.setattr(sys, "argv", command[2:])
        capfd.readouterr()
        code = train.main()
        return subprocess.CompletedProcess(command, code, *capfd.readouterr())

    handlers = logging.root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in ("", "dir_jax", "absl")}
    yield run
    logging.root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def one_device():
    """The environment of a command that a user starts: without this test run's virtual devices."""
    return {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
