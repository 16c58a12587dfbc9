"""From images to the descriptors that are compared: scales, pooling, whitening.

`test_dir`, `extract_features`, `extract_kapture` and the Python interface all describe images with
a `Describer`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dir_jax.checkpoint import Checkpoint
from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.describe.descriptors import Descriptors
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.image_lists import ImageList, Pass, read_list
from dir_jax.describe.padded_shapes import Room, Shape
from dir_jax.describe.passes import (
    ArraySink,
    plan_passes,
    run_passes,
    sample_lists,
    shapes_for,
)
from dir_jax.describe.resume import PartialDescriptors, StoredSink
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe
from dir_jax.models.variables import split_variables
from dir_jax.retrieval.scales import pool_scales
from dir_jax.retrieval.whitening import Whitening, apply_whitening, check_divisor
from dir_jax.runtime.platforms import count_cores

# Rows that are pooled or whitened at once. Always as many, so that the same program computes a row
# whatever list it is in, and gives it the same bytes.
_BLOCK = 256
_ADVICE = "--on-error skip (on_error='skip' in Python) leaves them out"


class Describer:
    """A model, a recipe and devices: describes lists of images.

    Attributes:
      recipe: how images become descriptors.
      devices: where everything is computed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe | None = None,
        *,
        devices: Sequence[jax.Device] | None = None,
        threads: int = 8,
        skip_failures: bool = False,
    ):
        """Prepares to describe with a model; reads no image.

        By default the recipe is the model's own, and the first device computes. `threads`
        processes, at most one for each core, decode images. With `skip_failures`, an image that
        cannot be used gets NaN.

        Raises:
          UserError: the recipe is not valid, or does not fit the model; `threads` is negative.
        """
        if threads < 0:
            raise UserError(f"threads is {threads}; expected 0 or more")
        self.recipe = recipe = checkpoint.recipe if recipe is None else recipe
        self.devices = list(devices) if devices else jax.devices()[:1]
        recipe.check()
        self._transforms = recipe.transforms()
        colours = dataclasses.asdict(checkpoint.preprocessing)
        for chain in self._transforms:
            chain.check_normalize("the transforms", mean=colours["mean"], std=colours["std"])
        self._whitening = _whitening(checkpoint, recipe)
        if self._whitening is not None:
            power, dims, m = recipe.whitenp, recipe.whitenv, recipe.whitenm
            check_divisor(self._whitening, power=power, dims=dims, m=m)
            self._whitening = jax.device_put(self._whitening, self.devices[0])
        self._skip = skip_failures
        model = checkpoint.model
        graphdef, self._params, self._stats = split_variables(model)
        self._extractor = Extractor(
            graphdef,
            width=model.descriptor_size,
            mean=checkpoint.preprocessing.mean,
            std=checkpoint.preprocessing.std,
            num_workers=min(threads, count_cores()),
            devices=self.devices,
        )
        self._variables: Any = None
        self._model = dataclasses.asdict(model.config)
        self._preprocess = colours

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return self._model["arch"]

    @property
    def descriptor_size(self) -> int:
        """The length of a descriptor before whitening."""
        return self._extractor.width

    @property
    def finished_size(self) -> int:
        """The length of a descriptor after whitening."""
        if self._whitening is None:
            return self.descriptor_size
        return self.recipe.whitenv or len(self._whitening.components_)

    def __str__(self) -> str:
        """How images become descriptors, in a line."""
        kept = self.finished_size
        note = ""
        if self._whitening is not None and kept < self.descriptor_size:
            note = f" ({kept} of {self.descriptor_size} dimensions)"
        return f"{self.recipe}{note}"

    def describe(
        self,
        datasets: Sequence[tuple[str, ImageDataset]],
        partial: str | None = None,
        *,
        shapes: Sequence[Shape] | None = None,
        images_may_change: bool = False,
        whiten: bool = True,
    ) -> Described:
        """Describes lists of images at every scale, after reading all their headers.

        Args:
          datasets: for each list, what progress bars call it ('' for no bar), and the images.
          partial: a folder where descriptors are kept as they come, from which the same call
            resumes after it was killed. Without a descriptor in it, it is deleted.
          shapes: the padded shapes; by default chosen for these images.
          images_may_change: starts again, instead of refusing, where images that the folder has
            descriptors of have been replaced, or the list has changed.
          whiten: False gives the descriptors before whitening; see the method `whiten`.

        Raises:
          NoUsableImageError: no image of a list can be used.
          UserError: an image cannot be used and is not to be skipped; the network or a descriptor
            is not finite; or the folder cannot be used.
        """
        skip, extractor = self._skip, self._extractor
        variables = self._variables or extractor.replicate(self._params, self._stats)
        datasets = [(name, images.with_exif(self.recipe.exif)) for name, images in datasets]
        lists = [read_list(name, dataset) for name, dataset in datasets]
        passes = plan_passes(
            extractor, lists, self._transforms, shapes=shapes, skip_failures=skip, advice=_ADVICE
        )
        store = None
        if partial is not None:
            store = PartialDescriptors(
                partial, self._of_scales(), passes, images_may_change=images_may_change
            )
        try:
            sinks = run_passes(extractor, variables, passes, store, skip_failures=skip)
            if store is not None:
                store.sync()
        except BaseException:
            if store is not None:
                store.close()
            raise
        described, finish = Described([], store), self.finish if whiten else self._pool
        for i, dataset in enumerate(dataset for _, dataset in datasets):
            own = range(i, len(passes), len(datasets))
            failures = _failures(own, passes, sinks)
            scales = [sinks[number].descriptors for number in own]
            described.lists.append(Descriptors(dataset, failures, scales, finish))
        _refuse_unusable(described, [name for name, _ in datasets])
        return described

    def stay_on_devices(self) -> None:
        """Leaves the network on the devices from one call of `describe` to the next."""
        self._variables = self._extractor.replicate(self._params, self._stats)

    @property
    def room(self) -> Room:
        """How much one device is given at once."""
        return self._extractor.room

    def output_sizes(self, sizes: np.ndarray) -> np.ndarray:
        """(S, n, 2) int64, width and height at each of S scales, of pictures whose sizes are
        (n, 2) int; 1 × 1 for one that cannot be used."""
        images = ImageList("", ImageDataset([""] * len(sizes)), sizes)
        return np.stack([images.output_sizes(transform)[0] for transform in self._transforms])

    def finish(self, scales: list[np.ndarray]) -> np.ndarray:
        """Pools the scales of some images and whitens: (n, D') float32 from (n, D) at each."""
        return self.whiten(self._pool(scales))

    def _pool(self, scales: list[np.ndarray]) -> np.ndarray:
        how: dict[str, Any] = {"pooling": self.recipe.pooling, "p": self.recipe.gemp}
        return self._in_blocks(lambda parts: pool_scales(parts, **how), scales)

    def whiten(self, x: np.ndarray) -> np.ndarray:
        """Whitens (n, D) pooled descriptors, if the recipe says so."""
        r, whitening = self.recipe, self._whitening
        if whitening is None:
            return x
        how: dict[str, Any] = {"power": r.whitenp, "dims": r.whitenv, "m": r.whitenm}
        return self._in_blocks(lambda x: apply_whitening(x[0], whitening, **how), [x])

    def _in_blocks(
        self, compute: Callable[[list[np.ndarray]], jax.Array], arrays: Sequence[np.ndarray]
    ) -> np.ndarray:
        found = []
        for start in range(0, max(len(arrays[0]), 1), _BLOCK):
            parts = [np.asarray(x[start : start + _BLOCK], np.float32) for x in arrays]
            count = len(parts[0])
            padded = [np.pad(part, ((0, _BLOCK - count), (0, 0))) for part in parts]
            with jax.default_device(self.devices[0]):
                found.append(np.asarray(compute(padded))[:count])
        return np.concatenate(found)

    def describe_finished(
        self, lists: Sequence[ImageList], shapes: Sequence[Shape], partial: str
    ) -> tuple[list[dict[int, str]], PartialDescriptors]:
        """Describes lists so that finished descriptors alone are kept, each written once.

        Args:
          lists: from `read_list`.
          shapes: the padded shapes, from `choose_shapes`.
          partial: the folder, as for `describe`; NAME.npy in it gets a list's descriptors, (N, D')
            float32.

        Returns:
          For each list, place -> why an image has no descriptor; and the open folder. Raises as
          `describe`, but there may be no usable image.
        """
        skip, extractor = self._skip, self._extractor
        variables = extractor.replicate(self._params, self._stats)
        passes = plan_passes(
            extractor, lists, self._transforms, shapes=shapes, skip_failures=skip, advice=_ADVICE
        )
        last = len(passes) - len(lists)
        passes[last:] = [dataclasses.replace(p, name=p.images.name) for p in passes[last:]]
        store = PartialDescriptors(partial, self._of_scales() | self.identity(), passes)
        try:
            sinks = run_passes(
                extractor, variables, passes, store, finish=self.finish, skip_failures=skip
            )
            store.sync()
        except BaseException:
            store.close()
            raise
        own = [range(i, len(passes), len(lists)) for i in range(len(lists))]
        return [_failures(numbers, passes, sinks) for numbers in own], store

    def choose_shapes(self, datasets: Sequence[tuple[str, ImageDataset]]) -> list[Shape]:
        """The padded shapes that `describe` uses for these lists; reads the headers of a sample."""
        lengths = [len(dataset) for _, dataset in datasets]
        sample = [
            read_list(name, dataset, places)
            for (name, dataset), places in zip(datasets, sample_lists(lengths), strict=True)
        ]
        return shapes_for(self._extractor, sample, self._transforms, sum(lengths))

    def identity(self) -> dict[str, Any]:
        """What the descriptors depend on, apart from the images and the device, as JSON."""
        return {
            "transforms": [repr(transform) for transform in self._transforms],
            "recipe": self.recipe.to_json(),
            "model": self.model_digest(),
        }

    def model_digest(self, *, whitened: bool = True) -> str:
        """A digest of all that, with the recipe, makes descriptors: network and whitening."""
        digest = hashlib.sha256(json.dumps(self._of_network(), sort_keys=True).encode())
        if self._whitening is not None and whitened:
            for name, array in self._whitening.to_arrays().items():
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _of_network(self) -> dict[str, Any]:
        weights = hashlib.sha256()
        for variables in (self._params, self._stats):
            for name in sorted(variables):
                weights.update(name.encode())
                weights.update(np.ascontiguousarray(variables[name]).tobytes())
        digest = weights.hexdigest()
        return {"model": self._model, "weights": digest, "preprocess": self._preprocess}

    def _of_scales(self) -> dict[str, Any]:
        """What must be the same for a run to resume another one, apart from the images."""
        return {
            **self._of_network(),
            "device": f"{len(self.devices)} x {self.devices[0].device_kind}",
            "jax": jax.__version__,
            "transforms": [repr(transform) for transform in self._transforms],
            "exif": self.recipe.exif,
        }


