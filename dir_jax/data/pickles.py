"""Pickles that somebody else wrote, read as data: nothing that they name is imported or called.

A pickle is a program: it names functions and calls them. Here the standard library's unpickler
runs with a table of inert stand-ins in place of those functions, and with bounds on its steps, its
copies and its keys, so that time and memory stay in proportion to the file. NumPy is not called
while a pickle is read: its arrays are built afterwards (`resolve`), from a checked type, shape and
length.

Both readers of untrusted pickles use this module: `load_pickle` for ground truth, and
`converters` for the pickles inside PyTorch's files.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from struct import unpack
from typing import Any

from dir_jax.data.stand_ins import (
    NUMPY,
    Array,
    Inert,
    RefusedPickleError,
    Scalar,
    no_bytes,
    rebuild_object,
)
from dir_jax.errors import UserError, shown
from dir_jax.runtime.reading import read_bytes

_LARGEST_KEY = 1 << 60  # the hashes of larger integers can be made to collide
_LONG_TEXT = 1 << 16  # above this, text must be Latin-1: it is the bytes of an array
_WIDE = re.compile(rb"[\xc4-\xff]")  # how UTF-8 begins a character beyond Latin-1
_LONGEST_DECIMAL = 300
_WIDE_ESCAPE = re.compile(rb"\\U|\\u(?!00)")  # and how protocol 0 does
_DEEPEST = 100  # levels of containers

# Names of modules in Python 2, which protocol 2 still writes.
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class _Source:
    """The bytes of a pickle: what is declared longer than the file takes no more than the file."""

    def __init__(self, data: Any, position: int, steps: int):
        self.data, self.position, self.steps = data, position, steps

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise RefusedPickleError("it has more instructions than any file of its kind")

    def read(self, count: int) -> bytes:
        self.spend(1)
        part = bytes(self.data[self.position : self.position + count])
        self.position += len(part)
        if len(part) < count:
            raise RefusedPickleError("it is truncated: it ends in the middle of a pickle")
        return part

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.position)
        return self.read((end if end >= 0 else len(self.data)) + 1 - self.position)


class Dispatch(dict[int, Any]):
    """Instructions and what reads them; any other instruction is refused."""

    def __missing__(self, code: int) -> Any:
        raise RefusedPickleError(f"it has the instruction {bytes([code])!r}, which is not allowed")


class Unpickler(pickle._Unpickler):
    """Python's unpickler with stand-ins for all that it may name, and with bounds.

    `load` gives dicts, lists, tuples, sets, text, bytes, numbers and stand-ins, or raises
    RefusedPickleError.
    """

    # Of the base class, which makes them when it loads.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    most_steps = 1_500_000  # reads: one to three for each instruction
    key_types: tuple[type, ...] = (str,)
    # Gone are the extension registry, buffers from elsewhere, instances of Python 1's classes,
    # persistent ids, and integers of more than 255 bytes.
    dispatch = Dispatch(
        {
            code: method
            for code, method in pickle._Unpickler.dispatch.items()
            if bytes([code])
            not in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.INST,
                    pickle.READONLY_BUFFER, pickle.OBJ, pickle.NEWOBJ_EX, pickle.PERSID,
                    pickle.BINPERSID, pickle.LONG4)
        }
    )  # fmt: skip

    def __init__(self, data: Any, position: int = 0):
        """Prepares to read the pickle at `position` of `data`, which is bytes or a memory map."""
        self.source = _Source(data, position, self.most_steps)
        super().__init__(self.source, encoding="latin1")
        self._copies = len(data) + (1 << 20)  # bytes that may still be copied
        self.names: Mapping[str, Any] = {
            **NUMPY,
            "_codecs.encode": self._encode,
            "collections.OrderedDict": self._dict,
            "builtins.set": self._set,
            "builtins.frozenset": lambda *items: frozenset(self._set(*items)),
            "builtins.bytes": no_bytes,
            "builtins.object": Inert,
            "copyreg._reconstructor": rebuild_object,
        }

    def load(self) -> Any:
        """Reads one pickle; `source.position` is then where it ends."""
        self.memo: dict[int, Any] = {}
        try:
            return super().load()
        except RefusedPickleError:
            raise
        except Exception as e:  # a damaged pickle can fail in any of its steps
            raise RefusedPickleError(f"it is damaged ({type(e).__name__})") from None

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; nothing is imported."""
        path = f"{PYTHON_2.get(module, module)}.{name}"
        if path not in self.names:
            raise RefusedPickleError(
                f"it asks for {shown(path)}, which was neither imported nor called"
            )
        return self.names[path]

    def _copy(self, count: int) -> None:
        self._copies -= count
        if self._copies < 0:
            raise RefusedPickleError("it asks for more memory than the whole file has")

    def _encode(self, text: Any, encoding: Any) -> bytes:
        # Protocol 2 has no instruction for bytes: they are the Latin-1 text that encodes to them.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise RefusedPickleError("it encodes text in a way that no pickle of bytes does")
        self._copy(len(text))
        return text.encode("latin1")

    def _set(self, items: Any = ()) -> set[Any]:
        if not isinstance(items, list | tuple):
            raise RefusedPickleError("it is damaged: a set of something other than a list")
        self._copy(100 * len(items))
        return {self._member(item) for item in items}

    def _dict(self, pairs: Any = ()) -> dict[Any, Any]:
        pairs = pairs if isinstance(pairs, list) or pairs == () else [pairs]
        if not all(isinstance(pair, list | tuple) for pair in pairs):
            raise RefusedPickleError("it is damaged: a dict of something other than pairs")
        self._copy(100 * len(pairs))
        made: dict[Any, Any] = {}
        for pair in pairs:
            self._set_items(made, list(pair[:3]))
        return made

    def _member(self, item: Any) -> Any:
        """A member of a set or a dict's key, if hashing it is quick and does not collide."""
        if not isinstance(item, str | int | bytes | None):
            raise RefusedPickleError(f"it has a {type(item).__name__} as a key")
        if isinstance(item, int) and abs(item) >= _LARGEST_KEY:
            raise RefusedPickleError("it has an integer of more than 60 bits as a key")
        return item

    def _set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise RefusedPickleError("it is damaged: a dict has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, self.key_types):
                raise RefusedPickleError(f"it has a {type(key).__name__} as a dict's key")
            target[self._member(key)] = value

    def _add(self, items: list[Any], kind: type) -> None:
        """Adds items to the container on the stack."""
        target = self.stack[-1]
        found = type(target)
        if found is not kind:
            raise RefusedPickleError(
                f"it is damaged: it adds to something other than a {kind.__name__}"
            )
        if kind is dict:
            self._set_items(target, items)
        elif kind is list:
            target.extend(items)
        else:
            target.update(map(self._member, items))

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._add([key, value], dict)

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._add(items, dict)

    def _load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(map(self._member, items)))

    def _load_empty_set(self) -> None:
        self.source.spend(4)  # it is the largest object that one byte makes
        self.append(set())

    def _load_call(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or not isinstance(args, tuple):
            raise RefusedPickleError(f"it calls a {type(function).__name__}, not a function")
        self.append(function(*args))

    def _load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.__setstate__(state)
        elif type(target) is not dict or type(state) is not dict:
            # Where both are dicts: attributes of an OrderedDict, which nothing reads.
            raise RefusedPickleError(f"it sets the state of a {type(target).__name__}")

    def _load_text(self, count: int) -> None:
        self._append_text(self.read(count), _WIDE, "utf-8", "surrogatepass")

    def _load_text_line(self) -> None:
        self._append_text(self.readline()[:-1], _WIDE_ESCAPE, "raw-unicode-escape", "strict")

    def _append_text(self, raw: bytes, wide: re.Pattern[bytes], encoding: str, errors: str) -> None:
        if len(raw) > _LONG_TEXT and wide.search(raw):
            # One wide character would make Python keep the whole text at four bytes each.
            raise RefusedPickleError("it has a long text that is not of bytes")
        self.append(str(raw, encoding, errors))

    def _load_decimal(self) -> None:
        line = self.readline()[:-1]
        if len(line) > _LONGEST_DECIMAL:
            raise RefusedPickleError(f"it has an integer of {len(line)} digits")
        self.append(line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L")))

    dispatch |= {
        pickle.INT[0]: _load_decimal,
        pickle.LONG[0]: _load_decimal,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: lambda self: self._add(self.pop_mark(), dict),
        pickle.DICT[0]: _load_dict,
        pickle.APPEND[0]: lambda self: self._add([self.stack.pop()], list),
        pickle.APPENDS[0]: lambda self: self._add(self.pop_mark(), list),
        pickle.ADDITEMS[0]: lambda self: self._add(self.pop_mark(), set),
        pickle.FROZENSET[0]: _load_frozenset,
        pickle.EMPTY_SET[0]: _load_empty_set,
        pickle.REDUCE[0]: _load_call,
        pickle.NEWOBJ[0]: _load_call,
        pickle.BUILD[0]: _load_build,
        pickle.FRAME[0]: lambda self: self.read(8),  # only where buffers may be cut
        pickle.UNICODE[0]: _load_text_line,
        pickle.BINUNICODE[0]: lambda self: self._load_text(unpack("<I", self.read(4))[0]),
        pickle.BINUNICODE8[0]: lambda self: self._load_text(unpack("<Q", self.read(8))[0]),
        pickle.BYTEARRAY8[0]: lambda self: self.append(self.read(unpack("<Q", self.read(8))[0])),
    }


def resolve(value: Any, convert: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """Replaces the arrays' stand-ins in what `Unpickler.load` gave by the arrays they describe.

    Args:
      value: dicts, lists and tuples, which are changed where they can be.
      convert: what to do with every other value.

    Raises:
      RefusedPickleError: an array makes no sense, or containers are nested too deep.
    """
    # Shared objects stay shared; both are kept, so that an id stays theirs.
    done: dict[int, tuple[Any, Any]] = {}

    def walk(value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise RefusedPickleError(f"it nests containers more than {_DEEPEST} deep")
        if not isinstance(value, dict | list | tuple | Array):
            return convert(value)
        if id(value) in done:
            return done[id(value)][1]
        if isinstance(value, Array):
            # Until it is built, it stands for something that an array cannot hold: itself.
            done[id(value)] = (value, None)
            array = value.build(lambda item: walk(item, depth + 1))
            built: Any = array[()] if isinstance(value, Scalar) else array
        elif isinstance(value, tuple):
            built = tuple(walk(item, depth + 1) for item in value)
        else:
            built = value
            done[id(value)] = (value, built)
            for key in value if isinstance(value, dict) else range(len(value)):
                value[key] = walk(value[key], depth + 1)
        done[id(value)] = (value, built)
        return built

    return walk(value, 0)


def load_pickle(file: str, unpickler: type[Unpickler] = Unpickler) -> Any:
    """Reads a pickle made of dicts, lists, tuples, sets, numbers, strings, bytes and arrays.

    Python 2's strings are read as Latin-1, so that its arrays load as well. The keys of dicts are
    strings. `unpickler` may allow more steps than most files need.

    Raises:
      UserError: the file cannot be read, is not a pickle, or asks for anything else, which is then
        neither imported nor called.
    """
    try:
        return resolve(unpickler(read_bytes(file)).load(), _plain)
    except RefusedPickleError as e:
        raise UserError(
            f"{file} is damaged, or not a plain pickle of lists, dicts, numbers and arrays; "
            f"nothing else is loaded, because it could run any program: {e}"
        ) from e


def _plain(leaf: Any) -> Any:
    if not isinstance(leaf, str | bytes | int | float | set | frozenset | None):
        raise RefusedPickleError(f"it holds a {type(leaf).__name__}")
    return leaf
