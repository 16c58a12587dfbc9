"""Files that somebody else may have written, read whole: regular, bounded, and as text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from dir_jax.errors import UserError, shown
from dir_jax.runtime.files import open_regular

Path = str | os.PathLike[str]

MOST_ROWS = 1 << 29  # bytes: a list of ten million images
_MOST = 64 << 20  # bytes
_LONGEST_ROW = 10_000  # characters; a path has at most 4096 bytes
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
    content = read_bytes(path, most=most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise row_error(path, line, "it is not UTF-8 text") from e


def read_rows(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number and the text, stripped, of each row of a UTF-8 file.

    Raises:
      UserError: as `read_text`, or a row is too long or contains a NUL byte.
    """
    for number, row in enumerate(read_text(path, most=MOST_ROWS).split("\n"), start=1):
        if len(row) > _LONGEST_ROW:
            raise row_error(path, number, f"more than {_LONGEST_ROW} characters in one row")
        if "\0" in row:
            raise row_error(path, number, "it has a NUL byte: it is not a text file")
        yield number, row.strip()


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
