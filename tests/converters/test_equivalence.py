"""The proof: converted networks of every architecture, pooling and option against PyTorch's own.

The table of largest differences that a run prints at its end is the one in the README.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from converters.conversion import convert
from dir_jax.models import ARCHITECTURES
from dir_jax.models.pooling import create_pooling
from torch_reference.networks import create_network
from torch_reference.pairs import make_images, to_torch
from torch_reference.weights import randomize

SIZES = ((224, 224), (33, 47), (181, 123), (768, 1024))
OPTIONS = [
    {"pooling": pooling, "norm_features": norm, "center_bias": bias, "without_fc": without_fc}
    for pooling, norm, bias, without_fc in itertools.product(
        ("gem", "max", "avg"), (False, True), (0, 0.7), (False, True)
    )
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request, tmp_path_factory):
    """A network of PyTorch and what its file converts to."""
    network = create_network(request.param, out_dim=64)
    randomize(network, seed=5)
    with torch.no_grad():  # what a channel that has died looks like
        network.bn1.running_var[0] = 1e-12
        network.bn1.weight[1] *= -1
    path = tmp_path_factory.mktemp("pair") / "network.pt"
    torch.save(network.state_dict(), path)
    return network, convert(path).model


def with_options(network, model, options):
    """The same weights behind another head."""
    network.norm_features = options["norm_features"]
    network.center_bias, network.pooling = options["center_bias"], options["pooling"]
    network.fc = None if options["without_fc"] else network.projection
    model.config = dataclasses.replace(model.config, **options)
    for name, gem in network.powers.items():
        plain = create_pooling(options["pooling"], 3)
        setattr(model, name, gem if options["pooling"] == "gem" else plain)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_converted_networks_equal_torch(pair, size, record_property):
    network, model = pair
    count = 1 if size[0] * size[1] > 500_000 else 2
    images = make_images(count, *size)
    with torch.no_grad():
        expected_maps = network.feature_maps(to_torch(images))
    maps = model.feature_maps(images)
    assert maps.keys() == expected_maps.keys()
    for name, expected in expected_maps.items():
        expected = expected.numpy().transpose(0, 2, 3, 1)
        error = np.abs(maps[name] - expected).max() / np.abs(expected).max()
        assert error < 1e-4, name
    network.projection = network.fc
    pools = ("adpool", "adpoolx5", "adpoolc4")
    network.powers = {name: getattr(model, name) for name in pools if hasattr(model, name)}
    original_maps, network.feature_maps = network.feature_maps, lambda images: expected_maps
    try:
        for options in OPTIONS:
            with_options(network, model, options)
            with torch.no_grad():
                expected = network(to_torch(images)).numpy().astype(np.float64)
            found = np.asarray(model.describe_maps(maps), np.float64)
            difference = np.abs(found - expected).max()
            cosine = np.sum(found * expected, 1) / np.linalg.norm(found, axis=1)
            cosine /= np.linalg.norm(expected, axis=1)
            assert difference <= 1e-5, options
            assert cosine.min() >= 1 - 1e-6, options
            found = (model.config.arch, options["pooling"], float(difference))
            record_property("difference", found)
    finally:
        network.feature_maps = original_maps
        with_options(network, model, OPTIONS[0])
