"""Google Landmarks v2 in its published folders: `metadata/*.csv` and `SPLIT/a/b/c/ID.jpg`.

Weyand et al., Google Landmarks Dataset v2, CVPR 2020. The lists are those of the metadata, so that
no folder is searched. Where `dir-jax download` has fetched a part of a split's archives, a data set
consists of their images: it leaves `SPLIT/images_NNN.txt`, the images of each.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dir_jax.data.fetched_parts import fetched_images, refuse_none
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import quoted
from dir_jax.runtime.reading import read_csv, row_error

ARCHIVES = {"train": 500, "index": 100, "test": 20}
"""Split -> how many archives it comes in."""

IMAGE = re.compile(r"[0-9a-f]{16}")
"""The id of an image."""

_LANDMARK = re.compile(r"[0-9]{1,10}")


def path_of(image: str) -> str:
    """The path of an image in its split's folder.

    >>> path_of("0123456789abcdef")
    '0/1/2/0123456789abcdef.jpg'
    """
    return f"{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


def read_images(file: str, root: str) -> ImageDataset:
    """Reads `index.csv` or `test.csv`, which have the column `id`; see the module.

    Raises:
      UserError: the file cannot be read, or a row (it is named, and the column) cannot be parsed.
    """
    split = Path(file).stem
    there, names = _fetched(root, split), []
    for number, (image,) in read_csv(file, ("id",)):
        path = _checked_path(file, number, "id", image)
        if there is None or path in there:
            names.append(f"{split}/{path}")
    refuse_none(f"GLDv2 {split}", names)
    return ImageDataset(names, root)


def read_landmarks(file: str, root: str) -> LabelledDataset:
    """Reads `train.csv` or `train_clean.csv`: each landmark is a class; see the module.

    The first has the columns `id` and `landmark_id`, and the second `landmark_id` and `images`, the
    ids of a landmark's images between spaces.

    Raises:
      UserError: as `read_images`.
    """
    there = _fetched(root, "train")
    names, labels = [], []
    known: dict[str, str] = {}
    column = "images" if Path(file).stem == "train_clean" else "id"
    for number, (landmark, images) in read_csv(file, ("landmark_id", column)):
        if not _LANDMARK.fullmatch(landmark):
            raise row_error(
                file, number, f"column landmark_id is {quoted(landmark)}; expected a whole number"
            )
        landmark = known.setdefault(landmark, landmark)  # one object for each, not for each image
        for image in images.split(" ") if column == "images" else (images,):
            path = _checked_path(file, number, column, image)
            if there is None or path in there:
                names.append(f"train/{path}")
                labels.append(landmark)
    refuse_none("GLDv2 train", names)
    return LabelledDataset(names, labels, root)


def _checked_path(file: str, number: int, column: str, image: str) -> str:
    if not IMAGE.fullmatch(image):
        problem = f"column {column} has {quoted(image)}; expected an id of 16 hexadecimal digits"
        raise row_error(file, number, problem)
    return path_of(image)


def _fetched(root: str, split: str) -> set[str] | None:
    listings = [f"images_{number:03}.txt" for number in range(ARCHIVES[split])]
    return fetched_images(f"GLDv2 {split}", os.path.join(root, split), listings)
