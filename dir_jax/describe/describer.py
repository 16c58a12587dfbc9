"""From images to the descriptors that are compared: scales, pooling, whitening.

What `test_dir`, `extract_features`, `extract_kapture` and the Python interface have in common.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from dir_jax.checkpoint import Checkpoint
from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.headers import read_sizes
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.transforms import Compose, parse_transforms
from dir_jax.describe.extractor import ArraySink, Extractor, output_sizes
from dir_jax.describe.padded_shapes import Batch, choose_canvases
from dir_jax.describe.resume import PartialDescriptors, StoredSink
from dir_jax.errors import UserError
from dir_jax.models.variables import split_variables
from dir_jax.retrieval.blocks import blocks
from dir_jax.retrieval.scales import pool_scales
from dir_jax.retrieval.whitening import Whitening, apply_whitening

_ROWS = 4096  # pooled and whitened at once
_FAILURES_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an image becomes a descriptor, apart from the network.

    Attributes:
      trfs: a chain of transforms a scale, as texts; '' is the image as it is.
      pooling: of the scales, 'gem' or 'mean'.
      gemp: the power of 'gem'.
      whiten: the name of one of the checkpoint's whitenings, or None.
      whitenp: its power.
      whitenv: components to keep, or None for all.
      whitenm: its constant factor.
    """

    trfs: tuple[str, ...] = ("",)
    pooling: str = "gem"
    gemp: float = 3
    whiten: str | None = None
    whitenp: float = 0.5
    whitenv: int | None = None
    whitenm: float = 1.0

    def transforms(self) -> list[Compose]:
        """One a scale. Raises UserError, with a caret, for a text that cannot be read."""
        return [parse_transforms(text) for text in self.trfs or ("",)]

    def whitening(self, checkpoint: Checkpoint) -> Whitening | None:
        """The checkpoint's whitening, if one is wanted.

        Raises:
          UserError: it has none of that name, or one with fewer components.
        """
        if not self.whiten:
            return None
        whitening = checkpoint.whitening(self.whiten)
        there = len(whitening.components_)
        if self.whitenv is not None and not 1 <= self.whitenv <= there:
            raise UserError(
                f"cannot keep {self.whitenv} dimensions (--whitenv): the whitening "
                f"{self.whiten!r} has {there}"
            )
        return whitening


