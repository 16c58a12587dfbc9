"""Oxford-style ground truth: queries with a box, and the images that are relevant to each."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.images import ImageDataset
from dir_jax.data.pickles import load_pickle
from dir_jax.errors import UserError, shown

# Of the classic protocol, and of the revisited one (Radenović et al., CVPR 2018).
_GRADES = (("ok", "junk"), ("easy", "hard", "junk"))
_INTEGERS = (int, np.integer)


class QueryDataset(ImageDataset):
    """Images that are cropped to a box as they are opened.

    Attributes:
      boxes: (N, 4) float64: left, top, right and bottom in pixels. None leaves images whole.
    """

    def __init__(self, names: list[str], root: str, boxes: np.ndarray | None):
        super().__init__(names, root)
        self.boxes = boxes

    def open(self, i: int) -> Image.Image:
        """Decodes image `i` as RGB, cropped to its box; raises as `ImageDataset.open`."""
        image = super().open(i)
        return image if self.boxes is None else image.crop(_round_box(self.boxes[i]))

    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels of what `open` gives, from the header; raises as `open`."""
        size = super().size(i)
        if self.boxes is None:
            return size
        left, top, right, bottom = _round_box(self.boxes[i])
        return right - left, bottom - top


class RelevantsDataset(ImageDataset):
    """A database of images, queries, and the database images relevant to each query.

    Attributes:
      queries: the query images, cropped to their boxes.
      ground_truth: for each query, int64 arrays of the numbers of database images: 'easy', 'hard'
        and 'junk' (revisited protocol), or 'ok' and 'junk' (classic protocol).
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


def read_ground_truth(
    file: str, root: str | None = None, img_dir: str = "jpg", ext: str = ".jpg"
) -> RelevantsDataset:
    """Reads a ground-truth pickle of Oxford5K's or Revisited Oxford's form.

    It holds a dict of `imlist` and `qimlist` (names) and `gnd`, which has for each query a `bbx`
    and the lists 'ok' and 'junk', or 'easy', 'hard' and 'junk'.

    Args:
      file: the pickle. Only plain data and arrays are loaded from it.
      root: the folder that holds `img_dir`; by default the one that the pickle is in.
      img_dir: the folder of the pictures in `root`.
      ext: the suffix that names without one get.

    Raises:
      UserError: the file cannot be loaded, lacks something, or refers to images outside the list.
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
    is_list = isinstance(truth, list | tuple) or (isinstance(truth, np.ndarray) and truth.ndim == 1)
    if not is_list or len(truth) != len(query_names):
        found = f"has {len(truth)} entries" if is_list else f"is of type {type(truth).__name__}"
        raise UserError(f"{file}: 'gnd' {found}; expected a list of {len(query_names)} queries")
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
        raise UserError(f"{file}: '{key}' is not a list of image names")
    if not names:
        raise UserError(f"{file}: '{key}' is empty")
    return [str(n) if os.path.splitext(n)[1] else n + ext for n in names]


def _relevant(where: str, entry: Any, num_images: int) -> dict[str, np.ndarray]:
    grades = next((g for g in _GRADES if isinstance(entry, Mapping) and g[0] in entry), None)
    if grades is None or not all(g in entry for g in grades):
        raise UserError(f"{where} has neither 'ok' and 'junk' nor 'easy', 'hard' and 'junk'")
    found = {}
    for grade in grades:
        numbers = entry[grade]
        if isinstance(numbers, list | tuple) and all(isinstance(n, _INTEGERS) for n in numbers):
            numbers = np.array(numbers, object)  # an integer may be larger than any type of NumPy's
        elif not (isinstance(numbers, np.ndarray) and numbers.ndim == 1) or (
            numbers.size and numbers.dtype.kind not in "iu"
        ):
            raise UserError(f"{where}: {grade!r} is not a list of image numbers")
        outside = numbers[(numbers < 0) | (numbers >= num_images)]
        if len(outside):
            raise UserError(
                f"{where}: {grade!r} refers to image {shown(outside[0])}, but 'imlist' has "
                f"{num_images}"
            )
        found[grade] = numbers.astype(np.int64)
    return found


def _boxes(where: list[str], truth: Sequence[Any] | np.ndarray) -> np.ndarray | None:
    boxes = [entry.get("bbx") if isinstance(entry, Mapping) else None for entry in truth]
    if all(box is None for box in boxes):
        return None
    for place, box in zip(where, boxes, strict=True):
        numbers = _four_numbers(box)
        if numbers is not None:
            left, top, right, bottom = _round_box(numbers)
        if numbers is None or left >= right or top >= bottom:
            raise UserError(
                f"{place}: 'bbx' is {shown(reprlib.repr(box))}; expected left, top, right, bottom "
                "in pixels"
            )
    return np.array(boxes, np.float64)


def _four_numbers(box: Any) -> list[float] | None:
    try:
        if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
            return None
        numbers = [float(x) for x in box]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(math.isfinite(x) for x in numbers) else None


def _round_box(box: Sequence[float] | np.ndarray) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(float(x)) for x in box)
    return left, top, right, bottom
