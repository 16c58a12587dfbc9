"""Small files that somebody else may have written, read whole: regular, bounded, and as text."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from dir_jax.errors import UserError
from dir_jax.runtime.files import open_regular

_MOST = 64 << 20  # bytes
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: str | os.PathLike[str], *, most: int = _MOST) -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Raises:
      UserError: there is no such file, it is not a regular file, has more than `most` bytes, or is
        not text.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise UserError(f"{path} has {size >> 20} MiB; at most {most >> 20} are read")
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text (byte {e.start})") from e
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}") from e


def read_json(path: str | os.PathLike[str], *, most: int = _MOST) -> Any:
    """The value in a JSON file; raises UserError as `read_text`, or if it is not JSON."""
    try:
        return parse_json(read_text(path, most=most))
    except ValueError as e:
        raise UserError(f"{path} is not JSON: {e}") from e


def parse_json(text: str) -> Any:
    """A value from JSON. Raises ValueError if it is none, or holds what cannot be written again."""
    try:
        value = json.loads(text)
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
