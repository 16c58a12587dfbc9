"""Data sets that come in many archives, of which only some may be here.

`dir-jax download` leaves a listing of each archive beside the images: the paths of its images.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from dir_jax.data.images import ImageDataset
from dir_jax.data.lists import check_names
from dir_jax.errors import UserError
from dir_jax.runtime.reading import read_rows

log = logging.getLogger(__name__)

DISTRACTOR_ARCHIVES = range(1, 101)
"""The numbers of the archives of the revisited benchmarks' distractors."""


def fetched_images(what: str, folder: str, listings: Sequence[str]) -> set[str] | None:
    """The images of the archives that are here; None for all, as there are no listings, or all.

    Where some archives are lacking, it is said; `what` is the name of the data set.

    Raises:
      UserError: a listing cannot be read.
    """
    paths = [os.path.join(folder, listing) for listing in listings]
    found = [path for path in paths if os.path.exists(path)]
    if len(found) in (0, len(paths)):
        return None
    images = {row for path in found for _, row in read_rows(path) if row}
    log.warning(
        "%s: %d of %d archives are here, with %d images; the others are left out",
        what, len(found), len(paths), len(images),
    )  # fmt: skip
    return images


def refuse_none(what: str, names: Sequence[str]) -> None:
    """Raises UserError where not one image of a list is in the archives that are here."""
    if not names:
        raise UserError(f"{what}: no image of the list is in the archives that are here")


def read_distractors(file: str, root: str) -> ImageDataset:
    """Reads the list of the revisited benchmarks' million distractors; the images are in `jpg/`.

    Radenović et al., Revisiting Oxford and Paris, CVPR 2018.

    Raises:
      UserError: the list cannot be read, or a row leads out of the folder.
    """
    numbered = [(number, row) for number, row in read_rows(file) if row]
    if not numbered:
        raise UserError(f"the image list {file} is empty; expected a row for each image")
    rows, folder = [row for _, row in numbered], os.path.join(root, "jpg")
    check_names(rows, folder, lambda i: f"{file}, line {numbered[i][0]}")
    there = fetched_images("R1M", folder, [f"revisitop1m.{n}.txt" for n in DISTRACTOR_ARCHIVES])
    if there is not None:
        rows = [row for row in rows if row in there]
        refuse_none("R1M", rows)
    return ImageDataset(rows, folder)
