"""What every engine of an index does, and the exact one.

All others find candidates, whose scores are then computed exactly from the memory map.
"""

# ruff: noqa: B027 - an engine that needs nothing at some moment leaves that method empty

from __future__ import annotations

import abc
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from dir_jax.errors import UserError
from dir_jax.fields import Rule, check_fields, is_number, is_whole
from dir_jax.retrieval.blockwise import device_of
from dir_jax.retrieval.search import top_k
from dir_jax.search.store import Contents

log = logging.getLogger(__name__)

_SLAB = 256 << 20  # bytes of descriptors searched before their memory is given back
_SLAB_ROWS = 16384  # but at least so many, which `top_k` takes at once
_GATHERED = 64 << 20  # bytes of candidates' descriptors gathered at once
ADDED = 32 << 20  # bytes of descriptors given to an engine at once
TRIED = 200  # images that query to measure an engine
K = 10  # of recall@10
_ENOUGH = 0.95  # recall@10, to which an engine is tuned
_MOST_CANDIDATES = 64  # for each result

Adopt = Callable[[Callable[[Path], None]], None]
Found = tuple[np.ndarray, np.ndarray]  # (Q, k) float32 scores, falling; (Q, k) int64 rows, or −1


class Engine(abc.ABC):
    """Finds rows of an index.

    Attributes:
      settings: what index.json keeps of it, besides its text.
    """

    form: ClassVar[str] = ""  # what stands after the colon; '' where nothing does
    rules: ClassVar[dict[str, Rule]] = {}  # of the settings

    def __init__(self, argument: str, contents: Contents, settings: dict[str, Any] | None = None):
        """`settings` are those of index.json, or None for an engine that is yet to be built."""
        self.contents = contents
        self.argument = argument
        if settings is not None:
            check_fields(f"{contents.folder}: its engine", settings, self.rules)
        self.settings = settings or {}

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}:{self.argument}".rstrip(":")

    def build(self, previous: Engine | None, file: Adopt) -> None:
        """Makes the engine hold the contents, of which `previous` held those before a change.

        `file` is called with a function that writes the engine's file at a path.
        """

    def open(self) -> None:
        """Reads what the engine keeps, before it is searched."""

    def committed(self) -> None:
        """Called once a change of the index is on the disk."""

    def drop(self) -> None:
        """Called when the index is no more, or has another engine."""

    @abc.abstractmethod
    def search(self, queries: np.ndarray, k: int) -> Found:
        """The k best rows of each of (Q, D) queries."""


class Exact(Engine):
    """Every descriptor is compared, on the device; read from the disk where they are many."""

    _resident: jax.Array | None = None

    def open(self) -> None:
        """Sends the descriptors to an accelerator, if they take less than half of its memory."""
        x = self.contents.descriptors
        device = device_of(x)
        if device.platform != "cpu":
            room = (device.memory_stats() or {}).get("bytes_limit", 0)
            if x.nbytes < room // 2:
                self._resident = jax.device_put(x, device)

    def search(self, queries: np.ndarray, k: int) -> Found:
        if self._resident is not None:
            scores, rows = top_k(queries, self._resident, k)
            return scores, rows.astype(np.int64)
        return exact_search(self.contents, queries, k)


