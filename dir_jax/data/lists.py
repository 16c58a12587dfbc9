"""Lists of images as people have them: rows of text, CSV and TSV, JSON; with labels or without.

Each reader returns a `Listing`. What a row means is told by the row, never by the disk; where two
readings would give different classes, both are shown and neither is taken. The rules stand in
docs/own-data.md.
"""

from __future__ import annotations

import array
import bisect
import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import overload

from dir_jax.data.images import ImageDataset, is_picture
from dir_jax.data.tables import Listing, read_json_list, read_table
from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import check_inside, check_name
from dir_jax.runtime.reading import (
    MOST_ROWS,
    read_blocks,
    read_rows,
    row_error,
    split_rows,
)

log = logging.getLogger(__name__)

_LONG = 64 << 20  # bytes of a list without labels, above which it is not held in memory
_COMMENT = re.compile(r"\s#(\s.*)?$")
_WORD = re.compile(r"\S+")
_WHOLE = re.compile(r"-?\d+")
_ADVICE = "put a tab between the path and the label, or write a CSV file"


def read_image_list(file: str, root: str = "") -> ImageDataset:
    """Reads a list of images, whose labels, if it has any, are not used.

    In a text file each row is a path as a whole, and the file may have any length; for the other
    kinds see `read_listing`. Paths are relative to `root`, or else to the current folder.
    """
    if _is_text(file) and os.path.isfile(file) and os.path.getsize(file) > _LONG:
        return ImageDataset(NamesInFile(file, root), root)
    listing = read_listing(file, labelled=False)
    return ImageDataset(check_names(listing.names, root, listing.where), root)


def read_listing(file: str, *, labelled: bool | None = None) -> Listing:
    """Reads a list of any kind: .json, .csv, .tsv, and anything else as text.

    Args:
      file: the path of the list.
      labelled: whether its rows have to have labels; None where the rows tell.

    Raises:
      UserError: there is no such file, it is empty, or a row can be read in two ways.
    """
    if file.lower().endswith(".json"):
        listing = read_json_list(file, labelled=labelled)
    elif not _is_text(file):
        listing = read_table(file, labelled=labelled)
    else:
        rows, where = _text_rows(file)
        delimiter = _delimiter(rows) if labelled is not False else ""
        if delimiter:
            listing = read_table(file, delimiter, labelled=labelled)
        elif labelled or (labelled is None and _have_labels(rows, where)):
            listing = _labelled(rows, where)
        else:
            listing = Listing(rows, None, where)
    return listing


def _is_text(file: str) -> bool:
    return not file.lower().endswith((".json", ".csv", ".tsv"))


class NamesInFile(Sequence[str]):
    """The images of a long text file: rows are read as they are used, and few are in memory.

    One pass over the file counts them, and keeps where each block of rows begins: 24 bytes for
    64 KiB. A row's name is checked when it is used. Picklable; several threads may use it.

    Attributes:
      digest: the SHA-256 of the names, each with a line feed, as the file has them.
    """

    def __init__(self, file: str, root: str):
        """Counts the images; raises UserError as `read_image_list`."""
        self._file, self._root, self._state = file, root, _state_of(file)
        self._offsets, self._lines, self._firsts = (array.array("q") for _ in range(3))
        self._count, digest = 0, hashlib.sha256()
        for offset, line, text in read_blocks(file):
            self._offsets.append(offset)
            self._lines.append(line)
            self._firsts.append(self._count)
            names, _ = _names_of_block(file, line, text)
            self._count += len(names)
            digest.update("".join([f"{name}\n" for name in names]).encode())
        if not self._count:
            raise UserError(f"the image list {file} is empty; expected a row for each image")
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, which: int) -> str: ...
    @overload
    def __getitem__(self, which: slice) -> list[str]: ...
    def __getitem__(self, which: int | slice) -> str | list[str]:
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(self)))]
        row = range(len(self))[which]  # as a list takes negative numbers, and refuses others
        block = bisect.bisect_right(self._firsts, row) - 1
        return self._names(block)[row - self._firsts[block]]

    def __iter__(self) -> Iterator[str]:
        for block in range(len(self._firsts)):
            yield from self._names(block)

    def _names(self, block: int) -> list[str]:
        where = self._offsets[block], self._lines[block]
        return _read_names(self._file, self._root, *where, self._state)


