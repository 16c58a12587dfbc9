"""A training step in three stages: ours, and the same written in PyTorch.

    python -m benchmarks.training_step --json training_step.json

ResNet-50, the AP loss, BatchNorm frozen, images of 224 × 224 in chunks of 8: descriptors without a
gradient, the loss's gradient by all descriptors, then each chunk again with its share of it.
`--long` adds a batch of 512, whose peak memory should be that of 64. Each call starts from the same
state; what is compared is the loss and two layers' change.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.network import (
    create_model,
    create_network,
    forward_flops,
    torch_device,
    torch_layout,
)
from benchmarks.side_by_side import Case, main

_BINS, _RATE = 20, 1.0
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A ReLU on whose kink the two fall on different sides changes what is below it.
_BOUND = 1e-2
_LAYERS = ("conv1.weight", "fc.weight")


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step trains: a batch of `count` square images, `side` pixels high, in chunks."""

    count: int
    chunk: int = 8
    side: int = 224
    arch: str = "resnet50_rmac"
    distinct: int = 1024  # the most images in memory; a batch of more has each several times

    @property
    def flops(self) -> float:
        """Forward twice, and backward as much as two forwards."""
        return 4 * self.count * forward_flops(self.arch, self.side, self.side)

    def batch(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The chunks, each (chunk, side, side, 3) uint8, and (count,) labels."""
        rng = np.random.default_rng(0)
        count = min(self.count, self.distinct)
        labels = np.arange(count, dtype=np.int32) % max(count // 4, 1)
        tiles = self.side // 16
        grid = rng.integers(0, 256, (max(count // 4, 1), tiles, tiles, 3), np.uint8)
        images = grid[labels].repeat(16, axis=1).repeat(16, axis=2)
        images ^= rng.integers(0, 64, images.shape, np.uint8)
        chunks = np.split(images, count // self.chunk)
        times = self.count // count
        return chunks * times, np.tile(labels, times)


def _result(loss: float, changes: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[loss], *(change.ravel() for change in changes)])


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The loss's difference, or the change's relative to its norm, whichever is the larger."""
    change = np.linalg.norm(a[1:] - b[1:]) / np.linalg.norm(a[1:])
    return float(max(abs(a[0] - b[0]), change))


def our_side(work: Step, dtype: str = "float32") -> Callable[[], Any]:
    """Our step."""
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
    model = create_model(work.arch, dtype)
    graphdef, params, stats = split_variables(model)
    optimizer, replicas = optax.sgd(_RATE), create_replicas("shard_map", jax.devices()[:1])
    step = ThreeStageStep(
        Forward(graphdef, _MEAN, _STD),
        functools.partial(listwise_average_precision_loss, num_bins=_BINS),
        optimizer,
        replicas,
        batch_size=work.count,
        chunk_size=work.chunk,
    )
    state = replicas.replicate(create_state(params, stats, optimizer, batch_norm="frozen"))
    before = {name: np.asarray(state.trained[_our_name(name)]) for name in _LAYERS}
    chunks, labels = work.batch()

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


def torch_side(work: Step, variant: str) -> Callable[[], Any]:
    """The same in PyTorch, in a variant of `network.torch_network`, of which it has no 'exact'."""
    import torch

    from tests.torch_reference.losses import average_precision_loss

    device = torch_device()
    layout = torch_layout(variant)
    network: Any = create_network(work.arch).to(device, memory_format=layout)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.requires_grad_(False)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    describe = torch.compile(network) if "compiled" in variant else network
    optimizer = torch.optim.SGD(trained.values(), lr=_RATE)
    chunks, labels = work.batch()
    autocast = functools.partial(
        torch.autocast, device.type, torch.bfloat16, enabled="bfloat16" in variant
    )
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (_MEAN, _STD))
    relevance = torch.from_numpy(np.equal.outer(labels, labels).astype(np.float32)).to(device)

    def prepare(chunk: np.ndarray) -> Any:
        x = torch.from_numpy(chunk).to(device).permute(0, 3, 1, 2).float() / 255
        return ((x - mean) / std).contiguous(memory_format=layout)

    def call() -> Any:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(before[name])
        optimizer.zero_grad()
        with torch.no_grad(), autocast():
            descriptors = torch.cat([describe(prepare(chunk)).float() for chunk in chunks])
        descriptors.requires_grad_()
        loss = average_precision_loss(descriptors @ descriptors.T, relevance, num_bins=_BINS)
        loss.backward()
        gradients: Any = descriptors.grad
        for chunk, gradient in zip(chunks, gradients.split(work.chunk), strict=True):
            with autocast():
                found = describe(prepare(chunk)).float()
            found.backward(gradient)
        optimizer.step()
        changes = [(trained[n].detach() - before[n]).cpu().numpy() for n in _LAYERS]
        return _result(loss.item(), changes)

    return call


def _case(count: int, *, long: bool) -> Case:
    work = Step(count)
    sides: dict[str, Callable[[], Callable[[], Any]]] = {
        "PyTorch eager": functools.partial(torch_side, work, "eager"),
        "PyTorch channels_last": functools.partial(torch_side, work, "channels_last"),
        "dir_jax": functools.partial(our_side, work),
    }
    return Case(
        f"batch {count} in chunks of {work.chunk}",
        sides,
        _difference,
        _BOUND,
        turns=0 if long else 5,
        work=("images", count),
        flops=lambda: work.flops,
        long=long,
    )


CASES = [_case(64, long=False), _case(512, long=True)]

main(__name__, __doc__, CASES)
