"""The Python interface: load a model, describe images, evaluate, search; see `import dir_jax`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from PIL import Image

from dir_jax.checkpoint import Checkpoint
from dir_jax.data.datasets import create_dataset
from dir_jax.data.given import as_dataset
from dir_jax.data.images import ImageDataset
from dir_jax.describe.describer import Describer, describe_with_queries
from dir_jax.describe.sharded_files import open_descriptors
from dir_jax.errors import UserError
from dir_jax.evaluation import (
    check_can_be_evaluated,
    check_distractors,
    check_expansions,
    evaluate_descriptors,
    expand_descriptors,
)
from dir_jax.loading import load_model
from dir_jax.model_recipe import Recipe
from dir_jax.retrieval.blockwise import Rows
from dir_jax.search.index import Index

__all__ = ["Index", "Model", "evaluate", "load", "open_descriptors", "open_index"]

AnImage: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray


def load(path: str | os.PathLike[str], **options: Any) -> Model:
    """Loads a model.

    Args:
      path: a checkpoint directory, the directory of a training run, a PyTorch file or a
        safetensors file; a file is converted and kept in the user's cache folder. Or the name of a
        published model, such as 'Resnet101-AP-GeM', or hf://USER/NAME.
      **options: options of `dir_jax.models.ModelConfig` that replace the model's own, such as
        dtype='bfloat16'.

    Raises:
      UserError: there is no checkpoint, or it cannot be read.
    """
    return Model(load_model(path, **options))


def open_index(
    path: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    devices: Sequence[jax.Device] | None = None,
    threads: int = 0,
) -> Index:
    """Opens an index that `dir-jax index` has made.

    Args:
      path: the index.
      checkpoint: the model that made it, if it is elsewhere now.
      devices: where to compute; the first device by default.
      threads: how many processes decode, as in `Model.extract`.

    Raises:
      UserError: there is no index, it is damaged, or its engine cannot be used.
    """
    return Index(path, checkpoint=checkpoint, devices=devices, threads=threads)


class Model:
    """A network with its preprocessing and whitenings.

    Attributes:
      checkpoint: what was loaded; `checkpoint.model` is the Flax network.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._describers: dict[tuple[Any, ...], Describer] = {}

    @property
    def whitenings(self) -> list[str]:
        """The names of the whitenings that the model has."""
        return list(self.checkpoint.whitenings)

    @property
    def recipe(self) -> Recipe:
        """How images are described unless an argument says otherwise."""
        return self.checkpoint.recipe

    def __repr__(self) -> str:
        network = self.checkpoint.model
        size = f"{network.descriptor_size} dimensions"
        return f"<dir_jax.Model {network.config.arch}, {size}; {self.recipe}>"

    def extract(
        self,
        images: ImageDataset | AnImage | Iterable[AnImage],
        *,
        trfs: str | Sequence[str] | None = None,
        whiten: str | None = None,
        on_error: str = "stop",
        devices: Sequence[jax.Device] | None = None,
        threads: int = 0,
        **options: Any,
    ) -> np.ndarray:
        """Describes images, each at its own size.

        Args:
          images: a path, a Pillow image or a (H, W, 3) uint8 array of RGB, or any iterable of
            these; or a data set, as an object or in words such as 'ImageList("list.txt",
            "photos")'. A path may be of a folder or a list, too; see `create_dataset`. A data set's
            queries are not described.
          trfs: a chain of transforms, such as 'Scale(1050)', or a sequence of one chain for each of
            several scales; '' is the image as it is. By default as the model's `recipe` says.
          whiten: one of `whitenings`, or '' for no whitening. By default as the recipe says.
          on_error: 'stop' at an image that cannot be used, or 'skip' it and give NaN.
          devices: where to compute; the first device by default.
          threads: how many processes decode where there are many images; a script then needs
            `if __name__ == "__main__":` around what it runs. 0 means threads of this process.
          **options: exif, pooling, gemp, whitenp, whitenv, whitenm, by default as the recipe says;
            see `dir_jax.model_recipe.Recipe`. And scales, such as (1, 2**-0.5, 0.5), factors at
            which each image is described, as cirtorch's networks are evaluated.

        Returns:
          (N, D) float32 of unit norm, in the order of the images; N is 1 for a single image.

        Raises:
          UserError: an image cannot be used (it is named), or an argument is not valid.
        """
        dataset = as_dataset(images)
        describer = self._describer(trfs, whiten, on_error, devices, threads, options)
        return describer.describe([("describe", dataset)]).lists[0].array()

    def _describer(
        self,
        trfs: str | Sequence[str] | None,
        whiten: str | None,
        on_error: str,
        devices: Sequence[jax.Device] | None,
        threads: int,
        options: dict[str, Any],
    ) -> Describer:
        """A describer, which is kept for the next call together with its compiled programs."""
        if on_error not in ("stop", "skip"):
            raise UserError(f"on_error is {on_error!r}; it must be 'stop' or 'skip'")
        chains = (trfs,) if isinstance(trfs, str) else None if trfs is None else tuple(trfs)
        try:
            recipe = self.recipe.changed(trfs=chains, whiten=whiten, **options)
        except TypeError as e:
            raise UserError(
                f"{str(e).split(') ')[-1]}; options are exif, scales, pooling, gemp, whitenp, "
                "whitenv, whitenm"
            ) from e
        key = recipe, on_error, tuple(devices or ()), threads
        if key not in self._describers:
            self._describers[key] = Describer(
                self.checkpoint,
                recipe,
                devices=devices,
                threads=threads,
                skip_failures=on_error == "skip",
            )
        return self._describers[key]


