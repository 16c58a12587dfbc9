"""Several queries at once, by few compiled programs, whatever their sizes and numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dir_jax.data.given import as_images
from dir_jax.describe.image_lists import read_list
from dir_jax.describe.padded_shapes import Shape, choose_canvases
from dir_jax.errors import UserError
from dir_jax.runtime.progress import progress_bar
from dir_jax.search.index import Index

ROWS = (1, 4, 16)
"""How many pictures, and how many descriptors, are given to the device at once: the next larger."""
MOST_RESULTS = 10_000
"""How far down a ranking is shown."""
_FOUND = (64, 256, 1024, 4096, MOST_RESULTS)  # how many images are found: the next larger
_SAMPLE = 256  # images of the index, of which canvases are chosen
_LARGEST = 4096  # pixels, of the square's side
_TYPICAL = ((1024, 768), (768, 1024))  # pixels, where no image of the index is there any more


@dataclasses.dataclass(frozen=True)
class Query:
    """A picture, (H, W, 3) uint8, or a descriptor, (D,) float32; and how many images to find."""

    what: np.ndarray
    k: int


@dataclasses.dataclass(frozen=True)
class Found:
    """The descriptor of a query, (D,) float32, and what it found: (k,) scores and rows."""

    descriptor: np.ndarray
    scores: np.ndarray
    rows: np.ndarray


class Searcher:
    """Searches an index with several queries at once.

    A program is compiled for each padded shape of pictures. Lists of images choose theirs; queries
    come one by one, so that theirs are chosen here, once: two that fit the images of the index, and
    that of a square as large as they are. Pictures that none of these holds get a larger one, whose
    program is compiled when the first comes.
    """

    def __init__(self, index: Index):
        """Loads the model. Raises UserError where it is not there, or not that of the index."""
        self.index = index
        self._describer = index.describer()
        self._describer.stay_on_devices()
        self._originals, self._scaled = self._sample()
        self._canvases = {
            (w, h)
            for sizes in (self._scaled[:, :-1], self._scaled[:, -1:])
            for w, h in choose_canvases(sizes.reshape(-1, 2), 2).tolist()
        }

    def warm_up(self) -> None:
        """Compiles what the first queries need."""
        todo: dict[tuple[tuple[int, int], ...], tuple[int, int]] = {}
        for original, scaled in zip(self._originals, self._scaled.swapaxes(0, 1), strict=True):
            todo.setdefault(tuple(map(self._canvas, scaled.tolist())), original)
        programs = [
            (original, rows)
            for canvases, original in todo.items()
            for rows in sorted({self._rows(n, *canvas) for n in ROWS for canvas in canvases})
        ]
        with progress_bar("prepare", len(programs), "program", shown=True, delay=1) as bar:
            for (width, height), rows in programs:
                self._describe([np.zeros((height, width, 3), np.uint8)] * rows)
                bar.update()
        for rows in ROWS:
            self([Query(self.index.descriptors[0], 1)] * rows)

    def __call__(self, queries: Sequence[Query]) -> list[Found | Exception]:
        """The answers to at most ROWS[-1] queries, each of which may be a UserError."""
        width = self.index.descriptors.shape[1]
        x = np.zeros((_next(len(queries), ROWS), width), np.float32)
        failures: dict[int, Exception] = {}
        pictures = [i for i, query in enumerate(queries) if query.what.ndim == 3]
        for i, query in enumerate(queries):
            if query.what.ndim == 1:
                x[i] = query.what
        try:
            x[pictures] = self._describe([queries[i].what for i in pictures])
        except UserError:
            for i in pictures:  # which of them it was
                try:
                    x[i] = self._describe([queries[i].what])[0]
                except UserError as e:
                    failures[i] = e
        k = min(_next(max(query.k for query in queries), _FOUND), len(self.index))
        found = self.index.search(x, k)
        answers: list[Found | Exception] = []
        for i, query in enumerate(queries):
            there = np.flatnonzero(found.rows[i] >= 0)[: query.k]
            answer = Found(x[i], found.scores[i, there], found.rows[i, there])
            answers.append(failures.get(i, answer))
        return answers

    def _describe(self, pictures: list[np.ndarray]) -> np.ndarray:
        if not pictures:
            return np.empty((0, self.index.descriptors.shape[1]), np.float32)
        images, sizes = as_images(pictures), np.array([p.shape[1::-1] for p in pictures])
        for size in self._describer.output_sizes(sizes).reshape(-1, 2).tolist():
            self._canvases.add(self._canvas(size))
        shapes = [
            Shape(width, height, self._rows(len(pictures), width, height), exact=False)
            for width, height in sorted(self._canvases, key=lambda c: (math.prod(c), c))
        ]
        return self._describer.describe([("", images)], shapes=shapes).lists[0].array()

    def _canvas(self, size: Sequence[int]) -> tuple[int, int]:
        """The smallest canvas that holds a picture, or one to be added."""
        holding = [c for c in self._canvases if c[0] >= size[0] and c[1] >= size[1]]
        if holding:
            return min(holding, key=lambda c: (math.prod(c), c))
        return _rounded_up(size[0]), _rounded_up(size[1])

    def _rows(self, pictures: int, width: int, height: int) -> int:
        room = self._describer.room.for_canvas(width, height)
        return min(_next(pictures, ROWS), max(rows for rows in ROWS if rows <= room))

    def _sample(self) -> tuple[list[tuple[int, int]], np.ndarray]:
        """(n, 2) sizes of images of the index and of a square, and (S, n, 2) at each scale."""
        count = len(self.index)
        chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(int))
        read = read_list("", self.index.images, chosen)
        sizes = read.sizes[read.indices]
        sizes = sizes[sizes[:, 0] > 0] if sizes.any() else np.array(_TYPICAL)
        square = [min(sizes.max(), _LARGEST)] * 2
        sizes = np.concatenate([sizes, [square]])
        scaled = self._describer.output_sizes(sizes)
        good = (scaled > 1).all(axis=(0, 2))
        return sizes[good].tolist(), scaled[:, good]


def _next(number: int, steps: Sequence[int]) -> int:
    return next(step for step in steps if step >= number)


def _rounded_up(side: int) -> int:
    """A side of few possible ones, at most about 1.4 times as long."""
    side = max(side, 64)
    return -(-math.ceil(2 ** (math.ceil(2 * math.log2(side)) / 2)) // 16) * 16
