"""Data sets by name: what `--dataset` and a config's `data` keys say, made into images.

    ImageList("photos.txt", "photos/")        ImageListLabels("train.txt", "photos/")
    ROxford5K                                 tfds:oxford_flowers102:test

The text is parsed, never evaluated.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from dir_jax.data.calls import parse_calls
from dir_jax.data.ground_truth import RelevantsDataset, read_ground_truth
from dir_jax.data.images import ImageDataset, read_image_list
from dir_jax.data.labelled import (
    LabelledDataset,
    read_clusters,
    read_labelled_list,
    read_labelled_list_with_queries,
)
from dir_jax.errors import UserError

__all__ = [
    "ImageDataset",
    "LabelledDataset",
    "RelevantsDataset",
    "check_dataset",
    "create_dataset",
    "read_sizes",
]

_HEADER_THREADS = 16  # they wait for the disk more than they compute
_HEADER_BLOCK = 64  # images a thread takes at once
_FAILURES_SHOWN = 5

# Files of the named data sets, under DB_ROOT: the list, then the folder of the pictures.
_GROUND_TRUTHS = {
    "Oxford5K": ("oxford5k/gnd_oxford5k.pkl", "oxford5k"),
    "ROxford5K": ("oxford5k/gnd_roxford5k.pkl", "oxford5k"),
    "Paris6K": ("paris6k/gnd_paris6k.pkl", "paris6k"),
    "RParis6K": ("paris6k/gnd_rparis6k.pkl", "paris6k"),
}
_LABELLED_LISTS = {
    "Landmarks_clean": ("landmarks/annotations/annotation_clean_train.txt", "landmarks"),
    "Landmarks_clean_val": ("landmarks/annotations/annotation_clean_val.txt", "landmarks"),
    "Landmarks_lite": ("landmarks/annotations/extra_landmark_images.txt", "landmarks"),
    **{
        f"Landmarks18{name}": (f"landmarks18/lists/{file}.txt", "landmarks18")
        for name, file in {
            "_train": "train",
            "": "train_all",
            "_lite": "train_lite",
            "_mid": "train_mid",
            "_5K": "train_5K",
            "_val": "val",
            "_valdstr": "val_distractors",
        }.items()
    },
}
_LISTS = {
    f"Landmarks18_{name}": (f"landmarks18/lists/{file}.txt", "landmarks18")
    for name, file in {
        "index": "index",
        "new_index": "index_new",
        "test": "test",
        "pca": "train_pca",
        "missing_index": "missing_index",
    }.items()
}


def create_dataset(spec: str, *, db_root: str | None = None) -> ImageDataset:
    """Makes the data set that a text describes.

    Args:
      spec: one of
        `ImageList(file[, root])`, a path a row;
        `ImageListLabels(file[, root])`, `path label` rows, or JSON of path: label;
        `ImageListLabelsQ(file, queries[, root])`, two such lists;
        `ImageClusters(file[, root])`, JSON of path: cluster;
        `ImageListRelevants(pickle[, root, img_dir='jpg', ext='.jpg'])`, Oxford-style;
        `tfds:NAME[:SPLIT]`, TensorFlow Datasets with an image and a label;
        or a benchmark's name, such as `ROxford5K` or `Landmarks_clean`.
      db_root: the folder of the benchmarks, by default the environment's DB_ROOT; for `tfds:` the
        folder of TFDS's data sets, by default the one that TFDS uses.

    Raises:
      UserError: the text cannot be read, or names something unknown, missing or malformed.
    """
    spec = spec.strip()
    if spec.startswith("tfds:"):
        from dir_jax.data.tfds import create_tfds_dataset

        return create_tfds_dataset(spec, db_root)
    constructors: dict[str, Callable[..., ImageDataset]] = {
        "ImageList": _of_texts(read_image_list),
        "ImageListLabels": _of_texts(read_labelled_list),
        "ImageListLabelsQ": _of_texts(read_labelled_list_with_queries),
        "ImageClusters": _of_texts(read_clusters),
        "ImageListRelevants": _of_texts(read_ground_truth),
    }
    for read, table in (
        (read_ground_truth, _GROUND_TRUTHS),
        (read_labelled_list, _LABELLED_LISTS),
        (read_image_list, _LISTS),
    ):
        for name, files in table.items():
            constructors[name] = functools.partial(_named, read, db_root, name, *files)
    found = parse_calls(spec if "(" in spec else f"{spec}()", constructors, what="data set")
    if len(found) != 1 or not isinstance(found[0], ImageDataset):
        raise UserError(f"{spec!r} describes {len(found)} data sets; expected one")
    return found[0]


def _of_texts(read: Callable[..., ImageDataset]) -> Callable[..., ImageDataset]:
    """The same function, which refuses arguments that are no text, such as a bare number."""

    @functools.wraps(read)
    def checked(*args: object, **kwargs: object) -> ImageDataset:
        for value in (*args, *kwargs.values()):
            if not isinstance(value, str):
                raise ValueError(f"expected paths in quotes, found {value!r}")
        return read(*args, **kwargs)

    return checked


def _named(
    read: Callable[..., ImageDataset], db_root: str | None, name: str, file: str, root: str
) -> ImageDataset:
    folder = db_root or os.environ.get("DB_ROOT")
    if not folder:
        raise UserError(
            f"{name} is a folder of the data sets' root, which is not known: set it, as in "
            "export DB_ROOT=/path/to/datasets"
        )
    path = os.path.join(folder, file)
    if not os.path.isfile(path):
        fetch = f"; python -m dir_jax.data.download --dataset {name} fetches it"
        raise UserError(
            f"{name} is not there: no file {path} (DB_ROOT is {folder})"
            + (fetch if name in _GROUND_TRUTHS else "")
        )
    return read(path, os.path.join(folder, root))


def check_dataset(dataset: ImageDataset, *, progress: bool = True) -> np.ndarray:
    """Reads the header of every image, so that a missing or damaged one is found before any work.

    Args:
      dataset: the images.
      progress: show a bar with the rate.

    Returns:
      (N, 2) int32, width and height of each image in pixels.

    Raises:
      UserError: images cannot be read (the first few are named, and how many there are), or there
        are none.
    """
    sizes, failures = read_sizes(dataset, progress=progress)
    if failures:
        shown = list(failures.values())[:_FAILURES_SHOWN]
        if len(failures) > len(shown):
            shown.append(f"and {len(failures) - len(shown)} more")
        none_good = len(failures) == len(dataset)
        hint = " (is the root right, the data set's second argument?)" if none_good else ""
        raise UserError(
            f"{len(failures)} of {len(dataset)} images cannot be used{hint}: {'; '.join(shown)}"
        )
    return sizes


def read_sizes(
    dataset: ImageDataset, *, progress: bool = True
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads the header of every image.

    Args:
      dataset: the images.
      progress: show a bar with the rate.

    Returns:
      sizes: (N, 2) int32, width and height of each image in pixels; 0 for those with no header.
      failures: image number -> why its header cannot be read.

    Raises:
      UserError: there are no images.
    """
    if not len(dataset):
        raise UserError("the data set has no images")

    def read_block(start: int) -> list[tuple[int, int] | str]:
        found: list[tuple[int, int] | str] = []
        for i in range(start, min(start + _HEADER_BLOCK, len(dataset))):
            try:
                found.append(dataset.size(i))
            except UserError as e:
                found.append(str(e))
        return found

    sizes = np.zeros((len(dataset), 2), np.int32)
    failures: dict[int, str] = {}
    pool = ThreadPoolExecutor(_HEADER_THREADS)
    try:
        with tqdm(
            total=len(dataset),
            desc="check images",
            unit="img",
            leave=False,
            delay=1,
            disable=not progress,
        ) as bar:
            starts = range(0, len(dataset), _HEADER_BLOCK)
            for start, block in zip(starts, pool.map(read_block, starts), strict=True):
                for i, found in enumerate(block, start):
                    if isinstance(found, str):
                        failures[i] = found
                    else:
                        sizes[i] = found
                bar.update(len(block))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for the whole list
    return sizes, failures
