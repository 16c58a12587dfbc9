"""The floor under losses and layers, with PyTorch's convention for its derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def clamp_min(x: jax.Array, minimum: float) -> jax.Array:
    """max(x, minimum), whose derivative at equality is 1, as that of torch's `clamp(min=…)`.

    That of `jnp.maximum` is ½ there. Equality is no rare case: a bin that holds exactly one item,
    or a triplet that meets its margin exactly.

    >>> float(jax.grad(clamp_min)(0.0, 0.0)), float(jax.grad(jnp.maximum)(0.0, 0.0))
    (1.0, 0.5)
    """
    return jnp.where(x < minimum, minimum, x)
