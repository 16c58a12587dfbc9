"""Random weights under which a network still tells images apart, and their way into ours."""

from __future__ import annotations

import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from dir_jax.models.variables import merge_variables, split_variables


@torch.no_grad()
def randomize(network, seed=0):
    """Gives a torch network random parameters and BatchNorm statistics, in place.

    Statistics drawn from thin air would let a deep residual network's activations explode or die,
    and then every image has the same descriptor, whatever a network computes. So they are those of
    noise images, off by a random amount each; a third of the scales are negative; and the
    projection's bias removes most of what all descriptors have in common.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low, high):
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    images = torch.randn(8, 3, 8, 8, generator=generator)  # coarse, so that they differ
    images = nn.functional.interpolate(images, (64, 64), mode="bicubic")
    norms = {k: m for k, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            module.weight.normal_(0, (2 / fan_out) ** 0.5, generator=generator)
    for name, norm in norms.items():
        # A block's last scale is small, as in trained networks: its shortcut dominates.
        block, _, leaf = name.rpartition(".")
        last = leaf == "bn3" or (leaf == "bn2" and f"{block}.bn3" not in norms)
        size = uniform(norm.weight, 0.2, 0.5) if last else uniform(norm.weight, 0.5, 1.5)
        negative = torch.rand(size.shape, generator=generator) < 1 / 3
        norm.weight.copy_(torch.where(negative, -size, size))
        norm.bias.copy_(0.2 * torch.randn(size.shape, generator=generator))
        norm.momentum = None  # the plain average, of one batch
        norm.reset_running_stats()
    was_training = network.training
    network.train()
    network.feature_maps(images)
    network.train(was_training)
    for norm in norms.values():
        norm.momentum = 0.1
        deviation = norm.running_var.sqrt()
        norm.running_mean += 0.2 * deviation * torch.randn(deviation.shape, generator=generator)
        norm.running_var *= uniform(deviation, 0.5, 2)
    for name, power in network.named_parameters():
        if name.endswith(".p"):
            power *= uniform(power, 0.8, 1.2)
    if network.fc is not None:  # last, so that the rest is the same without it
        bound = network.fc.in_features**-0.5
        network.fc.weight.uniform_(-bound, bound, generator=generator)
        pooled = []
        hook = network.fc.register_forward_pre_hook(lambda _, args: pooled.append(args[0]))
        network(images)
        hook.remove()
        common = pooled[0].mean(0) @ network.fc.weight.T
        network.fc.bias.copy_(common * uniform(common, -1.2, -0.8))


def load_state_dict(model, state_dict):
    """Puts a torch network's `state_dict()` into ours, in place; every variable must be in it."""
    graphdef, params, stats = split_variables(model)
    loaded = {}
    for name, value in state_dict.items():
        path, _, leaf = name.rpartition(".")
        array = value.numpy()
        if leaf == "num_batches_tracked":
            continue
        if leaf == "weight":
            order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
            array, leaf = array.transpose(order), "scale" if array.ndim == 1 else "kernel"
        leaf = {"running_mean": "mean", "running_var": "var"}.get(leaf, leaf)
        loaded[f"{path}.{leaf}"] = jnp.array(array)  # a copy: torch goes on changing its own
    variables = {**params, **stats}
    shapes = {k: v.shape for k, v in variables.items()}
    if shapes != {k: v.shape for k, v in loaded.items()}:
        raise ValueError("the two networks have different variables")
    new = merge_variables(graphdef, {k: loaded[k] for k in params}, {k: loaded[k] for k in stats})
    nnx.update(model, nnx.state(new))