@dataclasses.dataclass
class Pass:
    """One list of images at one scale."""

    name: str
    dataset: ImageDataset
    transform: Compose
    batches: list[Batch]
    failures: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Descriptors:
    """What a list of images gave.

    Attributes:
      dataset: the images.
      failures: image number -> why it has no descriptor; its row is NaN.
    """

    dataset: ImageDataset
    failures: dict[int, str]
    _scales: list[np.ndarray]
    _finish: Callable[[list[np.ndarray]], np.ndarray]

    def __len__(self) -> int:
        return len(self.dataset)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows): the finished descriptors, (n, D) float32, in order, each row once."""
        total = len(self)
        size = min(_ROWS, total)
        for start, first_new in blocks(total, size):
            rows = self._finish([scale[start : start + size] for scale in self._scales])
            yield first_new, rows[first_new - start :]

    def array(self) -> np.ndarray:
        """(N, D) float32."""
        return np.concatenate([rows for _, rows in self.blocks()])


class Describer:
    """A model, a recipe and devices: describes lists of images."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        *,
        devices: Sequence[jax.Device] | None = None,
        threads: int = 8,
        skip_failures: bool = False,
    ):
        """Prepares; reads no image.

        Args:
          checkpoint: the model.
          recipe: the rest.
          devices: where to run; the first by default.
          threads: processes that decode images, at most one a core.
          skip_failures: give NaN for an image that cannot be used, instead of stopping.

        Raises:
          UserError: the recipe makes no sense, or does not fit the model.
        """
        self.recipe = recipe
        self._transforms = recipe.transforms()
        self._whitening = recipe.whitening(checkpoint)
        pool_scales([np.ones((1, 1))], pooling=recipe.pooling, p=recipe.gemp)  # refuses nonsense
        self._skip = skip_failures
        self._devices = list(devices) if devices else [jax.devices()[0]]
        model = checkpoint.model
        graphdef, self._params, self._stats = split_variables(model)
        self._width = model.descriptor_size
        if self._whitening is not None and self._whitening.components_.shape[1] != self._width:
            raise UserError(
                f"the whitening {recipe.whiten!r} is for descriptors of "
                f"{self._whitening.components_.shape[1]} dimensions; the network's have "
                f"{self._width}"
            )
        self._extractor = Extractor(
            graphdef,
            width=self._width,
            mean=checkpoint.preprocessing.mean,
            std=checkpoint.preprocessing.std,
            num_workers=min(threads, len(os.sched_getaffinity(0))),
            devices=self._devices,
        )
        self._model = dataclasses.asdict(model.config)
        self._preprocess = dataclasses.asdict(checkpoint.preprocessing)

    @property
    def descriptor_size(self) -> int:
        """The length of a descriptor before whitening."""
        return self._width

    @property
    def finished_size(self) -> int:
        """The length of a descriptor after whitening."""
        if self._whitening is None:
            return self._width
        return self.recipe.whitenv or len(self._whitening.components_)

    def describe(
        self, datasets: Sequence[tuple[str, ImageDataset]], partial: str | None = None
    ) -> Described:
        """Describes lists of images at every scale.

        All headers are read before the first image is decoded, and one set of padded shapes serves
        all lists and scales.

        Args:
          datasets: (what progress bars call it, images).
          partial: a folder where descriptors are kept as they come, so that a killed run goes on.

        Raises:
          UserError: an image cannot be used and is not to be skipped; or none can.
        """
        passes = self._plan(datasets)
        variables = self._extractor.replicate(self._params, self._stats)
        store = None if partial is None else PartialDescriptors(partial, self._identity(passes))
        try:
            sinks = [self._run(each, variables, store) for each in passes]
        except BaseException:
            if store is not None:
                store.close()
            raise
        results = []
        for i, (name, dataset) in enumerate(datasets):
            own = range(i, len(passes), len(datasets))
            failures: dict[int, str] = {}
            for number in own:
                failures = {**sinks[number].failures, **passes[number].failures, **failures}
            if len(failures) == len(dataset):
                raise UserError(
                    f"none of the {len(dataset)} images ({name}) can be used; the first: "
                    f"{failures[0]}"
                )
            scales = [sinks[number].descriptors for number in own]
            results.append(Descriptors(dataset, failures, scales, self.finish))
        return Described(results, store)

    def finish(self, scales: list[np.ndarray]) -> np.ndarray:
        """Pools the scales of some images and whitens: (n, D') float32 from (n, D) each."""
        x = pool_scales(scales, pooling=self.recipe.pooling, p=self.recipe.gemp)
        return self.whiten(np.asarray(x))

    def whiten(self, x: np.ndarray) -> np.ndarray:
        """Whitens (n, D) pooled descriptors, where the recipe says so."""
        if self._whitening is None:
            return x
        recipe = self.recipe
        return np.asarray(
            apply_whitening(
                x, self._whitening, power=recipe.whitenp, dims=recipe.whitenv, m=recipe.whitenm
            )
        )

    def _plan(self, datasets: Sequence[tuple[str, ImageDataset]]) -> list[Pass]:
        """The passes, all lists at the first scale first, over padded shapes chosen for all."""
        sizes, unreadable = [], []
        for _, dataset in datasets:
            found, failures = read_sizes(dataset)
            self._refuse(failures, len(dataset))
            sizes.append(found)
            unreadable.append(failures)
        passes, after = [], []
        for scale, transform in enumerate(self._transforms):
            for i, (name, dataset) in enumerate(datasets):
                result, failures = output_sizes(dataset, sizes[i], transform)
                failures = {**failures, **unreadable[i]}
                self._refuse(failures, len(dataset))
                label = name if len(self._transforms) == 1 else f"{name}, scale {scale + 1}"
                passes.append(Pass(label, dataset, transform, [], failures))
                after.append(result)
        usable = [np.delete(s, list(p.failures), 0) for s, p in zip(after, passes, strict=True)]
        if not sum(map(len, usable)):
            return passes
        canvases = choose_canvases(np.concatenate(usable))
        for each, places, own in zip(passes, map(_kept, passes), usable, strict=True):
            each.batches = [
                dataclasses.replace(batch, places=places[batch.places])
                for batch in self._extractor.plan(own, canvases)
            ]
        return passes

    def _refuse(self, failures: dict[int, str], total: int) -> None:
        if failures and not self._skip:
            shown = list(failures.values())[:_FAILURES_SHOWN]
            if len(failures) > len(shown):
                shown.append(f"and {len(failures) - len(shown)} more")
            raise UserError(
                f"{len(failures)} of {total} images cannot be used: {'; '.join(shown)}; "
                "--on-error skip leaves them out"
            )

    def _run(
        self, each: Pass, variables: Any, store: PartialDescriptors | None
    ) -> ArraySink | StoredSink:
        rows = len(each.dataset)
        sink: ArraySink | StoredSink
        if store is None:
            sink = ArraySink(rows, self._width)
        else:
            sink = store.sink(each.name, rows, self._width)
        # Given in every run, so that a resumed one need not know whether it was.
        failed = np.array(list(each.failures), int)
        sink.write(-1, failed, np.full((len(failed), self._width), np.nan, np.float32), {})
        self._extractor.run(
            variables,
            each.dataset,
            np.arange(rows),
            each.transform,
            each.batches,
            sink,
            skip_failures=self._skip,
            description=each.name,
        )
        return sink

    def _identity(self, passes: Sequence[Pass]) -> dict[str, Any]:
        """What must be the same for a run to go on where another was stopped."""
        model = hashlib.sha256()
        for variables in (self._params, self._stats):
            for name in sorted(variables):
                model.update(name.encode())
                model.update(np.ascontiguousarray(variables[name]).tobytes())
        return {
            "images": _digest([_description(each.dataset) for each in passes]),
            "transforms": [repr(transform) for transform in self._transforms],
            "model": self._model,
            "weights": model.hexdigest(),
            "preprocess": self._preprocess,
            "batches": _digest([[(b.canvas, b.rows, b.places.tolist()) for b in p.batches]
                                for p in passes]),
            "device": f"{len(self._devices)} x {self._devices[0].device_kind}",
            "jax": jax.__version__,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Described:
    """The results of `Describer.describe`, for each list; and the folder they may lie in."""

    lists: list[Descriptors]
    _store: PartialDescriptors | None

    def delete_partial(self) -> None:
        """Removes the folder of a resumable run, once its results are written elsewhere."""
        if self._store is not None:
            self._store.delete()


def describe_with_queries(
    describer: Describer, dataset: ImageDataset, partial: str | None = None
) -> Described:
    """Describes a data set's images and, where it has others as queries, those after them."""
    queries = queries_of(dataset)
    lists = [("database", dataset), *([("queries", queries)] if queries is not None else [])]
    return describer.describe(lists, partial)


def queries_of(dataset: ImageDataset) -> ImageDataset | None:
    """The images that query a data set, where they are others than its own."""
    if isinstance(dataset, RelevantsDataset | LabelledDataset):
        return dataset.queries
    return None


def _kept(each: Pass) -> np.ndarray:
    return np.delete(np.arange(len(each.dataset)), list(each.failures))


def _description(dataset: ImageDataset) -> list[Any]:
    boxes = dataset.boxes if isinstance(dataset, QueryDataset) else None
    return [dataset.names, dataset.root, None if boxes is None else boxes.tolist()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
