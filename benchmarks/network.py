"""The networks, forward: ours against PyTorch, eager as the original runs it and at its best.

    python -m benchmarks.network --json network.json

Random weights, random images, the same on all sides; descriptors are compared. `bfloat16` is ours
with `dtype='bfloat16'` and PyTorch under autocast, compared with float32 by cosine. Sides use the
GPU where there is one, PyTorch's too if its build can. Ours runs with the allocator's settings that
our commands give themselves; PyTorch without, as its users have it, and once with.
"""

from __future__ import annotations

import functools
import importlib.util
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


def create_model(arch: str, dtype: str = "float32", precision: str = "highest") -> Any:
    """Ours, with the same weights; where there is no PyTorch to make them, with our own."""
    from dir_jax import models

    model = models.create_model(arch, dtype=dtype, precision=precision)
    if importlib.util.find_spec("torch"):
        from tests.torch_reference.weights import load_state_dict

        load_state_dict(model, create_network(arch).state_dict())
    return model


def forward_flops(arch: str, height: int, width: int) -> float:
    """Operations of an image's products and convolutions, a multiplication and an addition each."""
    from dir_jax.models.resnet import RESNETS

    variant = RESNETS[arch.removesuffix("_rmac")]
    sizes, expansion = variant.block.kernel_sizes, variant.block.expansion

    def halved(height: int, width: int) -> tuple[int, int]:
        return -(-height // 2), -(-width // 2)

    at = halved(height, width)
    products = at[0] * at[1] * 64 * 3 * 7 * 7
    at, features = halved(*at), 64
    for stage, depth in enumerate(variant.depths):
        for number in range(depth):
            before, narrow = features, 64 << stage
            strided = stage > 0 and number == 0
            for i, size in enumerate(sizes, start=1):
                previous, features = (
                    features,
                    narrow * (expansion if i == len(sizes) else 1),
                )
                at = halved(*at) if strided and i == variant.block.strided else at
                products += at[0] * at[1] * previous * features * size * size
            if strided or before != features:  # the shortcut has a convolution of its own
                products += at[0] * at[1] * before * features
    return 2.0 * (products + features * 2048)


def torch_device() -> Any:
    """PyTorch's GPU, or its CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_layout(variant: str) -> Any:
    """PyTorch's memory format of a variant, see `torch_network`."""
    import torch

    last = {"channels_last", "bfloat16", "compiled"} & set(variant.split())
    return torch.channels_last if last else torch.contiguous_format


def torch_network(arch: str, variant: str, *, dynamic: bool | None = None) -> Callable[[Any], Any]:
    """PyTorch's network as a function: (N, 3, H, W) float32 -> (N, D) float32 on its device.

    Args:
      arch: the architecture.
      variant: 'eager' as the original runs it, which on a GPU lets convolutions use TF32; or words
        of 'exact' (float32 indeed), 'channels_last', 'bfloat16' (autocast) and 'compiled', of which
        the last two are channels-last as well.
      dynamic: whether compilation is for any size of images.
    """
    import torch

    words, device, layout = variant.split(), torch_device(), torch_layout(variant)
    torch.backends.cudnn.benchmark = True  # as the original has it
    torch.backends.cudnn.allow_tf32 = "exact" not in words  # PyTorch's default is True
    network: Any = create_network(arch).to(device, memory_format=layout)
    if "compiled" in words:
        network = torch.compile(network, dynamic=dynamic)

    def describe(images: Any) -> Any:
        images = images.to(device, non_blocking=True, memory_format=layout)
        enabled = "bfloat16" in words
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            return network(images).float()

    return describe


def torch_side(
    arch: str, size: tuple[int, int, int], variant: str, *, at_once: int | None = None
) -> Callable[[], Any]:
    """PyTorch's side for images (N, H, W), of which it is given all, or some, at once."""
    import torch

    describe = torch_network(arch, variant)
    images = torch.from_numpy(_images(*size)).permute(0, 3, 1, 2).to(torch_device())
    images = images.contiguous(memory_format=torch_layout(variant))
    parts = images.split(at_once or len(images))
    return lambda: torch.cat([describe(part) for part in parts]).cpu().numpy()


def our_side(
    arch: str, size: tuple[int, int, int], dtype: str, precision: str = "highest"
) -> Callable[[], Any]:
    """Our side, for images (N, H, W)."""
    import jax

    from dir_jax.models.variables import merge_variables, split_variables
    from dir_jax.runtime.compiler import compiler_options

    graphdef, params, stats = split_variables(create_model(arch, dtype, precision))
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
            **{peer: functools.partial(torch_side, arch, size, way) for peer, way in peers.items()},
            "dir_jax": functools.partial(our_side, arch, size, dtype),
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
