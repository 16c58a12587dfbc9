"""Text files that others wrote: their rows, or the JSON in them, with bounds."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

from dir_jax.errors import UserError
from dir_jax.runtime.files import open_regular

_LONGEST_ROW = 10_000  # bytes; a path has at most 4096
_LARGEST_JSON = 1 << 30  # bytes

File = str | os.PathLike[str]


def row_error(file: File, row: int, problem: str) -> UserError:
    """The error of a row that is not valid."""
    return UserError(f"{file}, line {row}: {problem}")


def read_rows(file: File) -> Iterator[tuple[int, str]]:
    """Yields the number and the text, stripped, of each row of a UTF-8 file.

    Raises:
      UserError: the file cannot be read, is not a regular file, or has a row that is too long or
        not text.
    """
    try:
        with open_regular(file) as stream:
            for row in itertools.count(1):
                content = stream.readline(_LONGEST_ROW + 1)
                if not content:
                    return
                if len(content) > _LONGEST_ROW:
                    raise row_error(file, row, f"more than {_LONGEST_ROW} bytes in one row")
                try:  # a byte-order mark is not part of a path
                    text = content.decode("utf-8-sig" if row == 1 else "utf-8")
                except UnicodeDecodeError as e:
                    raise row_error(file, row, "not UTF-8 text") from e
                if "\0" in text:
                    raise row_error(file, row, "a NUL byte: not a text file")
                yield row, text.strip()
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror or e}") from e


def read_bytes(file: File, largest: int) -> bytes:
    """The content of a regular file of at most `largest` bytes; others raise UserError."""
    try:
        with open_regular(file) as stream:
            if os.fstat(stream.fileno()).st_size > largest:
                raise UserError(f"{file} is too large: at most {largest >> 20} MiB are read")
            return stream.read()
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror or e}") from e


def read_json(file: File, largest: int = _LARGEST_JSON) -> Any:
    """What a JSON file of at most `largest` bytes holds.

    Raises:
      UserError: the file cannot be read, is not a regular file, is too large, or is not JSON.
    """
    content = read_bytes(file, largest)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as e:
        raise row_error(file, e.lineno, f"not JSON: {e.msg}") from e
    except UnicodeDecodeError as e:
        raise row_error(file, content.count(b"\n", 0, e.start) + 1, "not UTF-8 text") from e
    except (RecursionError, ValueError) as e:  # a number of more than 4,300 digits
        why = "nested too deeply" if isinstance(e, RecursionError) else "a number is too long"
        raise UserError(f"{file} is not JSON that can be read: {why}") from e
