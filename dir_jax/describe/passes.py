"""What is described, in which order: each list of images at each scale is one pass.

`read_list` reads the headers, `plan_passes` finds out which images cannot be used and puts the
others into batches, and `run_passes` sends them through the network. Training, the commands and the
Python interface all describe images in these three steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dir_jax.data.headers import IS_ROOT_RIGHT, read_sizes, refuse_failures
from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms import Transform
from dir_jax.describe.extractor import ArraySink, Extractor
from dir_jax.describe.padded_shapes import Batch, choose_canvases
from dir_jax.describe.resume import PartialDescriptors, StoredSink
from dir_jax.errors import UserError

# An image with more would need some 20 GB for the activations of a ResNet-50's first stage.
MAX_PIXELS = 40_000_000


@dataclasses.dataclass(frozen=True)
class ImageList:
    """Images to describe, and what their files' headers say.

    Attributes:
      name: what progress bars call the list.
      dataset: the images.
      sizes: (len(dataset), 2) int, width and height of each image in its file, in pixels.
      unreadable: image number -> why its header cannot be read.
      chosen: (N,) int, the images to describe, in this order; None for all of them.
    """

    name: str
    dataset: ImageDataset
    sizes: np.ndarray
    unreadable: Mapping[int, str] = dataclasses.field(default_factory=dict)
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def indices(self) -> np.ndarray:
        """(N,) int, the image that each place of the list means."""
        return np.arange(len(self.dataset)) if self.chosen is None else self.chosen

    def output_sizes(self, transform: Transform) -> tuple[np.ndarray, dict[int, str]]:
        """The sizes of the images after a transform, found without opening them.

        Returns:
          sizes: (N, 2) int64, width and height in pixels; 1 × 1 for images that cannot be used.
          failures: place in the list -> why this image cannot be used.

        Raises:
          UserError: the transform gives images of random sizes.
        """
        indices = self.indices
        result = np.ones((len(indices), 2), np.int64)
        bad = self.unreadable
        failures = {place: bad[i] for place, i in enumerate(indices.tolist()) if i in bad}
        distinct, inverse = np.unique(self.sizes[indices], axis=0, return_inverse=True)
        for group, size in enumerate(distinct.tolist()):
            places = [p for p in np.flatnonzero(inverse == group).tolist() if p not in failures]
            if not places:
                continue
            after, problem = _output_size(tuple(size), transform)
            result[places] = after
            if problem:
                failures |= {p: self._image(p) + problem for p in places}
        return result, failures

    def check(self, transform: Transform) -> None:
        """Raises UserError, naming the images, unless all of them can be used with a transform."""
        _, failures = self.output_sizes(transform)
        self.refuse(failures)

    def refuse(self, failures: Mapping[int, str], advice: str = "") -> None:
        """Raises UserError where there are failures; `advice` is what can be done about some."""
        if len(self.unreadable) == len(self.dataset):
            advice = IS_ROOT_RIGHT
        elif len(failures) == len(self):
            advice = ""
        refuse_failures(failures, len(self), advice)

    def _image(self, place: int) -> str:
        return f"the image {self.dataset.path(int(self.indices[place]))}"


def read_list(name: str, dataset: ImageDataset) -> ImageList:
    """Reads the headers of a data set's images. Raises UserError where it has none."""
    sizes, unreadable = read_sizes(dataset)
    return ImageList(name, dataset, sizes, unreadable)


@dataclasses.dataclass(frozen=True)
class Pass:
    """One list of images at one scale.

    Attributes:
      name: what progress bars, and the files of a resumable run, call the pass.
      images: the list.
      transform: what is applied to each image.
      batches: the images that can be used; their `places` are places in the list.
      failures: place in the list -> why this image cannot be used.
    """

    name: str
    images: ImageList
    transform: Transform
    batches: list[Batch]
    failures: dict[int, str]


