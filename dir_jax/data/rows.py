"""Files that others wrote, read as a whole: bytes, the rows of a text, or JSON, with bounds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from dir_jax.errors import UserError
from dir_jax.runtime.files import open_regular

_LARGEST_TEXT = 1 << 29  # bytes; a list of ten million images has that many
_LONGEST_ROW = 10_000  # characters; a path has at most 4096 bytes

File = str | os.PathLike[str]


def row_error(file: File, row: int, problem: str) -> UserError:
    """The error of a row that is not valid."""
    return UserError(f"{file}, line {row}: {problem}")


def read_bytes(file: File, largest: int) -> bytes:
    """The content of a regular file of at most `largest` bytes; others raise UserError."""
    try:
        with open_regular(file) as stream:
            if os.fstat(stream.fileno()).st_size > largest:
                raise UserError(f"{file} is too large: at most {largest >> 20} MiB are read")
            return stream.read()
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror or e}") from e


def read_rows(file: File) -> Iterator[tuple[int, str]]:
    """Yields the number and the text, stripped, of each row of a UTF-8 file.

    Raises:
      UserError: the file cannot be read, or has a row that is too long or not text.
    """
    for number, row in enumerate(_read_text(file).split("\n"), start=1):
        if len(row) > _LONGEST_ROW:
            raise row_error(file, number, f"more than {_LONGEST_ROW} characters in one row")
        yield number, row.strip()


def read_json(file: File, largest: int = _LARGEST_TEXT) -> Any:
    """What a JSON file of at most `largest` bytes holds; one that is not JSON raises UserError."""
    try:
        return json.loads(_read_text(file, largest))
    except json.JSONDecodeError as e:
        raise row_error(file, e.lineno, f"not JSON: {e.msg}") from e
    except (RecursionError, ValueError) as e:  # a number of more than 4,300 digits
        why = "nested too deeply" if isinstance(e, RecursionError) else "a number is too long"
        raise UserError(f"{file} is not JSON that can be read: {why}") from e


def _read_text(file: File, largest: int = _LARGEST_TEXT) -> str:
    content = read_bytes(file, largest)
    position, problem = content.find(b"\0"), "a NUL byte: not a text file"
    if position < 0:
        try:
            return content.decode("utf-8-sig")  # a byte-order mark is not part of a path
        except UnicodeDecodeError as e:
            position, problem = e.start, "not UTF-8 text"
    raise row_error(file, content.count(b"\n", 0, position) + 1, problem)
