"""Exact search by dot product, on the device."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError
from dir_jax.retrieval.blockwise import (
    Rows,
    blocks,
    device_of,
    dot_products,
    largest,
    rows_of,
)

# The queries compared with the database at once; bounds memory where both are large.
_QUERIES = 1024
# The most scores at once of a database that lies on an accelerator as a whole, and with how few
# queries at once it is rather sliced. One product of fewer is bound by reading the database.
_SCORES_ON_ACCELERATOR, _FEW_QUERIES = 1 << 27, 16

_Best = tuple[jax.Array, jax.Array]  # (Q, k) scores, the largest first, and (Q, k) indices


def top_k(
    queries: np.ndarray | jax.Array,
    database: Rows,
    k: int,
    *,
    block_size: int = 16384,
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar database rows of each query, exactly.

    The database is read in blocks and the best so far are kept, so that memory on the device is
    O(1024 · (block_size + k)) besides the arguments. A NumPy database, which may be a memory map,
    stays on the host and is sent block by block; pass a jax.Array where it fits and there are many
    queries. One on an accelerator is read where it lies, for as many queries at once as have some
    0.5 GB of scores: a block of it would be a copy, and its memory be read and written thrice.

    Args:
      queries: (Q, D) float.
      database: (N, D) float.
      k: how many rows to find for each query, at most N.
      block_size: how many database rows are compared at once.

    Returns:
      scores: (Q, k) float32, the largest first.
      indices: (Q, k) int32, rows of the database; of equal scores the lower index comes first.
        Rows with NaN (images that could not be read) come last, with the score NaN.

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
    if isinstance(database, jax.Array) and database.dtype == jnp.float32:
        platform = device_of(database).platform
        query_size, size = at_once_where_it_lies(platform, query_size, size, len(database))
    for query_start, _ in blocks(len(queries), query_size) if query_size else ():
        rows = slice(query_start, query_start + query_size)
        few = rows_of(queries, query_start, query_size)
        best = _nothing_yet(query_size, k)
        for start, first_new in blocks(len(database), size):
            best = _merge_block(best, few, rows_of(database, start, size), start, first_new)
        scores[rows], indices[rows] = best
    scores[scores == _LOWEST] = np.nan
    return scores, indices


def at_once_where_it_lies(
    platform: str, queries: int, block_size: int, rows: int
) -> tuple[int, int]:
    """How many queries `top_k` takes at once, and how many of the rows of a database that is on a
    device of that platform, where it would take `queries` and `block_size` of one on the host."""
    whole = _SCORES_ON_ACCELERATOR // rows
    if platform == "cpu" or whole < min(queries, _FEW_QUERIES):
        return queries, block_size
    return min(queries, whole), rows


def nearest_others(
    database: np.ndarray | jax.Array, k: int, *, block_size: int = 1536
) -> tuple[np.ndarray, np.ndarray]:
    """The k other rows most similar to each row of a database, exactly.

    As `top_k` with the (N, D) database as its own queries, but in half the time, as each pair is
    compared only once, at most `block_size` rows with as many others. k is at most N − 1.
    """
    chex.assert_rank(database, 2)
    count = len(database)
    if not 1 <= k < count:
        raise UserError(f"cannot find the {k} nearest others in a database of {count} descriptors")
    size = -(-count // -(-count // block_size))  # of equal blocks, so that few pairs come twice
    best = _nothing_yet(count, k)
    walk = list(blocks(count, size))
    for number, (start, first_new) in enumerate(walk):
        rows = rows_of(database, start, size)
        best = _merge_pairs(best, rows, rows, start, start, first_new, same=True)
        for other_start, first_other in walk[number + 1 :]:
            others = rows_of(database, other_start, size)
            best = _merge_pairs(best, rows, others, start, other_start, first_other, same=False)
    scores, indices = (np.array(x) for x in best)
    scores[scores == _LOWEST] = np.nan
    return scores, indices


def score_all(
    queries: np.ndarray | jax.Array, database: np.ndarray | jax.Array, *, block_size: int = 65536
) -> np.ndarray:
    """The dot products of (Q, D) queries and an (N, D) database: (Q, N) float32.

    A NumPy database is sent to the device in blocks of `block_size` rows.
    """
    scores = np.empty((len(queries), len(database)), np.float32)
    for start, block in score_blocks(queries, database, block_size=block_size):
        scores[:, start : start + block.shape[1]] = block
    return scores


def score_blocks(
    queries: np.ndarray | jax.Array, database: Rows, *, block_size: int = 65536
) -> Iterator[tuple[int, np.ndarray]]:
    """The same in blocks: yields (first row, (Q, n) float32), in order, each row once.

    While a block is used, the device computes the next.
    """
    chex.assert_rank([queries, database], 2)
    chex.assert_equal_shape_suffix([queries, database], 1)
    size = min(block_size, len(database))
    few = rows_of(queries, 0, len(queries))
    ready: list[tuple[int, int, jax.Array]] = []
    for start, first_new in blocks(len(database), size) if len(queries) and size else ():
        ready.append((start, first_new, _all_scores(few, rows_of(database, start, size))))
        if len(ready) == 2:
            yield _new_scores(*ready.pop(0))
    for each in ready:
        yield _new_scores(*each)


def _new_scores(start: int, first_new: int, scores: jax.Array) -> tuple[int, np.ndarray]:
    return first_new, np.asarray(scores)[:, first_new - start :]


def rank_all(
    queries: np.ndarray | jax.Array, database: np.ndarray | jax.Array, *, block_size: int = 1024
) -> np.ndarray:
    """Ranks a whole (N, D) database for each of (Q, D) queries, `block_size` queries at once.

    Returns:
      (Q, N) int32, rows of the database by falling dot product; equal scores are in the database's
      order, rows with NaN come last.
    """
    chex.assert_rank([queries, database], 2)
    chex.assert_equal_shape_suffix([queries, database], 1)
    rankings = np.empty((len(queries), len(database)), np.int32)
    size = min(block_size, len(queries))
    on_device = rows_of(database, 0, len(database))
    for start, _ in blocks(len(queries), size) if size else ():
        rankings[start : start + size] = _rank(rows_of(queries, start, size), on_device)
    return rankings


# The score of rows with NaN while searching: below any other, above the -inf of no row at all.
_LOWEST = np.finfo(np.float32).min

_all_scores = jax.jit(dot_products)


def _nothing_yet(queries: int, k: int) -> _Best:
    return jnp.full((queries, k), -jnp.inf, jnp.float32), jnp.zeros((queries, k), jnp.int32)


@jax.jit
def _rank(queries: jax.Array, database: jax.Array) -> jax.Array:
    return jnp.argsort(-dot_products(queries, database), axis=1, stable=True).astype(jnp.int32)


@functools.partial(jax.jit, donate_argnums=0)
def _merge_block(
    best: _Best, queries: jax.Array, block: jax.Array, start: jax.Array, first_new: jax.Array
) -> _Best:
    """Merges a block's best into the best so far."""
    numbers = start + jnp.arange(len(block), dtype=jnp.int32)
    scores = _without_nan(dot_products(queries, block))
    return _merge(best, jnp.where(numbers >= first_new, scores, -jnp.inf), numbers)


