"""Descriptors of a whole data set, in batches over all devices.

Images of one size share a batch; each distinct size that the transform gives compiles once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from dir_jax.data.datasets import ImageDataset
from dir_jax.data.loader import BatchLoader
from dir_jax.data.samplers import Listed
from dir_jax.data.transforms import Compose
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.preprocess import normalize
from dir_jax.models.variables import merge_variables
from dir_jax.replicas import REPLICATED, ROWS, MeshReplicas


class Extractor:
    """Describes images with a network's current variables; compiles once for each image size."""

    def __init__(
        self,
        graphdef: nnx.GraphDef[RetrievalNetwork],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch_size: int,
        num_workers: int = 0,
        prefetch: int = 4,
    ):
        """Prepares the program.

        Args:
          graphdef: the network's structure.
          mean: of the input's channels, in [0, 1].
          std: likewise.
          batch_size: images at once over all devices; rounded up to a multiple of them.
          num_workers: processes that decode; 0 is threads in this one.
          prefetch: batches that are prepared ahead.
        """
        self._replicas = MeshReplicas()
        self._batch_size = -(-batch_size // self._replicas.count) * self._replicas.count
        self._num_workers = num_workers
        self._prefetch = prefetch

        def describe(params: Any, stats: Any, images: jax.Array) -> jax.Array:
            own = merge_variables(graphdef, params, stats)(normalize(images, mean, std))
            return jax.lax.all_gather(own, "data", tiled=True)

        self._describe = self._replicas.wrap(describe, (REPLICATED, REPLICATED, ROWS), REPLICATED)

    def __call__(
        self,
        params: Mapping[str, Any],
        stats: Mapping[str, Any],
        dataset: ImageDataset,
        transform: Compose,
        sizes: np.ndarray,
        *,
        indices: np.ndarray | None = None,
        description: str = "describe",
        on_batch: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Describes images in order.

        Args:
          params: dotted path -> host array.
          stats: dotted path -> host array.
          dataset: the images.
          transform: deterministic; applied to each image.
          sizes: (len(dataset), 2) int, width and height of each image in its file.
          indices: (N,) which images; all by default.
          description: in front of the progress bar.
          on_batch: called after each batch; it may raise to stop.

        Returns:
          (N, D) float32.

        Raises:
          UserError: an image cannot be read or transformed; it is named.
        """
        replicas = self._replicas
        indices = np.arange(len(dataset)) if indices is None else np.asarray(indices)
        batches, places = _batches_of_one_size(
            np.array(
                [transform.output_size(tuple(s), tuple(s))[0] for s in sizes[indices].tolist()]
            ),
            self._batch_size,
        )
        rows = self._batch_size // jax.process_count()
        first = jax.process_index() * rows
        variables = replicas.replicate((dict(params), dict(stats)))
        descriptors: np.ndarray | None = None
        # The description of one batch is fetched while the next one is computed.
        pending: list[tuple[np.ndarray, jax.Array]] = []

        def fetch() -> None:
            nonlocal descriptors
            place, result = pending.pop(0)
            values = replicas.fetch(result)
            if descriptors is None:
                descriptors = np.zeros((len(indices), values.shape[1]), np.float32)
            descriptors[place] = values[: len(place)]

        with (
            BatchLoader(
                dataset,
                transform,
                Listed(indices[batches.ravel()], self._batch_size),
                seed=0,
                rows=np.arange(first, first + rows),
                unit=rows,
                start_step=0,
                stop_step=len(batches),
                num_workers=self._num_workers,
                prefetch=self._prefetch,
            ) as loader,
            tqdm(total=len(indices), desc=description, unit="img", leave=False) as bar,
        ):
            for place, images in zip(places, loader, strict=True):
                pending.append((place, self._describe(*variables, replicas.put_rows(images))))
                if len(pending) > 1:
                    fetch()
                bar.update(len(place))
                on_batch()
            while pending:
                fetch()
        assert descriptors is not None  # an empty data set is refused when it is checked
        return descriptors


def _batches_of_one_size(sizes: np.ndarray, batch_size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Groups images into batches of one size each.

    Args:
      sizes: (N, 2) int.
      batch_size: rows in a batch.

    Returns:
      batches: (B, batch_size) int: places in `sizes`; a short batch repeats its last.
      places: of each batch, those that are not repeats.
    """
    _, group = np.unique(sizes, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    places = [
        run[i : i + batch_size]
        for run in np.split(order, starts[1:])
        for i in range(0, len(run), batch_size)
    ]
    batches = np.stack([np.pad(p, (0, batch_size - len(p)), mode="edge") for p in places])
    return batches, places