def evaluate(
    dataset: ImageDataset | str | os.PathLike[str],
    model: Model | str | os.PathLike[str],
    *,
    trfs: str | Sequence[str] | None = None,
    whiten: str | None = None,
    aqe: tuple[int, float] | None = None,
    adba: tuple[int, float] | None = None,
    distractors: ImageDataset | str | Rows | None = None,
    db_root: str | None = None,
    on_duplicate: str = "keep",
    on_error: str = "stop",
    devices: Sequence[jax.Device] | None = None,
    threads: int = 0,
    **options: Any,
) -> dict[str, float]:
    """Evaluates a model on a data set by the data set's own protocol.

    Args:
      dataset: a data set with labels or a ground truth, as an object, or in words such as
        'ROxford5K' or the path of a labelled list; see `create_dataset`.
      model: a loaded model, or the path to load it from.
      trfs: the transforms, as in `Model.extract`; by default as the model's recipe says.
      whiten: one of the model's whitenings, or '' for none; by default as the recipe says.
      aqe: the number of neighbours and alpha of query expansion; no expansion by default.
      adba: the number of neighbours and alpha of database augmentation; none by default.
      distractors: more images to search, as a data set or in words; or their descriptors, (M, D)
        float, finished as those of the model, which may be `np.load(file, mmap_mode="r")`.
      db_root: the folder of the named data sets; by default the environment's DB_ROOT.
      on_duplicate: 'keep' the rows of a list that name a file again, or 'drop' them.
      on_error: 'stop' at an image that cannot be used, or 'skip' it and leave it out.
      devices: where to compute; the first device by default.
      threads: how many processes decode, as in `Model.extract`.
      **options: the other options of `Model.extract`.

    Returns:
      Name -> share in [0, 1]: 'mAP-easy', …, or 'mAP', 'recall@1', …

    Raises:
      UserError: the data set cannot be evaluated, which is found before any image is opened; an
        image cannot be used (it is named); or an argument is not valid.
    """
    if isinstance(dataset, str | os.PathLike):
        dataset = create_dataset(
            os.fspath(dataset), db_root=db_root, labelled=True, on_duplicate=on_duplicate
        )
    check_can_be_evaluated(dataset)
    check_distractors(dataset, distractors is not None)
    check_expansions(dataset, aqe, adba, distractors=distractors is not None)
    if isinstance(distractors, str):
        distractors = create_dataset(distractors, db_root=db_root)
    model = model if isinstance(model, Model) else load(model)
    describer = model._describer(trfs, whiten, on_error, devices, threads, options)
    listed = distractors if isinstance(distractors, ImageDataset) else None
    found = describe_with_queries(describer, dataset, distractors=listed).lists
    rows: Rows | None = found.pop() if isinstance(distractors, ImageDataset) else distractors
    database, queries = found[0].array(), found[1].array() if len(found) > 1 else None
    with jax.default_device(describer.devices[0]):
        database, queries = expand_descriptors(
            database, queries, distractors=rows, aqe=aqe, adba=adba
        )
        return evaluate_descriptors(
            dataset, database, queries, distractors=rows, allow_missing=True
        ).metrics
