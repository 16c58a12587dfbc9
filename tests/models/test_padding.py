"""Images of several sizes in one padded array get the descriptors that each would get alone."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from dir_jax.models.pooling import create_pooling
from torch_reference.pairs import create_pair, make_images, to_torch

# At the 2048 values of the published descriptors. Alone and in a batch, a convolution's sums run in
# different orders, and that is all that differs.
DIM = 2048
ALONE = 2e-6
TORCH = 1e-5

SIZES = ((1, 1), (64, 96), (5, 90), (33, 47), (96, 7), (90, 96), (2, 2))
CANVAS = (96, 96)
HEADS = [
    {"pooling": pooling, "center_bias": bias}
    for pooling, bias in itertools.product(("gem", "max", "avg"), (0, 0.7))
]


def pad(images, canvas, junk):
    """Images at the top left of an array each, and `junk` around them."""
    padded = np.full((len(images), *canvas, 3), junk, np.float32)
    for row, image in zip(padded, images, strict=True):
        row[: image.shape[1], : image.shape[2]] = image[0]
    return padded, np.array([image.shape[1:3] for image in images], np.int32)


@torch.no_grad()
def describe(network, image):
    return network(to_torch(image)).numpy()


# Both kinds of block, and of pyramid: the others have more of the same layers.
@pytest.mark.parametrize("arch", ["resnet18_rmac", "resnet50_fpn_rmac", "resnet101_fpn0_rmac"])
def test_every_kind_of_network_describes_padded_images_as_each_alone(arch):
    network, model = create_pair(arch, out_dim=DIM)
    # The others' layers are no different; and each size is one more program, of 101 layers.
    some = {"resnet18_rmac": SIZES, "resnet50_fpn_rmac": SIZES[2:5]}.get(arch, SIZES[2:3])
    images = [make_images(1, *size, seed=i) for i, size in enumerate(some)]
    padded, sizes = pad(images, CANVAS, junk=3)
    gem = {name: getattr(model, name) for name in ("adpool", "adpoolx5", "adpoolc4")
           if hasattr(model, name)}  # fmt: skip
    feature_maps = nnx.jit(lambda m, x, s: m.feature_maps(x, s))
    maps = feature_maps(model, padded, sizes)
    for i, image in enumerate(images):
        alone = feature_maps(model, image, None)
        for head in HEADS[::2] if "fpn" in arch else HEADS:  # a pyramid has no centre bias
            model.config = dataclasses.replace(model.config, **head)
            for name, pooling in gem.items():
                plain = create_pooling(head["pooling"], 3)
                setattr(model, name, pooling if head["pooling"] == "gem" else plain)
            found = model.describe_maps(
                {name: x[i : i + 1] for name, x in maps.items()}, jnp.asarray(sizes[i : i + 1])
            )
            expected = model.describe_maps(alone)
            np.testing.assert_allclose(found, expected, rtol=0, atol=ALONE, err_msg=str(head))
            network.pooling, network.center_bias = head["pooling"], head["center_bias"]
            np.testing.assert_allclose(found, describe(network, image), rtol=0, atol=TORCH)


@pytest.mark.parametrize("arch", ["resnet18_rmac", "resnet18_fpn_rmac"])
def test_large_images_of_several_sizes(arch):
    """What grows with the size is what is summed over a map, which has no more blocks than two."""
    network, model = create_pair(arch, out_dim=DIM, center_bias=0 if "fpn" in arch else 0.3)
    images = [
        make_images(1, *size, seed=i) for i, size in enumerate([(1000, 800), (900, 17), (1, 1)])
    ]
    padded, sizes = pad(images, (1000, 800), junk=-2)
    found = nnx.jit(lambda m, x, s: m(x, s))(model, padded, sizes)
    for descriptor, image in zip(found, images, strict=True):
        alone = nnx.jit(lambda m, x: m(x))(model, image)[0]
        np.testing.assert_allclose(descriptor, alone, rtol=0, atol=ALONE)
        np.testing.assert_allclose(descriptor, describe(network, image)[0], rtol=0, atol=TORCH)


def test_what_padding_holds_does_not_matter():
    _, model = create_pair("resnet18_fpn_rmac")
    images = [make_images(1, 40, 70, seed=1), make_images(1, 64, 33, seed=2)]
    run = nnx.jit(lambda m, x, s: m(x, s))
    first, second = (run(model, *pad(images, (64, 80), junk)) for junk in (0, 1e6))
    np.testing.assert_array_equal(first, second)


def test_without_sizes_padding_is_part_of_the_image():
    """The test above can fail: padding counts unless it is masked."""
    _, model = create_pair("resnet18_rmac")
    padded, sizes = pad([make_images(1, 40, 70)], (64, 80), junk=0)
    run = nnx.jit(lambda m, *x: m(*x))
    whole, masked = run(model, padded), run(model, padded, sizes)
    assert np.abs(whole - masked).max() > 1e-3


def test_batch_statistics_refuse_padding():
    _, model = create_pair("resnet18_rmac")
    padded, sizes = pad([make_images(1, 40, 70)], (64, 80), junk=0)
    with pytest.raises(AssertionError):
        model(padded, sizes, use_running_average=False)
    with pytest.raises(AssertionError):
        model(padded, jnp.asarray(sizes, jnp.float32))
    assert jax.tree.leaves(nnx.state(model))  # the model is unharmed
