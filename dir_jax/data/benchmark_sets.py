"""Benchmarks whose ground truth is in the names of their pictures: Holidays, UKBench, ILIAS."""

from __future__ import annotations

import os
import re

import numpy as np

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.lists import check_names
from dir_jax.errors import UserError, quoted, shown
from dir_jax.retrieval.protocols import holidays_ground_truth
from dir_jax.runtime.reading import read_rows, row_error

_PICTURE = re.compile(r"(\d{1,18})\.jpe?g", re.IGNORECASE)
_OF_AN_OBJECT = 4  # pictures, in UKBench


def read_holidays(folder: str) -> RelevantsDataset:
    """INRIA Holidays: a folder of pictures such as 100000.jpg, of which those in …00 are queries.

    Raises:
      UserError: there is no such folder, or a JPEG file's name is not a number.
    """
    names = _pictures(folder)
    numbers = []
    for name in names:
        if not (match := _PICTURE.fullmatch(name)):
            raise UserError(f"{shown(folder)}: {quoted(name)} is not named as the pictures of "
                            "Holidays are, such as 100000.jpg")  # fmt: skip
        numbers.append(int(match[1]))
    queries = [name for name, number in zip(names, numbers, strict=True) if number % 100 == 0]
    if not queries:
        raise UserError(f"{shown(folder)} has no picture whose number ends in 00: no query")
    truth = holidays_ground_truth(numbers)
    return RelevantsDataset(names, QueryDataset(queries, folder, None), truth, folder, "holidays")


class UKBenchDataset(LabelledDataset):
    """Groups of four pictures, each picture a query that stays in its own ranking."""

    protocol = "ukbench"


def read_ukbench(folder: str) -> UKBenchDataset:
    """UKBench: a folder of pictures whose names, in order, are four of each object.

    Raises:
      UserError: there is no such folder, or the pictures are not whole groups of four.
    """
    names = _pictures(folder)
    if len(names) % _OF_AN_OBJECT:
        raise UserError(f"{shown(folder)} has {len(names)} JPEG files; UKBench has four of each "
                        "object, 10,200 in all")  # fmt: skip
    return UKBenchDataset(names, [str(i // _OF_AN_OBJECT) for i in range(len(names))], folder)


def read_ilias(folder: str) -> RelevantsDataset:
    """ILIAS: queries and positives as `image_ids/` lists them, such as `bold_bimp_000/pos/P000_07`.

    A row's first field is an image; its first folder is the object. All positives are the database,
    to which distractors can be added. Pictures are described whole.

    Raises:
      UserError: a list is missing, a row is not an image of an object, or an object that is asked
        for has no positive.
    """
    lists = [os.path.join(folder, "image_ids", f"{x}_ids.txt") for x in ("image_query", "positive")]
    (queries, objects, rows), (names, owners, _) = (_ilias_rows(file, folder) for file in lists)
    of_object: dict[str, list[int]] = {}
    for image, owner in enumerate(owners):
        of_object.setdefault(owner, []).append(image)
    for name, row in zip(objects, rows, strict=True):
        if name not in of_object:
            raise row_error(lists[0], row, f"the object {quoted(name)} has no image in {lists[1]}; "
                            "are the two lists of one data set?")  # fmt: skip
    none: np.ndarray = np.zeros(0, np.int64)
    truth = [{"ok": np.array(of_object[name], np.int64), "junk": none} for name in objects]
    return RelevantsDataset(names, QueryDataset(queries, folder, None), truth, folder, "ilias")


def _ilias_rows(file: str, folder: str) -> tuple[list[str], list[str], list[int]]:
    """The images of a list, sorted, each with its object and its row."""
    found = []
    for row, text in read_rows(file):
        name = text.split(",")[0].strip()
        if not text:
            continue
        if name.count("/") < 2:
            raise row_error(file, row, f"column 1: {quoted(name)} is not an image of an object, "
                            "such as bold_bimp_000/pos/P000_07.jpg")  # fmt: skip
        found.append((name if os.path.splitext(name)[1] else f"{name}.jpg", row))
    if not found:
        raise UserError(f"{shown(file)} is empty; expected an image in each row")
    found.sort()
    names = check_names([n for n, _ in found], folder, lambda i: f"{file}, line {found[i][1]}")
    return names, [name.split("/")[0] for name in names], [row for _, row in found]


def _pictures(folder: str) -> list[str]:
    """The JPEG files of a folder by name, in order."""
    try:
        names = sorted(n for n in os.listdir(folder) if n.lower().endswith((".jpg", ".jpeg")))
    except OSError as e:
        raise UserError(f"the folder {shown(folder)} cannot be read: {e.strerror}") from e
    if not names:
        raise UserError(f"there is no JPEG file in {shown(folder)}")
    return check_names(names, folder, lambda i: folder)
