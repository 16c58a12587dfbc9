"""Data sets by name: what `--dataset` and a config's `data` keys say, made into images.

    ImageList("photos.txt", "photos/")        ImageListLabels("train.txt", "photos/")
    ROxford5K                                 tfds:oxford_flowers102:test
    SyntheticLandmarks("data/landmarks", "train", train_landmarks=40, views=12)

The text is parsed, never evaluated.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    "IS_ROOT_RIGHT",
    "ImageDataset",
    "LabelledDataset",
    "RelevantsDataset",
    "check_dataset",
    "create_dataset",
    "read_sizes",
    "refuse_failures",
]

_HEADER_THREADS = 16  # they wait for the disk more than they compute
_HEADER_BLOCK = 64  # images a thread takes at once
_FAILURES_SHOWN = 5
# What to say where not one image can be read.
IS_ROOT_RIGHT = "is the root, the data set's second argument, the right folder?"

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
        `SyntheticLandmarks(folder[, "train" | "test" | "test_oxford"[, views=…, seed=…, …]])`,
        drawn on first use, with the options of `dir_jax.data.synthetic`;
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
        "SyntheticLandmarks": _synthetic_landmarks,
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


def _synthetic_landmarks(directory: str, split: str = "train", **options: Any) -> ImageDataset:
    from dir_jax.data.synthetic import write_synthetic_landmarks

    if not isinstance(directory, str):
        raise ValueError(f"expected a folder in quotes, found {directory!r}")
    if split not in ("train", "test", "test_oxford"):
        raise UserError(
            f"SyntheticLandmarks has no split {split!r}; it has 'train', 'test', 'test_oxford'"
        )
    try:
        inspect.signature(write_synthetic_landmarks).bind(directory, **options)
    except TypeError as e:
        raise UserError(f"SyntheticLandmarks: {e}") from e
    # Without options, whatever set is there will do.
    if options or not os.path.isfile(os.path.join(directory, "synthetic.json")):
        write_synthetic_landmarks(directory, **options)
    if split == "test_oxford":
        return read_ground_truth(os.path.join(directory, "gnd_synthetic.pkl"), directory, "images")
    return read_labelled_list(os.path.join(directory, f"{split}.txt"), directory)


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
    none_good = len(failures) == len(dataset)
    refuse_failures(failures, len(dataset), IS_ROOT_RIGHT if none_good else "")
    return sizes


def refuse_failures(failures: Mapping[int, str], total: int, advice: str = "") -> None:
    """Stops where some images of a list cannot be used.

    Args:
      failures: image number -> why it cannot be used; without any, this does nothing.
      total: how many images the list has.
      advice: what the user can do about it, if there is something besides repairing the images.

    Raises:
      UserError: names the first few images, and says how many there are.
    """
    if not failures:
        return
    shown = list(failures.values())[:_FAILURES_SHOWN]
    if len(failures) > len(shown):
        shown.append(f"and {len(failures) - len(shown)} more")
    if advice:
        shown.append(advice)
    raise UserError(f"{len(failures)} of {total} images cannot be used: {'; '.join(shown)}")


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
