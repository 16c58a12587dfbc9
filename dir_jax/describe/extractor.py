"""Batches of images to descriptors, over several devices.

Images of several sizes share batches of a few padded shapes, each of which compiles once. An
image's descriptor is the one that the network would give the image alone.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import Transform, without_interpolation
from dir_jax.data.workers import Prefetcher
from dir_jax.describe.padded_loader import PaddedLoader
from dir_jax.describe.padded_shapes import (
    PROGRAM_ACCELERATOR,
    PROGRAM_CPU,
    Batch,
    Room,
    Shape,
    plan_batches,
)
from dir_jax.errors import NotFiniteError
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.preprocess import interpolate, normalize
from dir_jax.models.variables import merge_variables
from dir_jax.runtime.processes import gather
from dir_jax.runtime.replicas import REPLICATED, ROWS, MeshReplicas

# Pixels of a batch for each device: CPUs gain nothing from more, accelerators gain little.
_PIXELS_CPU, _PIXELS_ACCELERATOR = 1 << 20, 1 << 23
# A worker process takes seconds to start; with fewer images than this for each, threads are faster.
_IMAGES_PER_WORKER = 64


def room_of(platform: str, rows: int = 64) -> Room:
    """How much a device of a platform is given at once, and at most `rows` images."""
    if platform == "cpu":
        return Room(_PIXELS_CPU, rows, PROGRAM_CPU)
    return Room(_PIXELS_ACCELERATOR, rows, PROGRAM_ACCELERATOR)


class Extractor:
    """Describes batches of images with given variables; compiles once for each padded shape.

    Attributes:
      width: the length of a descriptor, D.
      room: how much one device is given at once.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef[RetrievalNetwork],
        *,
        width: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        max_batch_size: int | None = None,
        num_workers: int = 0,
        prefetch: int = 4,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Prepares the program.

        Args:
          graphdef: the network's structure.
          width: the length of a descriptor, D.
          mean, std: of each input channel, in [0, 1].
          max_batch_size: the most images in a batch over all devices, rounded up to a multiple of
            their number; batches of large images have fewer. By default 64 on each device.
          num_workers: how many processes decode images. 0 means threads of this process, which
            are also used where there are few images.
          prefetch: how many batches are prepared ahead.
          devices: the devices to run on; all of them by default.
        """
        self._replicas = MeshReplicas(devices)
        self._num_workers, self._prefetch = num_workers, prefetch
        self.width = width
        platform = (devices or jax.devices())[0].platform
        count = self._replicas.count
        rows = 64 if max_batch_size is None else -(-max_batch_size // count)
        self.room = room_of(platform, rows)

        def describe(
            factor: float, params: Any, stats: Any, images: jax.Array, sizes: jax.Array | None
        ) -> jax.Array:
            network, x = merge_variables(graphdef, params, stats), normalize(images, mean, std)
            if factor != 1:
                x, sizes = interpolate(x, sizes, factor)
            return jax.lax.all_gather(network(x, sizes), "data", tiled=True)

        def program(factor: float) -> Any:
            kinds = (REPLICATED, REPLICATED, ROWS, ROWS)
            return self._replicas.wrap(functools.partial(describe, factor), kinds, REPLICATED)

        self._program = functools.cache(program)  # for each factor of `Interpolate`

    def plan(self, sizes: np.ndarray, shapes: Sequence[Shape]) -> list[Batch]:
        """Puts images into batches for these devices; arguments as in `plan_batches`."""
        return plan_batches(sizes, shapes, self.room, devices=self._replicas.count)

    def replicate(self, params: Mapping[str, Any], stats: Mapping[str, Any]) -> Any:
        """Puts a network's variables, dotted path -> host array, on the devices for `run`.

        Raises:
          NotFiniteError: some are not finite; the first is named.
        """
        for name, array in (*params.items(), *stats.items()):
            # NaN is the smallest value and the largest; and no array of a mask is made.
            if array.size and not np.isfinite([array.min(), array.max()]).all():
                raise NotFiniteError(
                    f"the network describes no images: its {name} has values that are not finite "
                    "(NaN or infinite), so that no descriptor would be; use an earlier checkpoint"
                )
        return self._replicas.replicate((dict(params), dict(stats)))

    def run(
        self,
        variables: Any,
        dataset: ImageDataset,
        indices: np.ndarray,
        transform: Transform,
        batches: Sequence[Batch],
        *,
        skip_failures: bool = False,
    ) -> Generator[tuple[np.ndarray, dict[int, str]], None, None]:
        """Describes the images of some batches of `plan`, with variables from `replicate`.

        `indices`, (N,) int, is the image of the data set that each place of a batch means.

        Yields:
          For each batch, in order: (n, D) float32, the descriptors of its `places`; and, by place,
          why an image has no descriptor, whose row is NaN.

        Raises:
          UserError: an image cannot be used (it is named); not with `skip_failures`.
        """
        replicas = self._replicas
        share = jax.process_index(), jax.process_count()
        transform, factor = without_interpolation(transform)
        describe = self._program(factor)
        load = PaddedLoader(dataset, indices, transform, batches, share, skip_failures)
        images_to_do = sum(len(batch.places) for batch in batches)
        workers = min(self._num_workers, images_to_do // _IMAGES_PER_WORKER)

        def fetch(
            batch: Batch, failures: dict[int, str], result: jax.Array
        ) -> tuple[np.ndarray, dict[int, str]]:
            values = replicas.fetch(result)[: len(batch.places)]
            if failures:
                values = values.copy()
                values[list(failures)] = np.nan
            return values, {int(batch.places[row]): why for row, why in failures.items()}

        with Prefetcher(load, len(batches), num_workers=workers, prefetch=self._prefetch) as loader:
            # The descriptors of one batch are fetched while the next ones are computed.
            pending: tuple[Batch, dict[int, str], jax.Array] | None = None
            for batch, (images, sizes, own_failures) in zip(batches, loader, strict=True):
                failures = gather(own_failures) if skip_failures else own_failures
                own = None if batch.exact else replicas.put_rows(sizes)
                result = describe(*variables, replicas.put_rows(images), own)
                if pending is not None:
                    yield fetch(*pending)
                pending = batch, failures, result
            if pending is not None:
                yield fetch(*pending)
