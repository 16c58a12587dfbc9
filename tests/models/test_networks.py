"""Whole networks against the PyTorch oracle: descriptors, options, gradients, training mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dir_jax.models import create_model
from dir_jax.models.variables import merge_variables, split_variables, statistics
from torch_reference.pairs import create_pair, describe, make_images, to_torch
from torch_reference.weights import load_state_dict

# The bound. Descriptors have 32 values of about 0.18, so it is one part in 20 000; float32
# gives 1e-6, and the bound would not survive a wrong epsilon, padding or stride.
TOLERANCE = 1e-5

# As one program each. All architectures are compared layer by layer, at four sizes, in
# tests/converters/test_equivalence.py.
SIZES = {
    "resnet18_rmac": [(33, 47), (96, 81), (7, 130)],
    "resnet50_rmac": [(64, 80)],
    "resnet18_fpn_rmac": [(33, 47), (96, 81), (7, 130)],  # 2×3 in 3×3 …: nearest, unevenly
    "resnet101_fpn0_rmac": [(33, 47)],
}


@pytest.mark.parametrize("arch", SIZES)
def test_descriptors_equal_torch(arch):
    network, model = create_pair(arch)
    run = nnx.jit(lambda m, x: m(x))
    for height, width in SIZES[arch]:
        images = make_images(3, height, width)
        ours = run(model, images)
        assert ours.shape == (3, 32)
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, describe(network, images), rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_feature_maps_equal_torch():
    network, model = create_pair("resnet50_rmac")
    images = make_images(2, 33, 47)
    ours = nnx.jit(lambda m, x: m.feature_maps(x))(model, images)
    with torch.no_grad():
        theirs = network.feature_maps(to_torch(images))
    assert set(ours) == set(theirs) == {"stem", "layer1", "layer2", "layer3", "layer4"}
    for name, expected in theirs.items():
        expected = expected.numpy().transpose(0, 2, 3, 1)
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "options",
    [
        {"norm_features": True},
        {"pooling": "max"},
        {"pooling": "avg"},
        {"pooling": "gem-any"},
        {"center_bias": 0.7},
        {"center_bias": 2, "pooling": "max"},
        {"without_fc": True},
        {"without_fc": True, "center_bias": 1, "norm_features": True},
        {"dropout_p": 0.4},  # in evaluation it does nothing
    ],
    ids=str,
)
def test_options_equal_torch(options):
    network, model = create_pair("resnet18_rmac", **options)
    for images, maps in plain_features():
        ours = model.describe_maps(maps)
        assert ours.shape == (3, 512 if options.get("without_fc") else 32)
        np.testing.assert_allclose(ours, describe(network, images), rtol=0, atol=TOLERANCE)
    # Not jitted as a whole: single convolutions compile once for all options.
    np.testing.assert_array_equal(model(images), ours)


@functools.cache
def plain_features():
    """Images of two sizes, and the features that no option changes: the last maps are 3×5, 1×2."""
    _, plain = create_pair("resnet18_rmac")
    sizes = ((70, 130), (20, 40))
    return [(x, plain.feature_maps(x)) for x in (make_images(3, *size) for size in sizes)]


@pytest.mark.parametrize(
    "options", [{"norm_features": True}, {"pooling": "max", "without_fc": True}, {"pooling": "avg"}]
)
def test_options_of_pyramids_equal_torch(options):
    network, model = create_pair("resnet18_fpn_rmac", **options)
    images = make_images(3, 70, 130)
    ours = nnx.jit(lambda m, x: m(x))(model, images)
    np.testing.assert_allclose(ours, describe(network, images), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("arch", "length"), [("resnet18_fpn_rmac", 768), ("resnet18_rmac", 2048)])
def test_length_of_a_descriptor_by_default(arch, length):
    assert create_model(arch).config.out_dim == length


def test_gemp_is_the_power_that_gem_starts_from():
    network, model = create_pair("resnet18_rmac")
    new = create_model("resnet18_rmac", out_dim=32, gemp=4.5)
    assert float(new.adpool.p[0]) == 4.5
    state = network.state_dict() | {"adpool.p": torch.tensor([4.5])}
    network.load_state_dict(state)
    load_state_dict(new, state)
    images = make_images(2, 64, 64)
    expected = describe(network, images)
    np.testing.assert_allclose(new(images), expected, rtol=0, atol=TOLERANCE)
    assert np.abs(model(images) - expected).max() > 100 * TOLERANCE


def gradient_error(arch, count, training, seed):
    """The largest difference to torch's gradient, each parameter's by its own scale."""
    network, model = create_pair(arch)
    images = make_images(count, 64, 72, seed)
    weights = np.random.default_rng(0).standard_normal((count, 32), np.float32)
    graphdef, params, stats = split_variables(model)

    @jax.jit
    def differentiate(params, images):
        def value(params):
            m = merge_variables(graphdef, params, stats)
            return jnp.sum(weights * m(images, use_running_average=not training)), statistics(m)

        return jax.grad(value, has_aux=True)(params)

    ours, new_stats = differentiate(params, images)
    network.train(training)
    (network(to_torch(images)) * torch.from_numpy(weights)).sum().backward()
    gradients = {k: p.grad for k, p in network.named_parameters()}
    buffers = dict(network.named_buffers())
    load_state_dict(model, {**gradients, **buffers})
    _, expected, expected_stats = split_variables(model)
    assert ours.keys() == expected.keys() == params.keys()
    for name, theirs in expected_stats.items():
        assert bool(np.any(theirs != stats[name])) == training
        np.testing.assert_allclose(new_stats[name], theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    assert all(np.abs(theirs).max() > 0 for theirs in expected.values())
    return max(
        np.abs(ours[name] - theirs).max() / np.abs(theirs).max()
        for name, theirs in expected.items()
    )


@pytest.mark.parametrize(
    ("arch", "count", "training"),
    [("resnet18_rmac", 6, False), ("resnet18_rmac", 6, True), ("resnet50_rmac", 2, False)],
)
def test_gradients_equal_torch(arch, count, training):
    """By every parameter: 1e-5 is usual. Where one of 10^6 activations is within rounding of a
    ReLU's kink, the two may take different sides, and the gradient differs by that place's share;
    so other images are tried. What is wrong is wrong for all of them."""
    assert any(gradient_error(arch, count, training, seed) <= 1e-4 for seed in range(4))


def test_training_mode_equals_torch():
    """Bottlenecks too: the descriptor, and the running statistics after two batches."""
    network, model = create_pair("resnet50_rmac")
    run = nnx.jit(lambda m, x: m(x, use_running_average=False))
    network.train()
    for seed in (0, 1):
        images = make_images(4, 64, 64, seed)
        np.testing.assert_allclose(
            run(model, images), describe(network, images), rtol=0, atol=TOLERANCE
        )
    after = statistics(model)
    load_state_dict(model, network.state_dict())
    for name, expected in statistics(model).items():
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=atol, err_msg=name)
