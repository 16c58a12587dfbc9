"""Oxford-style ground truth: queries with a box, and the images relevant to each."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.images import ImageDataset
from dir_jax.data.safe_pickle import load_pickle
from dir_jax.errors import UserError

# Of the classic protocol, and of the revisited one (Radenović et al., CVPR 2018).
_GRADES = (("ok", "junk"), ("easy", "hard", "junk"))


class QueryDataset(ImageDataset):
    """Images that are cropped to a box as they are opened.

    Attributes:
      boxes: (N, 4) float64, left, top, right, bottom in pixels; None leaves images whole.
    """

    def __init__(self, names: list[str], root: str, boxes: np.ndarray | None):
        super().__init__(names, root)
        self.boxes = boxes

    def open(self, i: int) -> Image.Image:
        """Decodes image `i` as RGB, cropped to its box.

        Raises:
          UserError: it is missing or damaged; names the file.
        """
        image = super().open(i)
        return image if self.boxes is None else image.crop(_round_box(self.boxes[i]))

    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels of what `open` gives; the file's header is read as well.

        Raises:
          UserError: it is missing or has no readable header; names the file.
        """
        size = super().size(i)
        if self.boxes is None:
            return size
        left, top, right, bottom = _round_box(self.boxes[i])
        return right - left, bottom - top


class RelevantsDataset(ImageDataset):
    """A database of images, queries, and the database images relevant to each query.

    Attributes:
      queries: the query images, cropped to their boxes.
      ground_truth: for each query, int64 arrays of numbers of database images: 'easy', 'hard' and
        'junk' (revisited protocol), or 'ok' and 'junk' (classic).
    """

    def __init__(
        self,
        names: list[str],
        queries: QueryDataset,
        ground_truth: list[dict[str, np.ndarray]],
        root: str = "",
    ):
        super().__init__(names, root)
        self.queries = queries
        self.ground_truth = ground_truth

    @property
    def query_names(self) -> list[str]:
        """What the ground truth calls each query."""
        return self.queries.names

    @property
    def query_boxes(self) -> np.ndarray | None:
        """(Q, 4) float64, left, top, right, bottom in pixels; None where queries are whole."""
        return self.queries.boxes

    def open_query(self, i: int) -> Image.Image:
        """Decodes query `i` as RGB, cropped to its box.

        Raises:
          UserError: it is missing or damaged; names the file.
        """
        return self.queries.open(i)


def read_ground_truth(
    file: str, root: str | None = None, img_dir: str = "jpg", ext: str = ".jpg"
) -> RelevantsDataset:
    """Reads a ground-truth pickle of Oxford5K's or Revisited Oxford's form.

    Its dict holds `imlist` and `qimlist` (names), and `gnd`: for each query `bbx` and the lists
    'ok' and 'junk', or 'easy', 'hard' and 'junk'.

    Args:
      file: the pickle; only plain data and arrays are loaded from it.
      root: the folder of the pictures' folder; by default the one that the pickle is in.
      img_dir: the pictures' folder in `root`.
      ext: what names without a suffix get.

    Raises:
      UserError: the file cannot be loaded, misses something, or refers to images outside the list.
    """
    content = load_pickle(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}; expected a dict with 'imlist'")
    missing = [key for key in ("imlist", "qimlist", "gnd") if key not in content]
    if missing:
        raise UserError(f"the ground truth {file} has no {' and no '.join(map(repr, missing))}")
    names = _names(file, "imlist", content["imlist"], ext)
    query_names = _names(file, "qimlist", content["qimlist"], ext)
    truth = content["gnd"]
    if not isinstance(truth, Sequence | np.ndarray) or len(truth) != len(query_names):
        found = len(truth) if hasattr(truth, "__len__") else type(truth).__name__
        raise UserError(f"{file}: 'gnd' has {found} entries for {len(query_names)} queries")
    folder = os.path.join(os.path.dirname(file) if root is None else root, img_dir)
    where = [f"{file}: query {q} ({name})" for q, name in enumerate(query_names)]
    return RelevantsDataset(
        names,
        QueryDataset(query_names, folder, _boxes(where, truth)),
        [_relevant(place, entry, len(names)) for place, entry in zip(where, truth, strict=True)],
        folder,
    )


def _names(file: str, key: str, names: Any, ext: str) -> list[str]:
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{file}: '{key}' is no list of image names")
    if not names:
        raise UserError(f"{file}: '{key}' is empty")
    return [str(n) if os.path.splitext(n)[1] else n + ext for n in names]


def _relevant(where: str, entry: Any, num_images: int) -> dict[str, np.ndarray]:
    grades = next((g for g in _GRADES if isinstance(entry, Mapping) and g[0] in entry), None)
    if grades is None or not all(g in entry for g in grades):
        raise UserError(f"{where} has neither 'ok' and 'junk' nor 'easy', 'hard' and 'junk'")
    found = {}
    for grade in grades:
        try:
            numbers = np.asarray(entry[grade])
        except ValueError:
            numbers = np.array(None)
        if numbers.size == 0:
            numbers = np.zeros(0, np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise UserError(f"{where}: {grade!r} is no list of image numbers")
        outside = numbers[(numbers < 0) | (numbers >= num_images)]
        if len(outside):
            raise UserError(
                f"{where}: {grade!r} refers to image {outside[0]}, but 'imlist' has {num_images}"
            )
        found[grade] = numbers.astype(np.int64)
    return found


def _boxes(where: list[str], truth: Sequence[Any] | np.ndarray) -> np.ndarray | None:
    boxes = [entry.get("bbx") if isinstance(entry, Mapping) else None for entry in truth]
    if all(box is None for box in boxes):
        return None
    for place, box in zip(where, boxes, strict=True):
        try:
            numbers = [float(x) for x in box]  # type: ignore[union-attr]
            good = len(numbers) == 4 and all(math.isfinite(x) for x in numbers)
        except (TypeError, ValueError):
            good = False
        if good:
            left, top, right, bottom = _round_box(numbers)
            good = left < right and top < bottom
        if not good:
            raise UserError(
                f"{place}: 'bbx' is {box!r}; expected left, top, right, bottom in pixels"
            )
    return np.array(boxes, np.float64)


def _round_box(box: Sequence[float] | np.ndarray) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(float(x)) for x in box)
    return left, top, right, bottom
