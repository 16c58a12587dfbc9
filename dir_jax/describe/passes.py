"""What is described, in which order: each list of images at each scale is one pass.

`read_list` reads the headers, `plan_passes` finds out which images cannot be used and puts the
others into batches, and `run_passes` sends them through the network. Training, the commands and the
Python interface all describe images in these three steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np

from dir_jax.data.transforms import Transform
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.image_lists import ImageList, Pass, agree
from dir_jax.describe.padded_shapes import Shape, choose_shapes, sample_places
from dir_jax.describe.resume import PartialDescriptors, StoredSink
from dir_jax.errors import NotFiniteError, shown
from dir_jax.runtime.progress import progress_bar

OVERFLOWS = (
    "the network's descriptor of the image {} is not finite (NaN or infinite), although its "
    "parameters are: its numbers overflow, as they can in bfloat16 or with a large power of gem"
)
UNFINISHED = (
    "the descriptor of {} is not finite (NaN or infinite) once scales are pooled and whitened; "
    "give other powers (--gemp, --whitenp)"
)


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


def sample_lists(lengths: Sequence[int]) -> list[np.ndarray]:
    """The places in each of some lists for whose images `shapes_for` chooses padded shapes."""
    ends = np.cumsum([0, *lengths])
    places = sample_places(int(ends[-1]))
    return [places[(a <= places) & (places < b)] - a for a, b in itertools.pairwise(ends.tolist())]


def shapes_for(
    extractor: Extractor, sample: Sequence[ImageList], transforms: Sequence[Transform], total: int
) -> list[Shape]:
    """Chooses padded shapes for lists of `total` images, from a sample by `sample_lists`."""
    scales = []
    for transform in transforms:
        found = [images.output_sizes(transform) for images in sample]
        scales.append(np.concatenate([np.delete(x, list(failed), 0) for x, failed in found]))
    return choose_shapes(scales, extractor.room, share=sum(map(len, sample)) / total)


def plan_passes(
    extractor: Extractor,
    lists: Sequence[ImageList],
    transforms: Sequence[Transform],
    *,
    shapes: Sequence[Shape] | None = None,
    skip_failures: bool = False,
    advice: str = "",
) -> list[Pass]:
    """Plans to describe lists of images at every scale, over padded shapes.

    Each transform is one scale. The shapes are by default chosen for these lists. Returns one pass
    for each scale and list: all lists at the first scale come first.

    Raises:
      UserError: images cannot be used (the first few are named, with `advice`) and are not to be
        left out, or a transform gives images of random sizes.
    """
    if shapes is None:
        chosen = [
            dataclasses.replace(images, chosen=images.indices[places])
            for images, places in zip(lists, sample_lists([*map(len, lists)]), strict=True)
        ]
        shapes = shapes_for(extractor, chosen, transforms, sum(map(len, lists)))
    passes = []
    for scale, transform in enumerate(transforms):
        for images in lists:
            sizes, failures = images.output_sizes(transform)
            if not skip_failures:
                images.refuse(failures, advice)
            name = images.name if len(transforms) == 1 else f"{images.name}, scale {scale + 1}"
            kept = np.delete(np.arange(len(images)), list(failures))
            batches = [
                dataclasses.replace(batch, places=kept[batch.places])
                for batch in extractor.plan(sizes[kept], shapes)
            ]
            passes.append(Pass(name, images, transform, batches, failures))
    return passes


def run_passes(
    extractor: Extractor,
    variables: Any,
    passes: Sequence[Pass],
    store: PartialDescriptors | None = None,
    *,
    finish: Callable[[list[np.ndarray]], np.ndarray] | None = None,
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
      finish: makes (n, D') finished descriptors from (n, D) ones at each scale, in the order of
        the passes. Then the sinks of the last scale keep these, instead of that scale's own.
      skip_failures: an image that turns out to be damaged gets NaN, instead of ending the run.
      on_batch: called after each batch; it may raise to stop.

    Returns:
      One sink for each pass, with its `descriptors`, (N, D) float32, and its `failures`.

    Raises:
      UserError: an image cannot be used (it is named).
      NotFiniteError: the network or a descriptor is not finite.
    """
    sinks: list[Any] = []
    count = len({id(each.images) for each in passes})
    for each in passes:
        images, width, complete = each.images, extractor.width, None
        own = range(len(sinks) % count, len(sinks), count)  # earlier scales of the same images
        scales = [sinks[i] for i in own]
        failed_before: dict[int, str] = {}
        for i in own:
            failed_before |= {**sinks[i].failures, **passes[i].failures}
        if finish is not None and len(sinks) >= len(passes) - count:
            complete = finish
            width = finish([np.ones((1, width), np.float32)] * (len(scales) + 1)).shape[1]
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
            progress_bar(each.name, rows, "img", bool(each.name), done, delay=1) as bar,
        ):
            for number, batch, (described, failures) in zip(todo, batches, found, strict=True):
                places = batch.places
                refuse_not_finite(described, places, failures, images.path)
                if complete is not None:
                    failures = {p: failed_before[p] for p in places.tolist()
                                if p in failed_before} | failures  # fmt: skip
                    described = complete([x.descriptors[places] for x in scales] + [described])
                    refuse_not_finite(described, places, failures, images.path, UNFINISHED)
                sink.write(number, places, described, failures)
                bar.update(len(places))
                on_batch()
        sinks.append(sink)
    return sinks


def refuse_not_finite(
    descriptors: np.ndarray,
    places: Sequence[int] | np.ndarray,
    failures: Container[int],
    path: Callable[[int], str],
    what: str = OVERFLOWS,
) -> None:
    """Checks the (n, D) descriptors of the images at some places, except those in `failures`.

    Raises:
      NotFiniteError: one is not finite; `what`, with the image's path, says which.
    """
    for row in np.flatnonzero(~np.isfinite(descriptors).all(axis=1)).tolist():
        if places[row] not in failures:
            raise NotFiniteError(what.format(shown(path(int(places[row])))))


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
    lists = [agree(images, skip=skip) for images in lists]
    passes = plan_passes(extractor, lists, [transform], skip_failures=skip)
    variables = extractor.replicate(params, stats)
    sinks = run_passes(extractor, variables, passes, on_batch=on_batch, skip_failures=skip)
    if on_failure is not None:
        for planned, sink in zip(passes, [*sinks], strict=True):
            for place, why in {**planned.failures, **sink.failures}.items():
                on_failure(planned.images.path(place), why)
    return [sink.descriptors for sink in sinks]
