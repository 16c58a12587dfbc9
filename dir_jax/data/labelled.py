"""Labelled images, each of one class, read from text rows or JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dir_jax.data.images import ImageDataset, check_names, read_list
from dir_jax.errors import UserError, quoted
from dir_jax.runtime.files import check_name
from dir_jax.runtime.reading import MOST_ROWS, read_json

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class LabelledDataset(ImageDataset):
    """Images that each belong to a class.

    Attributes:
      labels: (N,) int32, each image's index into `classes`.
      classes: the names of the classes; by default in the order of their first images.
      queries: other images of the same classes, which are the data set's queries; None where every
        image of the data set queries the rest.
      protocol: the name of the protocol in `evaluation.PROTOCOLS`.
      recall_k: the K at which the field gives this set's recall@K.
    """

    protocol = "labels"
    recall_k: tuple[int, ...] = (1, 2, 4, 8)

    def __init__(
        self,
        names: list[str],
        labels: Sequence[str],
        root: str = "",
        classes: list[str] | None = None,
        queries: LabelledDataset | None = None,
    ):
        super().__init__(names, root)
        self.classes = list(dict.fromkeys(labels)) if classes is None else classes
        number = {name: c for c, name in enumerate(self.classes)}
        self.labels = np.array([number[label] for label in labels], np.int32)
        self.queries = queries


def read_labelled_list(file: str, root: str = "") -> LabelledDataset:
    """Reads a list of images and labels.

    Args:
      file: a text file with `path label` rows, where the label is the last field and the path may
        have spaces; or, if the name ends in .json, a JSON object of path: label.
      root: the folder that the paths are relative to; the current folder by default.

    Raises:
      UserError: there is no such file, it is empty, or an image has no label (the line is named).
    """
    return LabelledDataset(*_read_labels(file, root), root)


def read_labelled_list_with_queries(file: str, queries: str, root: str = "") -> LabelledDataset:
    """Reads two lists, a database and the images that query it; see `read_labelled_list`."""
    database, searching = _read_labels(file, root), _read_labels(queries, root)
    classes = list(dict.fromkeys(database[1] + searching[1]))
    return LabelledDataset(*database, root, classes, LabelledDataset(*searching, root, classes))


def read_clusters(file: str, root: str = "") -> LabelledDataset:
    """Reads a clustering: a JSON object of path: cluster, where a cluster is a name or a number.

    Images whose cluster is null are left out; raises UserError where all are.
    """
    names, labels = _read_json_labels(file, root, leave_out_null=True)
    if not names:
        raise UserError(f"no image of {file} has a cluster: all are null")
    return LabelledDataset(names, labels, root)


def _read_labels(file: str, root: str) -> tuple[list[str], list[str]]:
    if os.path.splitext(file)[1] == ".json":
        return _read_json_labels(file, root)
    rows, where = read_list(file)
    pairs = [row.rsplit(maxsplit=1) for row in rows]
    for i, pair in enumerate(pairs):
        # Otherwise the last word of a path with spaces would be taken for the label.
        if len(pair) < 2 or pair[1].lower().endswith(_IMAGE_SUFFIXES):
            raise UserError(f"{where(i)}: {quoted(rows[i])} has no label; expected 'path label'")
    names = check_names([name for name, _ in pairs], root, where)
    return names, _check_labels([label for _, label in pairs], where)


def _read_json_labels(
    file: str, root: str, *, leave_out_null: bool = False
) -> tuple[list[str], list[str]]:
    content = read_json(file, most=MOST_ROWS)
    expected = 'expected an object such as {"path of an image": "its label"}'
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}; {expected}")
    if not content:
        raise UserError(f"the image list {file} is empty; {expected}")
    if leave_out_null:
        content = {path: label for path, label in content.items() if label is not None}
    names = check_names(list(content), root, lambda _: file)
    return names, _check_labels(list(content.values()), lambda i: f"{file}: {quoted(names[i])}")


def _check_labels(labels: list[Any], where: Callable[[int], str]) -> list[str]:
    """Labels as texts; `where` says what has them."""
    for i, label in enumerate(labels):
        try:
            if isinstance(label, bool) or not isinstance(label, str | int):
                raise UserError(f"is {quoted(label)}; expected a name or a number")
            check_name(str(label))
        except UserError as e:
            raise UserError(f"{where(i)}: the label {e}") from e
    return [str(label) for label in labels]