@dataclasses.dataclass(frozen=True)
class Described:
    """The results of `Describer.describe`, one for each list, and the folder they may lie in."""

    lists: list[Descriptors]
    _store: PartialDescriptors | None

    def delete_partial(self) -> None:
        """Removes the folder of a resumable run, once its results are written elsewhere."""
        if self._store is not None:
            self._store.delete()


def _failures(
    numbers: Sequence[int], passes: Sequence[Pass], sinks: Sequence[ArraySink | StoredSink]
) -> dict[int, str]:
    """Why images have no descriptor, by place, of the passes over one list."""
    failures: dict[int, str] = {}
    for number in numbers:
        failures = {**sinks[number].failures, **passes[number].failures, **failures}
    return failures


class NoUsableImageError(UserError):
    """Not one image of a list can be used; `failures` says why, by image number."""

    def __init__(self, name: str, failures: dict[int, str]):
        count, first = len(failures), failures[0]
        super().__init__(f"none of the {count} images ({name}) can be used; the first: {first}")
        self.failures = failures


def describe_with_queries(
    describer: Describer,
    dataset: ImageDataset,
    partial: str | None = None,
    *,
    distractors: ImageDataset | None = None,
    whiten: bool = True,
) -> Described:
    """Describes a data set's images, then its queries where these are others, and distractors."""
    others = [("queries", queries_of(dataset)), ("distractors", distractors)]
    lists = [("database", dataset), *((name, each) for name, each in others if each is not None)]
    return describer.describe(lists, partial, whiten=whiten)


