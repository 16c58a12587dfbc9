"""Queries against items in blocks: a loss of scores, and its gradient, without B × B numbers.

Every batch loss that compares all rows with all rows is a function of one block of scores, and of
which of its pairs are of one class. This is the walk over the blocks that they share.

>>> points, labels = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([0, 0, 1])
>>> def positives(scores, pairs):  # the sum of the scores of pairs of one class, and how many
...     chosen = pairs.same & ~pairs.itself & (pairs.real[:, None] > 0)
...     return jnp.sum(jnp.where(chosen, scores, 0)), jnp.sum(chosen)
>>> [float(x) for x in over_blocks(differentiated(positives), points, points, labels, labels, 0, 2)]
[4.0, 2.0]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dir_jax.losses.ratio import ratio_over_replicas
from dir_jax.losses.shapes import check_labelled


class Pairs(NamedTuple):
    """What a block's n queries and the B items are to each other."""

    same: jax.Array  # (n, B) bool, of one class
    itself: jax.Array  # (n, B) bool, the query's own place among the items
    real: jax.Array  # (n,) float32, 1; or 0 for rows that only fill the last block


BlockTerms = Callable[[jax.Array, Pairs], tuple[jax.Array, jax.Array, jax.Array]]
"""`terms(scores (n, B), pairs)` -> a numerator, a denominator (a count), and the numerator's
derivative with respect to the scores, (n, B)."""


def differentiated(
    terms: Callable[[jax.Array, Pairs], tuple[jax.Array, jax.Array]],
) -> BlockTerms:
    """The terms with the numerator's derivative, as JAX finds it."""

    def with_derivative(scores: jax.Array, pairs: Pairs) -> tuple[jax.Array, ...]:
        (numerator, count), by_scores = jax.value_and_grad(terms, has_aux=True)(scores, pairs)
        return numerator, count, by_scores

    return with_derivative  # type: ignore[return-value]


def batch_loss(
    terms: BlockTerms,
    descriptors: jax.Array,
    labels: jax.Array,
    axis_name: str | None,
    block_size: int,
) -> jax.Array:
    """Σ numerators / Σ denominators with every row of the batch as a query of all rows.

    Args:
      terms: of a block.
      descriptors: (b, D) float32, the rows of this replica.
      labels: (b,) integers.
      axis_name: the axis of the replicas; None for a single one. Rows are compared with those of
        all replicas, and the gradient is exact for the replica's own.
      block_size: the most queries at once. Memory is O(B · (block_size + D)).

    Returns:
      () float32; 0 where the denominators add up to 0.

    Raises:
      ValueError: the shapes, which are shown, are not (b, D) and (b,).
      TypeError: the descriptors are not float32, or the labels are not integers.
    """
    descriptors, labels = check_batch(descriptors, labels)

    def of_replica(
        own: jax.Array, items: jax.Array, own_labels: jax.Array, item_labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(own)
        return over_blocks(terms, own, items, own_labels, item_labels, first, block_size)

    return ratio_over_replicas(of_replica, descriptors, labels, axis_name)


def check_batch(descriptors: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as arrays; raises as `batch_loss`."""
    descriptors, labels = jnp.asarray(descriptors), jnp.asarray(labels)
    check_labelled(descriptors, labels)
    if descriptors.dtype != jnp.float32 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            "expected float32 descriptors and integer labels, got "
            f"{descriptors.dtype} and {labels.dtype}"
        )
    return descriptors, labels


def over_blocks(
    terms: BlockTerms,
    own: jax.Array,
    items: jax.Array,
    labels: jax.Array,
    item_labels: jax.Array,
    first: jax.Array | int,
    block_size: int,
) -> tuple[jax.Array, jax.Array]:
    """The sums of the terms of all blocks; scores are dot products.

    Args:
      terms: of a block. The derivative is taken along with the value, block by block.
      own: (b, D) float32, the queries.
      items: (B, D) float32.
      labels: (b,) integers.
      item_labels: (B,) integers.
      first: the place of the first query among the items; B or more where queries are no items.
      block_size: the most queries at once; it does not have to divide b.
    """
    return _over_blocks(terms, block_size, own, items, labels, item_labels, jnp.asarray(first))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _over_blocks(
    terms: BlockTerms, size: int, own: jax.Array, items: jax.Array, *known: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def step(block: _Block) -> tuple[jax.Array, jax.Array]:
        return terms(*_compare(block, items, known[1]))[:2]

    numerators, counts = jax.lax.map(step, _blocks(own, known[0], known[2], size))
    return jnp.sum(numerators), jnp.sum(counts)


def _forward(
    terms: BlockTerms, size: int, own: jax.Array, items: jax.Array, *known: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The value; the residuals are the gradient of the numerator with respect to both arrays."""

    def step(
        by_items: jax.Array, block: _Block
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        numerator, count, by_scores = terms(*_compare(block, items, known[1]))
        by_items = by_items + _dot(by_scores.T, block.rows)
        return by_items, (numerator, count, _dot(by_scores, items))

    start = 0 * items  # varies over the replicas as `items` does
    by_items, (numerators, counts, by_rows) = jax.lax.scan(
        step, start, _blocks(own, known[0], known[2], size)
    )
    by_own = by_rows.reshape(-1, own.shape[1])[: len(own)]
    return (jnp.sum(numerators), jnp.sum(counts)), (by_own, by_items)


def _backward(
    terms: BlockTerms,
    size: int,
    residuals: tuple[jax.Array, jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, None, None, None]:
    by_own, by_items = residuals
    return cotangents[0] * by_own, cotangents[0] * by_items, None, None, None


_over_blocks.defvjp(_forward, _backward)


class _Block(NamedTuple):
    rows: jax.Array  # (size, D), the queries
    labels: jax.Array  # (size,)
    numbers: jax.Array  # (size,), the queries' places among the items
    real: jax.Array  # (size,), 1, or 0 for padding


def _blocks(own: jax.Array, labels: jax.Array, first: jax.Array, block_size: int) -> _Block:
    """The queries in blocks: each field has a leading axis over the blocks."""
    count = -(-len(own) // block_size)
    size = -(-len(own) // count)  # blocks are equal, so that there is little padding
    short = count * size - len(own)
    places = jnp.arange(len(own) + short)
    blocks = _Block(
        rows=jnp.pad(own, ((0, short), (0, 0))),
        labels=jnp.pad(labels, (0, short)),
        numbers=first + places,
        real=(places < len(own)).astype(jnp.float32),
    )
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), blocks)


def _compare(block: _Block, items: jax.Array, item_labels: jax.Array) -> tuple[jax.Array, Pairs]:
    itself = block.numbers[:, None] == jnp.arange(len(items))
    same = block.labels[:, None] == item_labels
    return _dot(block.rows, items.T), Pairs(same, itself, block.real)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
