"""The listwise average-precision loss of a batch of descriptors, with which AP-GeM is trained.

Revaud et al., "Learning with Average Precision: Training Image Retrieval with a Listwise Loss",
ICCV 2019 (arXiv 1906.07589), section 3.

Three unit vectors, the first and the last of one class. The first finds itself, the second and the
last, so that its average precision is (1 + 2/3) / 2. The last finds itself, the second and the
first: the same. The second is alone in its class and has 1.

>>> descriptors = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
>>> loss = listwise_average_precision_loss(descriptors, jnp.array([0, 1, 0]), num_bins=11)
>>> round(float(loss), 4), round(1 - (5 / 6 + 1 + 5 / 6) / 3, 4)
(0.1111, 0.1111)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dir_jax.losses.average_precision import FORMS
from dir_jax.losses.histogram import bin_positions, check_bins, histograms, scores_gradient
from dir_jax.losses.ratio import ratio_over_replicas
from dir_jax.losses.shapes import check_labelled

# Dot products of unit vectors from ReLU networks: the range of the paper.
_VMIN, _VMAX = 0.0, 1.0


def listwise_average_precision_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    num_bins: int = 20,
    class_weighted: bool = False,
    tie_aware: bool = False,
    axis_name: str | None = None,
    block_size: int = 1024,
) -> jax.Array:
    """1 minus the mean average precision of the images of a batch as queries.

    Every image queries all images of the batch, itself included, as in the paper's
    mAP_Q(D, Y) = 1/B Σ_i AP_Q(d_iᵀ D, Y_i). Images of its class are relevant. Scores are dot
    products, quantised in [0, 1].

    Queries are taken in blocks: memory is O(B · (block_size + D)), never B × B (let alone
    B × B × bins), and the derivative is taken block by block along with the value.

    Args:
      descriptors: (B, D) float32, of unit norm.
      labels: (B,) integers.
      num_bins: the number of bins, Q.
      class_weighted: whether queries are weighed so that all classes of the batch count equally,
        with mean weight 1 (section 4 of the paper); otherwise all images count equally.
      tie_aware: whether to use the tie-aware average precision.
      axis_name: the axis of the replicas, under pmap or shard_map. Each replica has its own rows (B
        / replicas of them), scores them against the descriptors of all replicas, and gets the loss
        of the whole batch, with an exact gradient with respect to its own rows.
      block_size: the most queries at once; it does not have to divide B.

    Returns:
      () float32.

    Raises:
      ValueError: the shapes, which are shown, are not (B, D) and (B,).
      TypeError: the descriptors are not float32, or the labels are not integers.
    """
    descriptors, labels = jnp.asarray(descriptors), jnp.asarray(labels)
    check_labelled(descriptors, labels)
    if descriptors.dtype != jnp.float32 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            "expected float32 descriptors and integer labels, got "
            f"{descriptors.dtype} and {labels.dtype}"
        )
    check_bins(num_bins, _VMIN, _VMAX)
    options = _Options(
        num_bins, class_weighted, "tie-aware" if tie_aware else "plain", block_size, axis_name
    )
    terms = functools.partial(_terms, options)
    return 1 - ratio_over_replicas(terms, descriptors, labels, axis_name)


@dataclasses.dataclass(frozen=True)
class _Options:
    num_bins: int
    class_weighted: bool
    form: str
    block_size: int
    axis_name: str | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _terms(
    options: _Options, own: jax.Array, items: jax.Array, labels: jax.Array, item_labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Σ w · AP and Σ w over the queries `own` (b, D) among `items` (B, D)."""

    def step(block: _Block) -> tuple[jax.Array, jax.Array]:
        relevance, positions, real = _compare(options, block, items, item_labels)
        weights = _weights(options, relevance, real)
        ap = FORMS[options.form](*histograms(positions, relevance, options.num_bins))
        return jnp.sum(weights * ap), jnp.sum(weights)

    numerators, denominators = jax.lax.map(step, _blocks(options, own, labels))
    return jnp.sum(numerators), jnp.sum(denominators)


def _terms_forward(
    options: _Options, own: jax.Array, items: jax.Array, labels: jax.Array, item_labels: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The value; the residuals are the gradient of the numerator with respect to both arrays."""

    def step(
        by_items: jax.Array, block: _Block
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        relevance, positions, real = _compare(options, block, items, item_labels)
        weights = _weights(options, relevance, real)
        counts = histograms(positions, relevance, options.num_bins)
        total, (by_c, by_c_plus) = jax.value_and_grad(
            lambda counts: jnp.sum(weights * FORMS[options.form](*counts))
        )(counts)
        by_scores = scores_gradient(positions, relevance, by_c, by_c_plus, _VMIN, _VMAX)
        by_items = by_items + _dot(by_scores.T, block.rows)
        return by_items, (total, jnp.sum(weights), _dot(by_scores, items))

    start = 0 * items  # varies over the replicas as `items` does
    by_items, (numerators, denominators, by_rows) = jax.lax.scan(
        step, start, _blocks(options, own, labels)
    )
    by_own = by_rows.reshape(-1, own.shape[1])[: len(own)]
    return (jnp.sum(numerators), jnp.sum(denominators)), (by_own, by_items)


def _terms_backward(
    options: _Options,
    residuals: tuple[jax.Array, jax.Array],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, None, None]:
    by_own, by_items = residuals
    return cotangents[0] * by_own, cotangents[0] * by_items, None, None


_terms.defvjp(_terms_forward, _terms_backward)


def _compare(
    options: _Options, block: _Block, items: jax.Array, item_labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The relevance of each item to each row, its score's place among the bins, and real rows."""
    itself = block.numbers[:, None] == jnp.arange(len(items))
    relevance = (block.labels[:, None] == item_labels).astype(jnp.float32)
    positions = bin_positions(_dot(block.rows, items.T), options.num_bins, _VMIN, _VMAX)
    # An image's product with itself is 1, the centre of the first bin, whatever the network does.
    # Moved above it, the item is wholly in that bin and has no derivative. As computed, it would
    # round to one side or the other, and back-propagate the noise.
    return relevance, jnp.where(itself, -1, positions), block.real


def _weights(options: _Options, relevance: jax.Array, real: jax.Array) -> jax.Array:
    """The weight of each query: 0 for padding; else 1, or 1 over the number of its class."""
    if not options.class_weighted:
        return real
    return real / jnp.maximum(jnp.sum(relevance, axis=1), 1)


class _Block(NamedTuple):
    rows: jax.Array  # (size, D), the queries
    labels: jax.Array  # (size,)
    numbers: jax.Array  # (size,), the queries' places among the items
    real: jax.Array  # (size,), 1, or 0 for padding


def _blocks(options: _Options, own: jax.Array, labels: jax.Array) -> _Block:
    """The queries in blocks: each field has a leading axis over the blocks."""
    count = -(-len(own) // options.block_size)
    size = -(-len(own) // count)  # blocks are equal, so that there is little padding
    short = count * size - len(own)
    places = jnp.arange(len(own) + short)
    first: jax.Array | int = 0
    if options.axis_name is not None:
        first = jax.lax.axis_index(options.axis_name) * len(own)
    blocks = _Block(
        rows=jnp.pad(own, ((0, short), (0, 0))),
        labels=jnp.pad(labels, (0, short)),
        numbers=first + places,
        real=(places < len(own)).astype(jnp.float32),
    )
    return jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), blocks)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
