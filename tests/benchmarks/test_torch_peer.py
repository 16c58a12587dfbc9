"""The benchmarks' PyTorch side starts from our network and our images, or compares nothing."""

import numpy as np
import pytest
import torch

from dir_jax.checkpoint import Preprocessing
from dir_jax.models import create_model
from dir_jax.models.preprocess import normalize

PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.parametrize("arch", ["resnet18_rmac", "resnet50_rmac"])
def test_describes_the_same_images_alike(arch):
    from benchmarks.torch_peer import load_network, torch_images

    model = create_model(arch, out_dim=16, seed=3)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), np.uint8)
    network = load_network(model).eval()
    with torch.inference_mode():
        theirs = network(torch_images(images, PREPROCESSING)).numpy()
    ours = model(normalize(images, PREPROCESSING.mean, PREPROCESSING.std))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
