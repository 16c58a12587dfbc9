"""What is described, in which order: each list of images at each scale is one pass.

`read_list` reads the headers, `plan_passes` finds out which images cannot be used and puts the
others into batches, and `run_passes` sends them through the network. Training, the commands and the
Python interface all describe images in these three steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dir_jax.data.transforms import Transform
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.image_lists import ImageList, Pass
from dir_jax.describe.padded_shapes import choose_canvases
from dir_jax.describe.resume import PartialDescriptors, StoredSink
from dir_jax.errors import NotFiniteError, shown
from dir_jax.runtime.progress import progress_bar


class ArraySink:
    """Keeps the descriptors of a pass in memory, as `StoredSink` keeps them on disk."""

    def __init__(self, rows: int, width: int):
        self.descriptors = np.zeros((rows, width), np.float32)  # (N, D)
        self.failures: dict[int, str] = {}  # place -> why its row is NaN

    def is_done(self, batch: int) -> bool:
        """Returns False: nothing is kept from an earlier run."""
        return False

    def write(
        self, batch: int, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
    ) -> None:
        """Keeps the (n, D) descriptors of some places, and the reasons of failures."""
        self.descriptors[places] = descriptors
        self.failures |= failures


def plan_passes(
    extractor: Extractor,
    lists: Sequence[ImageList],
    transforms: Sequence[Transform],
    *,
    skip_failures: bool = False,
    advice: str = "",
) -> list[Pass]:
    """Plans to describe lists of images at every scale, over padded shapes chosen for all of them.

    Each transform is one scale. Returns one pass for each scale and list: all lists at the first
    scale come first.

    Raises:
      UserError: images cannot be used (the first few are named, with `advice`) and are not to be
        left out, or a transform gives images of random sizes.
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
    for each, sizes in zip(passes, usable, strict=True):
        kept = np.delete(np.arange(len(each.images)), list(each.failures))
        for batch in extractor.plan(sizes, canvases):
            each.batches.append(dataclasses.replace(batch, places=kept[batch.places]))
    return passes


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
      NotFiniteError: the network or a descriptor is not finite.
    """
    sinks: list[Any] = []
    for each in passes:
        images, width = each.images, extractor.width
        rows = len(images)
        sink = ArraySink(rows, width) if store is None else store.sink(each, width)
        # Written in every run, so that it makes no difference whether an earlier one got to it.
        failed = np.array(list(each.failures), int)
        sink.write(-1, failed, np.full((len(failed), width), np.nan, np.float32), {})
        todo = [number for number in range(len(each.batches)) if not sink.is_done(number)]
        batches = [each.batches[number] for number in todo]
        done = rows - sum(len(batch.places) for batch in batches)
        found = extractor.run(variables, images.dataset, images.indices, each.transform, batches,
                              skip_failures=skip_failures)  # fmt: skip
        with (
            contextlib.closing(found),
            progress_bar(each.name, rows, "img", shown=True, done=done, delay=1) as bar,
        ):
            for number, batch, (described, failures) in zip(todo, batches, found, strict=True):
                _refuse_not_finite(images, batch.places, described, failures)
                sink.write(number, batch.places, described, failures)
                bar.update(len(batch.places))
                on_batch()
        sinks.append(sink)
    return sinks


def _refuse_not_finite(
    images: ImageList, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
) -> None:
    for row in np.flatnonzero(~np.isfinite(descriptors).all(axis=1)):
        if places[row] not in failures:
            raise NotFiniteError(
                f"the network's descriptor of the image {shown(images.path(places[row]))} is not "
                "finite (NaN or infinite), although its parameters are: its numbers overflow, as "
                "they can in bfloat16 or with a large power of gem"
            )


def describe_lists(
    extractor: Extractor,
    params: Mapping[str, Any],
    stats: Mapping[str, Any],
    lists: Sequence[ImageList],
    transform: Transform,
    *,
    on_batch: Callable[[], None] = lambda: None,
    on_failure: Callable[[str, str], None] | None = None,
) -> list[np.ndarray]:
    """Describes lists of images at one scale, with a network's current variables.

    `params` and `stats` are its variables, dotted path -> host array; `on_batch` is called after
    each batch, and may raise to stop. `on_failure`, where it is given, is called with the path of
    each image that cannot be used, and why; its row is NaN. Returns (N, D) float32 for each list.

    Raises:
      UserError: an image cannot be used (it is named) and there is no `on_failure`, or the
        transform gives random sizes.
      NotFiniteError: the network or a descriptor is not finite.
    """
    skip = on_failure is not None
    passes = plan_passes(extractor, lists, [transform], skip_failures=skip)
    variables = extractor.replicate(params, stats)
    sinks = run_passes(extractor, variables, passes, on_batch=on_batch, skip_failures=skip)
    if on_failure is not None:
        for planned, sink in zip(passes, [*sinks], strict=True):
            for place, why in {**planned.failures, **sink.failures}.items():
                on_failure(planned.images.path(place), why)
    return [sink.descriptors for sink in sinks]
