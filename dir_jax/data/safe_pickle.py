"""Reading pickles that somebody else wrote, without running what they ask for.

A pickle is a program: it names functions and calls them. Only plain containers, numbers, strings
and NumPy arrays are rebuilt here, and the arrays' own rebuilding steps, which trust their input
down to raw pointers, are replaced by ones that check it.
"""

from __future__ import annotations

import collections
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from dir_jax.errors import UserError

_PLAIN_TYPE = re.compile(r"[<>|=]?[?biufcSUO]\d*")


class _Type:
    """Stands for a NumPy dtype while the pickle is read: its name, then its byte order."""

    def __init__(self, name: str, align: object = None, copy: object = None):
        if not (isinstance(name, str) and _PLAIN_TYPE.fullmatch(name)):
            raise pickle.UnpicklingError(f"an array of {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *_ = state  # what follows describes records, which plain types are not
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"the byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose content is checked before it is taken over."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        wanted = list if kind.dtype.hasobject else bytes | str  # str: of Python 2
        if not isinstance(content, wanted):
            raise pickle.UnpicklingError(f"an array of {kind.dtype} made from {type(content)}")
        super().__setstate__((1, shape, kind.dtype, fortran, content))


def _empty_array(subtype: object, shape: object, name: object) -> np.ndarray:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _array_from_buffer(buffer: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> Any:
    _refuse_objects(kind)
    return np.frombuffer(buffer, kind.dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(kind: _Type, content: bytes | str) -> Any:
    _refuse_objects(kind)
    content = content.encode("latin1") if isinstance(content, str) else content  # of Python 2
    return np.frombuffer(content, kind.dtype)[0]


def _refuse_objects(kind: _Type) -> None:
    if kind.dtype.hasobject:
        raise pickle.UnpicklingError("an array of pointers")


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes: as the Latin-1 text that encodes to them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes bytes where there are none; `bytes(n)` would allocate n of them."""
    return b""


_ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "dtype"): _Type,
    # Only ever an argument of _reconstruct: a name that cannot be called with a dtype and a buffer.
    ("numpy", "ndarray"): "numpy.ndarray",
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
    # NumPy 2 renamed `core`; Python 2 had `__builtin__`.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_from_buffer for core in ("core", "_core")},
    **{(module, "set"): set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): frozenset for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def load_pickle(file: str) -> Any:
    """Reads a pickle made of dicts, lists, tuples, sets, numbers, strings, bytes and arrays.

    Python 2's strings are read as Latin-1, so its arrays load as well.

    Raises:
      UserError: the file cannot be read, is no pickle, or asks for anything else, which is then
        neither imported nor called.
    """
    try:
        with open(file, "rb") as stream:
            return _Unpickler(stream, encoding="latin1").load()
    except OSError as e:
        raise UserError(f"the pickle {file} cannot be read: {e.strerror}") from e
    except Exception as e:  # a hostile or damaged pickle can fail in any of its steps
        raise UserError(
            f"{file} is damaged, or no plain pickle of lists, dicts, numbers and arrays; nothing "
            f"else is loaded, as it could run any program (refused: {e or type(e).__name__})"
        ) from e
