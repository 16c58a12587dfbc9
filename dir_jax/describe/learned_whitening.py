"""Whitening learned from the images of a data set, as a describer describes them."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.describe.describer import Describer
from dir_jax.describe.sharded_files import open_descriptors
from dir_jax.describe.stored_rows import check_same_model
from dir_jax.errors import UserError
from dir_jax.retrieval.whitening import (
    Whitening,
    learn_whitening,
    learn_whitening_from_pairs,
    pairs_of_classes,
)

log = logging.getLogger(__name__)


def learn_from_images(
    describer: Describer,
    dataset: ImageDataset,
    *,
    method: str = "pca",
    dims: int | None = None,
    folder: str | None = None,
) -> Whitening:
    """Describes a data set's images before whitening, and learns a whitening from them.

    Where there are too few images for `dims` dimensions, or for all, a warning says how many can be
    kept, before any image is described. Images that cannot be used are left out if the describer
    skips them, and so are their pairs.

    Args:
      describer: describes the images; its own whitening, if it has one, is not applied.
      dataset: the images; its queries are not used.
      method: 'pca', or 'pairs': the matching pairs that the data set lists, or else pairs of images
        of one class, see `pairs_of_classes`.
      dims: how many components to keep, by default all.
      folder: where `extract_features --shards` has described these images without whitening; they
        are then not described again.

    Raises:
      UserError: the data set has neither pairs nor labels and `method` is 'pairs'; an image cannot
        be used; or the descriptors do not allow a whitening.
    """
    width, count = describer.descriptor_size, len(dataset)
    if dims is not None and not 1 <= dims <= width:
        raise UserError(f"cannot keep {dims} dimensions (--dims): the descriptors have {width}")
    pairs = _matching_pairs(dataset) if method == "pairs" else None
    if pairs is not None and not len(pairs):
        raise UserError("there are no matching pairs to learn a whitening from: no two images have "
                        "the same label")  # fmt: skip
    wanted = dims or width
    if count <= wanted:
        log.warning(
            "%d images are fewer than whitening to %d dimensions needs: at most %d of %d "
            "dimensions will be kept", count, wanted, count - 1, width,
        )  # fmt: skip
    if pairs is not None and len(pairs) < width:
        log.warning(
            "%d matching pairs say nothing of some of the %d dimensions: these are whitened as if "
            "pairs hardly differed in them", len(pairs), width,
        )  # fmt: skip
    rows: Any
    if folder is None:
        described = describer.describe([("learn whitening", dataset)], whiten=False).lists[0]
        rows, failed = described.array(), list(described.failures)
    else:
        opened = open_descriptors(folder, [dataset.names])
        if opened.recipe.whiten or opened.rows.shape[1] != width:
            raise UserError(
                f"{folder} has whitened descriptors, or such of another model; describe the images "
                "without whitening (--whiten '')"
            )
        check_same_model(
            folder, opened.model, describer.model_digest(whitened=False), "--checkpoint"
        )
        rows, failed = opened.rows, list(opened.failures)
    usable = np.ones(count, bool)
    usable[failed] = False
    if pairs is None:
        whitening = learn_whitening(rows, usable)
    else:
        whitening = learn_whitening_from_pairs(rows, pairs[usable[pairs].all(axis=1)], usable)
    return dataclasses.replace(
        whitening,
        components_=whitening.components_[:dims],
        explained_variance_=whitening.explained_variance_[:dims],
    )


def _matching_pairs(dataset: ImageDataset) -> np.ndarray:
    if dataset.pairs is not None:
        return dataset.pairs
    if isinstance(dataset, LabelledDataset):
        return pairs_of_classes(dataset.labels)
    raise UserError(
        "whitening from pairs needs a data set with labels or with matching pairs, such as "
        "ImageListLabels or SfM30k_whiten; --method pca needs neither"
    )
