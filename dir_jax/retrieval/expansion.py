"""α-weighted query expansion, and the same for database descriptors.

Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2018,
section 4.2; for the database, Turcot and Lowe, ICCV Workshops 2009.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError
from dir_jax.retrieval.blockwise import Rows, blocks, device_of, rows_of
from dir_jax.retrieval.search import nearest_others, top_k

_LARGEST_ALPHA = 100  # by which only equal descriptors would weigh anything
_ROWS = 4096  # the rows whose neighbours are added at once
_GATHERED = 1 << 26  # the numbers gathered at once on the host, 256 MB


def expand_queries(
    queries: np.ndarray | jax.Array, database: Rows, *, k: int, alpha: float
) -> np.ndarray:
    """Adds to each query its most similar database descriptors, weighted by similarity (αQE).

    L2(query + Σ over its k nearest of s^alpha · descriptor), where s is their dot product. Unless
    alpha is a whole number, a negative similarity weighs nothing. Descriptors with NaN weigh
    nothing.

    Args:
      queries: (Q, D) float.
      database: (N, D) float; a NumPy array is sent to the device block by block.
      k: how many descriptors are added to each query, in 0 … N; 0 leaves the queries as they are.
      alpha: the power of the similarity, in 0 … 100.

    Returns:
      (Q, D) float32, of unit norm.

    Raises:
      UserError: k or alpha is out of range.
    """
    check_expansion(k, alpha, len(database))
    if k == 0:
        return np.asarray(queries, np.float32)
    scores, indices = top_k(queries, database, k)
    return add_neighbours(queries, database, scores, indices, alpha)


def augment_database(database: np.ndarray | jax.Array, *, k: int, alpha: float) -> np.ndarray:
    """Adds to each database descriptor its most similar others, weighted by similarity (ADBA).

    As `expand_queries` with each row of the (N, D) database as a query whose k nearest, 0 … N − 1,
    are among the other rows.
    """
    check_expansion(k, alpha, len(database) - 1)
    if k == 0:
        return np.asarray(database, np.float32)
    scores, indices = nearest_others(database, k)
    return add_neighbours(database, database, scores, indices, alpha)


def check_expansion(k: int, alpha: float, available: int) -> None:
    """Raises UserError unless 0 <= k <= available and 0 <= alpha <= 100."""
    if not 0 <= k <= available:
        raise UserError(
            f"cannot take the {k} nearest of each from the database, which has {available}"
        )
    if not 0 <= alpha <= _LARGEST_ALPHA:
        raise UserError(f"alpha is {alpha}; it must be from 0 to {_LARGEST_ALPHA}")


def add_neighbours(
    x: np.ndarray | jax.Array,
    database: Rows,
    scores: np.ndarray,
    indices: np.ndarray,
    alpha: float,
) -> np.ndarray:
    """The sum that `expand_queries` takes, from (N, K) rows of the database and their scores.

    A neighbour whose score is NaN weighs nothing.
    """
    result = np.empty(x.shape, np.float32)
    if not float(alpha).is_integer():
        scores = np.maximum(scores, 0)
    size = min(_ROWS, len(x))
    if not isinstance(database, jax.Array):
        few = indices.size <= len(database)
        if isinstance(database, np.ndarray) and device_of(x).platform == "cpu" and not few:
            database = jax.device_put(database)  # no copy, unless it is not aligned
        else:  # only what is needed goes to the device
            size = max(1, min(size, _GATHERED // (indices.shape[1] * x.shape[1])))
    for start, _ in blocks(len(x), size) if size else ():
        part = slice(start, start + size)
        near, rows = indices[part], database
        if not isinstance(rows, jax.Array):
            near, rows = np.arange(near.size).reshape(near.shape), rows[near.ravel()]
        result[part] = _weighted_sum(rows_of(x, start, size), rows, near, scores[part], alpha)
    return result


@functools.partial(jax.jit, static_argnames="alpha")
def _weighted_sum(
    x: jax.Array, database: jax.Array, indices: jax.Array, similarity: jax.Array, alpha: float
) -> jax.Array:
    """L2(x + Σ_k similarity^alpha · database[indices]): (N, D) from (N, D), (M, D), two (N, K)."""
    missing, alpha = jnp.isnan(similarity), float(alpha)
    weights = jnp.where(missing, 0, similarity ** (int(alpha) if alpha.is_integer() else alpha))

    def add(total: jax.Array, kth: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        index, weight, nothing = (v[:, None] for v in kth)
        near = jnp.take_along_axis(database, index, axis=0, mode="clip")
        return total + jnp.where(nothing, 0, weight * near), None

    # One neighbour of all rows at a time, so that gathering and adding are one pass.
    x, _ = jax.lax.scan(add, x.astype(jnp.float32), (indices.T, weights.T, missing.T))
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
