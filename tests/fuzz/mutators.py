"""Damage: functions of a random generator and a file's bytes, which give other bytes.

A `Special` in place of bytes is something that is not a regular file, or no file at all.
"""

from __future__ import annotations

import enum
import gzip
import io
import json
import pickle
import random
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any


class Special(enum.Enum):
    """What can lie where a file is expected."""

    MISSING = enum.auto()
    FOLDER = enum.auto()
    FIFO = enum.auto()
    ZEROS = enum.auto()  # a link to /dev/zero
    SPARSE = enum.auto()  # a terabyte of nothing


Content = bytes | Special
Files = dict[str, Content]
Mutator = Callable[[random.Random, bytes], bytes]

DEEP = b"[" * 100_000
_NUMBERS = [
    "0", "-1", "1.5", "1e12", "1e308", "1e999", "-1e999", "nan", "inf", "9" * 30, "9" * 5000,
    "0x10", "1_0", "2147483648", "-9223372036854775809", "18446744073709551616", "1e-320", "true",
    "null",
]  # fmt: skip
_TEXTS = [
    "", " ", "\t", "../canary.txt", "/etc/passwd", "a/../../b", "canary", "canary.Canary",
    "__import__('canary')", "a" * 5000, "x\0y", "\ud800", "\x1b[31m", "é\u202e", "\r", "\n",
    "C:\\x", "tfds:canary", "numpy.core.Canary", "None", "%s%n{0}", "'", '"', "(" * 300, "[]", "{}",
    "#", ",",
]  # fmt: skip
_LINES = [
    b"5", b"{}", b"[]", b"null", b'""', b"\xff\xfe\x00", b"NaN", b"x" * 20_000, b"{" * 9, DEEP,
]  # fmt: skip
_BYTES = [
    b"\0", b"\0" * 8, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\r\n",
    b"\0\0\0\x80", b"\x7f\xff\xff\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x01" + b"\0" * 7,
]  # fmt: skip
_CODES = [getattr(pickle, name) for name in dir(pickle) if re.fullmatch("[A-Z0-9_]{3,}", name)]
_OPCODES = [code for code in _CODES if isinstance(code, bytes) and len(code) == 1] + [
    b"cos\nsystem\n", b"ccanary\nCanary\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"K\x01\x85R",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"cbuiltins\neval\n", b"\x8c\x01O", b"X\x02\0\0\0f8",
    b"ccollections\nOrderedDict\n", b"cnumpy.core.multiarray\n_frombuffer\n", b"K\x00", b"\x88",
    b"c_codecs\nencode\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"2" * 60, b"]}(t", b"h\x01",
]  # fmt: skip


def _span(rng: random.Random, size: int) -> slice:
    start = rng.randrange(size + 1)
    return slice(start, min(size, start + int(2 ** rng.uniform(0, 10))))


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice([*_BYTES, rng.randbytes(rng.randint(1, 40))]) + data[at:]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    at, new = rng.randrange(len(data) + 1), rng.choice(_BYTES)
    return data[:at] + new + data[at + len(new) :]


def remove(rng: random.Random, data: bytes) -> bytes:
    span = _span(rng, len(data))
    return data[: span.start] + data[span.stop :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    span = _span(rng, len(data))
    return data[: span.start] + data[span] * rng.randint(2, 20) + data[span.stop :]


def number(rng: random.Random, data: bytes) -> bytes:
    """Another number in place of one."""
    return _replaced(rng, data, rb"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", rng.choice(_NUMBERS))


def word(rng: random.Random, data: bytes) -> bytes:
    """Another text in place of a word, path or punctuation mark."""
    return _replaced(rng, data, rb"[\w./-]+|[^\w\s]", rng.choice(_TEXTS))


def _replaced(rng: random.Random, data: bytes, pattern: bytes, new: str) -> bytes:
    found = list(re.finditer(pattern, data))
    if not found:
        return new.encode(errors="surrogatepass")
    start, end = rng.choice(found).span()
    return data[:start] + new.encode(errors="surrogatepass") + data[end:]


def line(rng: random.Random, data: bytes) -> bytes:
    """A line that is gone, twice there, or another one."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    lines[i : i + 1] = rng.choice([[], [lines[i]] * 2, [rng.choice(_LINES)], [rng.choice(lines)]])
    return b"\n".join(lines)


def json_value(rng: random.Random, data: bytes) -> bytes:
    """Another value or key in place of one, in a JSON file or in a row of one."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    for before, part, after in (([], data, []), (lines[:i], lines[i], lines[i + 1 :])):
        try:
            tree = [json.loads(part)]
        except (ValueError, RecursionError):
            continue
        places = list(_places(tree))
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0 and isinstance(holder, dict):
            holder[rng.choice([*_TEXTS, "__class__", "extra"])] = holder.pop(key)
        elif kind == 1 and holder is not tree:
            del holder[key]
        elif kind == 2:
            other, name = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[name]))
        else:
            holder[key] = _json_value(rng)
        return b"\n".join([*before, json.dumps(tree[0]).encode(), *after])
    return word(rng, data)


def _json_value(rng: random.Random) -> Any:
    number = rng.choice([0, -1, 1.5, 10**12, 1e308, float("inf"), float("nan"), 10**30, 10**400])
    plain = [None, True, False, [], {}, [[]], {"": 0}, [1, 2], {"a": {"b": [1]}}, ["canary.Canary"]]
    return rng.choice([number, rng.choice(plain), rng.choice(_TEXTS)])


def _places(value: Any) -> Any:
    """(container, key) of every value inside a container."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def instruction(rng: random.Random, data: bytes) -> bytes:
    """Instructions of a pickle put in, or a program of them in its place."""
    codes = b"".join(rng.choice(_OPCODES) for _ in range(rng.randint(1, 12)))
    at = rng.randrange(len(data) + 1)
    return rng.choice([data[:at] + codes + data[at:], b"\x80\x04" + codes + b"."])


BINARY: Sequence[Mutator] = (flip, flip, cut, insert, overwrite, remove, repeat)
TEXT: Sequence[Mutator] = (number, number, word, word, line, flip, cut, insert, remove, repeat)
JSON: Sequence[Mutator] = (json_value,) * 8 + TEXT
PICKLE: Sequence[Mutator] = (instruction, instruction, instruction, number, word, *BINARY)


def damaged(rng: random.Random, data: bytes, mutators: Sequence[Mutator]) -> bytes:
    """The bytes after one to three of the mutators."""
    packed = data[:4] == b"PK\3\4" or data[:2] == b"\x1f\x8b"
    if packed and rng.random() < 0.7:
        return _damaged_inside(rng, data, mutators)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BINARY if packed else mutators)(rng, data)
    return data


def _damaged_inside(rng: random.Random, data: bytes, mutators: Sequence[Mutator]) -> bytes:
    """Damage to what a zip or gzip file holds, whose checksums would notice it at once."""
    if data[:2] == b"\x1f\x8b":
        return gzip.compress(damaged(rng, gzip.decompress(data), mutators), 1)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        chosen = rng.choice([rng.choice(names), *(n for n in names if n.endswith(".pkl"))])
        for name in names:
            content = old.read(name)
            new.writestr(name, damaged(rng, content, mutators) if name == chosen else content)
    return stream.getvalue()
