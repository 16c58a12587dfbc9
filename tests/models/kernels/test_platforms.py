"""Each operation takes the form for the platform of its program, on whatever machine it is lowered.

Lowering for a GPU needs no GPU, and what a GPU would run can be run here: the plain forms.
"""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dir_jax.models import create_model, kernels
from dir_jax.models.kernels import cpu, plain
from dir_jax.models.variables import merge_variables, split_variables
from torch_reference.pairs import create_pair, describe, make_images


def _random(*shape, dtype="float32", seed=0):
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return jnp.asarray(x, dtype)


def operations(function, *args, platform):
    """How often each operation is in the program that `function` lowers to on a platform."""
    text = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    return Counter(re.findall(r"stablehlo\.(\w+)", text))


def test_one_network_is_two_programs():
    """Winograd's products and those of 1×1 kernels on a CPU; convolutions alone on a GPU."""
    graphdef, params, stats = split_variables(create_model("resnet50_rmac", out_dim=8))

    def run(params, images):
        return merge_variables(graphdef, params, stats)(images)

    def gradient(params, images):
        return jax.grad(lambda p: run(p, images).sum())(params)

    images = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    for platform in ("cuda", "rocm", "tpu"):
        found = operations(run, params, images, platform=platform)
        assert found["convolution"] == 53
        assert found["dot_general"] == 1  # the projection
        assert found["reduce_window"] == 1
    found = operations(run, params, images, platform="cpu")
    # The first stage's 3×3 kernels are Winograd's: 16 products each. Of the other kernels the 36 of
    # 1×1 are one product each.
    assert found["dot_general"] == 1 + 3 * 16 + 36
    assert found["convolution"] == 53 - 3 - 36
    assert found["reduce_window"] == 0
    assert operations(gradient, params, images, platform="cuda")["select_and_scatter"] == 1
    assert operations(gradient, params, images, platform="cpu")["select_and_scatter"] == 0


def test_a_gpu_trains_by_convolutions_of_the_format_that_was_chosen():
    """Forward and both ways back, each once, with the gradients of BatchNorm's scales."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    for dtype, name in (("bfloat16", "bf16"), ("float32", "f32")):
        model = create_model("resnet18_rmac", out_dim=8, dtype=dtype)
        graphdef, params, stats = split_variables(model)

        def loss(params, images, graphdef=graphdef, stats=stats):
            return merge_variables(graphdef, params, stats)(images).sum()

        lowered = jax.jit(jax.grad(loss)).trace(params, images).lower(lowering_platforms=("cuda",))
        found = re.findall(
            r"stablehlo\.convolution.*: \(tensor<[\dx]*(\w+)>, tensor<[\dx]*(\w+)>\)",
            lowered.as_text(),
        )
        assert Counter(found) == {(name, name): 3 * 20 - 1}  # images have no gradient


def test_sums_of_products_are_for_bfloat16_on_a_cpu():
    x, kernel = _random(1, 9, 9, 128, dtype="bfloat16"), _random(3, 3, 128, 8)
    for dtype, platform, products in (
        ("bfloat16", "cpu", 9),
        ("bfloat16", "cuda", 0),
        ("float32", "cpu", 0),
    ):
        found = operations(kernels.convolve, x.astype(dtype), kernel, platform=platform)
        assert (found["dot_general"], found["convolution"]) == (products, not products)


# Name -> the operation, its two forms, arguments' shapes: each way that the CPU's form can take.
CASES = {
    "Winograd": (kernels.convolve, "convolve", {"stride": 1}, [(1, 40, 33, 64), (3, 3, 64, 8)]),
    "stride": (kernels.convolve, "convolve", {"stride": 2}, [(2, 17, 20, 5), (3, 3, 5, 4)]),
    "stem": (kernels.convolve, "convolve", {"stride": 2}, [(1, 33, 47, 3), (7, 7, 3, 4)]),
    "small map": (kernels.convolve, "convolve", {"stride": 1}, [(2, 2, 3, 5), (3, 3, 5, 4)]),
    "1×1": (kernels.convolve, "convolve", {"stride": 2}, [(2, 9, 12, 5), (1, 1, 5, 4)]),
    "1×1, scaled": (
        lambda x, kernel, factor, **options: kernels.convolve(x, kernel, factor=factor, **options),
        "convolve_scaled",
        {"stride": 2},
        [(2, 9, 12, 5), (1, 1, 5, 4), (4,)],
    ),
    "sum": (kernels.add_relu, "add_relu", {}, [(2, 3, 4, 8), (2, 3, 4, 8)]),
    "max-pool": (kernels.max_pool, "max_pool", {}, [(2, 17, 6, 3)]),
}


@pytest.mark.parametrize("name", CASES)
def test_both_forms_agree_and_so_do_their_gradients(name):
    operation, form, options, shapes = CASES[name]
    positional = (*options.values(), "highest") if options else ()
    arrays = [_random(*shape, seed=i) for i, shape in enumerate(shapes)]
    results = []
    for function in (
        functools.partial(operation, **options),
        lambda *a: getattr(cpu, form)(*a, *positional),
        lambda *a: getattr(plain, form)(*a, *positional),
    ):
        value, pull_back = jax.vjp(jax.jit(function), *arrays)
        results.append((value, *pull_back(_random(*value.shape, seed=9))))
    chosen, on_cpu, elsewhere = results
    for found, same, expected in zip(chosen, on_cpu, elsewhere, strict=True):
        np.testing.assert_allclose(found, same, rtol=0, atol=1e-6 * np.abs(same).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", [cpu.add_relu, plain.add_relu, kernels.add_relu])
def test_the_end_of_a_block_equals_torch(form):
    x, y = (np.array(_random(2, 3, 4, 8, seed=i)) for i in (0, 1))
    x[0, 0, 0, :4] = -y[0, 0, 0, :4]  # a sum of exactly 0 passes nothing on
    ours, pull_back = jax.vjp(form, x, y)
    theirs = [torch.from_numpy(v).requires_grad_() for v in (x, y)]
    expected = torch.relu(theirs[0] + theirs[1])
    np.testing.assert_array_equal(ours, expected.detach())
    weights = np.array(_random(2, 3, 4, 8, seed=2))
    expected.backward(torch.from_numpy(weights))
    for gradient, v in zip(pull_back(weights), theirs, strict=True):
        np.testing.assert_array_equal(gradient, v.grad)


def test_what_a_gpu_would_run_describes_as_torch_does(monkeypatch):
    """The whole network with the plain forms, run here."""
    network, model = create_pair("resnet50_rmac")
    for name in ("convolve", "convolve_scaled", "add_relu", "max_pool"):
        plainly = functools.partial(_plainly, getattr(plain, name))
        monkeypatch.setattr(kernels, f"_{name}", plainly)
    images = make_images(2, 96, 80)
    found = nnx.jit(lambda m, x: m(x))(model, images)
    assert operations(lambda x: model(x), images, platform="cpu")["dot_general"] == 1
    np.testing.assert_allclose(found, describe(network, images), rtol=0, atol=1e-5)


def _plainly(form, options, *arrays):
    return form(*arrays, *options)
