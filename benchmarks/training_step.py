"""A training step in three stages: ours, and the same written in PyTorch.

    python -m benchmarks.training_step --json training_step.json

ResNet-50, the AP loss, BatchNorm frozen, images of 224 × 224 in chunks of 8: descriptors without a
gradient, the loss's gradient by all descriptors, then each chunk again with its share of it.
`--long` adds a batch of 512, whose peak memory should be that of 64. Each call starts from the same
state; what is compared is the loss and two layers' change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.network import create_model, create_network, forward_flops, torch_device
from benchmarks.side_by_side import Case, main

_ARCH, _SIDE, _CHUNK, _BINS = "resnet50_rmac", 224, 8, 20
_RATE = 1.0
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A ReLU on whose kink the two fall on different sides changes what is below it.
_BOUND = 1e-2
_LAYERS = ("conv1.weight", "fc.weight")


def _batch(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int32) % (count // 4)
    grid = rng.integers(0, 256, (count // 4, 14, 14, 3), np.uint8)
    images = grid[labels].repeat(16, axis=1).repeat(16, axis=2)
    return images ^ rng.integers(0, 64, images.shape, np.uint8), labels


def _result(loss: float, changes: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[loss], *(change.ravel() for change in changes)])


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The loss's difference, or the change's relative to its norm, whichever is the larger."""
    change = np.linalg.norm(a[1:] - b[1:]) / np.linalg.norm(a[1:])
    return float(max(abs(a[0] - b[0]), change))


def _ours(count: int) -> Callable[[], Any]:
    import jax
    import optax

    from dir_jax.losses import listwise_average_precision_loss
    from dir_jax.models.variables import split_variables
    from dir_jax.runtime.compiler import set_up_jax
    from dir_jax.runtime.replicas import create_replicas
    from dir_jax.training.state import create_state
    from dir_jax.training.step import ThreeStageStep
    from dir_jax.training.three_stage import Forward

    set_up_jax("", asynchronous=False)  # as the command does
    model = create_model(_ARCH)
    graphdef, params, stats = split_variables(model)
    optimizer, replicas = optax.sgd(_RATE), create_replicas("shard_map", jax.devices()[:1])
    step = ThreeStageStep(
        Forward(graphdef, _MEAN, _STD),
        functools.partial(listwise_average_precision_loss, num_bins=_BINS),
        optimizer,
        replicas,
        batch_size=count,
        chunk_size=_CHUNK,
    )
    state = replicas.replicate(create_state(params, stats, optimizer, batch_norm="frozen"))
    before = {name: np.asarray(state.trained[_our_name(name)]) for name in _LAYERS}
    images, labels = _batch(count)
    chunks = images.reshape(-1, _CHUNK, _SIDE, _SIDE, 3)

    def call() -> Any:
        new, metrics = step(state, chunks, labels)
        jax.block_until_ready(new)
        changes = []
        for name in _LAYERS:
            change = np.asarray(new.trained[_our_name(name)]) - before[name]
            changes.append(change.transpose(3, 2, 0, 1) if change.ndim == 4 else change.T)
        return _result(float(metrics["loss"]), changes)

    return call


def _our_name(name: str) -> str:
    return name.replace("weight", "kernel")


def _torch(count: int, variant: str) -> Callable[[], Any]:
    import torch

    from tests.torch_reference.losses import average_precision_loss

    device = torch_device()
    layout = torch.channels_last if variant == "channels_last" else torch.contiguous_format
    network = create_network(_ARCH).to(device, memory_format=layout)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=_RATE)
    images, labels = _batch(count)
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (_MEAN, _STD))
    relevance = torch.from_numpy(np.equal.outer(labels, labels).astype(np.float32)).to(device)

    def prepare(chunk: np.ndarray) -> Any:
        x = torch.from_numpy(chunk).to(device).permute(0, 3, 1, 2).float() / 255
        return ((x - mean) / std).contiguous(memory_format=layout)

    def call() -> Any:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(before[name])
        chunks = np.split(images, count // _CHUNK)
        optimizer.zero_grad()
        with torch.no_grad():
            descriptors = torch.cat([network(prepare(chunk)) for chunk in chunks])
        descriptors.requires_grad_()
        loss = average_precision_loss(descriptors @ descriptors.T, relevance, num_bins=_BINS)
        loss.backward()
        gradients: Any = descriptors.grad
        for chunk, gradient in zip(chunks, gradients.split(_CHUNK), strict=True):
            network(prepare(chunk)).backward(gradient)
        optimizer.step()
        changes = [(trained[n].detach() - before[n]).cpu().numpy() for n in _LAYERS]
        return _result(loss.item(), changes)

    return call


def _case(count: int, *, long: bool) -> Case:
    sides: dict[str, Callable[[], Callable[[], Any]]] = {
        "PyTorch eager": functools.partial(_torch, count, "eager"),
        "PyTorch channels_last": functools.partial(_torch, count, "channels_last"),
        "dir_jax": functools.partial(_ours, count),
    }
    return Case(
        f"batch {count} in chunks of {_CHUNK}",
        sides,
        _difference,
        _BOUND,
        turns=0 if long else 5,
        work=("images", count),
        # Forward twice, and backward as much as two forwards.
        flops=lambda: 4 * count * forward_flops(_ARCH, _SIDE, _SIDE),
        long=long,
    )


CASES = [_case(64, long=False), _case(512, long=True)]

main(__name__, __doc__, CASES)
