"""Checks of shapes, for what people call themselves: a ValueError that shows what was given."""

from __future__ import annotations

import jax
import numpy as np


def check_labelled(
    descriptors: jax.Array, labels: jax.Array | np.ndarray, what: str = "descriptors"
) -> None:
    """Raises ValueError unless the shapes are (N, D) and (N,); `what` names the first."""
    if descriptors.ndim != 2 or labels.shape != descriptors.shape[:1]:
        raise ValueError(
            f"{what} of shape {descriptors.shape} and labels of shape {labels.shape} do not go "
            "together; expected (N, D) and (N,)"
        )


def check_alike(**arrays: jax.Array) -> None:
    """Raises ValueError unless all arrays have one shape, of two dimensions."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"expected two dimensions and the same shape for all, found {found}")
