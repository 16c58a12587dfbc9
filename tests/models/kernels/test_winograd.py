"""3×3 convolutions in fewer multiplications: as exact as PyTorch's, value and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dir_jax.models.kernels import winograd
from torch_reference.pairs import to_torch

# Channels only multiply; what an uneven map does to the tiles is the same for all of them.
SHAPES = [((3, 5), size) for size in [(1, 1), (1, 7), (2, 2), (5, 4), (17, 20), (40, 33)]]
SHAPES += [((1, 1), (5, 4)), ((64, 96), (40, 33))]


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _torch(x, kernel, dtype):
    """PyTorch's convolution in another precision, and its gradients for a fixed cotangent."""
    x = to_torch(x).to(dtype).requires_grad_()
    kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1)).to(dtype).requires_grad_()
    y = torch.conv2d(x, kernel, padding=1)
    y.backward(to_torch(_random(*_nhwc(y).shape, seed=2)).to(dtype))
    return _nhwc(y), _nhwc(x.grad), kernel.grad.numpy().transpose(2, 3, 1, 0)


def _nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@jax.jit
def _ours(x, kernel, cotangent):
    """The convolution, and its gradients for a cotangent: as one program."""
    y, pull_back = jax.vjp(lambda x, kernel: winograd.convolve(x, kernel, "highest"), x, kernel)
    return y, *pull_back(cotangent)


@pytest.mark.parametrize(("channels", "shape"), SHAPES, ids=str)
def test_equals_the_convolution(channels, shape):
    x, kernel = _random(2, *shape, channels[0]), _random(3, 3, *channels, seed=1)
    exact = _torch(x, kernel, torch.float64)
    theirs = _torch(x, kernel, torch.float32)
    ours = _ours(x, kernel, _random(*exact[0].shape, seed=2))
    for found, plain, expected in zip(ours, theirs, exact, strict=True):
        # Rounding in other places: no more than a few times what PyTorch's own sums round. Where
        # those are of so few numbers that they round by chance, a few units in the last place.
        rounding = np.abs(plain - expected).max() + 4e-7 * np.abs(expected).max()
        assert np.abs(found - expected).max() <= 4 * rounding


@pytest.mark.parametrize("channels", [64, 256])
def test_gradients_in_bfloat16(channels):
    x, kernel = (
        jnp.asarray(v, jnp.bfloat16)
        for v in (_random(1, 20, 30, channels), _random(3, 3, channels, 8, seed=1))
    )
    exact = _torch(np.asarray(x, np.float32), np.asarray(kernel, np.float32), torch.float64)
    ours = _ours(x, kernel, jnp.asarray(_random(*exact[0].shape, seed=2), jnp.bfloat16))
    for found, expected in zip(ours, exact, strict=True):
        assert found.dtype == jnp.bfloat16
        # The cotangent is rounded, too: with the transforms and the result, 0.5 %.
        error = np.linalg.norm(np.asarray(found, np.float64) - expected)
        assert error <= 0.01 * np.linalg.norm(expected)


def test_small_maps_and_few_channels_stay_plain():
    assert winograd.is_faster((1, 64, 64, 64))
    assert not winograd.is_faster((1, 8, 8, 64))
    assert not winograd.is_faster((1, 64, 64, 32))
