"""Pooling and L2 against their definitions in float64, and at the edges of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dir_jax.models.layers import l2_normalize
from dir_jax.models.pooling import GeM, center_bias_map, create_pooling


def _gem(x, p):
    powers = np.maximum(x.astype(np.float64), 1e-6) ** p
    return np.mean(powers, axis=(1, 2)) ** (1 / p)


def _run_gem(x, p):
    layer = GeM(3)  # made while tracing, so that its power may be a traced one
    layer.p.set_value(p)
    return layer(x)


def _features(seed=0):
    x = np.random.default_rng(seed).standard_normal((3, 4, 5, 6), np.float32)
    x[0, :, :, 0] = 0  # a dead channel
    x[1, :, :, 1] = 2  # a constant one
    return np.maximum(x, 0)


@pytest.mark.parametrize("p", [1.0, 2.7, 3.0, 8.0, 30.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e5])
def test_gem_and_its_gradients_equal_the_definition(p, size):
    """Also where x^p itself would leave float32's range."""
    x = size * _features()
    weights = np.random.default_rng(1).standard_normal((3, 6))
    values, pull_back = jax.vjp(_run_gem, jnp.asarray(x), jnp.full(1, p, jnp.float32))
    assert values.dtype == jnp.float32
    expected = _gem(x, p)
    np.testing.assert_allclose(values, expected, rtol=2e-5)
    by_x, by_p = pull_back(jnp.asarray(weights, jnp.float32))

    clipped = np.maximum(x.astype(np.float64), 1e-6)
    inner = (clipped / expected[:, None, None]) ** (p - 1) / 20 * (x > 1e-6)
    np.testing.assert_allclose(by_x, weights[:, None, None] * inner, rtol=1e-4, atol=1e-6)
    step = 1e-4 * p
    slope = np.sum(weights * (_gem(x, p + step) - _gem(x, p - step))) / (2 * step)
    assert float(by_p[0]) == pytest.approx(slope, rel=1e-3, abs=1e-5 * size)


def test_gem_of_an_empty_map_has_a_gradient():
    for p in (3.0, 10.0):
        value, (by_x, by_p) = jax.value_and_grad(lambda x, p: _run_gem(x, p).sum(), argnums=(0, 1))(
            jnp.zeros((1, 2, 2, 3)), jnp.full(1, p)
        )
        assert float(value) == pytest.approx(3e-6)
        np.testing.assert_array_equal(by_x, 0)
        assert float(by_p[0]) == pytest.approx(0, abs=1e-9)


def test_maximum_and_average():
    x = _features()
    np.testing.assert_array_equal(create_pooling("max", 3)(x), x.max((1, 2)))
    np.testing.assert_allclose(create_pooling("avg", 3)(x), x.mean((1, 2)), rtol=1e-6)
    for name in ("max", "avg", "gem"):
        assert create_pooling(name, 3)(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.float32


def test_center_bias_map():
    """The 4×4 grid itself; the middle between its places; one place alone is the grid's first."""
    grid = np.ones((4, 4))
    grid[1:3, 1:3] = 3
    np.testing.assert_allclose(center_bias_map(2, 4, 4)[0, ..., 0], grid, rtol=1e-6)
    row = [1, 2, 3, 3, 3, 2, 1]
    np.testing.assert_allclose(center_bias_map(2, 4, 7)[0, 1, :, 0], row, rtol=1e-6)
    np.testing.assert_allclose(center_bias_map(2, 1, 1), [[[[1]]]])
    np.testing.assert_allclose(center_bias_map(2, 1, 7)[0, ..., 0], [[1] * 7])


def test_l2_normalisation_at_and_near_zero():
    x = jnp.array([[3e-13, 4e-13], [0, 0], [3, 4], [3e15, 4e15]])
    expected = [[0.3, 0.4], [0, 0], [0.6, 0.8], [0.6, 0.8]]  # a norm of 5e-13 counts as 1e-12
    np.testing.assert_allclose(l2_normalize(x), expected, rtol=1e-6)
    jacobian = jax.vmap(jax.jacobian(l2_normalize))(x)
    assert np.isfinite(jacobian).all()
    np.testing.assert_allclose(jacobian[1], 1e12 * np.eye(2), rtol=1e-5)
    np.testing.assert_allclose(jacobian[2], np.array([[0.64, -0.48], [-0.48, 0.36]]) / 5, rtol=1e-5)
