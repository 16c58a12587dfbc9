"""Oxford-style ground truth: queries with a box, and the images that are relevant to each."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.lists import check_names
from dir_jax.data.pickles import load_pickle
from dir_jax.data.transforms.views import Box, Size
from dir_jax.errors import UserError, quoted, shown
from dir_jax.fields import is_whole

# Of the classic protocol, and of the revisited one (Radenović et al., CVPR 2018).
_GRADES = (("ok", "junk"), ("easy", "hard", "junk"))
_LARGEST_SIDE = 1_000_000  # pixels

log = logging.getLogger(__name__)


class QueryDataset(ImageDataset):
    """Images that are cropped to a box as they are opened.

    Attributes:
      boxes: (N, 4) float64: left, top, right and bottom in pixels, of the turned image with
        `exif`. What lies beyond the image is cut off. None leaves images whole.
    """

    def __init__(self, names: list[str], root: str, boxes: np.ndarray | None):
        super().__init__(names, root)
        self.boxes = boxes

    def _box(self, i: int, size: Size) -> Box:
        whole = super()._box(i, size)
        if self.boxes is None:
            return whole
        left, top, right, bottom = round_box(self.boxes[i])
        cut = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
        if cut[0] >= cut[2] or cut[1] >= cut[3]:
            raise UserError(
                f"the box of query {i} ({shown(self.path(i))}) is ({left}, {top}, {right}, "
                f"{bottom}), which lies outside the picture: it has {size[0]} x {size[1]} pixels"
            )
        return cut

    def warn_of_cut(self, sizes: np.ndarray) -> None:
        """Warns of boxes that lead beyond their images.

        `sizes`, (N, 2) int, is what `size` gives, and 0 for images that have none.
        """
        if self.boxes is None:
            return
        corners = np.array([round_box(box) for box in self.boxes])
        differ = (corners[:, 2:] - corners[:, :2] != sizes).any(axis=1)
        if cut := np.flatnonzero(differ & (sizes > 0).all(axis=1)).tolist():
            first = ", ".join(f"{i} ({shown(self.names[i])})" for i in cut[:5])
            log.warning(
                "the boxes of %d queries lead beyond their pictures and are cut there: query %s%s",
                len(cut), first, ", …" * (len(cut) > 5),
            )  # fmt: skip


class RelevantsDataset(ImageDataset):
    """A database of images, queries, and the database images relevant to each query.

    Attributes:
      queries: the query images, cropped to their boxes.
      ground_truth: for each query, int64 arrays of the numbers of database images: 'easy', 'hard'
        and 'junk' (revisited protocol), or 'ok' and 'junk' (all others).
      protocol: the name of the protocol in `evaluation.PROTOCOLS`.
      parts: name -> (Q,) bool, the queries of each part that is also measured alone.
    """

    def __init__(
        self,
        names: list[str],
        queries: QueryDataset,
        ground_truth: list[dict[str, np.ndarray]],
        root: str = "",
        protocol: str = "",
        parts: Mapping[str, np.ndarray] | None = None,
    ):
        """By default the protocol is the one that the grades are of, classic or revisited."""
        super().__init__(names, root)
        self.queries = queries
        self.ground_truth = ground_truth
        graded = "revisited" if ground_truth and "easy" in ground_truth[0] else "classic"
        self.protocol = protocol or graded
        self.parts = parts or {}


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
    if missing := [key for key in ("imlist", "qimlist", "gnd") if key not in content]:
        raise UserError(f"the ground truth {file} has no {' and no '.join(map(repr, missing))}")
    folder = os.path.join(os.path.dirname(file) if root is None else root, img_dir) or "."
    names = _names(f"{file}: 'imlist'", content["imlist"], folder, ext)
    query_names = _names(f"{file}: 'qimlist'", content["qimlist"], folder, ext)
    truth = content["gnd"]
    is_list = isinstance(truth, list | tuple) or (isinstance(truth, np.ndarray) and truth.ndim == 1)
    if not is_list or len(truth) != len(query_names):
        found = f"has {len(truth)} entries" if is_list else f"is of type {type(truth).__name__}"
        raise UserError(f"{file}: 'gnd' {found}; expected a list of {len(query_names)} queries")
    where = [f"{file}: query {q} ({shown(name)})" for q, name in enumerate(query_names)]
    grades = [_grades(place, entry, len(names)) for place, entry in zip(where, truth, strict=True)]
    sets = [_as_sets(found) for found in grades]
    if changed := [q for q, name in enumerate(query_names) if sets[q][1]]:
        first = ", ".join(shown(query_names[q]) for q in changed[:5]) + ", …" * (len(changed) > 5)
        log.warning(
            "%s names an image twice, or as relevant and as junk, for %d queries (%s): each counts "
            "once, and is not junk where it is relevant", file, len(changed), first,
        )  # fmt: skip
    queries = QueryDataset(query_names, folder, _boxes(where, truth))
    return RelevantsDataset(names, queries, [found for found, _ in sets], folder)


def _names(where: str, names: Any, folder: str, ext: str) -> list[str]:
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise UserError(f"{where} is not a list of image names")
    if not names:
        raise UserError(f"{where} is empty")
    names = [str(n) if os.path.splitext(n)[1] else n + ext for n in names]
    return check_names(names, folder, lambda _: where)


def _grades(where: str, entry: Any, num_images: int) -> dict[str, list[int]]:
    """The numbers of a query's images by grade, as the file has them."""
    grades = next((g for g in _GRADES if isinstance(entry, Mapping) and g[0] in entry), None)
    if grades is None or not all(g in entry for g in grades):
        raise UserError(f"{where} has neither 'ok' and 'junk' nor 'easy', 'hard' and 'junk'")
    found: dict[str, list[int]] = {}
    for grade in grades:
        numbers: Any = entry[grade]
        if isinstance(numbers, np.ndarray) and numbers.ndim == 1:
            numbers = numbers.tolist()  # of Python's numbers
        if not isinstance(numbers, list | tuple):
            problem = f"is {quoted(numbers)}; expected a list of image numbers"
            raise UserError(f"{where}: {grade!r} {problem}")
        if wrong := [n for n in numbers if not is_whole(n, 0, num_images - 1)]:
            problem = f"but 'imlist' has {num_images} images, counted from 0"
            raise UserError(f"{where}: {grade!r} refers to image {quoted(wrong[0])}, {problem}")
        found[grade] = [int(n) for n in numbers]
    return found


