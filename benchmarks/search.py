"""Query expansion, database augmentation and exact search: ours, NumPy as the original, and FAISS.

    python -m benchmarks.search --json search.json

Descriptors of 2048 dimensions, of the number of RParis6K's images and of 100,000; those of the
queries and of the database lie in memory as NumPy arrays. FAISS needs `pip install faiss-cpu`.
`--long` adds the augmentation of 100,000, whose similarities would not fit as a whole: NumPy's side
then takes a block of rows after the other.

An expansion has to compare all queries with all rows, in exact float32: its limit is NumPy's
product of these two matrices, which is timed beside it. The share of the limit is that product's
time over ours, turn by turn. An augmentation compares each pair of rows once, so it can be above
100 %.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.side_by_side import Case, largest_difference, main

_WIDTH, _K, _ALPHA, _TOP = 2048, 10, 3, 100
# Rows that NumPy compares at once: all, or a block where they are many.
_WHOLE, _BLOCK = 10_000, 2048
# Entries are about 0.02; ten descriptors are added in another order.
_BOUND = 1e-6
_LIMIT = "the product alone, by NumPy"
# Similarities are near 0.5, of which float32's sum of 2048 products is this exact.
_TIE = 1e-6


def _descriptors(count: int, seed: int) -> np.ndarray:
    """Unit vectors in clusters, so that neighbours are near."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((500, _WIDTH), np.float32)
    x = rng.standard_normal((count, _WIDTH), np.float32)
    x += centres[rng.integers(0, 500, count)]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def _numpy_expansion(rows: int, augment: bool) -> Callable[[], Any]:
    database = _descriptors(rows, 0)
    queries = database if augment else _descriptors(70, 1)

    def call() -> Any:
        expanded = np.zeros_like(queries)
        size = len(queries) if len(queries) <= _WHOLE else _BLOCK
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            similarity = part @ database.T
            if augment:
                similarity[np.arange(len(part)), np.arange(start, start + len(part))] = 0
            near = np.argpartition(similarity, -_K, axis=1)[:, -_K:]
            for i, neighbours in enumerate(near):
                parts = [database[j] * similarity[i, j] ** _ALPHA for j in neighbours]
                mean = np.mean(np.vstack([part[i], *parts]), axis=0)
                expanded[start + i] = mean / np.linalg.norm(mean)
        return expanded

    return call


def _product(rows: int, augment: bool) -> Callable[[], Any]:
    """Only the similarities, without looking at them."""
    database = _descriptors(rows, 0)
    queries = database if augment else _descriptors(70, 1)

    def call() -> Any:
        for start in range(0, len(queries), _BLOCK):
            last = queries[start : start + _BLOCK] @ database.T
        return last

    return call


def _our_expansion(rows: int, augment: bool) -> Callable[[], Any]:
    from dir_jax.retrieval.expansion import augment_database, expand_queries

    database = _descriptors(rows, 0)
    if augment:
        return lambda: augment_database(database, k=_K, alpha=_ALPHA)
    queries = _descriptors(70, 1)
    return lambda: expand_queries(queries, database, k=_K, alpha=_ALPHA)


def _faiss(rows: int, num_queries: int) -> Callable[[], Any]:
    import faiss

    index = faiss.IndexFlatIP(_WIDTH)
    index.add(_descriptors(rows, 0))
    queries = _descriptors(num_queries, 1)
    return lambda: index.search(queries, _TOP)[0]


def _our_search(rows: int, num_queries: int) -> Callable[[], Any]:
    from dir_jax.retrieval.search import top_k

    database, queries = _descriptors(rows, 0), _descriptors(num_queries, 1)
    return lambda: top_k(queries, database, _TOP)[0]


