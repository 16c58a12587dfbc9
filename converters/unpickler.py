"""A pickle machine of our own: it builds data, and has no way to do anything else.

Python's unpickler with an allow-list would not run code, but lets a file of a few bytes allocate
gigabytes (a memo index of 2^32, a string that claims 2^60 bytes) or hang (a hash of tuples nested
40 deep). This one knows the opcodes that torch has written since protocol 2, takes time and memory
in proportion to the file, and hands every global name to a table of constructors: what is not in
the table is refused by name, whichever opcode asks.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

from converters.errors import CheckpointFileError, shown

# A ResNet-152 with Adam's state takes some 10^5. Each opcode makes at most one small object.
_MOST_OPCODES = 500_000
_LONGEST_NUMBER = 255  # bytes of an integer; torch's magic number has 10
_LONGEST_NAME = 1000
_LONG_TEXT = 1 << 16  # above this, text must be Latin-1: it is the bytes of an array
_LARGEST_KEY = 1 << 60  # the hashes of larger integers can be made to collide


class Global:
    """A name that the pickle mentions, `module.name`; nothing is imported."""

    def __init__(self, module: str, name: str):
        self.path = (module, name)

    def __str__(self) -> str:
        return ".".join(self.path)


class Budget:
    """How many bytes constructors may still copy: a small file can ask for one copy many times."""

    def __init__(self, limit: int):
        self._left = limit

    def spend(self, count: int) -> None:
        """Takes `count` bytes; raises CheckpointFileError when there are not so many."""
        self._left -= count
        if self._left < 0:
            raise CheckpointFileError("its pickle asks for more memory than the whole file has")


class Buildable:
    """An object that a pickle makes first and fills later."""

    def build(self, state: Any) -> None:
        """Takes the state that the BUILD opcode gives."""
        raise NotImplementedError


# From the arguments (of any type) to an object; None: a name that only stands for itself.
Constructor = Callable[[tuple[Any, ...], Budget], Any]


class Unpickler:
    """Reads one pickle after another from a buffer."""

    def __init__(
        self,
        data: memoryview,
        constructors: Mapping[tuple[str, str], Constructor | None],
        persistent: Callable[[Any], Any] | None = None,
    ):
        """Prepares to read `data`.

        Args:
          data: bytes that hold pickles.
          constructors: (module, name) -> what to call for it.
          persistent: from a persistent id to the object it stands for.
        """
        self._data, self._constructors, self._persistent = data, constructors, persistent
        self._budget = Budget(len(data) + (1 << 20))
        self._opcodes = _MOST_OPCODES
        self._reset(0)

    def _reset(self, position: int) -> None:
        self._position = position
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each MARK
        self._memo: dict[int, Any] = {}

    def load(self, start: int = 0) -> tuple[Any, int]:
        """Reads the pickle at `start`.

        Returns:
          What it describes, and where it ends.

        Raises:
          CheckpointFileError: it is truncated, damaged, too large, or asks for what is not allowed.
        """
        self._reset(start)
        while (opcode := self._take(1)[0]) != pickle.STOP[0]:
            self._opcodes -= 1
            if self._opcodes < 0:
                raise CheckpointFileError(f"its pickle has more than {_MOST_OPCODES} instructions")
            if opcode in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode]())
            elif opcode in _NUMBERS:
                self._stack.append(self._number(_NUMBERS[opcode]))
            elif opcode in _SIZED:
                size, convert = _SIZED[opcode]
                self._stack.append(convert(self._take(self._number(size))))
            elif opcode in _ACTIONS:
                _ACTIONS[opcode](self)
            else:
                raise CheckpointFileError(
                    f"its pickle has the instruction {bytes([opcode])!r}, which torch.save never "
                    "writes"
                )
        if len(self._stack) != 1 or self._outer:
            raise CheckpointFileError("its pickle is damaged: it does not end with one object")
        return self._stack[0], self._position

    def _take(self, count: int) -> memoryview:
        end = self._position + count
        if count < 0 or end > len(self._data):
            raise CheckpointFileError("it is truncated: it ends in the middle of a pickle")
        part, self._position = self._data[self._position : end], end
        return part

    def _number(self, kind: struct.Struct) -> Any:
        return kind.unpack(self._take(kind.size))[0]

    def _line(self) -> str:
        window = bytes(self._data[self._position : self._position + _LONGEST_NAME])
        end = window.find(b"\n")
        if end < 0:
            raise CheckpointFileError("its pickle is damaged: a name does not end")
        self._position += end + 1
        return _text(window[:end])

    def _pop(self) -> Any:
        if not self._stack:
            raise CheckpointFileError("its pickle is damaged: it takes more objects than it made")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        if not self._outer:
            raise CheckpointFileError("its pickle is damaged: a mark is missing")
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop_one(self) -> None:
        if self._stack or not self._outer:
            self._pop()
        else:  # Python's pickler drops a mark this way
            self._pop_to_mark()

    def _duplicate(self) -> None:
        top = self._pop()
        self._stack += [top, top]

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _collect(self, make: Callable[[list[Any]], Any]) -> None:
        made = make(self._pop_to_mark())
        self._stack.append(made)

    def _append(self, items: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise CheckpointFileError("its pickle is damaged: it appends to what is no list")
        target += items
        self._stack.append(target)

    def _set_items(self, items: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(items) % 2:
            raise CheckpointFileError("its pickle is damaged: it sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value
        self._stack.append(target)

    def _set_one_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _dict(self) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set_items(items)

    def _add_items(self) -> None:
        items, target = self._pop_to_mark(), self._pop()
        if not isinstance(target, set):
            raise CheckpointFileError("its pickle is damaged: it adds to what is no set")
        target.update(map(checked_key, items))
        self._stack.append(target)

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise CheckpointFileError("its pickle is damaged: it recalls what it did not store")
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        top = self._pop()
        self._memo[index] = top
        self._stack.append(top)

    def _global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise CheckpointFileError("its pickle is damaged: a global's name is no text")
        if (module, name) not in self._constructors:
            raise CheckpointFileError(
                f"it asks for {shown(f'{module}.{name}')}, which no checkpoint needs; it was "
                "neither imported nor called"
            )
        self._stack.append(Global(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self) -> None:
        args, target = self._pop(), self._pop()
        make = self._constructors[target.path] if isinstance(target, Global) else None
        if make is None or not isinstance(args, tuple):
            what = shown(target) if isinstance(target, Global) else f"a {type(target).__name__}"
            raise CheckpointFileError(f"its pickle calls {what}, which was not done")
        self._stack.append(make(args, self._budget))

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        if isinstance(target, Buildable):
            target.build(state)
        elif not isinstance(target, dict):  # attributes of an OrderedDict: nothing reads them
            raise CheckpointFileError(f"its pickle gives a state to a {type(target).__name__}")
        self._stack.append(target)

    def _persistent_id(self) -> None:
        if self._persistent is None:
            raise CheckpointFileError("its pickle has a persistent id where none belongs")
        self._stack.append(self._persistent(self._pop()))


def checked_key(key: Any) -> Any:
    """A dict's key, or a set's member, if hashing it is quick and does not collide."""
    if isinstance(key, int) and abs(key) >= _LARGEST_KEY:
        raise CheckpointFileError("its pickle has an integer of more than 60 bits as a key")
    if not isinstance(key, str | int | bytes | None):
        raise CheckpointFileError(f"its pickle has a {type(key).__name__} as a key")
    return key


def _text(part: memoryview | bytes) -> str:
    if len(part) <= _LONG_TEXT:
        try:
            return bytes(part).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise CheckpointFileError("its pickle is damaged: text that is not UTF-8") from None
    # One wide character would make Python keep the whole text at four bytes each.
    pieces = (bytes(part[i : i + _LONG_TEXT]) for i in range(0, len(part), _LONG_TEXT))
    try:
        return b"".join(
            piece.encode("latin1") for piece in codecs.iterdecode(pieces, "utf-8")
        ).decode("latin1")
    except UnicodeError:
        raise CheckpointFileError("its pickle has a long text that is not of bytes") from None


def _latin1(part: memoryview) -> str:
    """A string of Python 2: text or bytes, we cannot know which."""
    return str(part, "latin1")


def _integer(part: memoryview) -> int:
    if len(part) > _LONGEST_NUMBER:
        raise CheckpointFileError(f"its pickle has an integer of {len(part)} bytes")
    return int.from_bytes(part, "little", signed=True)


_BYTE, _SHORT, _UINT, _LONG = (struct.Struct(f) for f in ("<B", "<H", "<I", "<Q"))
_INT, _DOUBLE = struct.Struct("<i"), struct.Struct(">d")

_CONSTANTS: dict[int, Callable[[], Any]] = {
    pickle.NONE[0]: lambda: None,
    pickle.NEWTRUE[0]: lambda: True,
    pickle.NEWFALSE[0]: lambda: False,
    pickle.EMPTY_TUPLE[0]: tuple,
    pickle.EMPTY_LIST[0]: list,
    pickle.EMPTY_DICT[0]: dict,
    pickle.EMPTY_SET[0]: set,
}
_NUMBERS = {
    pickle.BININT[0]: _INT,
    pickle.BININT1[0]: _BYTE,
    pickle.BININT2[0]: _SHORT,
    pickle.BINFLOAT[0]: _DOUBLE,
}
# opcode -> the number of bytes before its content, and what the content becomes
_SIZED: dict[int, tuple[struct.Struct, Callable[[memoryview], Any]]] = {
    pickle.SHORT_BINUNICODE[0]: (_BYTE, _text),
    pickle.BINUNICODE[0]: (_UINT, _text),
    pickle.BINUNICODE8[0]: (_LONG, _text),
    pickle.SHORT_BINSTRING[0]: (_BYTE, _latin1),
    pickle.BINSTRING[0]: (_INT, _latin1),
    pickle.SHORT_BINBYTES[0]: (_BYTE, bytes),
    pickle.BINBYTES[0]: (_UINT, bytes),
    pickle.BINBYTES8[0]: (_LONG, bytes),
    pickle.BYTEARRAY8[0]: (_LONG, bytes),
    pickle.LONG1[0]: (_BYTE, _integer),
    pickle.LONG4[0]: (_INT, _integer),
}
_ACTIONS: dict[int, Callable[[Unpickler], Any]] = {
    pickle.PROTO[0]: lambda u: u._take(1),
    pickle.FRAME[0]: lambda u: u._take(8),  # only where buffers may be cut
    pickle.MARK[0]: Unpickler._mark,
    pickle.POP[0]: Unpickler._pop_one,
    pickle.POP_MARK[0]: Unpickler._pop_to_mark,
    pickle.DUP[0]: Unpickler._duplicate,
    pickle.TUPLE[0]: lambda u: u._collect(tuple),
    pickle.TUPLE1[0]: lambda u: u._tuple(1),
    pickle.TUPLE2[0]: lambda u: u._tuple(2),
    pickle.TUPLE3[0]: lambda u: u._tuple(3),
    pickle.LIST[0]: lambda u: u._collect(list),
    pickle.APPEND[0]: lambda u: u._append([u._pop()]),
    pickle.APPENDS[0]: lambda u: u._append(u._pop_to_mark()),
    pickle.DICT[0]: Unpickler._dict,
    pickle.SETITEM[0]: Unpickler._set_one_item,
    pickle.SETITEMS[0]: lambda u: u._set_items(u._pop_to_mark()),
    pickle.ADDITEMS[0]: Unpickler._add_items,
    pickle.FROZENSET[0]: lambda u: u._collect(lambda items: frozenset(map(checked_key, items))),
    pickle.BINGET[0]: lambda u: u._get(u._number(_BYTE)),
    pickle.LONG_BINGET[0]: lambda u: u._get(u._number(_UINT)),
    pickle.BINPUT[0]: lambda u: u._put(u._number(_BYTE)),
    pickle.LONG_BINPUT[0]: lambda u: u._put(u._number(_UINT)),
    pickle.MEMOIZE[0]: lambda u: u._put(len(u._memo)),
    pickle.GLOBAL[0]: lambda u: u._global(u._line(), u._line()),
    pickle.STACK_GLOBAL[0]: Unpickler._stack_global,
    pickle.REDUCE[0]: Unpickler._call,
    pickle.NEWOBJ[0]: Unpickler._call,
    pickle.BUILD[0]: Unpickler._build,
    pickle.BINPERSID[0]: Unpickler._persistent_id,
}
