"""The networks, forward: ours against PyTorch, eager as the original runs it and channels-last.

    python -m benchmarks.network --json network.json

Random weights, random images, the same on all sides; descriptors are compared. `bfloat16` is ours
with `dtype='bfloat16'` and PyTorch under autocast, compared with float32 by cosine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.side_by_side import Case, cosine_distance, largest_difference, main

_SIZES = ((1, 768, 1024), (8, 224, 224))
# Relative to entries of about 1 / √2048: what float32 leaves after a hundred layers.
_BOUND = 2e-5


def _images(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, height, width, 3), np.float32)


def create_network(arch: str) -> Any:
    """PyTorch's network, random weights."""
    from tests.torch_reference.networks import create_network
    from tests.torch_reference.weights import randomize

    network = create_network(arch)
    randomize(network, 1)
    return network.eval()


def create_model(arch: str, dtype: str = "float32") -> Any:
    """Ours, with the same weights."""
    from dir_jax import models
    from tests.torch_reference.weights import load_state_dict

    model = models.create_model(arch, dtype=dtype)
    load_state_dict(model, create_network(arch).state_dict())
    return model


def _torch(arch: str, size: tuple[int, int, int], variant: str) -> Callable[[], Any]:
    import torch

    network, images = create_network(arch), torch.from_numpy(_images(*size)).permute(0, 3, 1, 2)
    images = images.contiguous()
    if variant != "eager":
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

    def call() -> Any:
        bfloat16 = variant == "bfloat16"
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return network(images).float().numpy()

    return call


def _ours(arch: str, size: tuple[int, int, int], dtype: str) -> Callable[[], Any]:
    import jax

    from dir_jax.models.variables import merge_variables, split_variables

    graphdef, params, stats = split_variables(create_model(arch, dtype))
    describe = jax.jit(lambda params, stats, x: merge_variables(graphdef, params, stats)(x))
    arguments = jax.device_put((params, stats, _images(*size)))
    return lambda: np.asarray(describe(*arguments))


def _float32(arch: str, size: tuple[int, int, int]) -> Case:
    return Case(
        f"{arch} {' × '.join(map(str, size))}",
        {
            "PyTorch eager": functools.partial(_torch, arch, size, "eager"),
            "PyTorch channels_last": functools.partial(_torch, arch, size, "channels_last"),
            "dir_jax": functools.partial(_ours, arch, size, "float32"),
        },
        largest_difference,
        _BOUND,
        turns=7,
        work=("images", size[0]),
    )


def _bfloat16(arch: str, size: tuple[int, int, int]) -> Case:
    return Case(
        f"{arch} {' × '.join(map(str, size))} bfloat16",
        {
            "PyTorch eager float32": functools.partial(_torch, arch, size, "eager"),
            "PyTorch autocast channels_last": functools.partial(_torch, arch, size, "bfloat16"),
            "dir_jax": functools.partial(_ours, arch, size, "bfloat16"),
        },
        cosine_distance,
        0.01,
        turns=7,
        work=("images", size[0]),
    )


CASES = [
    *(_float32(arch, size) for arch in ("resnet50_rmac", "resnet101_rmac") for size in _SIZES),
    _bfloat16("resnet50_rmac", _SIZES[0]),
]

main(__name__, __doc__, CASES)
