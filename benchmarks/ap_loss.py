"""The average-precision losses, value and gradient: ours, and as PyTorch users write them.

    python -m benchmarks.ap_loss --json ap_loss.json

From scores, of N queries and as many items: the peer is the same formula as the original computes
it, bins by a 1×1 convolution and every count of every score kept for the gradient. From B
descriptors of 2048 values: the peer takes their products first. Where it does not fit in memory,
ours is measured alone. `--long` adds the largest batch, which takes two cores some minutes.
(`torch.compile` does not speed up the peer: at N = 1024, 0.58 s instead of 0.53 s.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.side_by_side import Case, main

_BINS, _WIDTH = 20, 2048
# The peer adds up counts of thousands in float32; seen: 2e-6.
_BOUND = 1e-4

FORMS = {
    "AP": ("average_precision_loss", {}),
    "AP of distances": ("average_precision_dist_loss", {}),
    "tie-aware AP": ("tie_aware_average_precision_loss", {}),
    "simplified tie-aware AP": ("tie_aware_average_precision_loss", {"simplified": True}),
}


def _scores(size: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(size) % (size // 8)  # eight images a class
    # Made without large temporaries: the peak before must be what is resident before.
    relevance = np.equal.outer(labels, labels).astype(np.float32)
    scores = np.random.default_rng(0).random((size, size), np.float32)
    scores *= scores
    return scores, relevance


def _descriptors(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of no negative entries, as a network's, that gather by label."""
    rng = np.random.default_rng(0)
    labels = np.arange(size) % (size // 8)
    centres = rng.random((size // 8, _WIDTH), np.float32)
    x = rng.random((size, _WIDTH), np.float32)
    for rows in np.array_split(np.arange(size), -(-size // 1024)):
        x[rows] = x[rows] ** 2 + 0.5 * centres[labels[rows]] ** 2
        x[rows] /= np.linalg.norm(x[rows], axis=1, keepdims=True)
    return x, labels.astype(np.int32)


def _sample(loss: Any, gradient: Any) -> np.ndarray:
    """The loss, and the gradient's first rows: what the sides are compared by."""
    gradient = gradient[:8]
    if hasattr(gradient, "cpu"):  # PyTorch's
        gradient = gradient.cpu()
    return np.concatenate([[float(loss)], np.asarray(gradient).ravel()])


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The loss's difference, or the gradient's relative to its norm, whichever is the larger."""
    gradient = np.linalg.norm(a[1:] - b[1:]) / np.linalg.norm(a[1:])
    return float(max(abs(a[0] - b[0]), gradient))


def _our_scores(size: int, form: str) -> Callable[[], Any]:
    import jax

    from dir_jax import losses

    name, options = FORMS[form]
    loss = functools.partial(getattr(losses, name), num_bins=_BINS, **options)
    # The relevance is an argument: as a constant it would be compiled into the program.
    step = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y)))
    x, y = jax.block_until_ready(jax.device_put(_scores(size)))
    return lambda: _sample(*jax.block_until_ready(step(x, y)))


def _torch_scores(size: int, form: str) -> Callable[[], Any]:
    import torch

    from benchmarks.network import torch_device
    from tests.torch_reference import losses

    name, options = FORMS[form]
    loss = getattr(losses, name.replace("_dist", ""))
    x, y = (torch.from_numpy(array).to(torch_device()) for array in _scores(size))
    x.requires_grad_()

    def call() -> Any:
        similarity = losses.by_distance(x) if "_dist" in name else x
        value = loss(similarity, y, num_bins=_BINS, **options)
        return _sample(value.detach(), torch.autograd.grad(value, x)[0])

    return call


def _our_descriptors(size: int) -> Callable[[], Any]:
    import jax

    from dir_jax.losses import listwise_average_precision_loss

    step = jax.jit(
        jax.value_and_grad(
            lambda x, labels: listwise_average_precision_loss(x, labels, num_bins=_BINS)
        )
    )
    x, labels = jax.block_until_ready(jax.device_put(_descriptors(size)))
    return lambda: _sample(*jax.block_until_ready(step(x, labels)))


def _torch_descriptors(size: int) -> Callable[[], Any]:
    import torch

    from benchmarks.network import torch_device
    from tests.torch_reference.losses import average_precision_loss

    descriptors, labels = _descriptors(size)
    x = torch.from_numpy(descriptors).to(torch_device()).requires_grad_()
    relevance = torch.from_numpy(np.equal.outer(labels, labels).astype(np.float32)).to(x.device)

    def call() -> Any:
        # An image's score with itself is a constant, as in our loss.
        scores = x @ x.T
        scores = scores - torch.diag(scores.diagonal() - scores.diagonal().detach())
        value = average_precision_loss(scores, relevance, num_bins=_BINS)
        return _sample(value.detach(), torch.autograd.grad(value, x)[0])

    return call


def _from_scores(form: str, size: int, calls: int) -> Case:
    return Case(
        f"{form}, N = {size}",
        {
            "PyTorch": functools.partial(_torch_scores, size, form),
            "dir_jax": functools.partial(_our_scores, size, form),
        },
        _difference,
        _BOUND,
        turns=3 if size < 4096 else 2,
        calls={"dir_jax": calls},
    )


def from_descriptors(size: int, *, alone: bool = False, long: bool = False) -> Case:
    """The loss and its gradient from descriptors; ours `alone` where the peer does not fit."""
    sides = {"PyTorch": _torch_descriptors, "dir_jax": _our_descriptors}
    if alone:
        del sides["PyTorch"]
    return Case(
        f"AP from {size} descriptors",
        {name: functools.partial(side, size) for name, side in sides.items()},
        _difference,
        _BOUND,
        turns=0 if long else 2,
        long=long,
    )


CASES = [
    *(_from_scores(form, 1024, 5) for form in FORMS),
    *(_from_scores(form, 4096, 3) for form in FORMS),
    from_descriptors(4096),
    from_descriptors(16384, alone=True),
    from_descriptors(65536, alone=True, long=True),
]

main(__name__, __doc__, CASES)
