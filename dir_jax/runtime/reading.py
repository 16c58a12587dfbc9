"""Files that somebody else may have written, read whole: regular, bounded, and as text."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dir_jax.errors import UserError, shown
from dir_jax.runtime.files import open_regular

Path = str | os.PathLike[str]

MOST_ROWS = 1 << 29  # bytes: a list of ten million images
_MOST = 64 << 20  # bytes
_BLOCK = 1 << 16  # bytes, more than any row may have
_LONGEST_ROW = 10_000  # characters; a path has at most 4096 bytes
_LONGEST_CSV_ROW = 1 << 22  # bytes; GLDv2 lists the images of a landmark in one row
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_bytes(path: Path, *, most: int = _MOST) -> bytes:
    """The content of a file.

    Raises:
      UserError: there is no such file, it is not a regular file, or has more than `most` bytes.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise UserError(
                    f"{shown(path)} has {size >> 20} MiB; at most {most >> 20} are read"
                )
            return file.read()
    except OSError as e:
        raise UserError(f"{shown(path)} cannot be read: {e.strerror or e}") from e


def read_text(path: Path, *, most: int = _MOST) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
      UserError: as `read_bytes`, or a line, which is named, is not text.
    """
    return _as_text(path, read_bytes(path, most=most))


def read_rows(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number and the text, stripped, of each row of a UTF-8 file.

    Raises:
      UserError: as `read_text`, or a row is too long or contains a NUL byte.
    """
    yield from enumerate(split_rows(path, read_text(path, most=MOST_ROWS)), start=1)


def split_rows(path: Path, text: str, first: int = 1) -> Iterator[str]:
    """The rows, stripped, of a text that begins at a file's line `first`; raises as `read_rows`."""
    rows = text.split("\n")
    if "\0" in text or len(max(rows, key=len)) > _LONGEST_ROW:
        for number, row in enumerate(rows, first):
            if len(row) > _LONGEST_ROW:
                raise row_error(path, number, f"more than {_LONGEST_ROW} characters in one row")
            if "\0" in row:
                raise row_error(path, number, "it has a NUL byte: it is not a text file")
    return map(str.strip, rows)


def read_blocks(path: Path, offset: int = 0, line: int = 1) -> Iterator[tuple[int, int, str]]:
    """Yields a UTF-8 file of any size in blocks of whole rows, of some 64 KiB, one at a time.

    From byte `offset` on, which begins a block and is in line `line`. Each block comes with the
    offset and the line of its beginning.

    Raises:
      UserError: as `read_text`, or a row is too long.
    """
    try:
        with open_regular(path) as file:
            file.seek(offset)
            rest = b""
            while data := rest + file.read(_BLOCK - len(rest)):
                block = data[: data.rfind(b"\n") + 1]
                if not block and len(data) == _BLOCK:
                    raise row_error(path, line, f"more than {_LONGEST_ROW} characters in one row")
                block = block or data  # the last row may have no end
                text = _as_text(path, block, line, is_start=not offset)
                yield offset, line, text
                offset, line, rest = (
                    offset + len(block),
                    line + text.count("\n"),
                    data[len(block) :],
                )
    except OSError as e:
        raise UserError(f"{shown(path)} cannot be read: {e.strerror or e}") from e


def _as_text(path: Path, content: bytes, line: int = 1, *, is_start: bool = True) -> str:
    try:
        return content.decode("utf-8-sig" if is_start else "utf-8")
    except UnicodeDecodeError as e:
        line += content.count(b"\n", 0, e.start)
        raise row_error(path, line, "it is not UTF-8 text") from e


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of each row of a CSV file after the first, and its fields in some columns.

    The file is read row by row, so that it may be larger than memory. Its first row names all its
    columns; quoted fields may have commas, but no line breaks.

    Raises:
      UserError: there is no such file, it lacks a column, or a row, which is named, is not UTF-8
        text, is too long, or has too few or too many fields.
    """
    places: list[int] = []
    try:
        with open_regular(path) as file:
            rows = iter(lambda: file.readline(_LONGEST_CSV_ROW), b"")
            for number, raw in enumerate(rows, start=1):
                if len(raw) == _LONGEST_CSV_ROW:
                    raise row_error(path, number, f"more than {_LONGEST_CSV_ROW - 1} bytes")
                try:
                    row = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                    fields = next(csv.reader([row], strict=True)) if '"' in row else row.split(",")
                except (UnicodeDecodeError, csv.Error) as e:
                    raise row_error(path, number, f"it is not CSV in UTF-8: {e}") from e
                if number == 1:
                    if missing := [name for name in columns if name not in fields]:
                        expected = f"has no column {missing[0]}; expected {', '.join(columns)}"
                        raise row_error(path, number, f"{shown(row)} {expected}")
                    places, count = [fields.index(name) for name in columns], len(fields)
                elif row:
                    if len(fields) != count:
                        found = f"{len(fields)} columns; the first row names {count}"
                        raise row_error(path, number, found)
                    yield number, [fields[place] for place in places]
    except OSError as e:
        raise UserError(f"{shown(path)} cannot be read: {e.strerror or e}") from e
    if not places:
        raise UserError(f"{shown(path)} is empty; expected the columns {', '.join(columns)}")


def row_error(path: Path, row: int, problem: str) -> UserError:
    """The error of a row that is not valid."""
    return UserError(f"{shown(path)}, line {row}: {problem}")


def read_json(path: Path, *, most: int = _MOST, pairs: Callable[[Any], Any] | None = None) -> Any:
    """The value in a JSON file; raises UserError as `read_text`, or if it is not JSON.

    `pairs` makes an object from its keys and values, some of which may be repeated; else a dict.
    """
    try:
        return parse_json(read_text(path, most=most), pairs)
    except ValueError as e:
        raise UserError(f"{shown(path)} is not JSON: {e}") from e


def parse_json(text: str, pairs: Callable[[Any], Any] | None = None) -> Any:
    """A value from JSON. Raises ValueError if it is none, or holds what cannot be written again."""
    try:
        value = json.loads(text, object_pairs_hook=pairs)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as e:
        raise ValueError(f"line {e.lineno}: {e.msg}") from e
    except UnicodeEncodeError as e:
        raise ValueError("it has half a character (a lone surrogate) in a text") from e
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e
    except ValueError as e:  # Python reads no integer that long
        raise ValueError("it has a number of more than 4,300 digits") from e
