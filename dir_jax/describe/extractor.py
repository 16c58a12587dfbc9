"""Batches of images to descriptors, over several devices.

Images of several sizes share batches of a few padded shapes, each of which compiles once. An
image's descriptor is the one that the network would give the image alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import Transform
from dir_jax.data.workers import Prefetcher
from dir_jax.describe.padded_loader import PaddedBatches
from dir_jax.describe.padded_shapes import Batch, plan_batches
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.preprocess import normalize
from dir_jax.models.variables import merge_variables
from dir_jax.runtime.progress import progress_bar
from dir_jax.runtime.replicas import REPLICATED, ROWS, MeshReplicas

# Pixels of a batch for each device: CPUs gain nothing from more, accelerators gain little.
_PIXELS_CPU, _PIXELS_ACCELERATOR = 1 << 20, 1 << 23
# A worker process takes seconds to start; with fewer images than this for each, threads are faster.
_IMAGES_PER_WORKER = 64


class Sink(Protocol):
    """Where descriptors go, batch by batch."""

    def is_done(self, batch: int) -> bool:
        """Whether an earlier run has written this batch already."""

    def write(
        self, batch: int, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
    ) -> None:
        """Takes (n, D) descriptors; `failures` says, by place, why an image has only a NaN row."""


class ArraySink:
    """Keeps descriptors in memory.

    Attributes:
      descriptors: (N, D) float32.
      failures: place -> why there is no descriptor; its row is NaN.
    """

    def __init__(self, rows: int, width: int):
        self.descriptors = np.zeros((rows, width), np.float32)
        self.failures: dict[int, str] = {}

    def is_done(self, batch: int) -> bool:
        """False: nothing is kept from an earlier run."""
        return False

    def write(
        self, batch: int, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
    ) -> None:
        """Keeps the descriptors and the reasons."""
        self.descriptors[places] = descriptors
        self.failures |= failures


class Extractor:
    """Describes batches of images with given variables; compiles once for each padded shape.

    Attributes:
      width: the length of a descriptor, D.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef[RetrievalNetwork],
        *,
        width: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        max_batch_size: int = 64,
        num_workers: int = 0,
        prefetch: int = 4,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Prepares the program.

        Args:
          graphdef: the network's structure.
          width: the length of a descriptor, D.
          mean: the mean of each input channel, in [0, 1].
          std: the standard deviation of each input channel, in [0, 1].
          max_batch_size: the most images in a batch over all devices, rounded up to a multiple of
            their number; batches of large images have fewer.
          num_workers: how many processes decode images. 0 means threads of this process, which
            are also used where there are few images.
          prefetch: how many batches are prepared ahead.
          devices: the devices to run on; all of them by default.
        """
        self._replicas = MeshReplicas(devices)
        self._max_batch_size = max_batch_size
        self._num_workers = num_workers
        self._prefetch = prefetch
        self.width = width
        platform = (devices or jax.devices())[0].platform
        pixels = _PIXELS_CPU if platform == "cpu" else _PIXELS_ACCELERATOR
        self._pixels = pixels * self._replicas.count

        def describe(
            params: Any, stats: Any, images: jax.Array, sizes: jax.Array | None
        ) -> jax.Array:
            network = merge_variables(graphdef, params, stats)
            own = network(normalize(images, mean, std), sizes)
            return jax.lax.all_gather(own, "data", tiled=True)

        kinds = (REPLICATED, REPLICATED, ROWS, ROWS)
        self._describe = self._replicas.wrap(describe, kinds, REPLICATED)

    def plan(self, sizes: np.ndarray, canvases: np.ndarray | None = None) -> list[Batch]:
        """Puts images of (N, 2) sizes after their transform into batches; see `plan_batches`.

        Several lists that are given the same canvases share programs.
        """
        rows, multiple = self._max_batch_size, self._replicas.count
        return plan_batches(
            sizes, pixels=self._pixels, multiple=multiple, max_rows=rows, canvases=canvases
        )

    def replicate(self, params: Mapping[str, Any], stats: Mapping[str, Any]) -> Any:
        """Puts a network's variables, dotted path -> host array, on the devices for `run`."""
        return self._replicas.replicate((dict(params), dict(stats)))

    def run(
        self,
        variables: Any,
        dataset: ImageDataset,
        indices: np.ndarray,
        transform: Transform,
        batches: Sequence[Batch],
        sink: Sink,
        *,
        skip_failures: bool = False,
        description: str = "describe",
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Describes the images of those batches that the sink does not have yet.

        Args:
          variables: the network's, as `replicate` gives them.
          dataset: the images.
          indices: (N,) int, the image that each place of a batch means.
          transform: what is applied to each image.
          batches: the batches, from `plan`.
          sink: takes the descriptors of each batch, by the batch's number in `batches`.
          skip_failures: gives the sink NaN and a reason for an image that cannot be used, instead
            of ending the run.
          description: stands before the progress bar.
          on_batch: called after each batch; it may raise to stop.

        Raises:
          UserError: an image cannot be used (it is named).
        """
        replicas = self._replicas
        todo = [number for number in range(len(batches)) if not sink.is_done(number)]
        images_to_do, total = sum(len(batches[number].places) for number in todo), len(indices)
        workers = min(self._num_workers, images_to_do // _IMAGES_PER_WORKER)
        share = jax.process_index(), jax.process_count()
        mine = [batches[number] for number in todo]
        make = PaddedBatches(dataset, indices, transform, mine, share, skip_failures)
        # The descriptors of one batch are fetched while the next ones are computed.
        pending: list[tuple[int, dict[int, str], jax.Array]] = []

        def fetch() -> None:
            number, failures, result = pending.pop(0)
            places = batches[number].places
            values = replicas.fetch(result)[: len(places)]
            if failures:
                values = values.copy()
                values[list(failures)] = np.nan
            sink.write(number, places, values, {int(places[r]): w for r, w in failures.items()})

        with (
            Prefetcher(make, len(todo), num_workers=workers, prefetch=self._prefetch) as loader,
            progress_bar(description, total, "img", shown=True, done=total - images_to_do) as bar,
        ):
            for number, (images, sizes, failures) in zip(todo, loader, strict=True):
                own = None if batches[number].exact else replicas.put_rows(sizes)
                result = self._describe(*variables, replicas.put_rows(images), own)
                pending.append((number, failures, result))
                if len(pending) > 1:
                    fetch()
                bar.update(len(batches[number].places))
                on_batch()
            while pending:
                fetch()
