"""Descriptors of a whole data set, at each image's own size, in batches over all devices.

Images of several sizes share batches of a few padded shapes, each of which compiles once; an
image's descriptor is what the network gives the image alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import Transform
from dir_jax.describe.padded_loader import PaddedLoader
from dir_jax.describe.padded_shapes import Batch, plan_batches
from dir_jax.errors import UserError
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.preprocess import normalize
from dir_jax.models.variables import merge_variables
from dir_jax.runtime.replicas import REPLICATED, ROWS, MeshReplicas

# Pixels of a batch for each device: CPUs gain nothing from more, accelerators little.
_PIXELS_CPU, _PIXELS_ACCELERATOR = 1 << 20, 1 << 23
# An image with more would need some 20 GB for the activations of a ResNet-50's first stage.
MAX_PIXELS = 40_000_000
# A worker process needs seconds to start; below this many images each, threads are faster.
_IMAGES_PER_WORKER = 64


class Sink(Protocol):
    """Where descriptors go, batch by batch."""

    def is_done(self, batch: int) -> bool:
        """Whether this batch is there already, from an earlier run."""

    def write(
        self, batch: int, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
    ) -> None:
        """Takes the (n, D) descriptors of some places; failed ones are NaN, by place -> reason."""


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
        """Never."""
        return False

    def write(
        self, batch: int, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
    ) -> None:
        """Keeps them."""
        self.descriptors[places] = descriptors
        self.failures |= failures


def output_sizes(
    dataset: ImageDataset, sizes: np.ndarray, transform: Transform
) -> tuple[np.ndarray, dict[int, str]]:
    """The sizes of images after a transform, without opening them.

    Args:
      dataset: the images, for their names.
      sizes: (N, 2) int, width and height of each image.
      transform: gives each size one size, whatever it draws.

    Returns:
      sizes: (N, 2) int64, width and height; 1 × 1 for images that it cannot be applied to.
      failures: of those, place -> why.

    Raises:
      UserError: the transform gives images of random sizes.
    """
    result = np.ones((len(sizes), 2), np.int64)
    failures: dict[int, str] = {}
    distinct, inverse = np.unique(sizes, axis=0, return_inverse=True)
    for group, size in enumerate(distinct.tolist()):
        members = np.flatnonzero(inverse == group)
        try:
            low, high = transform.output_size(tuple(size), tuple(size))
        except UserError as e:
            failures |= {int(i): f"the image {dataset.path(int(i))}: {e}" for i in members}
            continue
        if low != high:
            raise UserError(
                f"{transform!r} gives images of random sizes; images are described at one"
            )
        if low[0] * low[1] > MAX_PIXELS:
            failures |= {
                int(i): f"the image {dataset.path(int(i))} has {low[0]} x {low[1]} pixels, more "
                f"than the {MAX_PIXELS // 1_000_000} million that a network is given; make it "
                "smaller, as Scale(1024, largest=True) does"
                for i in members
            }
            continue
        result[members] = low
    return result, failures


class Extractor:
    """Describes images with a network's current variables; compiles once for each padded shape."""

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
          width: of a descriptor, D.
          mean: of the input's channels, in [0, 1].
          std: likewise.
          max_batch_size: images at once over all devices, up to the next multiple of them; fewer
            where images are large.
          num_workers: processes that decode; 0 is threads in this one, as is used for few images.
          prefetch: batches that are prepared ahead.
          devices: where to run; all by default.
        """
        self._replicas = MeshReplicas(devices)
        self._max_batch_size = max_batch_size
        self._num_workers = num_workers
        self._prefetch = prefetch
        self._width = width
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
        """The batches for images of some sizes, (N, 2) width and height as transformed.

        `canvases` are those to use, to share programs between lists; by default the best for these.
        """
        return plan_batches(
            sizes,
            pixels=self._pixels,
            multiple=self._replicas.count,
            max_rows=self._max_batch_size,
            canvases=canvases,
        )

    def __call__(
        self,
        params: Mapping[str, Any],
        stats: Mapping[str, Any],
        dataset: ImageDataset,
        transform: Transform,
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
          transform: of each image; gives each size one size.
          sizes: (len(dataset), 2) int, width and height of each image in its file.
          indices: (N,) which images; all by default.
          description: in front of the progress bar.
          on_batch: called after each batch; it may raise to stop.

        Returns:
          (N, D) float32.

        Raises:
          UserError: an image cannot be read or transformed; it is named.
        """
        indices = np.arange(len(dataset)) if indices is None else np.asarray(indices)
        after, failures = output_sizes(dataset, sizes[indices], transform)
        if failures:
            raise UserError(next(iter(failures.values())))
        sink = ArraySink(len(indices), self._width)
        self.run(
            self._replicas.replicate((dict(params), dict(stats))),
            dataset,
            indices,
            transform,
            self.plan(after),
            sink,
            description=description,
            on_batch=on_batch,
        )
        return sink.descriptors

    def replicate(self, params: Mapping[str, Any], stats: Mapping[str, Any]) -> Any:
        """The variables on the devices, as `run` takes them."""
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
          variables: as `replicate` gives them.
          dataset: the images.
          indices: (N,) int, which image each place of a batch means.
          transform: of each image.
          batches: from `plan`.
          sink: takes the descriptors of each batch by its number in `batches`.
          skip_failures: give the sink NaN and a reason for an image that cannot be used; otherwise
            it ends the run.
          description: in front of the progress bar.
          on_batch: called after each batch; it may raise to stop.

        Raises:
          UserError: an image cannot be used; it is named.
        """
        replicas = self._replicas
        todo = [number for number in range(len(batches)) if not sink.is_done(number)]
        images_to_do = sum(len(batches[number].places) for number in todo)
        # The description of one batch is fetched while the next one is computed.
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
            PaddedLoader(
                dataset,
                indices,
                transform,
                [batches[number] for number in todo],
                share=(jax.process_index(), jax.process_count()),
                skip_failures=skip_failures,
                num_workers=min(self._num_workers, images_to_do // _IMAGES_PER_WORKER),
                prefetch=self._prefetch,
            ) as loader,
            tqdm(
                total=len(indices),
                initial=len(indices) - images_to_do,
                desc=description,
                unit="img",
                leave=False,
            ) as bar,
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
