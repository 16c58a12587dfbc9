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

import jax
import jax.numpy as jnp

from dir_jax.losses.average_precision import FORMS
from dir_jax.losses.blocks import Pairs, batch_loss
from dir_jax.losses.histogram import bin_positions, check_bins, histograms, scores_gradient

_OF_THE_PAPER = 0.0, 1.0  # the range of dot products of unit vectors from ReLU networks


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
    check_bins(num_bins, *_OF_THE_PAPER)
    options = _Options(
        num_bins, *_OF_THE_PAPER, class_weighted, "tie-aware" if tie_aware else "plain"
    )
    terms = functools.partial(_terms, options)
    return 1 - batch_loss(terms, descriptors, labels, axis_name, block_size)


def fast_ap_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    num_bins: int = 10,
    axis_name: str | None = None,
    block_size: int = 1024,
) -> jax.Array:
    """FastAP: 1 minus the mean of (1/N⁺) Σ_q h⁺_q H⁺_q / H_q over the images as queries.

    h⁺ and h are soft histograms of the squared distances 2 − 2 · score, in [0, 4], to the other
    images of the query's class and to all others; H⁺ and H are their cumulative sums from the
    nearest on, and N⁺ is the number of positives. Cakir et al., "Deep Metric Learning to Rank",
    CVPR 2019, equation 9. It is the quantised average precision of the AP loss, except that a query
    does not rank itself, that scores have the range [−1, 1], and that queries without positives are
    left out.

    `num_bins` are the intervals between centres, as the paper counts; the rest is as in
    `listwise_average_precision_loss`. Returns () float32; 1 where no query has positives.
    """
    check_bins(num_bins + 1, -1.0, 1.0)
    options = _Options(num_bins + 1, -1.0, 1.0, class_weighted=False, form="plain", itself=False)
    terms = functools.partial(_terms, options)
    return 1 - batch_loss(terms, descriptors, labels, axis_name, block_size)


@dataclasses.dataclass(frozen=True)
class _Options:
    num_bins: int
    vmin: float
    vmax: float
    class_weighted: bool
    form: str
    itself: bool = True  # whether a query ranks itself, too


def _terms(
    options: _Options, scores: jax.Array, pairs: Pairs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Σ w · AP and Σ w over a block's queries, and the derivative of the first."""
    vmin, vmax, last = options.vmin, options.vmax, options.num_bins - 1
    # An image's product with itself is 1, the centre of the first bin, whatever the network does.
    # Moved outside the range, the item is wholly in one bin and has no derivative. As computed, it
    # would round to one side or the other, and back-propagate the noise.
    positions = bin_positions(scores, options.num_bins, vmin, vmax)
    positions = jnp.where(pairs.itself, -1 if options.itself else last + 1, positions)
    relevant = pairs.same if options.itself else pairs.same & ~pairs.itself
    relevance = relevant.astype(jnp.float32)
    c, c_plus = histograms(positions, relevance, options.num_bins)
    if not options.itself:
        c = c.at[:, last].add(-1)  # the query itself
    weights = _weights(options, relevance, pairs.real)
    total, (by_c, by_c_plus) = jax.value_and_grad(
        lambda counts: jnp.sum(weights * FORMS[options.form](*counts))
    )((c, c_plus))
    by_scores = scores_gradient(positions, relevance, by_c, by_c_plus, vmin, vmax)
    return total, jnp.sum(weights), by_scores


def _weights(options: _Options, relevance: jax.Array, real: jax.Array) -> jax.Array:
    """The weight of each query: 0 for padding and without positives; else 1, or 1 over their
    number, which is that of its class."""
    count = jnp.sum(relevance, axis=1)
    if options.class_weighted:
        return real / jnp.maximum(count, 1)
    return real * (count > 0)
