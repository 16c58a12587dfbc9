"""Triplet losses (TL-GeM's: Gordo et al., IJCV 2017), of given triplets or of those in a batch.

An anchor at 0, a positive at 3 and a negative at 4 on a line: the negative is 1 farther away than
the positive, which falls short of a margin of 1.5 by a half.

>>> anchor, positive, negative = jnp.array([[0.0]]), jnp.array([[3.0]]), jnp.array([[4.0]])
>>> round(float(triplet_margin_loss(anchor, positive, negative, margin=1.5)), 4)
0.5

With `swap` the negative's distance to the positive counts, which is 1.

>>> round(float(triplet_margin_loss(anchor, positive, negative, margin=1.5, swap=True)), 4)
3.5

A margin that is met exactly costs nothing, but still pulls, as in torch.

>>> gradient = jax.grad(triplet_margin_loss, argnums=1)(anchor, positive, negative, eps=0.0)
>>> float(triplet_margin_loss(anchor, positive, negative, eps=0.0)), gradient.tolist()
(0.0, [[1.0]])
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from dir_jax.losses.clamp import clamp_min
from dir_jax.losses.ratio import ratio_over_replicas
from dir_jax.losses.shapes import check_alike, check_labelled


def triplet_margin_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
) -> jax.Array:
    """mean max(0, d(a, p) − d(a, n) + margin), with d(u, v) = ‖u − v + eps‖_p as in torch.

    Args:
      anchor: (N, D) float.
      positive: (N, D), of the same classes as the anchors.
      negative: (N, D), of other classes.
      margin: how much farther a negative should be than a positive. Gordo et al. use 0.1 for unit
        vectors.
      p: the order of the norm.
      eps: a number added to each difference, so that the norm of zero has a derivative.
      swap: whether to use min(d(a, n), d(p, n)) for d(a, n) (Balntas et al., BMVC 2016).

    Returns:
      () float.

    Raises:
      ValueError: the shapes, which are shown, differ or are not (N, D).
    """
    near, far = _distances(anchor, positive, negative, p, eps, swap)
    return jnp.mean(clamp_min(near - far + margin, 0))


def triplet_log_exp_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
) -> jax.Array:
    """mean ln(1 + exp(d(a, p) − d(a, n))), which is `triplet_margin_loss` with a soft margin."""
    near, far = _distances(anchor, positive, negative, p, eps, swap)
    return jnp.mean(jax.nn.softplus(near - far))


def grouped_triplet_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.1,
    log_exp: bool = False,
    swap: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    """The loss of a batch whose rows are triplets: anchor, positive, negative, anchor, …

    It is `triplet_margin_loss`, or with `log_exp` `triplet_log_exp_loss`.

    Args:
      descriptors: (b, D) float32; ValueError unless b is a multiple of 3.
      labels: (b,). They are not used, since the order of the rows says what they are.
      margin: as in `triplet_margin_loss`.
      log_exp: whether the margin is soft.
      swap: as in `triplet_margin_loss`.
      axis_name: the axis of the replicas, each of which has its own rows; the loss, () float32, is
        the mean over all of them.
    """
    check_labelled(descriptors, labels)
    if len(descriptors) % 3:
        raise ValueError(f"{len(descriptors)} rows are not whole triplets")

    def terms(own: jax.Array, *_: jax.Array) -> tuple[jax.Array, jax.Array]:
        triplets = own.reshape(-1, 3, own.shape[1])
        rows = (triplets[:, 0], triplets[:, 1], triplets[:, 2])
        if log_exp:
            loss = triplet_log_exp_loss(*rows, swap=swap)
        else:
            loss = triplet_margin_loss(*rows, margin=margin, swap=swap)
        count = jnp.sum(jnp.ones_like(triplets[:, 0, 0]))
        return loss * count, count

    return ratio_over_replicas(terms, descriptors, labels, axis_name)


def batch_triplet_loss(
    descriptors: jax.Array,
    labels: jax.Array,
    *,
    mining: str = "hardest",
    margin: float = 0.1,
    log_exp: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    """The loss of triplets that are chosen within a batch, by Euclidean distance.

    - 'hardest': for each anchor, its farthest positive and its nearest negative ("batch hard",
      Hermans et al. 2017, equation 5).
    - 'semihard': for each pair of anchor and positive, the nearest negative that is farther than
      the positive, or the farthest negative if there is none (Schroff et al., CVPR 2015).
    - 'all': all triplets. The mean is over those with a loss ("batch all", Hermans et al. 2017,
      equation 6, in its ≠0 variant); with `log_exp`, where each has one, over all of them.

    Anchors without a positive or without a negative are left out. Memory is O(b · B).

    Args:
      descriptors: (b, D) float32.
      labels: (b,) integers.
      mining: 'hardest', 'semihard' or 'all'; ValueError for another.
      margin: how much farther a negative should be than a positive.
      log_exp: whether to use ln(1 + exp(d(a, p) − d(a, n))) instead of
        max(0, d(a, p) − d(a, n) + margin).
      axis_name: the axis of the replicas. Each replica has its own rows as anchors, and takes their
        positives and negatives from all replicas.

    Returns:
      () float32; 0 where there is no triplet.

    Points at 0, 1 and 3 on a line, the first two of one class. The first has its positive at
    distance 1 and its negative at 3, the second at 1 and 2, and the third has no positive: with a
    margin of 2.5 the losses are 0.5 and 1.5.

    >>> points, labels = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1])
    >>> float(batch_triplet_loss(points, labels, margin=2.5))
    1.0
    """
    check_labelled(descriptors, labels)
    if mining not in _MINING:
        raise ValueError(f"there is no mining {mining!r}; choose from {', '.join(_MINING)}")

    def penalty(near: jax.Array, far: jax.Array) -> jax.Array:
        if log_exp:
            return jax.nn.softplus(near - far)
        return clamp_min(near - far + margin, 0)

    def terms(
        own: jax.Array, items: jax.Array, own_labels: jax.Array, item_labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        distances, itself = _pairwise_distances(own, items, axis_name)
        same = own_labels[:, None] == item_labels
        return _MINING[mining](distances, same & ~itself, ~same, penalty)

    return ratio_over_replicas(terms, descriptors, labels, axis_name)


def _distances(
    anchor: jax.Array, positive: jax.Array, negative: jax.Array, p: float, eps: float, swap: bool
) -> tuple[jax.Array, jax.Array]:
    check_alike(anchor=anchor, positive=positive, negative=negative)

    def distance(u: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.linalg.norm(u - v + eps, ord=p, axis=-1)

    near, far = distance(anchor, positive), distance(anchor, negative)
    return near, jnp.minimum(far, distance(positive, negative)) if swap else far


def _pairwise_distances(
    own: jax.Array, items: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """(b, B) distances, from dot products, and which of them are those of a row to itself."""
    squares = jnp.sum(own * own, axis=1)[:, None] + jnp.sum(items * items, axis=1)
    products = jnp.matmul(own, items.T, precision=jax.lax.Precision.HIGHEST)
    # Cancellation leaves an error of about 1e-7 in the square, so nearer points count as equal.
    # Where the floor applies, the derivative is zero rather than infinite.
    distances = jnp.sqrt(clamp_min(squares - 2 * products, 1e-12))
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(own)
    return distances, first + jnp.arange(len(own))[:, None] == jnp.arange(len(items))


def _hardest(distances, positive, negative, penalty):  # type: ignore[no-untyped-def]
    near = jnp.max(jnp.where(positive, distances, -jnp.inf), axis=1)
    far = jnp.min(jnp.where(negative, distances, jnp.inf), axis=1)
    valid = positive.any(axis=1) & negative.any(axis=1)
    losses = penalty(jnp.where(valid, near, 0), jnp.where(valid, far, 0))
    return jnp.sum(jnp.where(valid, losses, 0)), jnp.sum(valid.astype(jnp.float32))


def _semihard(distances, positive, negative, penalty):  # type: ignore[no-untyped-def]
    ranked = jnp.sort(jnp.where(negative, distances, jnp.inf), axis=1)
    count = jnp.sum(negative, axis=1, keepdims=True)
    farther = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(ranked, distances)
    chosen = jnp.take_along_axis(ranked, jnp.clip(farther, 0, jnp.maximum(count - 1, 0)), axis=1)
    valid = positive & (count > 0)
    losses = penalty(jnp.where(valid, distances, 0), jnp.where(valid, chosen, 0))
    return jnp.sum(jnp.where(valid, losses, 0)), jnp.sum(valid.astype(jnp.float32))


def _all(distances, positive, negative, penalty):  # type: ignore[no-untyped-def]
    # One column of positives at a time, recomputed when differentiated, so never b × B × B numbers.
    @jax.checkpoint
    def add(total, column):  # type: ignore[no-untyped-def]
        near, is_positive = column
        losses = penalty(near[:, None], distances)
        counted = is_positive[:, None] & negative & (losses > 0)
        return (
            total[0] + jnp.sum(jnp.where(counted, losses, 0)),
            total[1] + jnp.sum(counted.astype(jnp.float32)),
        ), None

    zero = jnp.sum(0 * distances)  # varies over the replicas as the distances do
    total, _ = jax.lax.scan(add, (zero, zero), (distances.T, positive.T))
    return total


_MINING = {"hardest": _hardest, "semihard": _semihard, "all": _all}