def _as_sets(grades: dict[str, list[int]]) -> tuple[dict[str, np.ndarray], bool]:
    """Each grade without repeated images, and 'junk' without the relevant ones; whether it differs.

    An image that is easy and hard stays both: at the levels where it is relevant, it is not junk.
    """
    seen: set[int] = set()
    sets, count = {}, 0
    for grade, numbers in grades.items():  # 'junk' is the last
        kept = dict.fromkeys(n for n in numbers if grade != "junk" or n not in seen)
        sets[grade] = np.array(list(kept), np.int64)
        seen |= kept.keys()
        count += len(numbers)
    return sets, len(seen) != count


def _boxes(where: list[str], truth: Sequence[Any] | np.ndarray) -> np.ndarray | None:
    boxes = [entry.get("bbx") for entry in truth]
    if all(box is None for box in boxes):
        return None
    for place, box in zip(where, boxes, strict=True):
        if not _is_box(box):
            raise UserError(
                f"{place}: 'bbx' is {quoted(box)}; expected left, top, right, bottom in pixels"
            )
    return np.array([list(map(float, box)) for box in boxes], np.float64)


def _is_box(box: Any) -> bool:
    """Whether something is four numbers that enclose a pixel at least, after rounding."""
    box = box.tolist() if isinstance(box, np.ndarray) else box
    if not isinstance(box, list | tuple) or len(box) != 4:
        return False
    numbers = [x for x in box if isinstance(x, int | float | np.integer | np.floating)]
    if len(numbers) != 4 or not all(-_LARGEST_SIDE <= x <= _LARGEST_SIDE for x in numbers):
        return False
    left, top, right, bottom = round_box(box)
    return left < right and top < bottom


def round_box(box: Sequence[float] | np.ndarray) -> tuple[int, int, int, int]:
    """A box in whole pixels: each corner rounded to the nearest."""
    left, top, right, bottom = (round(float(x)) for x in box)
    return left, top, right, bottom
