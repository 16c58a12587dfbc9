"""The engine `faiss:SPEC`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dir_jax.fields import Rule, is_whole
from dir_jax.runtime.progress import progress_bar
from dir_jax.search.exact import (
    ADDED,
    TRIED,
    Adopt,
    Approximate,
    Engine,
    import_package,
    reason,
)

_MOST_EF, _EF = 4096, 16  # of HNSW: the most, and for an effort of 1


class Faiss(Approximate):
    """Any index that `faiss.index_factory` can make, kept in memory."""

    form = "SPEC"
    rules: ClassVar = {
        "trained": Rule(lambda v: is_whole(v, 0, 1 << 31), "a number of images"),
        "effort": Rule(lambda v: is_whole(v, 1, 1 << 20), "a whole number above 0"),
        **Approximate.rules,
    }
    _index: Any = None

    def open(self) -> None:
        faiss = self._module()
        try:
            self._index = faiss.read_index(os.fspath(self.contents.file("engine")))
            size = self._index.ntotal, self._index.d
        except Exception as e:  # FAISS's C++ raises RuntimeError, and MemoryError for absurd sizes
            raise self.error(f"cannot be read: {reason(e)}") from e
        if size != self.contents.descriptors.shape:
            raise self.error(f"holds {size[0]} x {size[1]} numbers; build the index again")
        self._set_effort()

    def build(self, previous: Engine | None, file: Adopt) -> None:
        faiss, x = self._module(), self.contents.descriptors
        old = previous.contents.ids if isinstance(previous, Faiss) else np.empty(0, np.int64)
        grows = len(old) > 0 and np.array_equal(old, self.contents.ids[: len(old)])
        if grows and len(x) < 2 * previous.settings["trained"]:  # type: ignore[union-attr]
            assert isinstance(previous, Faiss)
            previous.open()
            self._index, self.settings, start = previous._index, dict(previous.settings), len(old)
        else:
            start = 0
        try:
            if not start:
                self._train(faiss)
            step = max(1, ADDED // x[0].nbytes)
            with progress_bar("add", len(x) - start, "img", shown=True, delay=1) as bar:
                for first in range(start, len(x), step):
                    self._index.add(x[first : first + step])
                    bar.update(len(x[first : first + step]))
            if not start:
                effort = getattr(self._ivf(), "nlist", _MOST_EF // _EF) if self._parameter() else 1
                self.tune(self._tried, effort=effort)
            self._set_effort()
        except (RuntimeError, MemoryError) as e:
            raise self.error(f"cannot hold this index: {reason(e)}") from e
        file(lambda path: self._write(faiss, path))

    def _write(self, faiss: Any, path: Path) -> None:
        try:
            faiss.write_index(self._index, os.fspath(path))
        except RuntimeError as e:
            raise OSError(None, reason(e)) from e

    def _train(self, faiss: Any) -> None:
        x = self.contents.descriptors
        try:
            self._index = faiss.index_factory(x.shape[1], self.argument, faiss.METRIC_INNER_PRODUCT)
        except Exception as e:
            raise self.error(f"is not an index for {x.shape[1]} dimensions: {reason(e)}") from e
        lists = getattr(self._ivf(), "nlist", 0)
        order = np.random.default_rng(0).permutation(len(x))
        self._tried = np.sort(order[:TRIED])
        sample = np.sort(order[TRIED:][: max(100_000, 64 * lists)])
        if len(sample) < max(lists, len(x) // 2):  # few images: nothing can be held out
            sample = np.arange(len(x))
        if not self._index.is_trained:
            if len(sample) < lists:
                raise self.error(f"needs {lists} images at least, and there are {len(x)}")
            self._index.train(x[sample])
        self.settings = {"trained": len(x), "effort": 1, "candidates": 1}

    def measure(self, tried: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
        self._set_effort()
        return super().measure(tried, truth)

    def _ivf(self) -> Any:
        try:
            return self._module().extract_index_ivf(self._index)
        except RuntimeError:  # it has no inverted lists
            return None

    def _parameter(self) -> str | None:
        """The parameter of FAISS that buys recall with time."""
        if self._ivf() is not None:
            return "nprobe"
        return "efSearch" if "HNSW" in self.argument else None

    def _set_effort(self) -> None:
        if name := self._parameter():
            effort = self.settings["effort"] * (_EF if name == "efSearch" else 1)
            self._module().ParameterSpace().set_index_parameter(self._index, name, effort)

    def candidates(self, queries: np.ndarray, count: int) -> np.ndarray:
        return self._index.search(np.ascontiguousarray(queries, np.float32), count)[1]

    def _module(self) -> Any:
        return import_package("faiss", str(self), "faiss")