@functools.lru_cache(8)
def _read_names(file: str, root: str, offset: int, line: int, state: tuple[int, int]) -> list[str]:
    if _state_of(file) != state:
        raise UserError(f"{file} has changed since this program began to read it; start it again")
    _, _, text = next(read_blocks(file, offset, line))
    names, lines = _names_of_block(file, line, text)
    return check_names(names, root, lambda i: f"{file}, line {lines[i]}")


def _state_of(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError as e:
        raise UserError(f"{shown(file)} cannot be read: {e.strerror or e}") from e
    return status.st_size, status.st_mtime_ns


def _names_of_block(file: str, line: int, text: str) -> tuple[list[str], Sequence[int]]:
    """The rows of a block, without blank ones and comments, and the number of each one's line."""
    rows = list(split_rows(file, text, line))
    if "#" in text:
        rows = [_without_comment(file, i, row) if "#" in row else row
                for i, row in enumerate(rows, line)]  # fmt: skip
    if rows[-1] == "" and all(rows[:-1]):  # nearly always
        return rows[:-1], range(line, line + len(rows) - 1)
    kept = [(i, row) for i, row in enumerate(rows, line) if row]
    return [row for _, row in kept], [i for i, _ in kept]


def settle_labels(*listings: Listing) -> None:
    """Decides between the readings of labels of several words, for lists that belong together.

    As in the original, the first word alone is the label where all labels are numbers then, which
    is warned about. Where it makes no difference to the classes, the label is all of its words.

    Raises:
      UserError: the two readings give different classes.
    """
    long = [each for each in listings if each.words]
    if not long:
        return
    first = long[0]
    assert first.labels is not None
    place, word = next(iter(first.words.items()))
    row = f"{first.where(place)}: {quoted(first.names[place])} is followed by several words"
    whole = [label for each in listings for label in each.labels or []]
    short = [
        each.words.get(i, label) for each in listings for i, label in enumerate(each.labels or [])
    ]
    if all(map(_WHOLE.fullmatch, set(short))):
        count = sum(len(each.words) for each in long)
        log.warning(
            "%s (%d such rows): the first, %s, is the label, and the others are not read, as in "
            "the original; if the label is %s, %s",
            row, count, quoted(word), quoted(first.labels[place]), _ADVICE,
        )  # fmt: skip
        for each in long:
            each.labels = [each.words.get(i, label) for i, label in enumerate(each.labels or [])]
    elif not len(set(zip(short, whole, strict=True))) == len(set(short)) == len(set(whole)):
        raise UserError(
            f"{row}, which can be read in two ways that give different classes: the label is "
            f"{quoted(word)}, and the rest is not read, or it is {quoted(first.labels[place])}; "
            f"for the first, leave the rest out of the list; for the second, {_ADVICE}"
        )
    for each in long:
        each.words = {}


def check_names(names: list[str], root: str, where: Callable[[int], str]) -> list[str]:
    """The names of images, which lie in the root folder if there is one; other lists' are paths,
    in which `~` is the user's home.

    Raises:
      UserError: a name leads out of the folder, or no file can have it; `where` says what has it.
    """
    for i, name in enumerate(names):
        try:
            if root:
                check_inside(root, name)
            else:
                check_name(name)
        except UserError as e:
            raise UserError(f"{where(i)}: {e}") from e
    return names if root else [os.path.expanduser(n) if n[:2] == "~/" else n for n in names]


def _text_rows(file: str) -> tuple[list[str], Callable[[int], str]]:
    """The rows of a text file without blank ones and comments, and where each of them is."""
    if os.path.isfile(file) and os.path.getsize(file) > MOST_ROWS:
        raise UserError(
            f"{shown(file)} has more than {MOST_ROWS >> 20} MiB, in which labels are not looked "
            "for; ImageList(file, root) reads a list of any length as images without labels"
        )
    rows = []
    for number, row in read_rows(file):
        if "#" in row:
            row = _without_comment(file, number, row)
        if row:
            rows.append((number, row))
    if not rows:
        raise UserError(f"the image list {file} is empty; expected a row for each image")
    return [row for _, row in rows], lambda i: f"{file}, line {rows[i][0]}"


def _without_comment(file: str, number: int, row: str) -> str:
    if row.startswith("#"):
        return ""
    comment = _COMMENT.search(row)
    if comment and is_picture(row):
        raise row_error(
            file, number,
            f"{quoted(row)} can be read in two ways: as one path, or as "
            f"{quoted(row[: comment.start()])} with a comment; rename the file, or write the "
            "comment in a row of its own",
        )  # fmt: skip
    return row[: comment.start()].rstrip() if comment else row


def _delimiter(rows: Sequence[str]) -> str:
    """What separates the cells of a table in a text file; '' where the rows are words."""
    for delimiter in (",", ";", "\t"):
        parts = [row.split(delimiter) for row in rows[:2]]
        if all(len(cells) > 1 for cells in parts) and any(
            is_picture(cell.strip(' "')) for cell in parts[-1][:-1]
        ):
            every = all(delimiter in row for row in rows)
            return delimiter if every else ""
    return ""


def _have_labels(rows: Sequence[str], where: Callable[[int], str]) -> bool:
    """Whether all rows have labels; False where none has."""
    bare = [i for i, row in enumerate(rows) if is_picture(row) or not re.search(r"\s", row)]
    if 0 < len(bare) < len(rows):
        labelled = next(i for i, at in enumerate([*bare, -1]) if i != at)
        raise UserError(
            f"{where(labelled)}: {quoted(rows[labelled])} has a label, and {where(bare[0])}: "
            f"{quoted(rows[bare[0]])} has none; expected 'path label' in all rows or in none"
        )
    return not bare


def _labelled(rows: list[str], where: Callable[[int], str]) -> Listing:
    names, labels, words = [], [], {}
    for i, row in enumerate(rows):
        pair = row.split()
        if "\t" in row:
            pair = [cell.strip() for cell in row.split("\t") if cell.strip()]
        if len(pair) < 2 or is_picture(pair[-1]):
            # Otherwise the last word of a path with spaces would be taken for the label.
            raise UserError(f"{where(i)}: {quoted(row)} has no label; expected 'path label'")
        if len(pair) > 2:
            pair, word = _parts(row, where(i))
            if word != pair[1]:
                words[i] = word
        names.append(pair[0])
        labels.append(pair[1])
    return Listing(names, labels, where, words)


def _parts(row: str, where: str) -> tuple[list[str], str]:
    """The path and the label of a row of three words or more, and the label's first word."""
    words = list(_WORD.finditer(row))
    ends = [i for i, word in enumerate(words) if is_picture(word[0])]
    if not ends and _WHOLE.fullmatch(words[1][0]):
        ends = [0]  # names without a suffix, and numbers for labels, as in the original
    if len(ends) != 1:
        first, last = (ends[0], ends[-1]) if ends else (0, len(words) - 2)
        readings = " or ".join(quoted(row[: words[end].end()]) for end in (first, last))
        raise UserError(
            f"{where}: {quoted(row)} can be read in two ways: its path is {readings}, and the rest "
            f"is the label; {_ADVICE}"
        )
    path, label = row[: words[ends[0]].end()], row[words[ends[0] + 1].start() :]
    if " #" in label or label.startswith("#"):
        raise UserError(
            f"{where}: {quoted(row)} can be read in two ways: its label is {quoted(label)}, or it "
            f"ends in a comment; write a space after the # of a comment; for the label, {_ADVICE}"
        )
    return [path, label], words[ends[0] + 1][0]