def queries_of(dataset: ImageDataset) -> ImageDataset | None:
    """The images that query a data set, where they are not its own images."""
    if isinstance(dataset, RelevantsDataset | LabelledDataset):
        return dataset.queries
    return None


def _whitening(checkpoint: Checkpoint, recipe: Recipe) -> Whitening | None:
    """The whitening of a recipe. Raises UserError where the model has none that fits."""
    if not recipe.whiten:
        return None
    whitening = checkpoint.whitening(recipe.whiten)
    there, width = whitening.components_.shape
    if recipe.whitenv is not None and not 1 <= recipe.whitenv <= there:
        raise UserError(
            f"cannot keep {recipe.whitenv} dimensions (--whitenv): the whitening "
            f"{recipe.whiten!r} has {there}"
        )
    if width != checkpoint.model.descriptor_size:
        raise UserError(
            f"the whitening {recipe.whiten!r} is for descriptors of {width} dimensions; the "
            f"network's have {checkpoint.model.descriptor_size}"
        )
    return whitening


def _refuse_unusable(described: Described, names: Sequence[str]) -> None:
    unusable = [i for i, each in enumerate(described.lists) if len(each.failures) == len(each)]
    if not unusable:
        return
    if len(unusable) == len(names):  # the folder holds no descriptor
        described.delete_partial()
    elif described._store is not None:
        described._store.close()
    raise NoUsableImageError(names[unusable[0]], described.lists[unusable[0]].failures)
