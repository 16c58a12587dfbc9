"""From PyTorch into a training run, and from the run back to PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from converters.conversion import convert
from converters.to_torch import export
from dir_jax.loading import load_model
from torch_reference.networks import create_network
from torch_reference.weights import randomize

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
from dir_jax.training.config import default_config

def get_config():
    config = default_config()
    config.num_steps = 2
    config.batch_size = 4
    config.model.arch = "resnet18_rmac"
    config.model.out_dim = 8
    config.data.train = 'ImageListLabels("{data}/train.txt", "{data}")'
    config.data.transform = "RandomCrop(40)"
    config.data.num_workers = 0
    return config
"""


def test_a_published_checkpoint_fine_tunes_and_is_exported_again(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).resize((44, 44)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png {'abc'[i % 3]}\n")
    (tmp_path / "train.txt").write_text("".join(rows))
    (tmp_path / "config.py").write_text(CONFIG.replace("{data}", str(tmp_path)))
    network = create_network("resnet18_rmac", out_dim=8)
    randomize(network)
    options = {"arch": "resnet18_rmac", "out_dim": 8, "pooling": "gem"}
    torch.save({"state_dict": network.state_dict(), "model_options": options}, tmp_path / "in.pt")
    run = tmp_path / "run"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "dir_jax.train", f"--config={tmp_path / 'config.py'}",
         f"--workdir={run}", f"--config.model.init={tmp_path / 'in.pt'}",
         f"--compilation_cache={tmp_path / 'xla'}"],
        cwd=ROOT,
        env={**environment, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    export(run, tmp_path / "out.pt")
    tree = torch.load(tmp_path / "out.pt", weights_only=False)
    assert tree["pca"].keys() == {"train"}
    tuned = create_network("resnet18_rmac", out_dim=8)
    tuned.load_state_dict(tree["state_dict"])
    moved = {
        name: float((value - network.state_dict()[name]).abs().max())
        for name, value in tuned.state_dict().items()
    }
    # It began where the file was: two steps of Adam move a weight by at most twice their rate,
    # and frozen BatchNorm not at all.
    assert 1e-6 < moved["layer3.0.conv1.weight"] < 2.5e-4
    assert moved["layer3.0.bn1.weight"] == moved["layer3.0.bn1.running_var"] == 0
    images = rng.standard_normal((2, 40, 50, 3), np.float32)
    with torch.no_grad():
        expected = tuned(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    for model in (load_model(run).model, convert(tmp_path / "out.pt").model):
        np.testing.assert_allclose(model(images), expected, atol=1e-5)
