"""What holds of a network besides its numbers: structure, options, dropout, precision, errors."""

import dataclasses
import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dir_jax.errors import UserError
from dir_jax.models import ModelConfig, create_model
from dir_jax.models.variables import merge_variables, split_variables, statistics
from torch_reference.pairs import create_pair, describe, make_images


def test_training_leaves_the_caller_s_arrays_alone():
    """A network put together from NumPy arrays, as from a checkpoint, does not write into them."""
    graphdef, params, stats = split_variables(create_model("resnet18_rmac", out_dim=4))
    stats = {k: np.array(v) for k, v in stats.items()}
    before = {k: v.copy() for k, v in stats.items()}
    model = merge_variables(graphdef, params, stats)
    model(make_images(2, 32, 32), use_running_average=False)
    for name, value in statistics(model).items():
        np.testing.assert_array_equal(stats[name], before[name])
        assert np.abs(value - before[name]).max() > 0


def test_dropout_is_by_image():
    """A mask depends on the image's key, not on what else is in the batch."""
    _, model = create_pair("resnet18_rmac", dropout_p=0.5)
    images = make_images(4, 64, 64)
    keys = jax.random.split(jax.random.key(0), 4)
    whole = model(images, dropout_keys=keys)
    halves = [model(images[i : i + 2], dropout_keys=keys[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(whole, np.concatenate(halves), rtol=0, atol=1e-6)
    assert np.abs(whole - model(images)).max() > 0.01
    same = model(images[[0, 0]], dropout_keys=keys[:2])
    assert np.abs(same[0] - same[1]).max() > 0.01


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    images = make_images(4, 64, 64)
    network, model = create_pair("resnet18_rmac", dtype="bfloat16")
    _, params, stats = split_variables(model)
    assert {v.dtype for v in (params | stats).values()} == {jnp.dtype("float32")}

    def value(model):
        maps = model.feature_maps(images)
        ours = model.describe_maps(maps)
        return ours[:, 0].sum(), (maps, ours)

    gradient, (maps, ours) = nnx.jit(nnx.grad(value, has_aux=True))(model)
    assert {v.dtype for v in maps.values()} == {jnp.dtype("bfloat16")}
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    cosines = np.sum(ours * describe(network, images), axis=1)
    assert cosines.min() > 0.999
    leaves = jax.tree.leaves(gradient)
    assert {v.dtype for v in leaves} == {jnp.dtype("float32")}
    assert all(np.isfinite(v).all() for v in leaves)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("options", "expected"), [({}, "HIGHEST"), ({"precision": "default"}, "DEFAULT")]
)
def test_every_product_has_the_precision_asked_for(options, expected, platform):
    """Forward and backward; what a GPU then does with it (TF32 or not) a CPU cannot show."""
    graphdef, params, stats = split_variables(create_model("resnet50_rmac", out_dim=8, **options))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    gradient = jax.grad(lambda p, x: merge_variables(graphdef, p, stats)(x).sum(), argnums=(0, 1))
    program = jax.jit(gradient).trace(params, images).lower(lowering_platforms=(platform,))
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", program.as_text())
    # 53 convolutions and the projection, each with two gradients; a gradient may repeat its
    # convolution's value, which the compiler then drops.
    assert len(products) >= 3 * 54
    for line in products:
        found = re.search(r"precision(?:_config)? = \[(.*?)\]", line)
        names = set(re.findall("[A-Z]+", found[1])) if found else {"DEFAULT"}
        assert names == {expected}, line


def test_structure_is_static_and_splits_into_parameters_and_statistics():
    """Two networks of one configuration share compiled programs; nothing else is left over."""
    first, second = (create_model("resnet18_rmac", seed=s, out_dim=8) for s in (0, 1))
    graphdef, params, stats = nnx.split(first, nnx.Param, nnx.BatchStat)  # or it raises
    other, _, _ = nnx.split(second, nnx.Param, nnx.BatchStat)
    assert graphdef == other
    assert hash(graphdef) == hash(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = jax.jit(lambda g, p, s, x: nnx.merge(g, p, s)(x), static_argnums=0)
        images = make_images(1, 32, 32)
        once = run(graphdef, params, stats, images)
        twice = run(other, params, stats, images)
    np.testing.assert_array_equal(once, twice)
    assert run._cache_size() == 1


def test_configuration_rebuilds_the_network():
    options = {"gemp": 2.5, "norm_features": True, "dropout_p": 0.1, "dtype": "bfloat16"}
    model = create_model("resnet18_rmac", out_dim=8, center_bias=1, **options)
    read = json.loads(json.dumps(dataclasses.asdict(model.config)))
    again = create_model(**read)
    assert again.config == model.config == ModelConfig("resnet18_rmac", 8, center_bias=1, **options)
    assert hash(again.config) == hash(model.config)
    assert nnx.graphdef(again) == nnx.graphdef(model)
    abstract = nnx.eval_shape(lambda: create_model(**read))
    _, params, _ = split_variables(model)
    _, shapes, _ = split_variables(abstract)
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in shapes.items()}


def test_initial_weights_have_their_distributions_and_follow_the_seed():
    def variables(seed):
        _, params, stats = split_variables(create_model("resnet18_rmac", seed=seed, out_dim=64))
        return params | stats

    first, again, other = variables(3), variables(3), variables(4)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        leaf = name.rsplit(".", 1)[1]
        if leaf == "kernel" and value.ndim == 4:  # He, fan out
            expected = np.sqrt(2 / (value.shape[0] * value.shape[1] * value.shape[3]))
            error = 4 / np.sqrt(2 * value.size)  # four standard errors of a standard deviation
            assert np.std(value) == pytest.approx(expected, rel=error), name
            assert abs(np.mean(value)) < 4 * expected / np.sqrt(value.size), name
        elif name == "fc.kernel":  # uniform in ± 1 / √512, then each output's weights centred
            assert np.std(value) * np.sqrt(3 * 512) == pytest.approx(1, rel=0.02)
            assert 0.9 < np.abs(value).max() * np.sqrt(512) < 1.2
            np.testing.assert_allclose(value.mean(axis=0), 0, atol=1e-8)
        else:
            expected = {"scale": 1, "bias": 0, "mean": 0, "var": 1, "p": 3}[leaf]
            np.testing.assert_array_equal(value, expected)
            continue
        assert np.abs(value - other[name]).max() > 0, name
    names = ("layer1.0.conv1.kernel", "layer1.0.conv2.kernel")
    assert np.abs(first[names[0]] - first[names[1]]).max() > 0


@pytest.mark.parametrize(
    ("arch", "options", "words"),
    [
        ("resnet19_rmac", {}, ["'resnet19_rmac'", "resnet152_rmac", "did you mean resnet1"]),
        ("", {}, ["''", "resnet18_rmac"]),
        ("resnet18_rmac", {"pooling": "mean"}, ["'mean'", "'gem', 'max', 'avg'"]),
        ("resnet18_rmac", {"pooling": None}, ["pooling is None"]),
        ("resnet18_rmac", {"outdim": 3}, ["'outdim'", "out_dim"]),
        ("resnet18_rmac", {"out_dim": 0}, ["out_dim is 0", "from 1 to 65,536"]),
        ("resnet18_rmac", {"out_dim": 2.5}, ["out_dim is 2.5", "whole"]),
        ("resnet18_rmac", {"gemp": 0}, ["gemp is 0"]),
        ("resnet18_rmac", {"gemp": float("nan")}, ["gemp is nan"]),
        ("resnet18_rmac", {"gemp": "3"}, ["gemp is '3'"]),
        ("resnet18_rmac", {"center_bias": -1}, ["center_bias is -1"]),
        ("resnet18_rmac", {"dropout_p": 1}, ["dropout_p is 1", "[0, 1)"]),
        ("resnet18_rmac", {"without_fc": "no"}, ["without_fc is 'no'", "True or False"]),
        ("resnet18_rmac", {"dtype": "float16"}, ["'float16'", "'bfloat16'"]),
        ("resnet18_rmac", {"precision": "tf32"}, ["'tf32'", "'default'"]),
    ],
)
def test_bad_options_are_refused(arch, options, words):
    with pytest.raises(UserError) as caught:
        create_model(arch, **options)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "images", [np.zeros((1, 32, 32, 3), np.uint8), np.zeros((32, 32, 3)), np.zeros((1, 3, 32, 32))]
)
def test_wrong_images_are_refused(images):
    with pytest.raises(AssertionError):
        create_model("resnet18_rmac", out_dim=4)(jnp.asarray(images))
