"""Data sets by name, from the text in `--dataset` or in a config's `data` keys.

The text is parsed, never evaluated. A new benchmark is a row in `NAMED`, a new kind of list one in
`READERS`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TypeAlias

from dir_jax.data.benchmark_sets import read_holidays, read_ilias, read_ukbench
from dir_jax.data.calls import parse_calls
from dir_jax.data.gldv2_truth import read_gldv2_recognition, read_gldv2_retrieval
from dir_jax.data.ground_truth import read_ground_truth
from dir_jax.data.images import ImageDataset, read_image_list
from dir_jax.data.labelled import read_clusters, read_labelled_list, read_labelled_list_with_queries
from dir_jax.errors import UserError, quoted

Reader: TypeAlias = Callable[..., ImageDataset]

READERS: dict[str, Reader] = {
    "ImageList": read_image_list,
    "ImageListLabels": read_labelled_list,
    "ImageListLabelsQ": read_labelled_list_with_queries,
    "ImageClusters": read_clusters,
    "ImageListRelevants": read_ground_truth,
    "Holidays": read_holidays,
    "UKBench": read_ukbench,
    "ILIAS": read_ilias,
    "GLDv2Retrieval": read_gldv2_retrieval,
    "GLDv2Recognition": read_gldv2_recognition,
}
"""What users can call on their own files: name -> function of paths."""

NAMED: dict[str, tuple[str, Reader]] = {
    "Oxford5K": ("oxford5k/gnd_oxford5k.pkl", read_ground_truth),
    "ROxford5K": ("oxford5k/gnd_roxford5k.pkl", read_ground_truth),
    "Paris6K": ("paris6k/gnd_paris6k.pkl", read_ground_truth),
    "RParis6K": ("paris6k/gnd_rparis6k.pkl", read_ground_truth),
    "Landmarks_clean": ("landmarks/annotations/annotation_clean_train.txt", read_labelled_list),
    "Landmarks_clean_val": ("landmarks/annotations/annotation_clean_val.txt", read_labelled_list),
    "Landmarks_lite": ("landmarks/annotations/extra_landmark_images.txt", read_labelled_list),
    "Landmarks18_train": ("landmarks18/lists/train.txt", read_labelled_list),
    "Landmarks18": ("landmarks18/lists/train_all.txt", read_labelled_list),
    "Landmarks18_lite": ("landmarks18/lists/train_lite.txt", read_labelled_list),
    "Landmarks18_mid": ("landmarks18/lists/train_mid.txt", read_labelled_list),
    "Landmarks18_5K": ("landmarks18/lists/train_5K.txt", read_labelled_list),
    "Landmarks18_val": ("landmarks18/lists/val.txt", read_labelled_list),
    "Landmarks18_valdstr": ("landmarks18/lists/val_distractors.txt", read_labelled_list),
    "Landmarks18_index": ("landmarks18/lists/index.txt", read_image_list),
    "Landmarks18_new_index": ("landmarks18/lists/index_new.txt", read_image_list),
    "Landmarks18_test": ("landmarks18/lists/test.txt", read_image_list),
    "Landmarks18_pca": ("landmarks18/lists/train_pca.txt", read_image_list),
    "Landmarks18_missing_index": ("landmarks18/lists/missing_index.txt", read_image_list),
}
"""Data sets in the folder DB_ROOT: name -> (list or ground truth, the function that reads it).

The images are in the first folder of that path."""


def create_dataset(spec: str, *, db_root: str | None = None) -> ImageDataset:
    """Makes the data set that a text describes.

    Args:
      spec: one of
        `ImageList(file[, root])`, a list with a path in each row;
        `ImageListLabels(file[, root])`, rows of `path label`, or JSON of path: label;
        `ImageListLabelsQ(file, queries[, root])`, two such lists;
        `ImageClusters(file[, root])`, JSON of path: cluster;
        `ImageListRelevants(pickle[, root, img_dir='jpg', ext='.jpg'])`, an Oxford-style truth;
        `Holidays(folder)`, `UKBench(folder)`, `ILIAS(folder)`, benchmarks in their own folders;
        `GLDv2Retrieval(csv[, root, index])`, `GLDv2Recognition(csv[, root, train])`, solutions;
        `tfds:NAME[:SPLIT]`, a TensorFlow Datasets data set with an image and a label;
        or a name in `NAMED`, such as `ROxford5K` or `Landmarks_clean`.
      db_root: the folder of the named data sets, by default the environment's DB_ROOT; for `tfds:`
        the folder of TFDS's data sets, by default the one that TFDS uses.

    Raises:
      UserError: the text cannot be read, or names something unknown, missing or malformed.
    """
    spec = spec.strip()
    if spec.startswith("tfds:"):
        from dir_jax.data.tfds import TfdsDataset

        return TfdsDataset(spec, db_root)
    constructors = {name: _of_texts(read) for name, read in READERS.items()}
    constructors |= {name: functools.partial(_read_named, name, db_root) for name in NAMED}
    found = parse_calls(spec if "(" in spec else f"{spec}()", constructors, what="data set")
    if len(found) != 1:
        raise UserError(f"{quoted(spec)} describes {len(found)} data sets; expected one")
    return found[0]


def _of_texts(read: Reader) -> Reader:
    """The same function, which refuses arguments that are not texts, such as a bare number."""

    @functools.wraps(read)
    def checked(*args: object, **kwargs: object) -> ImageDataset:
        for value in (*args, *kwargs.values()):
            if not isinstance(value, str):
                raise ValueError(f"expected paths in quotes, found {quoted(value)}")
        return read(*args, **kwargs)

    return checked


def _read_named(name: str, db_root: str | None) -> ImageDataset:
    folder = db_root or os.environ.get("DB_ROOT")
    if not folder:
        raise UserError(
            f"{name} needs the folder that holds the data sets: set it with "
            "export DB_ROOT=/path/to/datasets"
        )
    file, read = NAMED[name]
    path = os.path.join(folder, file)
    if not os.path.isfile(path):
        from dir_jax.data.download import DOWNLOADABLE

        fetch = f"; python -m dir_jax.data.download --dataset {name} downloads it"
        raise UserError(
            f"the data set {name} is missing: there is no file {path} (DB_ROOT is {folder})"
            + fetch * (name in DOWNLOADABLE)
        )
    return read(path, os.path.join(folder, file.split("/")[0]))
