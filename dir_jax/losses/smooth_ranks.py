"""Losses of soft ranks: Smooth-AP and the recall@k surrogate.

The rank of an item counts those before it, and each comparison is a sigmoid of the difference of
two scores over a temperature. For each query and each of its positives there are B comparisons;
they are made one positive of every query at a time, so that memory is O(B · block_size).

Three points on a circle, 60° apart; the first and the last are of one class. As a query, each of
these ranks itself, the second and the other: of its two positives itself has the precision 1 and
the other 2/3. The second is alone in its class.

>>> x = jnp.array([[1.0, 0.0], [0.5, 0.75**0.5], [-0.5, 0.75**0.5]])
>>> round(float(smooth_ap_loss(x, jnp.array([0, 1, 0]))), 4), round(1 - (2 * 5 / 6 + 1) / 3, 4)
(0.1111, 0.1111)

Without itself, each ranks its positive second: σ(1 − 2) of it is among the first.

>>> loss = recall_at_k_surrogate_loss(x, jnp.array([0, 1, 0]), recall_k=(1,))
>>> round(float(loss), 4), round(1 - float(jax.nn.sigmoid(-1.0)), 4)
(0.7311, 0.7311)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dir_jax.losses.blocks import Pairs, batch_loss
from dir_jax.losses.clamp import clamp_min

_Measure = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def smooth_ap_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    temperature: float = 0.01,
    axis_name: str | None = None,
    block_size: int = 1024,
) -> jax.Array:
    """1 minus the mean of (1/|P|) Σ_{j ∈ P} rank_P(j) / rank(j) over the images as queries.

    P are the images of the query's class, itself included; rank(j) = 1 + Σ_{k ≠ j} σ((s_k − s_j)/τ)
    over all images of the batch, and rank_P(j) the same over P. Scores s are dot products with the
    query. Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV
    2020, equation 5, and as in its authors' code the query ranks itself, too.

    Args:
      descriptors: (b, D) float32, of unit norm.
      labels: (b,) integers.
      temperature: τ of the comparisons; the paper takes 0.01.
      axis_name: the axis of the replicas, as in `blocks.batch_loss`.
      block_size: the most queries at once.

    Returns:
      () float32.

    Raises:
      ValueError, TypeError: as `blocks.batch_loss`.
    """

    def measure(
        ranks: jax.Array, among: jax.Array, positives: jax.Array, real: jax.Array
    ) -> jax.Array:
        ratios = jnp.where(positives, among / ranks, 0).sum(axis=1)
        return jnp.sum(real * ratios / clamp_min(positives.sum(axis=1).astype(jnp.float32), 1))

    terms = functools.partial(_terms, measure, temperature, True)
    return 1 - batch_loss(terms, descriptors, labels, axis_name, block_size)


def recall_at_k_surrogate_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    recall_k: Sequence[int] = (1, 2, 4, 8, 16),
    temperature: float = 0.01,
    rank_temperature: float = 1.0,
    axis_name: str | None = None,
    block_size: int = 1024,
) -> jax.Array:
    """1 minus the mean, over queries and over k, of a smooth recall at k.

    It is min(k, Σ_{j ∈ P} σ((k − rank(j))/τ₁)) / min(k, |P|), where P are the other images of the
    query's class, and rank(j) = 1 + Σ_{i ≠ j} σ((s_i − s_j)/τ₂) over all images but the query.
    Queries without positives are left out. Patel et al., "Recall@k Surrogate Loss with Large
    Batches and Similarity Mixup", CVPR 2022, equations 3 to 6; with the mixup of its section 3.3
    left out, and the query not among the items, as the paper has it (its authors' code counts the
    query as an item, which makes each rank larger by one).

    Args:
      descriptors: (b, D) float32, of unit norm.
      labels: (b,) integers.
      recall_k: the values of k; the paper trains with these.
      temperature: τ₂, of the comparisons.
      rank_temperature: τ₁, of the ranks.
      axis_name: the axis of the replicas, as in `blocks.batch_loss`.
      block_size: the most queries at once.

    Returns:
      () float32; 1 where no query has positives.

    Raises:
      ValueError, TypeError: as `blocks.batch_loss`.
    """

    def measure(
        ranks: jax.Array, among: jax.Array, positives: jax.Array, real: jax.Array
    ) -> jax.Array:
        count, total = positives.sum(axis=1).astype(jnp.float32), jnp.zeros(len(ranks))
        for k in recall_k:
            near = jax.nn.sigmoid((k - ranks) / rank_temperature)
            found = jnp.minimum(jnp.where(positives, near, 0).sum(axis=1), k)
            total += found / jnp.clip(count, 1, k)
        return jnp.sum(real * (count > 0) * total) / len(recall_k)

    terms = functools.partial(_terms, measure, temperature, False)
    return 1 - batch_loss(terms, descriptors, labels, axis_name, block_size)


def _terms(
    measure: _Measure, temperature: float, itself: bool, scores: jax.Array, pairs: Pairs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sum of a measure of ranks over a block's queries, their number, and the derivative.

    With `itself`, a query is one of the items, and of its own positives.
    """
    items = jnp.ones_like(pairs.itself) if itself else ~pairs.itself
    positives = pairs.same & items
    count = positives.sum(axis=1)
    places = jnp.argsort(~positives, axis=1).T  # (B, n): the positives come first
    rows, numbers = jnp.arange(len(scores)), jnp.arange(scores.shape[1])

    def compare(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The p-th positive of each query, and how far each item comes before it, (n, B)."""
        j = places[p]
        before = jax.nn.sigmoid((scores - scores[rows, j][:, None]) / temperature)
        return j, jnp.where(items & (numbers != j[:, None]), before, 0)

    def rank(p: jax.Array, ranks: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        j, before = compare(p)
        among = jnp.where(positives, before, 0)
        return (
            ranks[0].at[rows, j].set(1 + before.sum(axis=1)),
            ranks[1].at[rows, j].set(1 + among.sum(axis=1)),
        )

    # At entries that are no positives, ranks are 1, or another number that does not count.
    start = 0 * scores + 1, 0 * scores + 1
    ranks = jax.lax.fori_loop(0, count.max(), rank, start)
    total, (by_rank, by_among) = jax.value_and_grad(
        lambda ranks: measure(ranks[0], ranks[1], positives, pairs.real)
    )(ranks)

    def differentiate(p: jax.Array, by_scores: jax.Array) -> jax.Array:
        j, before = compare(p)
        weights = by_rank[rows, j][:, None] + jnp.where(positives, by_among[rows, j][:, None], 0)
        by_difference = weights * before * (1 - before) / temperature
        return (by_scores + by_difference).at[rows, j].add(-by_difference.sum(axis=1))

    by_scores = jax.lax.fori_loop(0, count.max(), differentiate, 0 * scores)
    return total, jnp.sum(pairs.real * (count > 0)), by_scores
