"""Images of many sizes as batches of a few padded shapes, decoded in threads or processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import Transform
from dir_jax.describe.padded_shapes import Batch
from dir_jax.errors import UserError


class PaddedImages(NamedTuple):
    """A batch's images, or the share of them that one process loads.

    Attributes:
      images: (R, H, W, 3) uint8, each image at the top left of its row; 0 elsewhere.
      sizes: (R, 2) int32, height and width of each image in pixels; 1 × 1 where there is none.
      failures: row of the whole batch -> why its image cannot be used.
    """

    images: np.ndarray
    sizes: np.ndarray
    failures: dict[int, str]


@dataclasses.dataclass(frozen=True)
class PaddedLoader:
    """Loads the images of the batches that `plan_batches` made, by the batch's number.

    An image that cannot be used is a UserError that names it, or noted with `skip_failures`.
    """

    dataset: ImageDataset
    indices: np.ndarray  # (N,) int, the image that each place of a batch means
    transform: Transform  # its random numbers are seeded by the image's number
    batches: Sequence[Batch]
    share: tuple[int, int]  # (i, n), to load the i-th of n equal parts of each batch's rows
    skip_failures: bool

    def __call__(self, number: int) -> PaddedImages:
        batch = self.batches[number]
        part, parts = self.share
        rows = batch.rows // parts
        first = part * rows
        width, height = batch.canvas
        images = np.zeros((rows, height, width, 3), np.uint8)
        sizes = np.ones((rows, 2), np.int32)
        failures: dict[int, str] = {}
        for row, place in enumerate(batch.places[first:][:rows].tolist()):
            try:
                image = self._load(int(self.indices[place]), batch.canvas)
            except UserError as e:
                if not self.skip_failures:
                    raise
                failures[first + row] = str(e)
                continue
            sizes[row] = image.shape[:2]
            images[row, : image.shape[0], : image.shape[1]] = image
        return PaddedImages(images, sizes, failures)

    def _load(self, number: int, canvas: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        view, path = self.dataset.view(number), self.dataset.path(number)
        try:
            image = self.transform.view(view, np.random.default_rng(number)).image()
        except Exception as e:
            why = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
            raise UserError(f"the image {path} cannot be transformed: {why}") from e
        if image.width > canvas[0] or image.height > canvas[1]:
            raise UserError(
                f"the image {path} is larger than its file's header said; has the file been "
                "replaced since?"
            )
        return np.asarray(image)