def _resident(rows: int, num_queries: int) -> tuple[np.ndarray, int, np.ndarray]:
    """A sixteenth of a database, how often it is to be repeated, and queries.

    Repeated with its dimensions shifted by one more each time, so that no rows are alike: a million
    of them are made on the device in a moment.
    """
    return _descriptors(rows // 16, 0), 16, _descriptors(num_queries, 1)


def our_resident(rows: int, num_queries: int) -> Callable[[], Any]:
    """Our search in a database that lies on the device."""
    import jax
    import jax.numpy as jnp

    from dir_jax.retrieval.search import top_k

    part, times, queries = _resident(rows, num_queries)

    @functools.partial(jax.jit, donate_argnums=0)
    def fill(database: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
        shifted = jnp.roll(part, i, axis=1)
        return jax.lax.dynamic_update_slice(database, shifted, (i * len(part), 0))

    database, on_device = jnp.zeros((len(part) * times, _WIDTH)), jnp.asarray(part)
    for i in range(times):
        database = fill(database, on_device, jnp.int32(i))
    return lambda: top_k(queries, database, _TOP)[0]


def torch_resident(rows: int, num_queries: int) -> Callable[[], Any]:
    """The same as PyTorch users write it: all products, then the largest."""
    import torch

    from benchmarks.network import torch_device

    part, times, queries = _resident(rows, num_queries)
    on_device = torch.from_numpy(part).to(torch_device())
    database = torch.empty(len(part) * times, _WIDTH, device=on_device.device)
    for i in range(times):
        database[i * len(part) : (i + 1) * len(part)] = on_device.roll(i, 1)

    def call() -> Any:
        scores = torch.from_numpy(queries).to(database.device) @ database.T
        return torch.topk(scores, _TOP).values.cpu().numpy()

    return call


def _augmentation_difference(rows: int, a: np.ndarray, b: np.ndarray) -> float:
    """max |a − b|, without rows whose k-th and next neighbour are equally near but for rounding.

    Of very many rows some are such; which of the two is taken is then the rounding's choice.
    """
    differs = np.flatnonzero(np.abs(a - b).max(axis=1) > _BOUND)
    if 0 < len(differs) <= rows // 1000:
        database = _descriptors(rows, 0).astype(np.float64)
        similarity = database[differs] @ database.T
        similarity[np.arange(len(differs)), differs] = 0
        nearest = np.sort(np.partition(similarity, -_K - 1, axis=1)[:, -_K - 1 :], axis=1)
        tied = nearest[:, 1] - nearest[:, 0] < _TIE
        a, b = (np.delete(x, differs[tied], axis=0) for x in (a, b))
        print(f"{np.sum(tied)} of {rows:,} rows: ties at place {_K}", file=sys.stderr)
    return largest_difference(a, b)


def _expansion_case(name: str, rows: int, augment: bool, *, long: bool = False) -> Case:
    sides = {
        "NumPy, as the original": _numpy_expansion,
        _LIMIT: _product,
        "dir_jax": _our_expansion,
    }
    bound = {name: functools.partial(side, rows, augment) for name, side in sides.items()}
    return Case(
        f"{name}, {rows:,} rows",
        bound,
        functools.partial(_augmentation_difference, rows) if augment else largest_difference,
        _BOUND,
        turns=0 if long else 5,
        parts=(_LIMIT,),
        long=long,
    )


def _search_case(rows: int, num_queries: int) -> Case:
    sides = {"FAISS flat": _faiss, "dir_jax": _our_search}
    bound = {name: functools.partial(side, rows, num_queries) for name, side in sides.items()}
    return Case(f"top {_TOP} of {rows:,}, {num_queries} queries", bound, largest_difference, _BOUND)


CASES = [
    _expansion_case("query expansion", 6_322, False),
    _expansion_case("query expansion", 100_000, False),
    _expansion_case("database augmentation", 6_322, True),
    _expansion_case("database augmentation", 100_000, True, long=True),
    _search_case(6_322, 70),
    _search_case(100_000, 70),
    _search_case(100_000, 1000),
]


def _shares(results: Sequence[Mapping[str, Any]]) -> str:
    """The share of its limit that each expansion reaches."""
    rows = ["| case | share of the limit: median (min–max) |", "|---|---|"]
    for case in results:
        if _LIMIT in case["sides"]:
            limit, ours = (case["sides"][name]["seconds"] for name in (_LIMIT, "dir_jax"))
            shares = [a / b for a, b in zip(limit, ours, strict=True)]
            middle = statistics.median(shares)
            rows.append(f"| {case['name']} | {middle:.0%} ({min(shares):.0%}–{max(shares):.0%}) |")
    return "\n".join(rows) if rows[2:] else ""


main(__name__, __doc__, CASES, _shares)
