"""Struct arrays in MATLAB's files of version 5, read as data and in bounded time and memory.

SciPy's reader gives all of a file, takes the sizes that it declares on trust, and nests as deep as
it says. What is needed here is a few fields of one struct array, as Cars-196 has them. The format
is in The MathWorks, MAT-File Format, "Level 5 MAT-Files".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dir_jax.errors import UserError, shown
from dir_jax.runtime.reading import read_bytes

_MOST = 64 << 20  # bytes of a variable, unpacked
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4  # classes of arrays; those of numbers are 6 to 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8", 16: "u1", 17: "u2"}  # fmt: skip


class _DamagedError(Exception):
    pass


def read_struct_array(file: str, name: str, fields: Sequence[str]) -> list[list[Any]]:
    """The fields of each element of a struct array, in MATLAB's order.

    Args:
      file: a MAT-file of version 5.
      name: the name of the array.
      fields: the names of fields that are texts or single numbers.

    Returns:
      For each element its fields in the order asked for, as str, int or float.

    Raises:
      UserError: the file cannot be read, is damaged, or has no such array or field.
    """
    data = read_bytes(file)
    try:
        order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
        if order is None or len(data) < 128:
            raise _DamagedError("it does not begin as one")
        for kind, content in _elements(data[128:], order):
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                content = unpacker.decompress(content, _MOST + 1)
                if len(content) > _MOST:
                    raise _DamagedError(f"a variable has more than {_MOST >> 20} MiB")
                kind, content = next(_elements(content, order), (0, b""))
            if kind == _MATRIX:
                parts = _elements(content, order)
                if _array_class(parts, order) == _STRUCT and _next(parts, 2) == name.encode():
                    return _read_structs(parts, fields, order)
    except (_DamagedError, zlib.error, struct.error, ValueError) as e:
        raise UserError(f"{shown(file)} is not a sound MAT-file of version 5: {shown(e)}") from e
    raise UserError(f"{shown(file)} has no struct array named {shown(name)}")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the content of each element that some bytes consist of."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: its size and type are in the first four bytes
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            end = at + 8
        else:
            end = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(data) or start + size > end:
            raise _DamagedError(f"an element of {size:,} bytes is cut off")
        yield kind, data[start : start + size]
        at = end


def _next(parts: Iterator[tuple[int, bytes]], number: int = 1) -> bytes:
    """The content of the next element, or of one after it."""
    for _, content in parts:
        number -= 1
        if not number:
            return content
    raise _DamagedError("an array is cut off")


def _array_class(parts: Iterator[tuple[int, bytes]], order: str) -> int:
    return int(struct.unpack(f"{order}II", _next(parts))[0] & 0xFF)


def _read_structs(
    parts: Iterator[tuple[int, bytes]], wanted: Sequence[str], order: str
) -> list[list[Any]]:
    """The fields of a struct array of which the flags, the dimensions and the name are read."""
    length = int.from_bytes(_next(parts), "little" if order == "<" else "big")
    names = _next(parts)
    if not 0 < length <= 64:
        raise _DamagedError(f"its fields have names of {length:,} bytes")
    split = [names[i : i + length] for i in range(0, len(names), length)]
    there = [each.partition(b"\0")[0].decode("ascii") for each in split]
    if missing := [name for name in wanted if name not in there]:
        raise _DamagedError(f"its array has no field {missing[0]}; it has {', '.join(there)}")
    places = [there.index(name) for name in wanted]
    values = list(parts)
    if len(values) % len(there):
        raise _DamagedError("its array is cut off")
    starts = range(0, len(values), len(there))
    return [[_read_value(values[s + place][1], order) for place in places] for s in starts]


def _read_value(array: bytes, order: str) -> Any:
    """A text or a number."""
    parts = _elements(array, order)
    kind = _array_class(parts, order)
    _next(parts, 2)  # dimensions and name
    stored, content = next(parts, (0, b""))
    if kind == _CHAR:
        wide = {"u2": "utf-16-le" if order == "<" else "utf-16-be"}
        return content.decode(wide.get(_NUMBERS.get(stored, ""), "utf-8"))
    if stored in _NUMBERS and 6 <= kind <= 15:
        numbers = np.frombuffer(content, order + _NUMBERS[stored])
        if len(numbers) == 1:
            return numbers[0].item()
    raise _DamagedError("a field is neither a text nor a single number")
