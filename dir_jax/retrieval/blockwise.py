"""What exists so that search is fast on a device: walking in blocks, products, the largest scores.

Everything here has a plain meaning that its docstring gives in a line; `search`, `expansion` and
`metrics` are written in terms of it. Programs are compiled for one shape, so that rows are taken in
blocks of one size; a NumPy array goes to the device that JAX computes on by default, which
`with jax.default_device(device):` chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np


class RowsOnRequest(Protocol):
    """Rows that are read, or made, as they are asked for: less memory than an array of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N, D."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray:
        """(n, D) float, from a slice or from (n,) integers."""


Rows: TypeAlias = np.ndarray | jax.Array | RowsOnRequest


class StackedRows:
    """Rows of several origins, each (N_i, D), one below the other."""

    def __init__(self, *parts: Rows):
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = int(self._starts[-1]), parts[0].shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """(n, D) float32, from a slice without a step or from (n,) integers."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            cuts = [np.clip((start, stop), low, high) - low
                    for low, high in pairwise(self._starts.tolist())]  # fmt: skip
            found = [np.asarray(part[a:b], np.float32)
                     for part, (a, b) in zip(self._parts, cuts, strict=True) if a < b]  # fmt: skip
            return found[0] if len(found) == 1 else np.concatenate(found)
        result = np.empty((len(rows), self.shape[1]), np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number, part in enumerate(self._parts):
            places = owner == number
            result[places] = part[rows[places] - self._starts[number]]
        return result


_GROUP = 16  # scores of which only the largest is looked at first


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Covers `total` rows with blocks of exactly `size` rows; needs 1 <= size <= total.

    The last block is moved back to end at the last row instead of being padded, so that it may
    repeat rows of the block before it.

    Yields:
      (start, first_new): the block is rows start .. start + size - 1, of which those from
      first_new on were in no block before.
    """
    for first_new in range(0, total, size):
        yield min(first_new, total - size), first_new


def finite_rows(x: np.ndarray) -> np.ndarray:
    """(N,) bool: the rows of (N, D) descriptors without NaN and infinity."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(x.sum(axis=1))  # without (N, D) temporary values
    doubtful = np.flatnonzero(~finite)  # a sum can also overflow
    finite[doubtful] = np.isfinite(x[doubtful]).all(axis=1)
    return finite


def rows_of(x: Rows, start: int, size: int) -> jax.Array:
    """Rows start .. start + size − 1 of an array, on the device and in float32."""
    if isinstance(x, jax.Array):  # not x[a:b], which is another program for each a
        part = x if size == len(x) else jax.lax.dynamic_slice_in_dim(x, start, size)
        return part.astype(jnp.float32)
    # Not jnp.asarray, which copies even where the device's memory is the host's.
    return jax.device_put(np.asarray(x[start : start + size], np.float32))


def device_of(x: np.ndarray | jax.Array) -> jax.Device:
    """The device that an array's rows are computed on: its own, or JAX's default."""
    on_device = x if isinstance(x, jax.Array) else jax.device_put(np.zeros(1, np.float32))
    return min(on_device.devices(), key=lambda device: device.id)


def dot_products(queries: jax.Array, database: jax.Array) -> jax.Array:
    """(Q, N) exact float32 products of (Q, D) and (N, D) float32."""
    return jnp.matmul(queries, database.T, precision=jax.lax.Precision.HIGHEST)


def largest(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` of (Q, N) scores without NaN, in two steps where that is less work.

    The k largest are in the k groups with the largest maxima: if one were in another group, those
    k maxima would come before it, as they are larger, or equal and of a lower index.
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
