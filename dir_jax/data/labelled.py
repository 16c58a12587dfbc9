"""Labelled images, each of one class, read from lists or from folders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.lists import check_names, read_listing, settle_labels
from dir_jax.data.tables import Listing, read_json_list
from dir_jax.errors import UserError, quoted
from dir_jax.runtime.files import check_name


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
        names: Sequence[str],
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

    def texts(self) -> list[str]:
        """The label of each image, as its list gives it."""
        return [self.classes[label] for label in self.labels.tolist()]


def read_labelled_list(file: str, root: str = "") -> LabelledDataset:
    """Reads a list of images and labels.

    Args:
      file: a text file with `path label` rows, a table (.csv, .tsv) or JSON (.json).
      root: the folder that the paths are relative to; the current folder by default.

    Raises:
      UserError: there is no such file, it is empty, an image has no label, or a row can be read in
        two ways (the line is named).
    """
    return labelled_dataset(read_listing(file, labelled=True), root)


def read_labelled_list_with_queries(file: str, queries: str, root: str = "") -> LabelledDataset:
    """Reads two lists, a database and the images that query it; see `read_labelled_list`."""
    found = [read_listing(each, labelled=True) for each in (file, queries)]
    settle_labels(*found)
    database, searching = (labelled_dataset(each, root) for each in found)
    classes = list(dict.fromkeys(database.classes + searching.classes))
    queries_ = LabelledDataset(searching.names, searching.texts(), root, classes)
    return LabelledDataset(database.names, database.texts(), root, classes, queries_)


def read_clusters(file: str, root: str = "") -> LabelledDataset:
    """Reads a clustering: JSON of path: cluster, where a cluster is a name or a number.

    Images whose cluster is null are left out; raises UserError where all are.
    """
    listing = read_json_list(file, labelled=True, nulls=True)
    if not listing.names:
        raise UserError(f"no image of {file} has a cluster: all are null")
    return labelled_dataset(listing, root)


def labelled_dataset(listing: Listing, root: str) -> LabelledDataset:
    """The data set in a listing with labels; raises UserError for a bad path or label."""
    settle_labels(listing)
    names = check_names(listing.names, root, listing.where)
    if listing.labels is None:
        first = f"{listing.where(0)}: {quoted(names[0])}"
        raise UserError(f"{first} has no label; expected a path and a label")
    for i, label in enumerate(listing.labels):
        try:
            if isinstance(label, bool) or not isinstance(label, str | int):
                raise UserError(f"is {quoted(label)}; expected a name or a number")
            check_name(str(label))
        except UserError as e:
            raise UserError(f"{listing.where(i)}: {quoted(names[i])}: the label {e}") from e
    return LabelledDataset(names, [str(label) for label in listing.labels], root)
