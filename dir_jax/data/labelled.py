"""Labelled images: a class for each image, as text rows or as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from dir_jax.data.images import ImageDataset, read_json, read_rows
from dir_jax.errors import UserError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class LabelledDataset(ImageDataset):
    """Images of which each belongs to a class.

    Attributes:
      labels: (N,) int32, each image's index into `classes`.
      classes: the classes' names; by default those of the images, in the order in which they
        first appear.
      queries: separate images of the same classes to search with; None where every image queries
        the rest.
    """

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
      file: text with `path label` rows, where the label is the last field and the path may have
        spaces; or, where the name ends in .json, an object of path: label.
      root: the folder that its paths are relative to; by default, the current folder.

    Raises:
      UserError: the file cannot be read or is empty, or an image has no label; it says the line.
    """
    return LabelledDataset(*_read_labels(file), root)


def read_labelled_list_with_queries(file: str, queries: str, root: str = "") -> LabelledDataset:
    """Reads two lists, a database and the images that query it; see `read_labelled_list`."""
    database, searching = _read_labels(file), _read_labels(queries)
    classes = list(dict.fromkeys(database[1] + searching[1]))
    return LabelledDataset(*database, root, classes, LabelledDataset(*searching, root, classes))


def read_clusters(file: str, root: str = "") -> LabelledDataset:
    """Reads a clustering: a JSON object of path: cluster, a name or a number.

    Images whose cluster is null are left out.

    Raises:
      UserError: the file is not such an object, or no image has a cluster.
    """
    clusters = {path: label for path, label in read_json(file).items() if label is not None}
    if not clusters:
        raise UserError(f"every image of {file} has the cluster null; there is nothing to use")
    return LabelledDataset(*_from_json(file, clusters), root)


def _read_labels(file: str) -> tuple[list[str], list[str]]:
    if os.path.splitext(file)[1] == ".json":
        return _from_json(file, read_json(file))
    names, labels = [], []
    for line, row in read_rows(file):
        fields = row.rsplit(maxsplit=1)
        # The last word of a path with spaces and no label would pass for one.
        if len(fields) < 2 or fields[1].lower().endswith(_IMAGE_SUFFIXES):
            raise UserError(f"{file}, line {line}: {row!r} has no label; expected 'path label'")
        names.append(fields[0])
        labels.append(fields[1])
    return names, labels


def _from_json(file: str, content: dict[str, object]) -> tuple[list[str], list[str]]:
    for path, label in content.items():
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise UserError(
                f"{file}: the label of {path!r} is {label!r}; expected a name or a number"
            )
    return list(content), [str(label) for label in content.values()]
