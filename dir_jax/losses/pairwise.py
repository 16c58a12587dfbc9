"""Losses of pairs in a batch: contrastive, and multi-similarity.

Two points of one class at a right angle, so at the distance √2, and no negative: each of the two
queries costs half of its square.

>>> x, labels = jnp.eye(2), jnp.array([0, 0])
>>> float(contrastive_loss(x, labels))
1.0

Their similarity is 0, half below the base of the multi-similarity loss: ln(1 + exp(2 · 0.5)) / 2.

>>> loss = multi_similarity_loss(jnp.eye(3), jnp.array([0, 0, 1]), epsilon=2.0)
>>> positive, negative = jnp.log1p(jnp.exp(1.0)) / 2, jnp.log1p(jnp.exp(-25.0) * 1) / 50
>>> round(float(loss), 4), round(float(2 * positive / 3), 4)
(0.4378, 0.4378)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dir_jax.losses.blocks import Pairs, batch_loss, differentiated
from dir_jax.losses.clamp import clamp_min
from dir_jax.losses.ratio import ratio_over_replicas
from dir_jax.losses.shapes import check_labelled


def contrastive_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.7,
    negatives: int = 5,
    axis_name: str | None = None,
    block_size: int = 1024,
) -> jax.Array:
    """Mean over the queries of ½ d(q, p)², averaged over their positives, plus Σ ½ [m − d(q, n)]₊².

    d is the Euclidean distance; the sum is over the nearest negatives. Radenović, Tolias and Chum,
    "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018, equation 3, where a
    query comes with one matching image and five hard negatives. Every image of the batch that has a
    positive is a query.

    Args:
      descriptors: (b, D) float32, of unit norm.
      labels: (b,) integers.
      margin: how far a negative should be; the paper takes 0.7 for VGG, 0.85 for ResNet.
      negatives: how many negatives count for a query.
      axis_name: the axis of the replicas, as in `blocks.batch_loss`.
      block_size: the most queries at once.

    Returns:
      () float32; 0 where there is no positive.

    Raises:
      ValueError, TypeError: as `blocks.batch_loss`.
    """

    def terms(scores: jax.Array, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        squares = 2 - 2 * scores
        positive = pairs.same & ~pairs.itself
        count = positive.sum(axis=1)
        pulls = jnp.where(positive, squares, 0).sum(axis=1) / jnp.maximum(count, 1) / 2
        hardest = jnp.where(pairs.same, -jnp.inf, scores)
        near = jax.lax.top_k(hardest, min(negatives, scores.shape[1]))[0]
        there = jnp.isfinite(near)
        pushes = _push(2 - 2 * jnp.where(there, near, -1), margin)
        valid = pairs.real * (count > 0)
        return jnp.sum(valid * (pulls + jnp.where(there, pushes, 0).sum(axis=1))), jnp.sum(valid)

    return batch_loss(differentiated(terms), descriptors, labels, axis_name, block_size)


def grouped_contrastive_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.7,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean of ½ d(a, p)² + ½ [m − d(a, n)]₊² of rows that are triplets a, p, n, a, …

    Arguments and result are those of `grouped_triplet_loss`; ValueError unless rows are whole
    triplets.
    """
    check_labelled(descriptors, labels)
    if len(descriptors) % 3:
        raise ValueError(f"{len(descriptors)} rows are not whole triplets")

    def terms(own: jax.Array, *_: jax.Array) -> tuple[jax.Array, jax.Array]:
        anchor, positive, negative = jnp.moveaxis(own.reshape(-1, 3, own.shape[1]), 1, 0)
        pulls = jnp.sum((anchor - positive) ** 2, axis=1) / 2
        losses = pulls + _push(jnp.sum((anchor - negative) ** 2, axis=1), margin)
        return jnp.sum(losses), jnp.sum(jnp.ones_like(losses))

    return ratio_over_replicas(terms, descriptors, labels, axis_name)


def _push(squares: jax.Array, margin: float) -> jax.Array:
    """½ [margin − √squares]₊²; where two points are one, the derivative is 0, not infinite."""
    return clamp_min(margin - jnp.sqrt(clamp_min(squares, 1e-12)), 0) ** 2 / 2


def multi_similarity_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
    axis_name: str | None = None,
    block_size: int = 1024,
) -> jax.Array:
    """Mean over the queries of ln(1 + Σ_P exp(−α(s − λ)))/α + ln(1 + Σ_N exp(β(s − λ)))/β.

    Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", CVPR
    2019, equation 15, after its mining (equations 11 and 12): a positive counts if its similarity
    s, less ε, is below that of the query's nearest negative, and a negative if s + ε is above that
    of its farthest positive.

    Args:
      descriptors: (b, D) float32, of unit norm.
      labels: (b,) integers.
      alpha: α, the weight of positives.
      beta: β, the weight of negatives.
      base: λ, the similarity around which pairs count.
      epsilon: ε, the slack of the mining; 2 keeps every pair of a query that has both kinds.
      axis_name: the axis of the replicas, as in `blocks.batch_loss`.
      block_size: the most queries at once.

    Returns:
      () float32, over all images as queries; those without pairs that count cost 0.

    Raises:
      ValueError, TypeError: as `blocks.batch_loss`.
    """

    def terms(scores: jax.Array, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        positive, negative = pairs.same & ~pairs.itself, ~pairs.same
        nearest = jnp.max(jnp.where(negative, scores, -jnp.inf), axis=1, keepdims=True)
        farthest = jnp.min(jnp.where(positive, scores, jnp.inf), axis=1, keepdims=True)
        pulls = _log_one_and(-alpha * (scores - base), positive & (scores - epsilon < nearest))
        pushes = _log_one_and(beta * (scores - base), negative & (scores + epsilon > farthest))
        return jnp.sum(pairs.real * (pulls / alpha + pushes / beta)), jnp.sum(pairs.real)

    return batch_loss(differentiated(terms), descriptors, labels, axis_name, block_size)


def _log_one_and(x: jax.Array, counted: jax.Array) -> jax.Array:
    """ln(1 + Σ exp(x)) over the entries of each row that are counted."""
    x = jnp.where(counted, x, -jnp.inf)
    return jax.nn.logsumexp(jnp.pad(x, ((0, 0), (0, 1))), axis=1)  # exp(0) is the 1