def plan_passes(
    extractor: Extractor,
    lists: Sequence[ImageList],
    transforms: Sequence[Transform],
    *,
    skip_failures: bool = False,
    advice: str = "",
) -> list[Pass]:
    """Plans to describe lists of images at every scale, over padded shapes chosen for all of them.

    Args:
      extractor: what will describe them.
      lists: the images.
      transforms: one for each scale.
      skip_failures: leaves out images that cannot be used, instead of raising.
      advice: what the error tells the user to do, if there is something.

    Returns:
      One pass for each scale and list: all lists at the first scale come first.

    Raises:
      UserError: images cannot be used (the first few are named), or a transform gives images of
        random sizes.
    """
    passes, usable = [], []
    for scale, transform in enumerate(transforms):
        for images in lists:
            sizes, failures = images.output_sizes(transform)
            if not skip_failures:
                images.refuse(failures, advice)
            name = images.name if len(transforms) == 1 else f"{images.name}, scale {scale + 1}"
            passes.append(Pass(name, images, transform, [], failures))
            usable.append(np.delete(sizes, list(failures), 0))
    if not sum(map(len, usable)):
        return passes
    canvases = choose_canvases(np.concatenate(usable))
    return [
        dataclasses.replace(each, batches=list(_batches(extractor, each, sizes, canvases)))
        for each, sizes in zip(passes, usable, strict=True)
    ]


def run_passes(
    extractor: Extractor,
    variables: Any,
    passes: Sequence[Pass],
    store: PartialDescriptors | None = None,
    *,
    skip_failures: bool = False,
    on_batch: Callable[[], None] = lambda: None,
) -> list[ArraySink] | list[StoredSink]:
    """Describes the images of each pass.

    Args:
      extractor: what describes them.
      variables: the network's, as `Extractor.replicate` gives them.
      passes: from `plan_passes` with this extractor.
      store: where descriptors are kept on disk as they come; in memory by default. What it holds
        from an earlier run is not described again.
      skip_failures: an image that turns out to be damaged gets NaN, instead of ending the run.
      on_batch: called after each batch; it may raise to stop.

    Returns:
      One sink for each pass, with its `descriptors`, (N, D) float32, and its `failures`.

    Raises:
      UserError: an image cannot be used (it is named).
    """
    sinks: list[Any] = []
    for each in passes:
        rows, width = len(each.images), extractor.width
        sink = ArraySink(rows, width) if store is None else store.sink(each.name, rows, width)
        # Written in every run, so that it makes no difference whether an earlier one got to it.
        failed = np.array(list(each.failures), int)
        sink.write(-1, failed, np.full((len(failed), width), np.nan, np.float32), {})
        images = each.images
        extractor.run(
            variables, images.dataset, images.indices, each.transform, each.batches, sink,
            skip_failures=skip_failures, description=each.name, on_batch=on_batch,
        )  # fmt: skip
        sinks.append(sink)
    return sinks


def describe_lists(
    extractor: Extractor,
    params: Mapping[str, Any],
    stats: Mapping[str, Any],
    lists: Sequence[ImageList],
    transform: Transform,
    *,
    on_batch: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """Describes lists of images at one scale, with a network's current variables on the host.

    Returns (N, D) float32 for each list; arguments and errors are those of `plan_passes` and
    `run_passes`.
    """
    passes = plan_passes(extractor, lists, [transform])
    variables = extractor.replicate(params, stats)
    sinks = run_passes(extractor, variables, passes, on_batch=on_batch)
    return [sink.descriptors for sink in sinks]


def _output_size(size: tuple[int, int], transform: Transform) -> tuple[tuple[int, int], str]:
    """The size that an image comes out in, and why it cannot be used ('' where it can)."""
    try:
        low, high = transform.output_size(size, size)
    except UserError as e:
        return (1, 1), f": {e}"
    if low != high:
        raise UserError(
            f"{transform!r} gives images of random sizes; images are described at one size"
        )
    if low[0] * low[1] > MAX_PIXELS:
        return (1, 1), (
            f" has {low[0]} x {low[1]} pixels, more than the {MAX_PIXELS // 1_000_000} million "
            "that the network can be given; make it smaller, as Scale(1024, largest=True) does"
        )
    return low, ""


def _batches(
    extractor: Extractor, each: Pass, sizes: np.ndarray, canvases: np.ndarray
) -> Iterator[Batch]:
    """The batches of the images that can be used, by their places in the whole list."""
    kept = np.delete(np.arange(len(each.images)), list(each.failures))
    for batch in extractor.plan(sizes, canvases):
        yield dataclasses.replace(batch, places=kept[batch.places])
