"""Google Landmarks v2's two benchmarks, from the CSV files that its authors publish.

The folder of the data set has `metadata/`, `ground_truth/`, and the pictures of each split as
`SPLIT/a/b/c/id.jpg`, where a, b and c are the first three characters of the id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.reading import MOST_ROWS, read_text, row_error

_ID = re.compile(r"[0-9A-Za-z_-]{3,64}")
_PARTS = ("Public", "Private", "Ignored")


def read_gldv2_retrieval(
    file: str, root: str | None = None, index: str = "metadata/index.csv"
) -> RelevantsDataset:
    """Retrieval: the queries of a solution, and the images of the index relevant to each.

    Queries whose Usage is Ignored do not count and are left out.

    Args:
      file: `retrieval_solution_v2.1.csv`, with columns id, images (ids separated by spaces, or
        None) and Usage.
      root: the data set's folder; by default the one in which the file's own folder is.
      index: the list of the index, with a column id, inside that folder.

    Raises:
      UserError: a file is missing, a row (which is named, with its column) does not parse, or an
        image is not in the index.
    """
    root = _root(file, root)
    index = os.path.join(root, index)
    ids = [_id(index, row, "id", fields[0]) for row, fields in _rows(index, ["id"])]
    place = {each: i for i, each in enumerate(ids)}
    queries, truth, parts = [], [], []
    for row, (query, images, usage) in _rows(file, ["id", "images", "Usage"]):
        part = _part(file, row, usage)
        relevant = [] if images == "None" else images.split()
        for image in relevant:
            if image not in place:
                raise row_error(file, row, f"column images: {quoted(image)} is not in {index}; is "
                                "this the ground truth of another index?")  # fmt: skip
        if part == "Ignored":
            continue
        if not relevant:
            raise row_error(file, row, f"column images: a query whose Usage is {part} has none")
        queries.append(_id(file, row, "id", query))
        truth.append({"ok": np.unique([place[image] for image in relevant])})
        parts.append(part)
    return _dataset(file, root, ("index", ids), queries, truth, parts, "gldv2_retrieval")


def read_gldv2_recognition(
    file: str, root: str | None = None, train: str = "metadata/train_clean.csv"
) -> RelevantsDataset:
    """Recognition: test images, and the training images of the landmarks that each shows.

    Args:
      file: `recognition_solution_v2.1.csv`, with columns id, landmarks (ids separated by spaces;
        empty or None where the image shows no landmark) and Usage.
      root: the data set's folder, as for retrieval.
      train: the list of training images inside it, with columns landmark_id and images.

    Raises:
      UserError: as for retrieval.
    """
    root = _root(file, root)
    train = os.path.join(root, train)
    ids: list[str] = []
    of_landmark: dict[str, range] = {}
    for row, (landmark, images) in _rows(train, ["landmark_id", "images"]):
        first = len(ids)
        ids += (_id(train, row, "images", image) for image in images.split())
        if landmark in of_landmark:
            raise row_error(train, row, f"column landmark_id: {quoted(landmark)} is listed twice")
        of_landmark[_number(train, row, "landmark_id", landmark)] = range(first, len(ids))
    queries, truth, parts = [], [], []
    for row, (query, landmarks, usage) in _rows(file, ["id", "landmarks", "Usage"]):
        part = _part(file, row, usage)
        if part == "Ignored":
            continue
        shows = [] if landmarks == "None" else landmarks.split()
        numbers = [_number(file, row, "landmarks", landmark) for landmark in shows]
        relevant = [i for landmark in numbers for i in of_landmark.get(landmark, ())]
        queries.append(_id(file, row, "id", query))
        truth.append({"ok": np.unique(np.array(relevant, np.int64)),
                      "landmarks": np.array(numbers, np.int64)})  # fmt: skip
        parts.append(part)
    return _dataset(file, root, ("train", ids), queries, truth, parts, "gldv2_recognition")


def _dataset(
    file: str,
    root: str,
    database: tuple[str, list[str]],
    queries: list[str],
    truth: list[dict[str, np.ndarray]],
    parts: list[str],
    protocol: str,
) -> RelevantsDataset:
    split, ids = database
    if not queries:
        raise UserError(f"{shown(file)} has no query that counts (Usage Public or Private)")
    # By id, which is how published code breaks the ties of confidences.
    order = sorted(range(len(queries)), key=queries.__getitem__)
    for each in truth:
        each["junk"] = np.zeros(0, np.int64)
    of_query = np.array(parts)[order]
    masks = {part.lower(): of_query == part for part in _PARTS if (of_query == part).any()}
    return RelevantsDataset(
        _paths(split, ids),
        QueryDataset(_paths("test", [queries[q] for q in order]), root, None),
        [truth[q] for q in order],
        root,
        protocol,
        masks if len(masks) > 1 else None,
    )


def _root(file: str, root: str | None) -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(file))) if root is None else root


def _paths(split: str, ids: Sequence[str]) -> list[str]:
    return [f"{split}/{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in ids]


def _rows(file: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The number of each row after the header, and its fields in the given columns.

    A landmark's images are one field of more than 100,000 characters, which no field of these files
    quotes.
    """
    header, *lines = read_text(file, most=MOST_ROWS).split("\n")
    there = header.strip().split(",")
    if missing := [name for name in columns if name not in there]:
        raise row_error(file, 1, f"there is no column {missing[0]!r}; expected {','.join(columns)}")
    places = [there.index(name) for name in columns]
    for row, line in enumerate(lines, start=2):
        if not (line := line.strip()):
            continue
        fields = line.split(",")
        if len(fields) != len(there):
            raise row_error(file, row, f"it has {len(fields)} columns; expected {len(there)}: "
                            f"{','.join(there)}")  # fmt: skip
        yield row, [fields[place].strip() for place in places]


def _id(file: str, row: int, column: str, text: str) -> str:
    if not _ID.fullmatch(text):
        raise row_error(file, row, f"column {column}: {quoted(text)} is not an image's id")
    return text


def _number(file: str, row: int, column: str, text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 18):
        raise row_error(file, row, f"column {column}: {quoted(text)} is not a landmark's number")
    return text


def _part(file: str, row: int, usage: str) -> str:
    if usage not in _PARTS:
        expected = f"expected {', '.join(_PARTS[:-1])} or {_PARTS[-1]}"
        raise row_error(file, row, f"column Usage: {quoted(usage)}; {expected}")
    return usage