@functools.partial(jax.jit, donate_argnums=0, static_argnames="same")
def _merge_pairs(
    best: _Best,
    rows: jax.Array,
    others: jax.Array,
    start: jax.Array,
    other_start: jax.Array,
    first_new: jax.Array,
    *,
    same: bool,
) -> _Best:
    """Merges two blocks' best in each other into the best so far of the whole database.

    `same`: they are one block, whose rows from `first_new` on are new; else those of `others` are.
    """
    size = len(rows)
    numbers, other_numbers = (s + jnp.arange(size, dtype=jnp.int32) for s in (start, other_start))
    counts = (other_numbers >= first_new)[None]
    if same:
        counts &= (numbers >= first_new)[:, None] & (numbers[:, None] != other_numbers)
    scores = jnp.where(counts, _without_nan(dot_products(rows, others)), -jnp.inf)

    def update(best: _Best, scores: jax.Array, start: jax.Array, numbers: jax.Array) -> _Best:
        own = tuple(jax.lax.dynamic_slice_in_dim(x, start, size) for x in best)
        merged = _merge((own[0], own[1]), scores, numbers)
        new = (
            jax.lax.dynamic_update_slice_in_dim(x, part, start, 0)
            for x, part in zip(best, merged, strict=True)
        )
        return next(new), next(new)

    best = update(best, scores, start, other_numbers)
    return best if same else update(best, scores.T, other_start, numbers)


def _without_nan(scores: jax.Array) -> jax.Array:
    return jnp.where(jnp.isnan(scores), _LOWEST, scores)


def _merge(best: _Best, scores: jax.Array, numbers: jax.Array) -> _Best:
    """The best so far, which have the lower numbers and so win ties, and those of a block."""
    k = best[0].shape[1]
    found, place = largest(scores, min(k, len(numbers)))
    scores, place_in_both = jax.lax.top_k(jnp.concatenate([best[0], found], axis=1), k)
    indices = jnp.concatenate([best[1], numbers[place]], axis=1)
    return scores, jnp.take_along_axis(indices, place_in_both, axis=1)
