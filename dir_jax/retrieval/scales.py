"""One descriptor of an image from its descriptors at several scales."""

from __future__ import annotations

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from dir_jax.errors import UserError

SCALE_POOLINGS = ("gem", "mean", "cirtorch")
_LARGEST_POWER = 100  # few numbers below 1 have a larger power that is not 0
_EPSILON = 1e-6  # the least magnitude, as in generalised-mean pooling of activations


def pool_scales(
    descriptors: Sequence[jax.typing.ArrayLike], *, pooling: str = "gem", p: float = 3
) -> jax.Array:
    """Pools descriptors of the same images at several scales, and normalises.

    'mean' is their mean. 'gem', as in Deep Image Retrieval, is a generalised mean that keeps signs,
    f(mean(f(x, p)), 1 / p) with f(x, p) = sign(x) · max(|x|, 1e-6)^p. 'cirtorch', as in CNN Image
    Retrieval in PyTorch, is the same with f(x, p) = sign(x) · |x|^p. A single scale is only
    normalised.

    Args:
      descriptors: one (N, D) array for each scale.
      pooling: 'gem', 'mean' or 'cirtorch'.
      p: the power of 'gem' and 'cirtorch', above 0 and at most 100.

    Returns:
      (N, D) float32, of unit norm (x / max(‖x‖, 1e-12)).

    Raises:
      UserError: the pooling is unknown, the power is out of range, or there is no scale.
    """
    if pooling not in SCALE_POOLINGS:
        known = ", ".join(SCALE_POOLINGS)
        raise UserError(f"{pooling!r} is not a pooling of scales; choose from {known}")
    if not 0 < p <= _LARGEST_POWER:
        raise UserError(
            f"the power of pooling scales is {p!r}; it must be above 0 and at most {_LARGEST_POWER}"
        )
    scales = [jnp.asarray(x, jnp.float32) for x in descriptors]
    if not scales:
        raise UserError("there is no descriptor to pool")
    chex.assert_rank(scales, 2)
    chex.assert_equal_shape(scales)
    if len(scales) == 1:
        x = scales[0]
    elif pooling == "mean":
        x = sum(scales[1:], scales[0]) / len(scales)
    else:
        least = _EPSILON if pooling == "gem" else 0
        powers = [_signed_power(x, p, least) for x in scales]
        x = _signed_power(sum(powers[1:], powers[0]) / len(scales), 1 / p, least)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _signed_power(x: jax.Array, p: float, least: float) -> jax.Array:
    return jnp.sign(x) * jnp.maximum(jnp.abs(x), least) ** p
