"""The sets that metric learning is compared on, with the splits of their authors' files.

Half of the classes are for training and the other half for testing, as in Oh Song et al., Deep
Metric Learning via Lifted Structured Feature Embedding, CVPR 2016. (The splits of TensorFlow
Datasets divide the images of every class, which is another task.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.lists import check_names
from dir_jax.data.matlab import read_struct_array
from dir_jax.errors import UserError, quoted
from dir_jax.runtime.reading import read_rows, row_error


def read_cub(file: str, root: str, split: str) -> LabelledDataset:
    """CUB-200-2011 (Wah et al., 2011): `images.txt`, and `image_class_labels.txt` beside it.

    The classes 1 to 100 are 'train', 101 to 200 'test'.

    Raises:
      UserError: a file cannot be read, a row (it is named) cannot be parsed, or the two files are
        not of the same images.
    """
    labels_file = os.path.join(os.path.dirname(file), "image_class_labels.txt")
    classes = {image: label for _, (image, label) in _fields(labels_file, "image class")}
    rows = []
    for number, (image, path) in _fields(file, "image path"):
        label = classes.get(image)
        if label is None or not label.isdecimal():
            problem = f"the class of image {quoted(image)} is {quoted(label)} in {labels_file}"
            raise row_error(file, number, f"{problem}; expected a number")
        rows.append((number, f"images/{path}", int(label)))
    return _half(file, root, rows, split, last_of_train=100)


def read_cars(file: str, root: str, split: str) -> LabelledDataset:
    """Cars-196 (Krause et al., 2013): `cars_annos.mat`, whose paths are relative to its folder.

    The classes 1 to 98 are 'train', 99 to 196 'test'.

    Raises:
      UserError: the file cannot be read, or is not what is expected.
    """
    rows = []
    found = read_struct_array(file, "annotations", ("relative_im_path", "class"))
    for number, (path, label) in enumerate(found, start=1):
        if not isinstance(path, str) or not isinstance(label, int):
            raise UserError(
                f"{file}: annotation {number} has the path {quoted(path)} and the class "
                f"{quoted(label)}; expected a text and a whole number"
            )
        rows.append((number, path, label))
    return _half(file, root, rows, split, last_of_train=98)


def read_online_products(file: str, root: str) -> LabelledDataset:
    """Stanford Online Products (Oh Song et al., CVPR 2016): `Ebay_train.txt` or `Ebay_test.txt`.

    Raises:
      UserError: the file cannot be read, or a row (it is named) cannot be parsed.
    """
    columns = "image_id class_id super_class_id path"
    rows = [(n, path, label) for n, (_, label, _, path) in _fields(file, columns, header=1)]
    dataset = _labelled(file, root, rows)
    dataset.recall_k = (1, 10, 100, 1000)  # as Oh Song et al. give it
    return dataset


def read_in_shop(file: str, root: str, split: str) -> LabelledDataset:
    """In-shop Clothes Retrieval (Liu et al., DeepFashion, CVPR 2016): `list_eval_partition.txt`.

    Of 'test', the images of the gallery are the database, and those that query it the queries.

    Raises:
      UserError: the file cannot be read, a row (it is named) cannot be parsed, or it has no image
        of the split.
    """
    parts: dict[str, list[tuple[int, str, str]]] = {"train": [], "query": [], "gallery": []}
    columns = "image_name item_id evaluation_status"
    for number, (path, label, part) in _fields(file, columns, header=2):
        if part not in parts:
            expected = f"expected {', '.join(parts)}"
            raise row_error(file, number, f"evaluation_status is {quoted(part)}; {expected}")
        parts[part].append((number, path, label))
    if split == "train":
        return _labelled(file, root, parts["train"])
    database, queries = (_labelled(file, root, parts[part]) for part in ("gallery", "query"))
    labels = [[each.classes[k] for k in each.labels.tolist()] for each in (database, queries)]
    classes = list(dict.fromkeys(labels[0] + labels[1]))
    searching = LabelledDataset(queries.names, labels[1], root, classes)
    dataset = LabelledDataset(database.names, labels[0], root, classes, searching)
    dataset.recall_k = (1, 10, 20, 30, 40, 50)  # as Liu et al. give it
    return dataset


def _fields(file: str, columns: str, header: int = 0) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields, parted by spaces, of each row after the header."""
    count = len(columns.split())
    for number, row in read_rows(file):
        if number > header and row:
            fields = row.split(maxsplit=count - 1) if columns.endswith("path") else row.split()
            if len(fields) != count:
                raise row_error(file, number, f"{quoted(row)} is not a row of {columns!r}")
            yield number, fields


def _half(
    file: str, root: str, rows: Iterable[tuple[int, str, int]], split: str, *, last_of_train: int
) -> LabelledDataset:
    first = {"train": 1, "test": last_of_train + 1}[split]
    classes = range(first, first + last_of_train)
    kept = [(number, path, str(label)) for number, path, label in rows if label in classes]
    return _labelled(file, root, kept)


def _labelled(file: str, root: str, rows: list[tuple[int, str, str]]) -> LabelledDataset:
    if not rows:
        raise UserError(f"{file} has no image of this split")
    numbers, names, labels = map(list, zip(*rows, strict=True))
    where: Callable[[int], str] = lambda i: f"{file}, row {numbers[i]}"  # noqa: E731
    return LabelledDataset(check_names(names, root, where), labels, root)