def exact_search(
    contents: Contents, queries: np.ndarray, k: int, among: np.ndarray | None = None
) -> Found:
    """The k best of all rows, or of the rows `among` (rising numbers), exactly.

    Memory is O(Q · k) and some 0.5 GB, whatever the size of the index.
    """
    x = contents.descriptors
    count = len(x) if among is None else len(among)
    size = max(1, min(count, max(_SLAB_ROWS, _SLAB // x[0].nbytes)))
    best: Found | None = None
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        if among is not None:
            rows = among[rows]
        part = x[start : start + size] if among is None else x[rows]
        scores, places = top_k(queries, part, min(k, len(part)))
        found = scores, rows[places]
        if count > size:
            contents.forget_pages()
        best = found if best is None else _merged(best, found, k)
    if best is None:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    return best


def _merged(a: Found, b: Found, k: int) -> Found:
    """The k best of two; those of `a`, which are lower rows, win ties."""
    scores, rows = (np.concatenate(pair, axis=1) for pair in zip(a, b, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # NaN comes last
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


class Approximate(Engine):
    """An engine that gives candidates, which are then compared exactly."""

    rules: ClassVar = {
        "candidates": Rule(lambda v: is_whole(v, 1, _MOST_CANDIDATES), "a number of candidates"),
        "recall": Rule(lambda v: is_number(v, 0, 1.01), "a share", required=False),
        "milliseconds": Rule(lambda v: is_number(v, 0), "a time", required=False),
    }

    @abc.abstractmethod
    def candidates(self, queries: np.ndarray, count: int) -> np.ndarray:
        """(Q, c) int64 rows for (Q, D) queries, −1 for none, in any order."""

    def search(self, queries: np.ndarray, k: int) -> Found:
        rows = self.candidates(queries, min(self._count(k), len(self.contents)))
        return self._rank(queries, rows, k)

    def _count(self, k: int) -> int:
        return max(k, K) * self.settings.get("candidates", 2)  # recall was measured for K

    def _rank(self, queries: np.ndarray, rows: np.ndarray, k: int) -> Found:
        x, k = self.contents.descriptors, min(k, rows.shape[1])
        scores = np.empty(rows.shape, np.float32)
        step = max(1, _GATHERED // max(1, rows.shape[1] * x[0].nbytes))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            near = x[rows[part].ravel()].reshape(*rows[part].shape, -1)
            scores[part] = (near @ queries[part, :, None])[..., 0]
        scores[rows < 0] = -np.inf
        # Of equal scores the lower row comes first, as in an exact search.
        order = np.lexsort((rows, -scores))[:, :k]
        scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        scores[rows < 0] = np.nan
        return scores, rows

    def measure(self, tried: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
        """Recall@10 of the rows `tried`, themselves left out, and milliseconds a query."""
        queries = self.contents.descriptors[tried]
        self.search(queries[:1], K)  # what starts is not timed
        start = time.perf_counter()
        found = self.search(queries, truth.shape[1] + 1)[1]
        seconds = time.perf_counter() - start
        hits = [len(set(t) & set(f) - {own}) for own, t, f in
                zip(tried.tolist(), truth.tolist(), found.tolist(), strict=True)]  # fmt: skip
        return sum(hits) / truth.size, 1000 * seconds / len(tried)

    def tune(self, tried: np.ndarray, **most: int) -> None:
        """Doubles what gains more, and again, until recall@10 is 0.95; prints and keeps what it is.

        That is candidates for each result, and each setting of `most`, which says how far.
        """
        if len(self.contents) < 2:
            return
        truth, most = (
            true_neighbours(self.contents, tried),
            {**most, "candidates": _MOST_CANDIDATES},
        )

        def measure(**changed: int) -> tuple[float, float, dict[str, Any]]:
            self.settings = {**self.settings, **changed}
            return (*self.measure(tried, truth), self.settings)

        now = measure()
        while now[0] < _ENOUGH:
            settings = now[2]
            trials = [measure(**{**settings, name: min(2 * settings[name], most[name])})
                      for name in most if settings[name] < most[name]]  # fmt: skip
            better = max(trials, key=lambda trial: trial[0], default=now)
            if better[0] <= now[0]:
                break
            now = better
        recall, milliseconds, settings = now
        self.settings = {**settings, "recall": recall, "milliseconds": milliseconds}
        effort = f"effort {settings['effort']}, " if "effort" in settings else ""
        print(f"{self}: recall@{K} {recall:.3f} of exact search, {milliseconds:.3g} ms a query, by "
              f"{len(tried)} held-out images ({effort}{settings['candidates']} candidates for each "
              "result)")  # fmt: skip

    def error(self, problem: str) -> UserError:
        return UserError(f"the engine {self} {problem}")


def true_neighbours(contents: Contents, tried: np.ndarray) -> np.ndarray:
    """(n, 10) the nearest others of some rows, exactly; fewer where there are fewer images."""
    k = min(K, len(contents) - 1)
    rows = exact_search(contents, contents.descriptors[tried], k + 1)[1]
    others = [
        [row for row in found if row != own][:k] for own, found in zip(tried, rows, strict=True)
    ]
    return np.array(others, np.int64).reshape(len(tried), k)


def import_package(module: str, engine: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise UserError(f"the engine {engine} needs the package {module}, which is not installed: "
                        f"pip install 'dir_jax[{extra}]'") from e  # fmt: skip


def reason(error: BaseException) -> str:
    """What a library's error says, without where in its source it was raised."""
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    return " ".join(text.rsplit("failed: ", 1)[-1].rsplit(".cpp:", 1)[-1].split())[:300]
