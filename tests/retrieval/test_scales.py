"""Pooling of scales against its definition in float64."""

import numpy as np
import pytest

from dir_jax.errors import UserError
from dir_jax.retrieval.scales import pool_scales


def normalized(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def scales(count, rows=7, width=33):
    x = np.random.default_rng(count).standard_normal((count, rows, width))
    x[0, 0, :5] = 0
    return normalized(x.reshape(-1, width)).reshape(x.shape).astype(np.float32)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_mean(count):
    x = scales(count)
    expected = normalized(x.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(pool_scales(x, pooling="mean"), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("p", [1, 3, 2.5])
@pytest.mark.parametrize("count", [2, 3])
def test_generalised_mean_keeps_signs(count, p):
    def power(x, p):
        return np.sign(x) * np.maximum(np.abs(x), 1e-6) ** p

    x = scales(count)
    expected = normalized(power(power(x.astype(np.float64), p).mean(axis=0), 1 / p))
    found = np.asarray(pool_scales(x, pooling="gem", p=p))
    # Where powers of opposite signs cancel, the root magnifies what float32 leaves of them.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    assert np.median(np.abs(found - expected)) < 1e-7
    assert (found < 0).any()


@pytest.mark.parametrize("p", [1, 3, 2.5])
def test_cirtorch_clamps_nothing(p):
    """v = Σ xᵖ / n, v^(1/p), v / ‖v‖: at 2048 values, 8e-3 from what a clamp at 1e-6 gives."""
    x = np.abs(np.random.default_rng(0).standard_normal((3, 5, 2048))) ** 4
    x = (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
    expected = normalized((x.astype(np.float64) ** p).mean(axis=0) ** (1 / p))
    found = pool_scales(x, pooling="cirtorch", p=p)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)
    if p > 1:
        assert np.abs(pool_scales(x, pooling="gem", p=p) - expected).max() > 1e-3


def test_one_scale_is_only_normalised():
    x = 3 * scales(1)
    for pooling in ("gem", "mean"):
        np.testing.assert_allclose(pool_scales(x, pooling=pooling), x[0] / 3, rtol=0, atol=1e-7)


def test_nan_stays_in_its_row():
    x = scales(2)
    x[1, 3] = np.nan
    found = np.asarray(pool_scales(x))
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, 0)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "'max'"),
        ({"p": 0}, "above 0"),
        ({"p": float("nan")}, "above 0"),
        ({"p": float("inf")}, "at most 100"),
    ],
)
def test_refused(options, message):
    with pytest.raises(UserError, match=message):
        pool_scales(scales(2), **options)
    with pytest.raises(UserError, match="no descriptor"):
        pool_scales([])
