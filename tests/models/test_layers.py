"""Single layers: against torch where it has the same, and at the edges of their domain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dir_jax.models.layers import BatchNorm, Conv, dropout, max_pool, normalized
from torch_reference.pairs import to_torch


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _to_nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("shape", [(17, 20), (9, 12), (2, 2), (1, 6)], ids=str)
def test_convolution_and_its_gradients_equal_torch(size, stride, shape):
    rng = np.random.default_rng(0)
    layer = Conv(5, 4, size, stride, dtype="float32", precision="highest", rng=rng)
    x = _random(2, *shape, 5)
    theirs_x = to_torch(x).double().requires_grad_()
    kernel = torch.from_numpy(np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1).copy())
    kernel = kernel.double().requires_grad_()
    theirs = torch.conv2d(theirs_x, kernel, stride=stride, padding=size // 2)

    graphdef, params = nnx.split(layer)
    ours, pull_back = jax.vjp(lambda params, x: nnx.merge(graphdef, params)(x), params, x)
    np.testing.assert_allclose(ours, _to_nhwc(theirs), rtol=0, atol=1e-5)
    weights = _random(*ours.shape, seed=1)
    theirs.backward(to_torch(weights).double())
    by_params, by_x = pull_back(weights)
    np.testing.assert_allclose(by_x, _to_nhwc(theirs_x.grad), rtol=0, atol=1e-5)
    # Sums of up to 680 products, of size 50.
    np.testing.assert_allclose(
        by_params["kernel"][...], kernel.grad.numpy().transpose(2, 3, 1, 0), rtol=0, atol=5e-5
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1)])
def test_a_normalised_convolution_and_its_gradients_equal_torch(size, stride, training):
    rng = np.random.default_rng(0)
    conv = Conv(5, 4, size, stride, dtype="float32", precision="highest", rng=rng)
    norm = BatchNorm(4)
    values = {"scale": [1.0, -2, 0.5, 3], "bias": [0.0, 1, -1, 2], "mean": [0.1, 0, -0.2, 1]}
    for name, value in {**values, "var": [1.0, 0.5, 2, 3]}.items():
        getattr(norm, name).set_value(jnp.array(value))
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(5, 4, size, stride, size // 2, bias=False), torch.nn.BatchNorm2d(4)
    )
    theirs.load_state_dict(
        {
            "0.weight": torch.from_numpy(np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1).copy()),
            "1.weight": torch.from_numpy(np.array(norm.scale[...])),
            "1.bias": torch.from_numpy(np.array(norm.bias[...])),
            "1.running_mean": torch.from_numpy(np.array(norm.mean[...])),
            "1.running_var": torch.from_numpy(np.array(norm.var[...])),
        },
        strict=False,
    )
    theirs.train(training)
    x = _random(2, 9, 12, 5)
    theirs_x = to_torch(x).requires_grad_()
    expected = theirs(theirs_x)

    graphdef, params, stats = nnx.split((conv, norm), nnx.Param, ...)

    def function(params, x):
        conv, norm = nnx.merge(graphdef, params, stats, copy=True)
        return normalized(conv, norm, x, use_running_average=not training)

    ours, pull_back = jax.vjp(function, params, x)
    np.testing.assert_allclose(ours, _to_nhwc(expected), rtol=0, atol=2e-5)
    weights = _random(*ours.shape, seed=1)
    expected.backward(to_torch(weights))
    by_params, by_x = pull_back(weights)
    np.testing.assert_allclose(by_x, _to_nhwc(theirs_x.grad), rtol=0, atol=2e-5)
    by_kernel = theirs[0].weight.grad.numpy().transpose(2, 3, 1, 0)
    # Sums of 216 products, of size 50.
    for ours, expected in (
        (by_params[0]["kernel"], by_kernel),
        (by_params[1]["scale"], theirs[1].weight.grad),
        (by_params[1]["bias"], theirs[1].bias.grad),
    ):
        np.testing.assert_allclose(ours[...], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("channels", [6, 128])
def test_convolution_in_bfloat16_is_rounded_once(size, stride, channels):
    """Whichever way it takes: sums are float32, so it is the exact sum to a unit of its 8 bits."""
    rng = np.random.default_rng(0)
    layer = Conv(channels, 4, size, stride, dtype="bfloat16", precision="highest", rng=rng)
    x = jnp.asarray(_random(2, 25, 32, channels), jnp.bfloat16)
    kernel = jnp.asarray(layer.kernel[...], jnp.bfloat16)
    theirs = torch.conv2d(
        to_torch(np.asarray(x, np.float64)),
        torch.from_numpy(np.asarray(kernel, np.float64).transpose(3, 2, 0, 1)),
        stride=stride,
        padding=size // 2,
    )
    ours, expected = layer(x), _to_nhwc(theirs)
    assert ours.dtype == jnp.bfloat16
    ours = np.asarray(ours, np.float64)
    if size == 3 and stride == 1 and channels >= 64:
        # Winograd's way rounds what it transforms, too: 0.4 % in all, where the result alone has
        # 0.17 %.
        assert np.linalg.norm(ours - expected) <= 0.005 * np.linalg.norm(expected)
    else:
        np.testing.assert_allclose(ours, expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (8, 8), (17, 6)], ids=str)
def test_max_pooling_and_its_gradient_equal_torch(shape):
    x = _random(2, *shape, 3) - 5  # all negative: the padding must not win
    theirs_x = to_torch(x).requires_grad_()
    theirs = torch.max_pool2d(theirs_x, 3, 2, padding=1)
    ours, pull_back = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(ours, _to_nhwc(theirs))
    weights = _random(*ours.shape, seed=1)
    theirs.backward(to_torch(weights))
    np.testing.assert_allclose(pull_back(weights)[0], _to_nhwc(theirs_x.grad), rtol=0, atol=1e-6)


def test_max_pooling_shows_what_is_not_a_number():
    x = _random(1, 8, 8, 1)
    x[0, 4, 4, 0] = np.nan
    assert np.isnan(max_pool(x)[0, 2, 2, 0])


@pytest.mark.parametrize("count", [2, 6])
def test_batch_norm_in_training_equals_torch(count):
    """Far from zero mean, where a variance taken as E[x²] − E[x]² would lose its digits."""
    x = _random(count, 1, 3, 4) + np.float32([0, 1, 100, -1000])
    layer, theirs = BatchNorm(4), torch.nn.BatchNorm2d(4)
    layer.scale.set_value(jnp.array([1.0, -2, 0.5, 3]))
    layer.bias.set_value(jnp.array([0.0, 1, -1, 2]))
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([1, -2, 0.5, 3]))
        theirs.bias.copy_(torch.tensor([0.0, 1, -1, 2]))
    for _ in range(2):
        ours = layer(x, use_running_average=False)
        expected = _to_nhwc(theirs(to_torch(x)))
        # A mean of -1000 has 6e-5 of rounding in it.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-4)
        np.testing.assert_allclose(ours[..., :2], expected[..., :2], rtol=0, atol=2e-6)
    np.testing.assert_allclose(layer.mean[...], theirs.running_mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(layer.var[...], theirs.running_var, rtol=1e-4)
    theirs.eval()
    np.testing.assert_allclose(
        layer(x, use_running_average=True)[..., :2],
        _to_nhwc(theirs(to_torch(x)))[..., :2],
        rtol=0,
        atol=2e-6,
    )


def test_batch_norm_of_a_single_value():
    layer = BatchNorm(2)
    ours = layer(jnp.ones((1, 1, 1, 2)), use_running_average=False)
    np.testing.assert_array_equal(ours, 0)
    assert np.isfinite(layer.var[...]).all()


def test_batch_norm_of_bfloat16_keeps_its_statistics_in_float32():
    x = jnp.asarray(_random(64, 4, 4, 2) + 3, jnp.bfloat16)
    layer = BatchNorm(2)
    ours = layer(x, use_running_average=False)
    assert ours.dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(layer.mean[...], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5)
    expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(np.asarray(ours, np.float64), expected, rtol=0, atol=2e-5)


def test_dropout_keeps_the_mean():
    x = jnp.full((2, 100, 100, 8), 3.0)
    kept = dropout(x, jax.random.split(jax.random.key(0), 2), 0.4)
    np.testing.assert_allclose(np.unique(kept), [0, 3 / 0.6], rtol=1e-6)
    # Four standard errors of a share of 160 000 draws.
    assert np.mean(kept == 0) == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / kept.size))
    assert np.mean(kept[0] != kept[1]) == pytest.approx(2 * 0.24, abs=0.01)
