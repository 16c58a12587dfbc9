"""Pairs of networks, torch's and ours, with the same random weights, and images to compare on."""

from __future__ import annotations

import functools

import numpy as np
import torch

from dir_jax.models import create_model
from torch_reference.networks import create_network
from torch_reference.weights import load_state_dict, randomize


def make_images(count, height, width, seed=0):
    """Squares of flat colour under noise: (count, height, width, 3) float32, normalised.

    The left half has no noise, so that max-pooling meets equal values.
    """
    rng = np.random.default_rng(seed)
    grid = rng.standard_normal((count, -(-height // 8), -(-width // 8), 3), np.float32)
    images = grid.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    noise = rng.standard_normal(images.shape, np.float32)
    noise[:, :, : width // 2] = 0
    return images + 0.5 * noise


@functools.cache
def _random_state_dict(arch, seed, **options):
    network = create_network(arch, **options)
    randomize(network, seed)
    return network.state_dict()


def create_pair(arch, *, seed=1, dtype="float32", out_dim=32, **options):
    """(torch network, ours), with descriptors of `out_dim` values; `dtype` is of ours."""
    options["out_dim"] = out_dim
    network = create_network(arch, **options)
    network.load_state_dict(_random_state_dict(arch, seed, **options))
    model = create_model(arch, dtype=dtype, **options)
    load_state_dict(model, network.state_dict())
    return network, model


def to_torch(images):
    """(N, H, W, C) -> (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


@torch.no_grad()
def describe(network, images):
    """A torch network's descriptors of (N, H, W, 3) images; they must tell the images apart.

    A network that maps all images to nearly the same vector would agree with anything.
    """
    descriptors = network(to_torch(images)).numpy()
    cosines = descriptors @ descriptors.T
    assert np.max(cosines[~np.eye(len(cosines), dtype=bool)]) < 0.98
    return descriptors
