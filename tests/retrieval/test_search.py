"""Exact search against sorting everything."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dir_jax.errors import UserError
from dir_jax.retrieval import search
from dir_jax.retrieval.blockwise import device_of, rows_of
from dir_jax.retrieval.search import at_once_where_it_lies, nearest_others, rank_all, top_k


def whole_numbers(shape: tuple[int, int], seed: int = 0, largest: int = 9) -> np.ndarray:
    """Dot products of whole numbers are exact, so that many scores tie and none is rounded."""
    rng = np.random.default_rng(seed)
    return rng.integers(-largest, largest + 1, shape).astype(np.float32)


def expected_ranking(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    return np.argsort(-(queries @ database.T), axis=1, kind="stable")


@pytest.mark.parametrize("k", [1, 7, 40, 101])
@pytest.mark.parametrize("block_size", [16, 50, 1000])
def test_top_k(k: int, block_size: int) -> None:
    """Blocks smaller than k, blocks that do not divide the database, one block for all."""
    queries, database = whole_numbers((5, 6)), whole_numbers((101, 6), seed=1, largest=2)
    scores, indices = top_k(queries, database, k, block_size=block_size)
    expected = expected_ranking(queries, database)[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(
        scores, np.take_along_axis(queries @ database.T, expected, axis=1)
    )
    assert (scores.dtype, indices.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("block_size", [1, 16, 50, 51, 1000])
def test_nearest_others(k: int, block_size: int) -> None:
    database = whole_numbers((101, 6), largest=2)
    products = database @ database.T
    np.fill_diagonal(products, -np.inf)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    for rows in (database, jnp.asarray(database)):
        scores, indices = nearest_others(rows, k, block_size=block_size)
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(scores, np.take_along_axis(products, expected, axis=1))
    assert (scores.dtype, indices.dtype) == (np.float32, np.int32)


def test_nearest_others_of_rows_that_could_not_be_read() -> None:
    database = whole_numbers((30, 4), seed=1)
    database[[0, 17]] = np.nan
    scores, indices = nearest_others(database, 29, block_size=8)
    for i in range(30):
        assert sorted(indices[i]) == [j for j in range(30) if j != i]
        last = [j for j in (0, 17) if j != i]
        assert np.isnan(scores[i]).sum() == (29 if i in (0, 17) else len(last))
        assert i in (0, 17) or indices[i, -2:].tolist() == last


def test_nearest_others_compiles_two_programs() -> None:
    compiled = search._merge_pairs._cache_size()
    nearest_others(whole_numbers((1003, 8)), 10, block_size=64)
    assert search._merge_pairs._cache_size() == compiled + 2


def test_rank_all() -> None:
    queries, database = whole_numbers((23, 6)), whole_numbers((101, 6), seed=1, largest=2)
    for block_size in (5, 23, 1024):
        rankings = rank_all(queries, database, block_size=block_size)
        np.testing.assert_array_equal(rankings, expected_ranking(queries, database))


def test_more_queries_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_QUERIES", 8)
    queries, database = whole_numbers((21, 6)), whole_numbers((64, 6), seed=1)
    _, indices = top_k(queries, database, 10, block_size=20)
    np.testing.assert_array_equal(indices, expected_ranking(queries, database)[:, :10])


def test_memory_maps_and_device_arrays(tmp_path: Path) -> None:
    queries, database = whole_numbers((3, 4)), whole_numbers((50, 4), seed=1)
    np.save(tmp_path / "database.npy", database)
    mapped = np.load(tmp_path / "database.npy", mmap_mode="r")
    expected = top_k(queries, database, 5, block_size=16)
    for other in (mapped, jnp.asarray(database), database.astype(np.float64)):
        for mine, theirs in zip(top_k(queries, other, 5, block_size=16), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_one_compilation_and_bounded_memory() -> None:
    queries, database = whole_numbers((4, 8)), whole_numbers((100_003, 8), seed=1)
    compiled = search._merge_block._cache_size()
    _, indices = top_k(queries, database, 10, block_size=1024)
    np.testing.assert_array_equal(indices, expected_ranking(queries, database)[:, :10])
    assert search._merge_block._cache_size() == compiled + 1

    best = (jnp.zeros((4, 10)), jnp.zeros((4, 10), jnp.int32))
    program = search._merge_block.lower(
        best, jnp.asarray(queries), jnp.asarray(database[:1024]), 0, 0
    ).compile()
    # A few arrays of 4 × 1024; the matrix of all scores would be 1.6 MB.
    assert program.memory_analysis().temp_size_in_bytes < 200_000


def test_a_database_on_an_accelerator_is_read_where_it_lies() -> None:
    """As a whole, by as many queries as have room; one of very many rows is still sliced."""
    sizes = functools.partial(at_once_where_it_lies, block_size=16384)
    assert sizes("gpu", 70, rows=1_000_000) == (70, 1_000_000)
    assert sizes("gpu", 1024, rows=1_000_000) == (134, 1_000_000)
    assert sizes("gpu", 1024, rows=100_000_000) == (1024, 16384)
    assert sizes("cpu", 70, rows=1_000_000) == (70, 16384)


def test_a_database_on_an_accelerator_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_accelerator(_: str, queries: int, *rest: int) -> tuple[int, int]:
        return at_once_where_it_lies("gpu", queries, *rest)

    queries, database = whole_numbers((21, 8)), whole_numbers((100, 8), seed=1)
    monkeypatch.setattr(search, "_SCORES_ON_ACCELERATOR", 1600)  # of 16 queries at once
    monkeypatch.setattr(search, "at_once_where_it_lies", on_accelerator)
    found = top_k(queries, jnp.asarray(database), 5, block_size=7)
    for mine, theirs in zip(found, top_k(queries, database, 5, block_size=7), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rows_that_could_not_be_read_come_last() -> None:
    database = whole_numbers((30, 4), seed=1)
    database[[0, 17]] = np.nan
    queries = whole_numbers((3, 4))
    assert set(rank_all(queries, database)[:, -2:].ravel()) == {0, 17}
    scores, indices = top_k(queries, database, 30, block_size=7)
    assert [sorted(row) for row in indices.tolist()] == [list(range(30))] * 3
    np.testing.assert_array_equal(indices[:, -2:], [[0, 17]] * 3)
    assert np.isnan(scores[:, -2:]).all()
    assert np.isfinite(scores[:, :-2]).all()


def test_no_queries() -> None:
    database = whole_numbers((9, 4))
    scores, indices = top_k(database[:0], database, 3)
    assert scores.shape == indices.shape == (0, 3)
    assert rank_all(database[:0], database).shape == (0, 9)


@pytest.mark.parametrize("k", [0, 10])
def test_k_that_is_not_there(k: int) -> None:
    database = whole_numbers((9, 4))
    with pytest.raises(UserError, match=f"the {k} nearest in a database of 9"):
        top_k(database, database, k)
    with pytest.raises(UserError, match=f"the {k} nearest others in a database of 10"):
        nearest_others(whole_numbers((10, 4)), k)


def test_widths_are_checked() -> None:
    with pytest.raises(AssertionError):
        top_k(whole_numbers((2, 3)), whole_numbers((5, 4)), 1)
    with pytest.raises(AssertionError):
        rank_all(whole_numbers((2, 3)), whole_numbers((5, 4)))


@pytest.mark.parametrize("count", [640, 641, 5000])
def test_the_best_of_a_long_block_with_many_ties(count: int) -> None:
    """Blocks long enough to be searched by groups."""
    queries, database = whole_numbers((7, 3), 1, 2), whole_numbers((count, 3), 2, 2)
    scores, indices = top_k(queries, database, 10)
    expected = expected_ranking(queries, database)[:, :10]
    np.testing.assert_array_equal(indices, expected)
    products = queries @ database.T
    np.testing.assert_array_equal(scores, np.take_along_axis(products, expected, axis=1))


def test_computed_on_the_device_that_is_asked_for() -> None:
    """NumPy arrays go to JAX's default device; other arrays stay where they are."""
    first, second = jax.devices()[:2]
    rows = whole_numbers((3, 4))
    assert device_of(rows) == rows_of(rows, 0, 2).device == first
    with jax.default_device(second):
        assert device_of(rows) == rows_of(rows, 0, 2).device == second
    there = jax.device_put(rows, second)
    assert device_of(there) == rows_of(there, 0, 2).device == second
