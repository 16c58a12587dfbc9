"""Soft histograms of scores, and average precision as a function of them.

The weight of a score goes to the two bins that it lies between, in proportion to how near their
centres are (Ustinova and Lempitsky, NeurIPS 2016). Two histograms are then all that the average
precision needs to know of a query: c, of all items, and c⁺, of the relevant ones.

A score of 0.7 lies between the centres 0.75 and 0.5, nearer to the first:

>>> positions = bin_positions(jnp.array([[0.7]]), num_bins=5, vmin=0, vmax=1)
>>> c, c_plus = histograms(positions, jnp.ones((1, 1)), num_bins=5)
>>> [round(count, 4) for count in c[0].tolist()]
[0.0, 0.8, 0.2, 0.0, 0.0]
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.losses.clamp import clamp_min

# How many scores one pass over the bins reads: on a CPU they should stay in its cache.
_BLOCK_SCORES_CPU, _BLOCK_SCORES_ELSEWHERE = 1 << 16, 1 << 22


def bin_positions(scores: jax.Array, num_bins: int, vmin: float, vmax: float) -> jax.Array:
    """The places of scores among the centres: from 0 at `vmax`, to num_bins − 1 at `vmin`."""
    return (vmax - scores) * ((num_bins - 1) / (vmax - vmin))


def histograms(
    positions: jax.Array, relevance: jax.Array, num_bins: int
) -> tuple[jax.Array, jax.Array]:
    """Counts the items of each query, and the relevant ones among them, in soft bins.

    Args:
      positions: (N, M) float32, from `bin_positions`. Those below 0 count fully for the first bin,
        those above num_bins − 1 for the last.
      relevance: (N, M) float32, 0 or 1.
      num_bins: the number of bins, Q.

    Returns:
      c, c⁺: (N, Q) float32 each. Memory beyond them is O(Q · block), never O(N · M · Q).
    """
    return jax.lax.platform_dependent(
        positions,
        relevance,
        cpu=functools.partial(_histograms, num_bins, _BLOCK_SCORES_CPU),
        default=functools.partial(_histograms, num_bins, _BLOCK_SCORES_ELSEWHERE),
    )


def _histograms(
    num_bins: int, block_scores: int, positions: jax.Array, relevance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    queries, items = positions.shape
    # At least two: a single one has all its scores in one sum, which takes a CPU ten times longer.
    rows = max(1, min(queries, max(2, block_scores // max(items, 1))))
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
    """The derivative with respect to the scores of a function of the histograms.

    A score between two centres moves weight from one to the other and touches no other bin, so its
    derivative is a difference of two entries of the row. Outside the range it is zero. On a centre,
    where the derivative jumps, it is the one towards lower scores.

    `by_c` and `by_c_plus` are the function's derivatives with respect to c and c⁺, (N, Q); the
    others are as in `histograms`. Returns (N, M) float32.
    """
    num_bins = by_c.shape[1]
    # By how much a position changes as its score rises by 1.
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

    It is Σ_q precision_q · Δrecall_q, with precision_q = cumsum(c⁺)_q / (1e-16 + cumsum(c)_q) and
    Δrecall_q = c⁺_q / Σ c⁺.

    Args:
      c: (..., Q) soft counts of all items, starting with the highest scores.
      c_plus: (..., Q) soft counts of the relevant items.

    Returns:
      (...) float32; 0 where nothing is relevant.

    A relevant item in the first bin, two others in the second, a relevant one in the third: its
    precision is 1 and 2/4, and each is half of the recall.

    >>> float(average_precision_of(jnp.array([1.0, 2.0, 1.0]), jnp.array([1.0, 0.0, 1.0])))
    0.75
    """
    precision = jnp.cumsum(c_plus, axis=-1) / (1e-16 + jnp.cumsum(c, axis=-1))
    return _over_positives(jnp.sum(precision * c_plus, axis=-1), c_plus)


def tie_aware_average_precision_of(
    c: jax.Array, c_plus: jax.Array, *, simplified: bool = False
) -> jax.Array:
    """Average precision in expectation over the order within a bin (Cakir et al., CVPR 2019).

    With C and C⁺ the cumulative sums of c and c⁺, and C₋, C⁺₋ the same without the bin itself:
    ratio = max(c⁺ − 1, 0) / (max(c − 1, 0) + ε), ε = 1e-8, and the value is
    Σ_q c⁺ · (c · ratio + (C⁺₋ + 1 − ratio · (C₋ + 1)) · ln((C + 1) / (C₋ + 1))) / (c + ε) / Σ c⁺.
    The simplified form is Σ_q c⁺ · (C⁺₋ + C⁺ + 1) / (C₋ + C + 1) / Σ c⁺.

    Arguments and result are those of `average_precision_of`; `simplified` chooses that form.

    One relevant item of two that share a bin: ln(3) / 2, or 2 / 3 in the simplified form, where
    the plain average precision is 1 / 2.

    >>> c, c_plus = jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0])
    >>> round(float(tie_aware_average_precision_of(c, c_plus)), 4)
    0.5493
    >>> round(float(tie_aware_average_precision_of(c, c_plus, simplified=True)), 4)
    0.6667
    """
    after, after_plus = jnp.cumsum(c, axis=-1), jnp.cumsum(c_plus, axis=-1)
    before, before_plus = _shift(after), _shift(after_plus)
    if simplified:
        terms = c_plus * (before_plus + after_plus + 1) / (before + after + 1)
    else:
        epsilon = 1e-8
        ratio = clamp_min(c_plus - 1, 0) / (clamp_min(c - 1, 0) + epsilon)
        # ln((C + 1) / (C₋ + 1)), exact where the bin is nearly empty.
        logarithm = jnp.log1p(c / (before + 1))
        rest = (before_plus + 1 - ratio * (before + 1)) * logarithm
        terms = c_plus * (c * ratio + rest) / (c + epsilon)
    return _over_positives(jnp.sum(terms, axis=-1), c_plus)


def _over_positives(total: jax.Array, c_plus: jax.Array) -> jax.Array:
    # A row's weights add up to one for each relevant item, so the floor is for rows without any.
    return total / clamp_min(jnp.sum(c_plus, axis=-1), 1e-16)


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
    """Raises ValueError unless these are at least two bins between finite limits."""
    if num_bins < 2 or not np.isfinite([vmin, vmax]).all() or vmin >= vmax:
        raise ValueError(
            f"scores need at least two bins between finite vmin < vmax; got {num_bins=}, "
            f"{vmin=}, {vmax=}"
        )
