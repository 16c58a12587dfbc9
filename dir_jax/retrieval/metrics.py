"""Retrieval quality on labelled sets: every image queries all the others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError
from dir_jax.retrieval.blocks import blocks


@dataclasses.dataclass(frozen=True)
class LabelledMetrics:
    """Quality of a ranking by labels.

    Attributes:
      mAP: mean of `ap` over the queries that have one, in [0, 1].
      ap: (N,) float64, each query's average precision; NaN where no other image has its label.
      top: k -> share of those queries with an image of their label among the first k results.
    """

    mAP: float  # noqa: N815 (the field's name for it)
    ap: np.ndarray
    top: dict[int, float]


def evaluate_labelled(
    descriptors: jax.typing.ArrayLike,
    labels: np.ndarray,
    *,
    block_size: int = 1024,
    top_k: Sequence[int] = (1, 5, 10, 20, 50, 100),
) -> LabelledMetrics:
    """Ranks, for each image, all the others by dot product and scores the rankings.

    Average precision is the sum over the positives of the precision at their score's threshold,
    over the number of positives: scikit-learn's `average_precision_score`. Equal scores share a
    threshold, so their order does not matter. For `top` it must be settled: equal scores are in the
    order of the images.

    Works on the device in blocks of queries: memory is O(N · D + block_size · N).

    Args:
      descriptors: (N, D), of unit norm for cosine similarity; taken as float32.
      labels: (N,) integers.
      block_size: queries ranked at once.
      top_k: the k of `LabelledMetrics.top`.

    Raises:
      UserError: a descriptor is not finite, or no two images have the same label.
    """
    descriptors = jnp.asarray(descriptors, jnp.float32)
    labels = np.asarray(labels)
    chex.assert_rank([descriptors, labels], [2, 1])
    chex.assert_equal_shape_prefix([descriptors, labels], 1)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    positives = counts[classes] - 1
    valid = positives > 0
    if not valid.any():
        raise UserError(
            f"none of the {len(labels)} images has the same label as another, so there is nothing "
            "to retrieve; evaluate on a list with two images or more a label"
        )
    finite = np.asarray(jnp.isfinite(descriptors).all(axis=1))
    if not finite.all():
        raise UserError(
            f"{np.sum(~finite)} of {len(finite)} descriptors are not finite, the first of image "
            f"number {np.argmin(finite)}; leave these images out of the list"
        )
    total, first = np.empty(len(labels)), np.empty(len(labels), np.int32)
    size = min(block_size, len(labels))
    on_device = jnp.asarray(classes, jnp.int32)
    for start, _ in blocks(len(labels), size):
        rows = slice(start, start + size)
        total[rows], first[rows] = _score_block(descriptors, on_device, start, size=size)
    ap = np.where(valid, total / np.maximum(positives, 1), np.nan)
    return LabelledMetrics(
        mAP=float(ap[valid].mean()),
        ap=ap,
        top={k: float(np.mean(first[valid] < k)) for k in top_k},
    )


@functools.partial(jax.jit, static_argnames="size")
def _score_block(
    descriptors: jax.Array, classes: jax.Array, start: jax.Array, *, size: int
) -> tuple[jax.Array, jax.Array]:
    """Of queries start .. start + size - 1: sum of precisions at positives, rank of the first."""
    num_images = len(descriptors)
    queries = jax.lax.dynamic_slice_in_dim(descriptors, start, size)
    query_classes = jax.lax.dynamic_slice_in_dim(classes, start, size)
    scores = jnp.matmul(queries, descriptors.T, precision=jax.lax.Precision.HIGHEST)
    itself = start + jnp.arange(size)[:, None] == jnp.arange(num_images)
    relevant = (query_classes[:, None] == classes) & ~itself
    # The query itself goes last, where it counts for nothing.
    costs = jnp.where(itself, jnp.inf, -scores)
    costs, relevant = jax.lax.sort((costs, relevant), dimension=1, is_stable=True, num_keys=1)
    # A threshold lets in all images of one score. The numbers of images and of positives let in are
    # therefore those at the last place of that score; as counts only grow along the ranking, the
    # smallest count at a last place further on is the one at the next.
    is_last = jnp.concatenate([costs[:, 1:] != costs[:, :-1], jnp.ones((size, 1), bool)], axis=1)
    places = jnp.broadcast_to(jnp.arange(1, num_images + 1, dtype=jnp.int32), costs.shape)
    retrieved, hits = (
        jax.lax.cummin(jnp.where(is_last, count, num_images), axis=1, reverse=True)
        for count in (places, jnp.cumsum(relevant, axis=1, dtype=jnp.int32))
    )
    precisions = jnp.where(relevant, hits / retrieved, 0.0)
    return jnp.sum(precisions, axis=1), jnp.argmax(relevant, axis=1)
