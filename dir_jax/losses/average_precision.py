"""Average precision of given scores, made differentiable: AP-GeM's loss.

Revaud et al., "Learning with Average Precision: Training Image Retrieval with a Listwise Loss",
ICCV 2019 (arXiv 1906.07589). The tie-aware form is from Cakir et al., CVPR 2019.

All are pure functions that can be jitted, differentiated, vmapped and run under pmap or shard_map.
The derivative with respect to the scores is written by hand, and needs no more memory than they do.

Three items, the second of them irrelevant: the precision is 1/1 at the first and 2/3 at the third.

>>> scores, relevance = jnp.array([[0.75, 0.5, 0.25]]), jnp.array([[1, 0, 1]])
>>> round(float(average_precision(scores, relevance, num_bins=5)[0]), 4)
0.8333
>>> round(float(average_precision_loss(scores, relevance, num_bins=5)), 4)
0.1667

Two queries with an average precision of 1, of which the first counts half:

>>> both, weights = jnp.ones((2, 1)), jnp.array([0.5, 1.0])
>>> float(average_precision_loss(0.5 * both, both, query_weights=weights))
0.25
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dir_jax.losses.histogram import (
    average_precision_of,
    bin_positions,
    check_bins,
    histograms,
    scores_gradient,
    tie_aware_average_precision_of,
)
from dir_jax.losses.shapes import check_alike


def average_precision(
    scores: jax.Array,
    relevance: jax.Array,
    *,
    num_bins: int = 25,
    vmin: float = 0.0,
    vmax: float = 1.0,
) -> jax.Array:
    """The quantised average precision of each query; see `histogram.average_precision_of`.

    Args:
      scores: (N, M) float32 (or lower precision), the scores of M items for N queries. Those
        outside [vmin, vmax] count as if at its ends, and have no gradient.
      relevance: (N, M), 0 or 1, of any type. It is not differentiated.
      num_bins: the number of bins Q, which are evenly spaced from vmax down to vmin.
      vmin: the centre of the last bin.
      vmax: the centre of the first bin.

    Returns:
      (N,) float32 in [0, 1]; 0, without a gradient, for a query without positives.

    Raises:
      TypeError: the scores are not floating-point numbers.
      ValueError: the shapes, which are shown, differ or are not (N, M); or there are fewer
        than two bins, or vmin >= vmax.
    """
    return _quantised(scores, relevance, "plain", num_bins, vmin, vmax)


def tie_aware_average_precision(
    scores: jax.Array,
    relevance: jax.Array,
    *,
    num_bins: int = 25,
    vmin: float = 0.0,
    vmax: float = 1.0,
    simplified: bool = False,
) -> jax.Array:
    """The tie-aware average precision of each query; see `tie_aware_average_precision_of`.

    `simplified` chooses the simplified form; the rest is as in `average_precision`.
    """
    form = "simplified" if simplified else "tie-aware"
    return _quantised(scores, relevance, form, num_bins, vmin, vmax)


def average_precision_loss(
    scores: jax.Array,
    relevance: jax.Array,
    *,
    num_bins: int = 25,
    vmin: float = 0.0,
    vmax: float = 1.0,
    query_weights: jax.Array | None = None,
) -> jax.Array:
    """1 − mean_n(w_n · AP_n) over the queries that have positives.

    Returns () float32; 1, without a gradient, where no query has positives. `query_weights` are the
    weights w, (N,), ones by default, and are differentiated, too; the rest is as in
    `average_precision`.
    """
    ap = average_precision(scores, relevance, num_bins=num_bins, vmin=vmin, vmax=vmax)
    return _loss(ap, relevance, query_weights)


def tie_aware_average_precision_loss(
    scores: jax.Array,
    relevance: jax.Array,
    *,
    num_bins: int = 25,
    vmin: float = 0.0,
    vmax: float = 1.0,
    simplified: bool = False,
    query_weights: jax.Array | None = None,
) -> jax.Array:
    """`average_precision_loss` with the tie-aware average precision."""
    ap = tie_aware_average_precision(
        scores, relevance, num_bins=num_bins, vmin=vmin, vmax=vmax, simplified=simplified
    )
    return _loss(ap, relevance, query_weights)


def average_precision_dist(scores: jax.Array, relevance: jax.Array, **options: Any) -> jax.Array:
    """`average_precision` of 1 − √(2.001 − 2 · scores).

    For dot products of unit vectors this is one minus their distance, which spreads high scores
    over more bins. The derivative of the root is finite at 1 thanks to the 0.001.
    """
    return average_precision(_by_distance(scores), relevance, **options)


def tie_aware_average_precision_dist(
    scores: jax.Array, relevance: jax.Array, **options: Any
) -> jax.Array:
    """`tie_aware_average_precision` of 1 − √(2.001 − 2 · scores)."""
    return tie_aware_average_precision(_by_distance(scores), relevance, **options)


def average_precision_dist_loss(
    scores: jax.Array, relevance: jax.Array, **options: Any
) -> jax.Array:
    """`average_precision_loss` of 1 − √(2.001 − 2 · scores)."""
    return average_precision_loss(_by_distance(scores), relevance, **options)


def tie_aware_average_precision_dist_loss(
    scores: jax.Array, relevance: jax.Array, **options: Any
) -> jax.Array:
    """`tie_aware_average_precision_loss` of 1 − √(2.001 − 2 · scores)."""
    return tie_aware_average_precision_loss(_by_distance(scores), relevance, **options)


FORMS: dict[str, Callable[..., jax.Array]] = {
    "plain": average_precision_of,
    "tie-aware": tie_aware_average_precision_of,
    "simplified": functools.partial(tie_aware_average_precision_of, simplified=True),
}
"""Average precision as a function of the histograms c and c⁺."""


def _by_distance(scores: jax.Array) -> jax.Array:
    return 1 - jnp.sqrt(2.001 - 2 * scores)


def _loss(ap: jax.Array, relevance: jax.Array, query_weights: jax.Array | None) -> jax.Array:
    if query_weights is not None:
        if query_weights.shape != ap.shape:
            raise ValueError(f"query_weights have shape {query_weights.shape}; expected {ap.shape}")
        ap = ap * query_weights
    valid = jnp.any(jnp.asarray(relevance) != 0, axis=1)
    return 1 - jnp.sum(jnp.where(valid, ap, 0)) / jnp.maximum(jnp.sum(valid), 1)


def _quantised(
    scores: jax.Array, relevance: jax.Array, form: str, num_bins: int, vmin: float, vmax: float
) -> jax.Array:
    scores, relevance = jnp.asarray(scores), jnp.asarray(relevance)
    check_alike(scores=scores, relevance=relevance)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"scores must be floating-point, but they are {scores.dtype}")
    check_bins(num_bins, vmin, vmax)
    return _evaluate(
        scores.astype(jnp.float32), relevance.astype(jnp.float32), form, num_bins, vmin, vmax
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _evaluate(
    scores: jax.Array, relevance: jax.Array, form: str, num_bins: int, vmin: float, vmax: float
) -> jax.Array:
    return _evaluate_forward(scores, relevance, form, num_bins, vmin, vmax)[0]


def _evaluate_forward(
    scores: jax.Array, relevance: jax.Array, form: str, num_bins: int, vmin: float, vmax: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    counts = histograms(bin_positions(scores, num_bins, vmin, vmax), relevance, num_bins)
    return FORMS[form](*counts), (scores, relevance, *counts)


def _evaluate_backward(
    form: str,
    num_bins: int,
    vmin: float,
    vmax: float,
    residuals: tuple[jax.Array, ...],
    cotangent: jax.Array,
) -> tuple[jax.Array, None]:
    scores, relevance, c, c_plus = residuals
    _, pull_back = jax.vjp(FORMS[form], c, c_plus)
    by_c, by_c_plus = pull_back(cotangent)
    positions = bin_positions(scores, num_bins, vmin, vmax)
    return scores_gradient(positions, relevance, by_c, by_c_plus, vmin, vmax), None


_evaluate.defvjp(_evaluate_forward, _evaluate_backward)
