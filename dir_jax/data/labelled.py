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
      classes: the classes' names; by default those of the images, in their first's order.
      queries: images of the same classes to search with, where the data set has some apart;
        otherwise None, and every image queries the rest.
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
      root: the folder that its paths are relative to; the current folder by default.

    Raises:
      UserError: there is no such file, it is empty, or an image has no label; says the line.
    """
    names, labels = _read_labels(file)
    return LabelledDataset(names, labels, root)


def read_labelled_list_with_queries(file: str, queries: str, root: str = "") -> LabelledDataset:
    """Reads two lists of `path label` rows: a database, and the images that query it.

    Args:
      file: the database's list.
      queries: the queries' list; becomes the data set's `queries`.
      root: the folder that the paths of both are relative to; the current folder by default.

    Raises:
      UserError: as `read_labelled_list`.
    """
    names, labels = _read_labels(file)
    query_names, query_labels = _read_labels(queries)
    classes = list(dict.fromkeys(labels + query_labels))
    return LabelledDataset(
        names, labels, root, classes, LabelledDataset(query_names, query_labels, root, classes)
    )


def read_clusters(file: str, root: str = "") -> LabelledDataset:
    """Reads a clustering: a JSON object of path: cluster, a name or a number.

    Images whose cluster is null belong to none, and are left out.

    Args:
      file: the JSON file.
      root: the folder that its paths are relative to; the current folder by default.

    Raises:
      UserError: there is no such file, it is not such an object, or no image has a cluster.
    """
    clusters = {path: label for path, label in read_json(file).items() if label is not None}
    if not clusters:
        raise UserError(f"every image of {file} has the cluster null; nothing is left")
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
