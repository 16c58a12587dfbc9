"""Data sets by name: makes images of the text in `--dataset` or in a config's `data` keys.

    ImageList("photos.txt", "photos/")        ImageListLabels("train.txt", "photos/")
    ROxford5K                                 tfds:oxford_flowers102:test

The text is parsed, never evaluated. A new benchmark is a row in `NAMED`, a new kind of list one in
`READERS`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable

from dir_jax.data.calls import parse_calls
from dir_jax.data.ground_truth import read_ground_truth
from dir_jax.data.images import ImageDataset, read_image_list
from dir_jax.data.labelled import (
    read_clusters,
    read_labelled_list,
    read_labelled_list_with_queries,
)
from dir_jax.errors import UserError

READERS: dict[str, Callable[..., ImageDataset]] = {
    "ImageList": read_image_list,
    "ImageListLabels": read_labelled_list,
    "ImageListLabelsQ": read_labelled_list_with_queries,
    "ImageClusters": read_clusters,
    "ImageListRelevants": read_ground_truth,
}
"""What users can call on their own files: name -> function of paths."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A data set that is known by its name.

    Attributes:
      file: the list or ground truth, relative to the folder of the data sets.
      root: the folder of the images, relative to the folder of the data sets.
      read: the function that reads the file.
      downloadable: whether `dir_jax.data.download` can fetch it.
    """

    file: str
    root: str
    read: Callable[..., ImageDataset]
    downloadable: bool = False


_LANDMARKS, _LANDMARKS18 = "landmarks/annotations", "landmarks18/lists"
NAMED: dict[str, Named] = {
    "Oxford5K": Named("oxford5k/gnd_oxford5k.pkl", "oxford5k", read_ground_truth, True),
    "ROxford5K": Named("oxford5k/gnd_roxford5k.pkl", "oxford5k", read_ground_truth, True),
    "Paris6K": Named("paris6k/gnd_paris6k.pkl", "paris6k", read_ground_truth, True),
    "RParis6K": Named("paris6k/gnd_rparis6k.pkl", "paris6k", read_ground_truth, True),
    **{
        name: Named(f"{_LANDMARKS}/{file}.txt", "landmarks", read_labelled_list)
        for name, file in (
            ("Landmarks_clean", "annotation_clean_train"),
            ("Landmarks_clean_val", "annotation_clean_val"),
            ("Landmarks_lite", "extra_landmark_images"),
        )
    },
    **{
        f"Landmarks18{name}": Named(f"{_LANDMARKS18}/{file}.txt", "landmarks18", read_labelled_list)
        for name, file in (
            ("_train", "train"),
            ("", "train_all"),
            ("_lite", "train_lite"),
            ("_mid", "train_mid"),
            ("_5K", "train_5K"),
            ("_val", "val"),
            ("_valdstr", "val_distractors"),
        )
    },
    **{
        f"Landmarks18{name}": Named(f"{_LANDMARKS18}/{file}.txt", "landmarks18", read_image_list)
        for name, file in (
            ("_index", "index"),
            ("_new_index", "index_new"),
            ("_test", "test"),
            ("_pca", "train_pca"),
            ("_missing_index", "missing_index"),
        )
    },
}
"""Data sets in the folder DB_ROOT, by name."""


def create_dataset(spec: str, *, db_root: str | None = None) -> ImageDataset:
    """Makes the data set that a text describes.

    Args:
      spec: one of
        `ImageList(file[, root])`, a list with a path in each row;
        `ImageListLabels(file[, root])`, rows of `path label`, or JSON of path: label;
        `ImageListLabelsQ(file, queries[, root])`, two such lists;
        `ImageClusters(file[, root])`, JSON of path: cluster;
        `ImageListRelevants(pickle[, root, img_dir='jpg', ext='.jpg'])`, an Oxford-style truth;
        `tfds:NAME[:SPLIT]`, a TensorFlow Datasets data set with an image and a label;
        or a name in `NAMED`, such as `ROxford5K` or `Landmarks_clean`.
      db_root: the folder of the named data sets, by default the environment's DB_ROOT; for `tfds:`
        the folder of TFDS's data sets, by default the one that TFDS uses.

    Raises:
      UserError: the text cannot be read, or names something unknown, missing or malformed.
    """
    spec = spec.strip()
    if spec.startswith("tfds:"):
        from dir_jax.data.tfds import create_tfds_dataset

        return create_tfds_dataset(spec, db_root)
    constructors = {name: _of_texts(read) for name, read in READERS.items()}
    for name in NAMED:
        constructors[name] = functools.partial(_read_named, name, db_root)
    found = parse_calls(spec if "(" in spec else f"{spec}()", constructors, what="data set")
    if len(found) != 1 or not isinstance(found[0], ImageDataset):
        raise UserError(f"{spec!r} describes {len(found)} data sets; expected one")
    return found[0]


def _of_texts(read: Callable[..., ImageDataset]) -> Callable[..., ImageDataset]:
    """The same function, which refuses arguments that are not texts, such as a bare number."""

    @functools.wraps(read)
    def checked(*args: object, **kwargs: object) -> ImageDataset:
        for value in (*args, *kwargs.values()):
            if not isinstance(value, str):
                raise ValueError(f"expected paths in quotes, found {value!r}")
        return read(*args, **kwargs)

    return checked


def _read_named(name: str, db_root: str | None) -> ImageDataset:
    folder = db_root or os.environ.get("DB_ROOT")
    if not folder:
        raise UserError(
            f"{name} is looked for in the folder of the data sets, which is not known: set it with "
            "export DB_ROOT=/path/to/datasets"
        )
    named = NAMED[name]
    path = os.path.join(folder, named.file)
    if not os.path.isfile(path):
        fetch = f"; python -m dir_jax.data.download --dataset {name} fetches it"
        raise UserError(
            f"{name} is not there: no file {path} (DB_ROOT is {folder})"
            + (fetch if named.downloadable else "")
        )
    return named.read(path, os.path.join(folder, named.root))
