"""From our variables' names and layouts to torch's, and back: a rule, not a table.

Modules are called alike in both; only the leaves differ, and the order of a kernel's axes.
"""

from __future__ import annotations

import numpy as np

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def torch_name(name: str) -> str:
    """'layer1.0.bn1.scale' -> 'layer1.0.bn1.weight'."""
    owner, leaf = name.rsplit(".", 1)
    return f"{owner}.{_LEAVES.get(leaf, leaf)}"


def torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in torch of our array `name`."""
    return tuple(shape[axis] for axis in _axes(name, len(shape)))


def to_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Our array `name` as torch keeps it: kernels HWIO -> OIHW, and (in, out) -> (out, in)."""
    return np.ascontiguousarray(array.transpose(_axes(name, array.ndim)))


def from_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_layout`."""
    return np.ascontiguousarray(array.transpose(np.argsort(_axes(name, array.ndim))))


def _axes(name: str, ndim: int) -> tuple[int, ...]:
    return {2: (1, 0), 4: (3, 2, 0, 1)}[ndim] if name.endswith(".kernel") else tuple(range(ndim))
