"""ROxford5K's evaluation with a million distractors, from descriptors in a file to mAP.

    python -m benchmarks.distractors --long --json distractors.json

70 queries and 4,993 images of 2048 dimensions lie in memory. The baseline has the distractors in
memory, too, as rows of the database, which were loaded before the clock starts; dir_jax reads them
from a .npy file (8.2 GB for a million), which is made once in the folder for temporary files and
stays there. Without `--long`, there are 100,000.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side_by_side import Case, largest_difference, main

_WIDTH, _IMAGES, _QUERIES = 2048, 4993, 70
_BLOCK = 10_000  # rows drawn at once


def _draw(count: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, _WIDTH), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def _file(count: int) -> Path:
    path = Path(tempfile.gettempdir()) / f"dir_jax_distractors_{count}.npy"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        with open(partial, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, _WIDTH)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, count, _BLOCK):
                _draw(min(_BLOCK, count - start), 100 + start).tofile(file)
        partial.rename(path)
    return path


def _dataset(images: int) -> Any:
    from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset

    rng, truth = np.random.default_rng(0), []
    for _ in range(_QUERIES):
        easy, hard, junk, _ = np.split(rng.permutation(_IMAGES), np.cumsum([44, 36, 58]))
        truth.append({"easy": easy, "hard": hard, "junk": junk})
    queries = QueryDataset([f"q{i}.jpg" for i in range(_QUERIES)], "", None)
    return RelevantsDataset([f"{i}.jpg" for i in range(images)], queries, truth)


def _evaluation(distractors: int, in_memory: bool) -> Callable[[], Any]:
    from dir_jax.describe.stored_rows import StoredRows
    from dir_jax.evaluation import evaluate_descriptors

    file = str(_file(distractors))
    database, queries = _draw(_IMAGES, 1), _draw(_QUERIES, 2)
    if not in_memory:
        dataset, more = _dataset(_IMAGES), StoredRows(file)
        call = functools.partial(evaluate_descriptors, dataset, database, queries, distractors=more)
    else:
        dataset = _dataset(_IMAGES + distractors)
        whole = np.empty((len(dataset), _WIDTH), np.float32)
        whole[:_IMAGES] = database
        stored = StoredRows(file)
        for start in range(0, distractors, _BLOCK):
            part = stored[start : start + _BLOCK]
            whole[_IMAGES + start :][: len(part)] = part
        call = functools.partial(evaluate_descriptors, dataset, whole, queries)
    return lambda: np.stack(list(call().aps.values()))


def _case(distractors: int, *, long: bool) -> Case:
    return Case(
        f"{_QUERIES} queries × {_IMAGES + distractors:,} images",
        {
            "all in memory": functools.partial(_evaluation, distractors, True),
            "dir_jax": functools.partial(_evaluation, distractors, False),
        },
        largest_difference,
        1e-6,
        work=("images", _IMAGES + distractors),
        long=long,
    )


CASES = [_case(100_000, long=False), _case(1_000_000, long=True)]

main(__name__, __doc__, CASES)
