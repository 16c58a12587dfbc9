"""Retrieval quality on labelled sets, where images of one label are relevant to each other."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError
from dir_jax.losses.shapes import check_labelled
from dir_jax.retrieval.blockwise import blocks, dot_products, finite_rows, rows_of
from dir_jax.retrieval.measures import map_at_r, r_precision


@dataclasses.dataclass(frozen=True)
class LabelledMetrics:
    """How well rankings put the images of each query's label first.

    Attributes:
      mAP: the mean of `ap` over the queries that have one, in [0, 1].
      ap: (Q,) float64, each query's average precision; NaN where no other image has its label.
      first: (Q,) int64, the rank from 0 of each query's first image of its label; -1 where there
        is none.
      top: k -> the share of queries with an image of their label among the first k results, for k
        below the number of images. Of the queries that have such an image at all; but of all
        queries where these are other images, as the original counts.
    """

    mAP: float  # noqa: N815 (the field's name for it)
    ap: np.ndarray
    first: np.ndarray
    top: dict[int, float]
    map_at_r: float
    r_precision: float


def evaluate_labelled(
    descriptors: jax.typing.ArrayLike,
    labels: np.ndarray,
    *,
    queries: jax.typing.ArrayLike | None = None,
    query_labels: np.ndarray | None = None,
    block_size: int = 1024,
    top_k: Sequence[int] = (1, 5, 10, 20, 50, 100),
) -> LabelledMetrics:
    """Ranks, for each query, all the images by dot product and scores the rankings.

    Every image is a query, and left out of its own ranking, unless there are queries apart.

    Average precision is the sum over the positives of the precision at their score's threshold,
    over the number of positives: scikit-learn's `average_precision_score`. Equal scores share a
    threshold, so their order does not matter. For `top` it matters: equal scores are in the order
    of the images.

    Works on the device in blocks of queries: memory is O(N · D + block_size · N).

    Args:
      descriptors: (N, D), of unit norm for cosine similarity; used as float32.
      labels: (N,) integers.
      queries: (Q, D), the descriptors of other images; or, without `query_labels`, other
        descriptors of the same images. By default the descriptors themselves.
      query_labels: (Q,) integers, where queries are other images.
      block_size: how many queries are ranked at once.
      top_k: the values of k in `LabelledMetrics.top`.

    Raises:
      ValueError: descriptors and labels are not (N, D) and (N,); both shapes are shown.
      UserError: a descriptor is not finite, or no query has a relevant image.
    """
    descriptors, labels = _on_device(descriptors), np.asarray(labels)
    check_labelled(descriptors, labels)
    queries = descriptors if queries is None else _on_device(queries)
    own: np.ndarray = np.full(len(queries), -1, np.int32)  # each query's place in the database
    apart = None if query_labels is None else np.asarray(query_labels)
    if apart is None:
        own = np.arange(len(labels), dtype=np.int32)
    query_labels = labels if apart is None else apart
    check_labelled(queries, query_labels, "queries")
    _check_finite(descriptors, "descriptors")
    _check_finite(queries, "queries' descriptors")
    positives = count_positives(labels, apart)
    valid = positives > 0
    _, numbers = np.unique(np.concatenate([labels, query_labels]), return_inverse=True)
    classes, query_classes = np.split(numbers.astype(np.int32), [len(labels)])
    total, first = np.empty(len(own)), np.empty(len(own), np.int64)
    at_r = np.empty((2, len(own)))  # MAP@R and R-precision
    size = min(block_size, len(own))
    on_device = jax.device_put(classes)
    for start, _ in blocks(len(own), size):
        rows = slice(start, start + size)
        asked = rows_of(queries, start, size)
        known = query_classes[rows], own[rows], positives[rows].astype(np.int32)
        scored = _score_block(asked, *known, descriptors, on_device)
        total[rows], first[rows], *at_r[:, rows] = scored
    ap = np.where(valid, total / np.maximum(positives, 1), np.nan)
    # As the original counts: a query apart whose label no image has is a miss.
    found = first[valid] if apart is None else np.where(valid, first, len(labels))
    return LabelledMetrics(
        mAP=float(ap[valid].mean()),
        ap=ap,
        first=np.where(valid, first, -1),
        top={k: float(np.mean(found < k)) for k in top_k if k < len(labels)},
        map_at_r=float(at_r[0][valid].mean()),
        r_precision=float(at_r[1][valid].mean()),
    )


def count_positives(labels: np.ndarray, query_labels: np.ndarray | None = None) -> np.ndarray:
    """Counts the images that are relevant to each query: those of its label, except itself.

    (Q,) int64 from (N,) labels of the database and (Q,) of queries that are other images; by
    default every image of the database queries the rest.

    Raises:
      UserError: no query has a relevant image, so there is nothing to evaluate.
    """
    own = query_labels is None
    asked = labels if query_labels is None else query_labels
    by_label = collections.Counter(labels.tolist())
    positives: np.ndarray = np.array([by_label[c] - own for c in asked.tolist()], np.int64)
    if (positives > 0).any():
        return positives
    if own:
        raise UserError(
            f"none of the {len(asked)} images has the same label as another, so there is nothing "
            "to retrieve; evaluate on a list with two images or more of a label"
        )
    raise UserError(
        f"none of the {len(asked)} queries has the label of a database image, so there is nothing "
        "to retrieve; are the two lists of one data set?"
    )


def _on_device(x: jax.typing.ArrayLike) -> jax.Array:
    # Not jnp.asarray of NumPy's arrays, for which JAX compiles a program that copies them.
    on_device = x if isinstance(x, jax.Array) else jax.device_put(np.asarray(x, np.float32))
    return on_device.astype(jnp.float32)


def _check_finite(descriptors: jax.Array, what: str) -> None:
    finite = finite_rows(np.asarray(descriptors))
    if not finite.all():
        raise UserError(
            f"{np.sum(~finite)} of {len(finite)} {what} are not finite, the first of image "
            f"number {np.argmin(finite)}; leave these images out of the list"
        )


@jax.jit
def _score_block(
    queries: jax.Array,
    query_classes: Any,
    own: Any,
    positives: Any,
    descriptors: jax.Array,
    classes: jax.Array,
) -> tuple[jax.Array, ...]:
    """For each query: the sum of the precisions at its positives, the rank of the first, MAP@R and
    R-precision."""
    size, num_images = len(queries), len(descriptors)
    scores = dot_products(queries, descriptors)
    itself = own[:, None] == jnp.arange(num_images)
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
    at_r = map_at_r(relevant, positives), r_precision(relevant, positives)
    return jnp.sum(precisions, axis=1), jnp.argmax(relevant, axis=1), *at_r
