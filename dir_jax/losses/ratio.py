"""A batch loss over replicas, each of which compares its own rows with those of all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Terms = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`terms(own, everything, own_labels, all_labels) -> (numerator, denominator)`: two scalars, to be
summed over the replicas."""


def ratio_over_replicas(
    terms: Terms, own: jax.Array, labels: jax.Array, axis_name: str | None
) -> jax.Array:
    """Σ numerators / Σ denominators over all replicas, with an exact gradient for the own rows.

    Differentiating the plain sum over an axis gives different gradients under pmap and shard_map,
    since every replica's copy of the value would be differentiated. Here the gradient is that of
    the one value: a row's part as a query, on its own replica, and as an item, on all of them.

    Args:
      terms: gives the two scalars of one replica. The numerator can be differentiated with respect
        to `own` and `everything`; the denominator is a count.
      own: (b, D), the rows of this replica.
      labels: (b,), their labels.
      axis_name: the axis of the replicas; None if there is a single one.

    Returns:
      (), the same on every replica; 0 where the denominators add up to 0.
    """
    if axis_name is None:
        numerator, denominator = terms(own, own, labels, labels)
        return numerator / jnp.maximum(jax.lax.stop_gradient(denominator), 1e-16)
    return _ratio(terms, axis_name, own, labels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ratio(terms: Terms, axis_name: str, own: jax.Array, labels: jax.Array) -> jax.Array:
    everything, all_labels = jax.lax.all_gather((own, labels), axis_name, tiled=True)
    numerator, denominator = jax.lax.psum(terms(own, everything, labels, all_labels), axis_name)
    return numerator / jnp.maximum(denominator, 1e-16)


def _ratio_forward(
    terms: Terms, axis_name: str, own: jax.Array, labels: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    everything, all_labels = jax.lax.all_gather((own, labels), axis_name, tiled=True)
    numerator, pull_back, denominator = jax.vjp(
        lambda rows, items: terms(rows, items, labels, all_labels), own, everything, has_aux=True
    )
    by_own, by_everything = pull_back(jnp.ones_like(numerator))
    by_items = jax.lax.psum_scatter(by_everything, axis_name, tiled=True)
    numerator, denominator = jax.lax.psum((numerator, denominator), axis_name)
    denominator = jnp.maximum(denominator, 1e-16)
    return numerator / denominator, (by_own + by_items, denominator)


def _ratio_backward(
    terms: Terms, axis_name: str, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, None]:
    gradient, denominator = residuals
    return gradient * (cotangent / denominator), None


_ratio.defvjp(_ratio_forward, _ratio_backward)
