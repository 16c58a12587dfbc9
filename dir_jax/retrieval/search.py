"""Exact search by dot product, on the device."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError
from dir_jax.retrieval.blocks import blocks

# Queries compared with the database at once; bounds memory where both are large.
_QUERIES = 1024
_GROUP = 16


def top_k(
    queries: np.ndarray | jax.Array,
    database: np.ndarray | jax.Array,
    k: int,
    *,
    block_size: int = 16384,
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar database rows of each query, exactly.

    The database is read in blocks and the best so far kept, so memory on the device is
    O(1024 · (block_size + k)) besides the arguments. A NumPy database (a memory map, too) stays on
    the host and is sent block by block; give a jax.Array where it fits and there are many queries.

    Args:
      queries: (Q, D) float.
      database: (N, D) float.
      k: at most N.
      block_size: database rows compared at once.

    Returns:
      scores: (Q, k) float32, dot products, the largest first.
      indices: (Q, k) int32 into the database; of equal scores the lower index comes first. Rows
        with NaN (images that could not be read) come last; their score is NaN.

    Raises:
      UserError: k is not in 1 .. N.
    """
    chex.assert_rank([queries, database], 2)
    chex.assert_equal_shape_suffix([queries, database], 1)
    if not 1 <= k <= len(database):
        raise UserError(f"cannot find the {k} nearest in a database of {len(database)} descriptors")
    scores = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int32)
    query_size, size = min(_QUERIES, len(queries)), min(block_size, len(database))
    for query_start, _ in blocks(len(queries), query_size) if query_size else ():
        rows = slice(query_start, query_start + query_size)
        few = _rows(queries, query_start, query_size)
        best = (
            jnp.full((query_size, k), -jnp.inf, jnp.float32),
            jnp.zeros((query_size, k), jnp.int32),
        )
        for start, first_new in blocks(len(database), size):
            best = _merge_block(best, few, _rows(database, start, size), start, first_new)
        scores[rows], indices[rows] = best
    scores[scores == _LOWEST] = np.nan
    return scores, indices


def score_all(
    queries: np.ndarray | jax.Array, database: np.ndarray | jax.Array, *, block_size: int = 65536
) -> np.ndarray:
    """The dot product of each query with each database row.

    Args:
      queries: (Q, D) float.
      database: (N, D) float; a NumPy array is sent to the device block by block.
      block_size: database rows at once.

    Returns:
      (Q, N) float32.
    """
    chex.assert_rank([queries, database], 2)
    chex.assert_equal_shape_suffix([queries, database], 1)
    scores = np.empty((len(queries), len(database)), np.float32)
    size = min(block_size, len(database))
    few = jnp.asarray(queries, jnp.float32)
    for start, _ in blocks(len(database), size) if len(queries) else ():
        scores[:, start : start + size] = _all_scores(few, _rows(database, start, size))
    return scores


def rank_all(
    queries: np.ndarray | jax.Array, database: np.ndarray | jax.Array, *, block_size: int = 1024
) -> np.ndarray:
    """Ranks the whole database for each query, `block_size` queries at once.

    Args:
      queries: (Q, D) float.
      database: (N, D) float.
      block_size: queries ranked at once; memory on the device is O(N · (D + block_size)).

    Returns:
      (Q, N) int32: indices into the database by falling dot product; equal scores in the database's
      order, rows with NaN last.
    """
    chex.assert_rank([queries, database], 2)
    chex.assert_equal_shape_suffix([queries, database], 1)
    rankings = np.empty((len(queries), len(database)), np.int32)
    size = min(block_size, len(queries))
    on_device = jnp.asarray(database, jnp.float32)
    for start, _ in blocks(len(queries), size) if size else ():
        rankings[start : start + size] = _rank(_rows(queries, start, size), on_device)
    return rankings


# The score of rows with NaN while searching: below any other, above the -inf of no row at all.
_LOWEST = np.finfo(np.float32).min


def _rows(x: np.ndarray | jax.Array, start: int, size: int) -> jax.Array:
    if isinstance(x, jax.Array):  # not x[a:b], which is another program for each a
        x = jax.lax.dynamic_slice_in_dim(x, start, size)
    else:
        x = x[start : start + size]
    return jnp.asarray(x, jnp.float32)


def _scores(queries: jax.Array, database: jax.Array) -> jax.Array:
    return jnp.matmul(queries, database.T, precision=jax.lax.Precision.HIGHEST)


_all_scores = jax.jit(_scores)


@jax.jit
def _rank(queries: jax.Array, database: jax.Array) -> jax.Array:
    return jnp.argsort(-_scores(queries, database), axis=1, stable=True).astype(jnp.int32)


@functools.partial(jax.jit, donate_argnums=0)
def _merge_block(
    best: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    block: jax.Array,
    start: jax.Array,
    first_new: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Merges a block's best into the best so far, which have the lower indices and so win ties."""
    k = best[0].shape[1]
    number = start + jnp.arange(len(block), dtype=jnp.int32)
    scores = _scores(queries, block)
    scores = jnp.where(jnp.isnan(scores), _LOWEST, scores)
    scores = jnp.where(number >= first_new, scores, -jnp.inf)  # rows that came before
    found, place = _largest(scores, min(k, len(block)))
    scores, place_in_both = jax.lax.top_k(jnp.concatenate([best[0], found], axis=1), k)
    indices = jnp.concatenate([best[1], number[place]], axis=1)
    return scores, jnp.take_along_axis(indices, place_in_both, axis=1)


def _largest(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """jax.lax.top_k of (Q, N) scores without NaN, in two steps where that is less work.

    The k largest are in the k groups with the largest maxima. For if one were in another group,
    those k maxima would come before it: they are larger, or equal and of a lower index.
    """
    if scores.shape[1] < 4 * _GROUP * k:
        return jax.lax.top_k(scores, k)
    padding = -scores.shape[1] % _GROUP
    grouped = jnp.pad(scores, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    grouped = grouped.reshape(len(scores), -1, _GROUP)
    groups = jnp.sort(jax.lax.top_k(grouped.max(axis=2), k)[1], axis=1)  # lower indices first
    few = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(scores), -1)
    found, place = jax.lax.top_k(few, k)
    return found, jnp.take_along_axis(groups, place // _GROUP, axis=1) * _GROUP + place % _GROUP
