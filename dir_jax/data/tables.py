"""Lists of images as tables, CSV and TSV, and as JSON: which column has the paths, which labels."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from dir_jax.data.images import is_picture
from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.reading import MOST_ROWS, read_json, read_rows, row_error

# What the columns of a header are called.
_PATH = re.compile(r"paths?|((file|image|img)[_ -]?(path|file|name)?|picture|photo|name)s?", re.I)
_LABEL = re.compile(
    r"labels?|((class|category|landmark|place|cluster)[_ -]?(name|id)?|target|group)", re.I
)
_EXPECTED = (
    'expected {"path": "label", …}, {"label": ["path", …], …}, or a list of paths, of '
    '["path", "label"] pairs or of {"path": …, "label": …} objects'
)


@dataclasses.dataclass
class Listing:
    """What a list says, row by row.

    Attributes:
      names: the paths, as the list gives them.
      labels: a label for each, which JSON may give as any value; None where the list has none.
      where: says where the row with a number is, for messages.
      words: by row, the first word of a label that could be all of the label, in a list of words.
    """

    names: list[str]
    labels: list[Any] | None
    where: Callable[[int], str]
    words: dict[int, str] = dataclasses.field(default_factory=dict)


def read_table(file: str, delimiter: str = "", *, labelled: bool | None = None) -> Listing:
    """Reads a table with a row for each image, and with or without a header.

    Args:
      file: the path of a UTF-8 file. Rows that are blank or begin with # are skipped.
      delimiter: what separates cells; by default a tab in a .tsv file, and in others a comma, or a
        semicolon where the first row has no comma.
      labelled: as in `read_listing`.

    Raises:
      UserError: there is no such file, its rows have different numbers of cells, or it can be read
        in two ways.
    """
    lines = [(n, row) for n, row in read_rows(file) if row and not row.startswith("#")]
    if not lines:
        raise UserError(f"the image list {file} is empty; expected a row for each image")
    first = lines[0][1]
    if not delimiter:
        tab = file.lower().endswith(".tsv")
        delimiter = "\t" if tab else ";" if ";" in first and "," not in first else ","
    rows = []
    for number, line in lines:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True))
        except csv.Error as e:
            raise row_error(file, number, f"{quoted(line)} is no row of a table: {e}") from e
        rows.append([cell.strip() for cell in cells])
        if len(cells) != len(rows[0]):
            raise row_error(file, number, f"{len(cells)} cells, and line {lines[0][0]} has "
                            f"{len(rows[0])}: {quoted(line)}")  # fmt: skip
    header = rows[0] if _is_header(rows[0]) else []
    body = rows[bool(header) :]
    if not body:
        raise UserError(f"the image list {file} has a header and no rows")
    numbers = [number for number, _ in lines[bool(header) :]]
    return _columns(file, header, body, lambda i: f"{file}, line {numbers[i]}", labelled)


def _is_header(cells: Sequence[str]) -> bool:
    known = any(_PATH.fullmatch(cell) or _LABEL.fullmatch(cell) for cell in cells)
    return known and not any(map(is_picture, cells))


def _columns(
    file: str, header: Sequence[str], rows: Sequence[Sequence[Any]],
    where: Callable[[int], str], labelled: bool | None,
) -> Listing:  # fmt: skip
    """The listing in some rows of equal length, whose columns may have names."""
    columns = range(len(rows[0]))
    pictures = [c for c in columns if all(is_picture(str(row[c])) for row in rows[1:] or rows)]
    paths = [c for c in columns if header and _PATH.fullmatch(header[c])]
    if len(paths) > 1:
        paths = [c for c in paths if c in pictures] or paths
    paths = paths or pictures or [0]
    if len(paths) > 1:
        raise _two_readings(file, "path", paths, header, rows[0])
    path = paths[0]
    if not header and path in pictures and not is_picture(str(rows[0][path])):
        raise UserError(
            f"{where(0)}: {quoted(list(rows[0]))} can be read in two ways: as the names of the "
            f"columns, or as the image {quoted(rows[0][path])}; call the columns path and "
            "label, or give the image a suffix such as .jpg"
        )
    names = [row[path] for row in rows]
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise UserError(f"{where(i)}: the path is {quoted(name)}; expected a text")
    others = [c for c in columns if c != path and any(row[c] not in ("", None) for row in rows)]
    found = [c for c in others if _LABEL.fullmatch(header[c])] if header else others
    if labelled and header and not found:
        raise UserError(f"{file} has the columns {shown(', '.join(header))}; expected one "
                        "that is called label")  # fmt: skip
    if labelled is False or not found:
        return Listing(names, None, where)
    if len(found) > 1:
        raise _two_readings(file, "label", found, header, rows[0])
    return Listing(names, [row[found[0]] for row in rows], where)


def _two_readings(
    file: str, what: str, columns: Sequence[int], header: Sequence[str], row: Sequence[Any]
) -> UserError:
    readings = " or ".join(
        f"{quoted(row[c])} (column {shown(header[c]) if header else c + 1})" for c in columns[:2]
    )
    return UserError(
        f"{file} can be read in two ways: the {what} of the first image is {readings}; name the "
        f"columns in a first row, with one called path and one called label"
    )


class _Pairs(list[tuple[str, Any]]):
    """A JSON object whose keys may be repeated."""


def read_json_list(file: str, *, labelled: bool | None = None, nulls: bool = False) -> Listing:
    """Reads a list in JSON, in any of the forms that docs/own-data.md shows.

    Args:
      file: the path of the list.
      labelled: as in `read_listing`.
      nulls: whether images with a null for a label are left out; a null is refused otherwise.

    Raises:
      UserError: there is no such file, or it is something else.
    """
    content = read_json(file, most=MOST_ROWS, pairs=_Pairs)
    if not isinstance(content, list):
        raise UserError(f"{file} holds a {type(content).__name__}; {_EXPECTED}")
    if not content:
        raise UserError(f"the image list {file} is empty; {_EXPECTED}")
    if isinstance(content, _Pairs):
        pairs = [pair for pair in content if not (nulls and pair[1] is None)]
        if all(_is_class(*pair) for pair in pairs):
            pairs = [(path, label) for label, paths in pairs for path in paths]
        listing = _of_pairs(file, pairs)
    elif all(isinstance(each, _Pairs) for each in content):
        listing = _of_objects(file, content, labelled)
    elif all(isinstance(each, str) for each in content):
        return Listing(content, None, lambda _: file)
    else:
        listing = _of_pairs(file, content)
    if labelled is False:
        listing.labels = None
    return listing


def _is_class(label: str, paths: Any) -> bool:
    """Whether an object's entry is a label with its images, not an image with its label."""
    listed = isinstance(paths, list) and not isinstance(paths, _Pairs)
    return listed and not is_picture(label) and all(isinstance(path, str) for path in paths)


def _of_pairs(file: str, pairs: Sequence[Any]) -> Listing:
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise UserError(f"{file} holds {quoted(pair)}; {_EXPECTED}")
    return Listing([name for name, _ in pairs], [label for _, label in pairs], lambda _: file)


def _of_objects(file: str, content: Sequence[_Pairs], labelled: bool | None) -> Listing:
    header = [name for name, _ in content[0]]
    for each in content:
        names = [name for name, _ in each]
        if names != header or not _is_header(names):
            found = shown(", ".join(names)) or "nothing"
            raise UserError(f"{file} holds an object of {found}; {_EXPECTED}")
    rows = [[value for _, value in each] for each in content]
    return _columns(file, header, rows, lambda i: f"{file}, object {i + 1}", labelled)
