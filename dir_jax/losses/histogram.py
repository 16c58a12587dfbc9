"""Soft histograms of scores, and average precision as a function of them.

A score's weight goes to its two neighbouring bins, in proportion to how near their centres are
(Ustinova and Lempitsky, NeurIPS 2016). Everything the average precision needs of a query is then
two histograms, of all items and of the relevant ones: c and c⁺ below.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Scores that one pass over the bins reads: on a CPU they should stay in its cache.
_BLOCK_SCORES = {"cpu": 1 << 16}
_BLOCK_SCORES_ELSEWHERE = 1 << 22


def bin_positions(scores: jax.Array, num_bins: int, vmin: float, vmax: float) -> jax.Array:
    """Scores in units of bins: 0 at `vmax`, the first bin's centre, num_bins − 1 at `vmin`."""
    return (vmax - scores) * ((num_bins - 1) / (vmax - vmin))


def histograms(
    positions: jax.Array, relevance: jax.Array, num_bins: int
) -> tuple[jax.Array, jax.Array]:
    """Counts, for each query, all items and the relevant ones in soft bins.

    Args:
      positions: (N, M) float32, from `bin_positions`; outside [0, num_bins − 1] they count fully
        for the first or the last bin.
      relevance: (N, M) float32.
      num_bins: Q.

    Returns:
      c, c⁺: (N, Q) float32 each. Memory beyond them is O(Q · block), never O(N · M · Q).
    """
    queries, items = positions.shape
    scores = _BLOCK_SCORES.get(jax.default_backend(), _BLOCK_SCORES_ELSEWHERE)
    # Two at least: a single one has all its scores in one sum, which takes a CPU ten times longer.
    rows = max(1, min(queries, max(2, scores // max(items, 1))))
    centres = jnp.arange(num_bins, dtype=positions.dtype)[:, None]

    def count(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        place, relevant = block
        place = jnp.clip(place, 0, num_bins - 1)[:, None]
        weights = jnp.maximum(0, 1 - jnp.abs(place - centres))
        return weights.sum(axis=-1), (weights * relevant[:, None]).sum(axis=-1)

    return _map_rows(count, (positions, relevance), rows)


def scores_gradient(
    positions: jax.Array,
    relevance: jax.Array,
    by_c: jax.Array,
    by_c_plus: jax.Array,
    vmin: float,
    vmax: float,
) -> jax.Array:
    """The derivative by the scores of a function of the histograms.

    A score between two centres moves weight from one to the other and touches no other bin, so its
    derivative is a difference of two entries of the row. Outside the range it is zero. On a centre,
    where the derivative jumps, it is the one towards lower scores.

    Args:
      positions: (N, M) float32.
      relevance: (N, M) float32.
      by_c: (N, Q) derivatives of the function by c.
      by_c_plus: (N, Q), by c⁺.
      vmin: the last bin's centre.
      vmax: the first bin's centre.

    Returns:
      (N, M) float32.
    """
    num_bins = by_c.shape[1]
    # Per score, not per bin: the position falls by this as the score rises.
    slope = -(num_bins - 1) / (vmax - vmin)
    moved, moved_plus = slope * jnp.diff(by_c), slope * jnp.diff(by_c_plus)
    # Selecting bin by bin is one fused pass over the scores; a gather is slower everywhere.
    gradient = jnp.zeros_like(positions)
    for q in range(num_bins - 1):
        step = moved[:, q, None] + relevance * moved_plus[:, q, None]
        gradient = jnp.where(positions >= q, step, gradient)
    return jnp.where(positions < num_bins - 1, gradient, 0)


def average_precision_of(c: jax.Array, c_plus: jax.Array) -> jax.Array:
    """Quantised average precision (Revaud et al., ICCV 2019, equations 4-7).

    Σ_q precision_q · Δrecall_q, with precision_q = cumsum(c⁺)_q / (1e-16 + cumsum(c)_q) and
    Δrecall_q = c⁺_q / Σ c⁺.

    Args:
      c: (..., Q) soft counts of all items, from the highest scores on.
      c_plus: (..., Q), of the relevant ones.

    Returns:
      (...) float32; 0 where nothing is relevant.
    """
    precision = jnp.cumsum(c_plus, axis=-1) / (1e-16 + jnp.cumsum(c, axis=-1))
    return _over_positives(jnp.sum(precision * c_plus, axis=-1), c_plus)


def tie_aware_average_precision_of(
    c: jax.Array, c_plus: jax.Array, *, simplified: bool = False
) -> jax.Array:
    """Average precision in expectation over the order within a bin (Cakir et al., CVPR 2019).

    With C and C⁺ the cumulative sums of c and c⁺, and C₋, C⁺₋ the same without the bin itself:
    ratio = max(c⁺ − 1, 0) / (max(c − 1, 0) + ε), ε = 1e-8, and the value is
    Σ_q c⁺ · (c · ratio + (C⁺₋ + 1 − ratio · (C₋ + 1)) · ln((C + 1) / (C₋ + 1))) / (c + ε) / Σ c⁺;
    simplified, Σ_q c⁺ · (C⁺₋ + C⁺ + 1) / (C₋ + C + 1) / Σ c⁺.

    Args:
      c: (..., Q) soft counts of all items, from the highest scores on.
      c_plus: (..., Q), of the relevant ones.
      simplified: the second form.

    Returns:
      (...) float32; 0 where nothing is relevant.
    """
    after, after_plus = jnp.cumsum(c, axis=-1), jnp.cumsum(c_plus, axis=-1)
    before, before_plus = _shift(after), _shift(after_plus)
    if simplified:
        terms = c_plus * (before_plus + after_plus + 1) / (before + after + 1)
    else:
        epsilon = 1e-8
        ratio = jnp.maximum(c_plus - 1, 0) / (jnp.maximum(c - 1, 0) + epsilon)
        # ln((C + 1) / (C₋ + 1)), exact where the bin is nearly empty.
        logarithm = jnp.log1p(c / (before + 1))
        rest = (before_plus + 1 - ratio * (before + 1)) * logarithm
        terms = c_plus * (c * ratio + rest) / (c + epsilon)
    return _over_positives(jnp.sum(terms, axis=-1), c_plus)


def _over_positives(total: jax.Array, c_plus: jax.Array) -> jax.Array:
    # A row's weights add up to one for each relevant item. The floor only meets rows without any.
    return total / jnp.maximum(jnp.sum(c_plus, axis=-1), 1e-16)


def _shift(x: jax.Array) -> jax.Array:
    return jnp.pad(x[..., :-1], [(0, 0)] * (x.ndim - 1) + [(1, 0)])


def _map_rows(function, rows: tuple[jax.Array, ...], size: int):  # type: ignore[no-untyped-def]
    """Applies `function` to blocks of `size` rows, the last one smaller, and joins the results."""
    count = len(rows[0])
    whole = count // size * size
    parts = []
    if whole:
        blocks = tuple(x[:whole].reshape(-1, size, *x.shape[1:]) for x in rows)
        mapped = jax.lax.map(function, blocks)
        parts.append(jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), mapped))
    if whole < count:
        parts.append(function(tuple(x[whole:] for x in rows)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


@functools.cache
def check_bins(num_bins: int, vmin: float, vmax: float) -> None:
    """Raises ValueError where there is no such quantisation."""
    if num_bins < 2 or not np.isfinite([vmin, vmax]).all() or vmin >= vmax:
        raise ValueError(
            f"scores need at least two bins between finite vmin < vmax; got {num_bins=}, "
            f"{vmin=}, {vmax=}"
        )
