"""The networks, forward: ours against PyTorch, eager as the original runs it and at its best.

    python -m benchmarks.network --json network.json

Random weights, random images, the same on all sides; descriptors are compared. `bfloat16` is ours
with `dtype='bfloat16'` and PyTorch under autocast, compared with float32 by cosine. Sides use the
GPU where there is one, PyTorch's too if its build can. Ours runs with the allocator's settings that
our commands give themselves; PyTorch without, as its users have it, and once with.
"""

from __future__ import annotations

import functools
import shutil
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


def forward_flops(arch: str, height: int, width: int) -> float:
    """Operations of an image's products and convolutions, a multiplication and an addition each."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tests.torch_reference.networks import create_network

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        create_network(arch).eval()(torch.empty(1, 3, height, width))
    return counter.get_total_flops()


def torch_device() -> Any:
    """PyTorch's GPU, or its CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _torch(arch: str, size: tuple[int, int, int], variant: str) -> Callable[[], Any]:
    import torch

    device = torch_device()
    network = create_network(arch).to(device)
    images = torch.from_numpy(_images(*size)).to(device).permute(0, 3, 1, 2).contiguous()
    if variant != "eager":
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if variant == "compiled":
        network = torch.compile(network)

    def call() -> Any:
        bfloat16 = variant == "bfloat16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            return network(images).float().cpu().numpy()

    return call


def _ours(arch: str, size: tuple[int, int, int], dtype: str) -> Callable[[], Any]:
    import jax

    from dir_jax.models.variables import merge_variables, split_variables
    from dir_jax.runtime.compiler import compiler_options

    graphdef, params, stats = split_variables(create_model(arch, dtype))
    describe = jax.jit(
        lambda params, stats, x: merge_variables(graphdef, params, stats)(x),
        compiler_options=compiler_options(jax.default_backend()),
    )
    arguments = jax.device_put((params, stats, _images(*size)))
    return lambda: np.asarray(describe(*arguments))


def _case(arch: str, size: tuple[int, int, int], dtype: str, turns: int = 7) -> Case:
    name = f"{arch} {' × '.join(map(str, size))}"
    peers = {"PyTorch eager": "eager", "PyTorch channels_last": "channels_last"}
    if dtype == "bfloat16":
        name += " bfloat16"
        peers = {"PyTorch eager float32": "eager", "PyTorch autocast channels_last": "bfloat16"}
    elif arch == "resnet50_rmac" and shutil.which("g++"):  # which its compilation needs
        peers["PyTorch compiled channels_last"] = "compiled"
    tuned = "PyTorch channels_last, our allocator settings"
    if arch == "resnet50_rmac" and dtype == "float32":
        peers[tuned] = "channels_last"
    return Case(
        name,
        {
            **{peer: functools.partial(_torch, arch, size, way) for peer, way in peers.items()},
            "dir_jax": functools.partial(_ours, arch, size, dtype),
        },
        largest_difference if dtype == "float32" else cosine_distance,
        _BOUND if dtype == "float32" else 0.01,
        turns=turns,
        work=("images", size[0]),
        tuned=("dir_jax", tuned),
        flops=lambda: size[0] * forward_flops(arch, *size[1:]),
    )


CASES = [
    *(_case("resnet50_rmac", size, "float32") for size in _SIZES),
    *(_case("resnet101_rmac", size, "float32", turns=5) for size in _SIZES),
    _case("resnet50_rmac", _SIZES[0], "bfloat16"),
    _case("resnet101_rmac", _SIZES[0], "bfloat16", turns=5),
]

main(__name__, __doc__, CASES)
