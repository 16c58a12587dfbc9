"""Pixels to input."""

import jax.numpy as jnp
import numpy as np

from dir_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize


def test_normalise():
    pixels = np.arange(2 * 16 * 8 * 3, dtype=np.uint8).reshape(2, 16, 8, 3)
    for mean, std in ((IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))):
        ours = normalize(pixels, mean, std)
        assert ours.dtype == jnp.float32
        expected = (pixels / 255 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)
