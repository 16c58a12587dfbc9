"""Networks as flat dictionaries."""

import numpy as np
import pytest

from dir_jax.models import ModelConfig, RetrievalNetwork, create_model
from dir_jax.models.resnet import BASIC, Variant
from dir_jax.models.variables import (
    batch_norm_parameters,
    count_parameters,
    merge_variables,
    split_variables,
    statistics,
)


def test_names_follow_torch():
    _, params, stats = split_variables(create_model("resnet50_rmac", out_dim=8))
    expected = {
        "conv1.kernel": (7, 7, 3, 64),
        "bn1.scale": (64,),
        "layer1.0.conv3.kernel": (1, 1, 64, 256),
        "layer2.0.downsample.0.kernel": (1, 1, 256, 512),
        "layer2.0.downsample.1.bias": (512,),
        "layer4.2.bn2.bias": (512,),
        "adpool.p": (1,),
        "fc.kernel": (2048, 8),
        "fc.bias": (8,),
    }
    assert {k: params[k].shape for k in expected} == expected
    assert stats["layer3.5.bn3.var"].shape == (1024,)
    assert len(stats) == 2 * 53
    assert not any("downsample" in k for k in params if k.split(".")[1] != "0")
    assert not any("backbone" in k for k in params | stats)


@pytest.mark.parametrize(
    ("arch", "count"),
    [
        # torchvision's networks have 11 689 512, 25 557 032, 44 549 160 and 60 192 808 parameters,
        # 1000 · (features + 1) of them in the classifier.
        ("resnet18_rmac", 11_689_512 - 1000 * 513),
        ("resnet50_rmac", 25_557_032 - 1000 * 2049),
        ("resnet101_rmac", 44_549_160 - 1000 * 2049),
        ("resnet152_rmac", 60_192_808 - 1000 * 2049),
    ],
)
def test_number_of_parameters(arch, count):
    model = create_model(arch, without_fc=True)
    assert count_parameters(split_variables(model)[1]) == count + 1  # and GeM's power


def test_another_resnet_is_another_row():
    """ResNet-34, of which torchvision has 21 797 672 parameters, from the row that it would be."""
    variant = Variant(BASIC, (3, 4, 6, 3))
    model = RetrievalNetwork(
        ModelConfig("resnet34_rmac", without_fc=True), variant, rng=np.random.default_rng(0)
    )
    assert count_parameters(split_variables(model)[1]) == 21_797_672 - 1000 * 513 + 1
    assert model.descriptor_size == variant.features == 512


def test_split_and_merge_are_inverse():
    model = create_model("resnet18_rmac", out_dim=8, seed=5)
    graphdef, params, stats = split_variables(model)
    changed = {k: v + 1 for k, v in stats.items()}
    again = merge_variables(graphdef, params, changed)
    _, new_params, _ = split_variables(again)
    assert list(new_params) == list(params)
    for name, value in params.items():
        np.testing.assert_array_equal(new_params[name], value)
    for name, value in statistics(again).items():
        np.testing.assert_array_equal(value, changed[name])


def test_batch_norm_parameters():
    _, params, _ = split_variables(create_model("resnet18_rmac", out_dim=8))
    names = batch_norm_parameters(params)
    assert len(names) == 40
    assert names < set(params)
    assert {"bn1.scale", "layer2.0.downsample.1.bias"} < names
    assert "fc.bias" not in names
