"""The descriptors of a list of images, finished as they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.describe.passes import UNFINISHED, refuse_not_finite
from dir_jax.retrieval.blockwise import blocks

_ROWS = 4096  # handed out at once


@dataclasses.dataclass(frozen=True)
class Descriptors:
    """The descriptors of a list of images.

    Attributes:
      dataset: the images.
      failures: image number -> why the image has no descriptor; its row is NaN.
    """

    dataset: ImageDataset
    failures: dict[int, str]
    _scales: list[np.ndarray]
    _finish: Callable[[list[np.ndarray]], np.ndarray]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some of them, (n, D) float32, finished as they are asked for."""
        return self._finish([scale[rows] for scale in self._scales])

    @property
    def shape(self) -> tuple[int, int]:
        """N, D."""
        return len(self), self[:1].shape[1]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first row, rows): (n, D) float32 finished descriptors, in order, each once.

        Raises:
          NotFiniteError: a descriptor is no longer finite.
        """
        size = min(_ROWS, len(self))
        for start, first_new in blocks(len(self), size):
            rows = self[start : start + size][first_new - start :]
            places = range(first_new, first_new + len(rows))
            refuse_not_finite(rows, places, self.failures, self.dataset.path, UNFINISHED)
            yield first_new, rows

    def array(self) -> np.ndarray:
        """All of them, (N, D) float32."""
        return np.concatenate([rows for _, rows in self.blocks()])
