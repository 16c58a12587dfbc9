"""Data sets from the text in `--dataset` or in a config's `data` keys: a path, a name, or a call.

The text is parsed, never evaluated. A new benchmark is a row in `NAMED`, a new kind of list one in
`READERS`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from dir_jax.data.benchmark_sets import read_holidays, read_ilias, read_ukbench
from dir_jax.data.calls import parse_calls
from dir_jax.data.fetched_parts import read_distractors
from dir_jax.data.gldv2_truth import read_gldv2_recognition, read_gldv2_retrieval
from dir_jax.data.google_landmarks import read_images, read_landmarks
from dir_jax.data.ground_truth import read_ground_truth
from dir_jax.data.images import ImageDataset, is_picture
from dir_jax.data.labelled import (
    LabelledDataset,
    labelled_dataset,
    read_clusters,
    read_labelled_list,
    read_labelled_list_with_queries,
)
from dir_jax.data.lists import check_names, read_image_list, read_listing
from dir_jax.data.metric_learning import read_cars, read_cub, read_in_shop, read_online_products
from dir_jax.data.picture_folders import (
    read_class_folders,
    read_folder,
    read_labelled_folder,
    read_pattern,
    read_picture,
)
from dir_jax.data.repeats import check_repeats
from dir_jax.data.structure_from_motion import read_sfm, read_sfm_whitening
from dir_jax.data.tables import Listing
from dir_jax.errors import UserError, did_you_mean, quoted, shown

Reader: TypeAlias = Callable[..., ImageDataset]

_LONGEST_PATH = 4096  # characters
_LOOKED_FOR = 20  # images of a list, to find the folder that its paths are relative to

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
    "ImageFolder": read_class_folders,
}
"""What users can call on their own files: name -> function of paths."""

_SFM = "train/retrieval-SfM-120k/retrieval-SfM-120k.pkl"

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
    "SfM120k_train": (_SFM, partial(read_sfm, split="train")),
    "SfM120k_val": (_SFM, partial(read_sfm, split="val")),
    "SfM120k_whiten": (
        "train/retrieval-SfM-120k/retrieval-SfM-120k-whiten.pkl",
        read_sfm_whitening,
    ),
    "SfM30k_whiten": ("train/retrieval-SfM-30k/retrieval-SfM-30k-whiten.pkl", read_sfm_whitening),
    "GLDv2_train": ("gldv2/metadata/train.csv", read_landmarks),
    "GLDv2_train_clean": ("gldv2/metadata/train_clean.csv", read_landmarks),
    "GLDv2_index": ("gldv2/metadata/index.csv", read_images),
    "GLDv2_test": ("gldv2/metadata/test.csv", read_images),
    "R1M": ("revisitop1m/revisitop1m.txt", read_distractors),
    "CUB200_train": ("CUB_200_2011/images.txt", partial(read_cub, split="train")),
    "CUB200_test": ("CUB_200_2011/images.txt", partial(read_cub, split="test")),
    "Cars196_train": ("cars196/cars_annos.mat", partial(read_cars, split="train")),
    "Cars196_test": ("cars196/cars_annos.mat", partial(read_cars, split="test")),
    "SOP_train": ("Stanford_Online_Products/Ebay_train.txt", read_online_products),
    "SOP_test": ("Stanford_Online_Products/Ebay_test.txt", read_online_products),
    "InShop_train": ("inshop/list_eval_partition.txt", partial(read_in_shop, split="train")),
    "InShop_test": ("inshop/list_eval_partition.txt", partial(read_in_shop, split="test")),
}
"""Data sets in the folder DB_ROOT: name -> (list or ground truth, the function that reads it).

