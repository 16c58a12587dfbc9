"""A batch loss over replicas, each of which compares its own rows with those of all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Terms = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`terms(own, everything, own_labels, all_labels) -> (numerator, denominator)`: two scalars, to be
summed over the replicas."""
Terms3 = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


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


def ratio_with_parameters(
    terms: Terms3, own: jax.Array, parameters: jax.Array, labels: jax.Array, axis_name: str | None
) -> jax.Array:
    """Σ numerators / Σ denominators, where rows meet parameters that every replica has whole.

    The gradient is exact for the replica's own rows. With respect to the parameters it is the
    replica's share: the sum over the replicas is the gradient of the one value.

    Args:
      terms: `terms(own, parameters, labels) -> (numerator, denominator)`, of one replica.
      own: (b, D), the rows of this replica.
      parameters: of any shape, the same on every replica.
      labels: (b,), the labels of the rows.
      axis_name: the axis of the replicas; None if there is a single one.
    """
    return _with_parameters(terms, axis_name, own, parameters, labels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_parameters(
    terms: Terms3, axis_name: str | None, own: jax.Array, parameters: jax.Array, labels: jax.Array
) -> jax.Array:
    numerator, denominator = _summed(terms(own, parameters, labels), axis_name)
    return numerator / jnp.maximum(denominator, 1e-16)


def _with_parameters_forward(
    terms: Terms3, axis_name: str | None, own: jax.Array, parameters: jax.Array, labels: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    numerator, pull_back, denominator = jax.vjp(
        lambda rows, shared: terms(rows, shared, labels), own, parameters, has_aux=True
    )
    gradients = pull_back(jnp.ones_like(numerator))
    numerator, denominator = _summed((numerator, denominator), axis_name)
    denominator = jnp.maximum(denominator, 1e-16)
    return numerator / denominator, (*gradients, denominator)


def _with_parameters_backward(
    terms: Terms3,
    axis_name: str | None,
    residuals: tuple[jax.Array, jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, None]:
    by_own, by_parameters, denominator = residuals
    factor = cotangent / denominator
    return factor * by_own, factor * by_parameters, None


def _summed(terms: tuple[jax.Array, jax.Array], axis_name: str | None) -> tuple[jax.Array, ...]:
    return terms if axis_name is None else jax.lax.psum(terms, axis_name)


_with_parameters.defvjp(_with_parameters_forward, _with_parameters_backward)
