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
from dir_jax.retrieval.search import top_k

_ROWS = 4096  # whose neighbours are gathered at once
_GATHERED = 1 << 26  # numbers gathered at once, 256 MB


def expand_queries(
    queries: np.ndarray | jax.Array, database: np.ndarray | jax.Array, *, k: int, alpha: float
) -> np.ndarray:
    """Adds to each query its most similar database descriptors, weighted by similarity (αQE).

    L2(query + Σ over its k nearest of s^alpha · descriptor), with s their dot product. Where alpha
    is no whole number, a negative similarity weighs nothing. Descriptors with NaN weigh nothing.

    Args:
      queries: (Q, D) float.
      database: (N, D) float; a NumPy array is sent to the device block by block.
      k: how many, in 0 … N; 0 leaves the queries as they are.
      alpha: not negative.

    Returns:
      (Q, D) float32, of unit norm.

    Raises:
      UserError: k or alpha is out of range.
    """
    check_expansion(k, alpha, len(database))
    if k == 0:
        return np.asarray(queries, np.float32)
    scores, indices = top_k(queries, database, k)
    return _combine(queries, database, scores, indices, alpha)


def augment_database(database: np.ndarray | jax.Array, *, k: int, alpha: float) -> np.ndarray:
    """Adds to each database descriptor its most similar others, weighted by similarity (ADBA).

    As `expand_queries` with each row as the query, the row itself not being one of its k nearest.

    Args:
      database: (N, D) float.
      k: how many, in 0 … N − 1.
      alpha: not negative.

    Returns:
      (N, D) float32, of unit norm.

    Raises:
      UserError: k or alpha is out of range.
    """
    check_expansion(k, alpha, len(database) - 1)
    if k == 0:
        return np.asarray(database, np.float32)
    scores, indices = top_k(database, database, k + 1)
    # Each row is among its own k + 1 nearest, unless that many others are equal or longer; then the
    # last of these is one too many.
    itself = indices == np.arange(len(database))[:, None]
    itself[:, -1] |= ~itself.any(axis=1)
    shape = len(database), k
    return _combine(
        database, database, scores[~itself].reshape(shape), indices[~itself].reshape(shape), alpha
    )


def check_expansion(k: int, alpha: float, available: int) -> None:
    """Raises UserError unless 0 <= k <= available, and alpha is not negative."""
    if not 0 <= k <= available:
        raise UserError(
            f"cannot take the {k} nearest of each from the database, which has {available}"
        )
    if not alpha >= 0:
        raise UserError(f"alpha is {alpha}; it must not be negative")


def _combine(
    x: np.ndarray | jax.Array,
    database: np.ndarray | jax.Array,
    scores: np.ndarray,
    indices: np.ndarray,
    alpha: float,
) -> np.ndarray:
    result = np.empty(x.shape, np.float32)
    rows = max(1, min(_ROWS, _GATHERED // (indices.shape[1] * x.shape[1])))
    whole = float(alpha).is_integer()
    on_device = database if isinstance(database, jax.Array) else None
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        near = indices[part]
        gathered = database[near] if on_device is None else jnp.take(on_device, near, axis=0)
        similarity = scores[part] if whole else np.maximum(scores[part], 0)
        result[part] = _weighted_sum(x[part], gathered, similarity, float(alpha))
    return result


@functools.partial(jax.jit, static_argnames="alpha")
def _weighted_sum(
    x: jax.Array, gathered: jax.Array, similarity: jax.Array, alpha: float
) -> jax.Array:
    """L2(x + Σ_k similarity^alpha · gathered): (N, D) from (N, D), (N, K, D) and (N, K)."""
    missing = jnp.isnan(similarity)
    weights = jnp.where(missing, 0, similarity ** (int(alpha) if alpha.is_integer() else alpha))
    gathered = jnp.where(missing[..., None], 0, gathered)
    x = x + jnp.einsum("nk,nkd->nd", weights, gathered, precision="highest")
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