The images are in the first folder of that path."""


def create_dataset(
    spec: str, *, db_root: str | None = None, labelled: bool = False, on_duplicate: str = "keep"
) -> ImageDataset:
    """Makes the data set that a text describes.

    Args:
      spec: a path, in which `~` is the user's home: of a folder of pictures, of a list of any kind,
        of an Oxford-style ground truth (.pkl), of one picture, or a pattern such as 'photos/*.jpg';
        or one of
        `ImageList(file[, root])`, a list of images;
        `ImageListLabels(file[, root])`, a list of images with labels;
        `ImageListLabelsQ(file, queries[, root])`, two such lists;
        `ImageClusters(file[, root])`, JSON of path: cluster;
        `ImageListRelevants(pickle[, root, img_dir='jpg', ext='.jpg'])`, an Oxford-style truth;
        `Holidays(folder)`, `UKBench(folder)`, `ILIAS(folder)`, benchmarks in their own folders;
        `GLDv2Retrieval(csv[, root, index])`, `GLDv2Recognition(csv[, root, train])`, solutions;
        `ImageFolder(folder)`, a folder with a sub-folder for each class;
        `tfds:NAME[:SPLIT]`, a TensorFlow Datasets data set with an image and a label;
        or a name in `NAMED`, such as `ROxford5K` or `Landmarks_clean`.
      db_root: the folder of the named data sets, by default the environment's DB_ROOT; for `tfds:`
        the folder of TFDS's data sets, by default the one that TFDS uses.
      labelled: whether labels are needed, so that a folder's sub-folders have to be classes.
      on_duplicate: what is done about a file that a list has twice; see `check_repeats`.

    Raises:
      UserError: the text cannot be read, or names something unknown, missing or malformed.
    """
    spec, db_root = spec.strip(), db_root and os.path.expanduser(db_root)
    if spec.startswith("tfds:"):
        from dir_jax.data.tfds import TfdsDataset

        return TfdsDataset(spec, db_root)
    splits = [name for name in NAMED if name.startswith(f"{spec}_") and spec not in NAMED]
    if splits and not os.path.exists(spec):
        raise UserError(f"{spec} has several parts: give one of {', '.join(splits)}")
    dataset = None if spec in NAMED else _read_path(os.path.expanduser(spec), labelled)
    if dataset is None:
        constructors = {name: _of_texts(read) for name, read in READERS.items()}
        constructors |= {name: functools.partial(_read_named, name, db_root) for name in NAMED}
        call = spec if "(" in spec else f"{spec}()"
        found = parse_calls(call, constructors, what="data set")
        if len(found) != 1:
            raise UserError(f"{quoted(spec)} describes {len(found)} data sets; expected one")
        dataset = found[0]
    # Pairs are of rows, and published lists of pairs have no row twice.
    is_list = type(dataset) in (ImageDataset, LabelledDataset) and dataset.pairs is None
    return check_repeats(dataset, on_duplicate) if is_list else dataset


def _read_path(path: str, labelled: bool) -> ImageDataset | None:
    """What is at a path; None for a text that is no path."""
    if len(path) > _LONGEST_PATH:
        return None
    if os.path.isdir(path):
        return read_labelled_folder(path) if labelled else read_folder(path)
    if os.path.exists(path):
        if is_picture(path):
            return read_picture(path)
        return read_ground_truth(path) if path.endswith(".pkl") else _read_list(path, labelled)
    if re.match(r"\w+\s*\(", path):
        return None
    if re.search(r"[*?[]", path):
        return read_pattern(path)
    if path and path not in READERS:
        if re.search(r"[/\\]|\.\w+$", path):
            raise UserError(f"there is no file and no folder {shown(path)}")
        near = did_you_mean(path, NAMED) or f"; the names are {', '.join(NAMED)}"
        raise UserError(f"there is no file, no folder and no data set {shown(path)}{near}")
    return None


def _read_list(file: str, labelled: bool) -> ImageDataset:
    listing = read_listing(file, labelled=labelled or None)
    root = _folder_of_rows(file, listing)
    apart = [name for name in listing.names if name[:1] in "/~" or ".." in name]
    if root and apart:  # the list is the user's own, so its paths may lead anywhere
        names = [os.path.join(root, os.path.expanduser(name)) for name in listing.names]
        listing.names, root = names, ""
    if labelled or listing.labels is not None:
        return labelled_dataset(listing, root)
    return ImageDataset(check_names(listing.names, root, listing.where), root)


def _folder_of_rows(file: str, listing: Listing) -> str:
    """The folder that the paths of a list are relative to: its own, or the current one ('').

    It is that in which some of the first images are; its own where none is.
    """
    folder, names = os.path.dirname(file), listing.names[:_LOOKED_FOR]
    if not folder or os.path.realpath(folder) == os.getcwd():
        return ""
    here, there = (
        [os.path.join(root, name) for name in names if os.path.exists(os.path.join(root, name))]
        for root in ("", folder)
    )
    here = [path for path in here if not os.path.isabs(path)]
    there = [path for path in there if path not in listing.names]
    if here and there:
        kind = "ImageList" if listing.labels is None else "ImageListLabels"
        raise UserError(
            f"{shown(file)} can be read in two ways: {shown(here[0])} is in the current folder, "
            f"and {shown(there[0])} is beside the list; write {kind}({quoted(file)}, '.') or "
            f"{kind}({quoted(file)}, {quoted(folder)})"
        )
    return "" if here else folder


def _of_texts(read: Reader) -> Reader:
    """The same function, which refuses arguments that are not texts, such as a bare number."""

    @functools.wraps(read)
    def checked(*args: object, **kwargs: object) -> ImageDataset:
        return read(*map(_path, args), **{name: _path(value) for name, value in kwargs.items()})

    return checked


def _path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected paths in quotes, found {quoted(value)}")
    return os.path.expanduser(value)


def _read_named(name: str, db_root: str | None) -> ImageDataset:
    folder = db_root or os.path.expanduser(os.environ.get("DB_ROOT", ""))
    if not folder:
        raise UserError(
            f"{name} needs the folder that holds the data sets: give it by --db-root (in training "
            "by --config.data.db_root), or set it once with export DB_ROOT=/path/to/datasets"
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
