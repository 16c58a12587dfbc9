"""What stands for NumPy's arrays, and other objects, while an untrusted pickle is read.

The stand-ins keep what the pickle says and do nothing. `Array.build` makes the array afterwards,
from a checked type, shape and length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from dir_jax.errors import shown

_MOST_DIMENSIONS = 16
_LARGEST_EMPTY = 1 << 31  # the product of the other sides of an array without elements
_TYPE_NAME = re.compile(r"[<>|=]?(b1|[?]|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5}|O8?)")


class RefusedPickleError(Exception):
    """Says in one line why a pickle is not read; the caller knows the file's name."""


class Inert:
    """Stands for an object of a class that is not loaded: it keeps its state and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Takes any arguments, and ignores them."""
        del args, kwargs
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        self.arguments = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class NumberType(Inert):
    """Stands for `numpy.dtype`."""

    def build(self) -> np.dtype:
        """The type it describes, if that is one of numbers, text or objects."""
        name = self.arguments[0] if self.arguments else None
        if not (isinstance(name, str) and _TYPE_NAME.fullmatch(name)):
            what = shown(name) if isinstance(name, str) else f"a {type(name).__name__}"
            raise RefusedPickleError(f"it holds a NumPy array of {what}; only numbers are read")
        kind = np.dtype(name)
        match self.state:
            case None:
                return kind
            case (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
                return kind.newbyteorder(order)
        raise RefusedPickleError("it holds NumPy records; only numbers are read")


class Array(Inert):
    """Stands for `numpy.ndarray`; its state is (version, shape, type, Fortran order, content)."""

    def build(self, resolve_item: Callable[[Any], Any] = lambda item: item) -> np.ndarray:
        """The array, if its content has the length that its type and shape ask for."""
        match self.state:
            case (_, tuple(shape), NumberType() as kind, bool() | 0 | 1 as fortran, content):
                return _build(shape, kind.build(), "F" if fortran else "C", content, resolve_item)
        raise RefusedPickleError("it is damaged: a NumPy array's state makes no sense")


class Scalar(Array):
    """Stands for a NumPy number."""


def _build(
    shape: tuple[Any, ...],
    kind: np.dtype,
    order: Any,
    content: Any,
    resolve_item: Callable[[Any], Any],
) -> np.ndarray:
    if isinstance(content, str):  # bytes that Python 2 wrote
        try:
            content = content.encode("latin1")
        except UnicodeEncodeError:
            raise RefusedPickleError("it is damaged: an array's content is not bytes") from None
    size = checked_numel(shape)
    wanted, unit = (list, 1) if kind.hasobject else (bytes, kind.itemsize)
    if not isinstance(content, wanted) or size * unit != len(content):
        raise RefusedPickleError(
            f"it is damaged: the content of a NumPy array of shape {shown(shape)} and type {kind} "
            "has another length or kind"
        )
    if kind.hasobject:
        array = np.empty(size, object)
        for i, item in enumerate(content):
            array[i] = resolve_item(item)
    elif not size:
        return np.zeros(shape, kind)
    else:
        array = np.frombuffer(content, kind)  # type: ignore[arg-type]
        if kind.kind == "b":
            array = array.view("u1") != 0
        elif kind.kind == "U" and (array.view(kind.byteorder + "u4") > 0x10FFFF).any():
            raise RefusedPickleError("it is damaged: an array's text has characters beyond Unicode")
    return array.reshape(shape, order=order).astype(kind.newbyteorder("="), copy=False)


def checked_numel(shape: Any) -> int:
    """The number of elements that a shape has. Raises RefusedPickleError for an impossible one."""
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MOST_DIMENSIONS
        or not all(isinstance(side, int) and side >= 0 for side in shape)
    ):
        raise RefusedPickleError("it is damaged: an array's shape is not a tuple of sizes")
    if 0 in shape and math.prod(side or 1 for side in shape) > _LARGEST_EMPTY:
        raise RefusedPickleError(f"it is damaged: an array of shape {shown(shape)}")
    return math.prod(shape)


def rebuild_array_from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> Array:
    """Stands for NumPy's `_frombuffer`, which pickles of protocol 5 call."""
    if order not in ("C", "F"):
        raise RefusedPickleError("it is damaged: a NumPy array is neither in C nor Fortran order")
    array = Array()
    array.state = (1, shape, kind, order == "F", content)
    return array


def rebuild_number(kind: Any, content: Any = None) -> Scalar:
    """Stands for NumPy's `scalar`."""
    number = Scalar()
    number.state = (1, (), kind, False, content)
    return number


def rebuild_object(kind: Any, base: Any, state: Any) -> Inert:
    """Stands for `copyreg._reconstructor`, which protocols 0 and 1 call for every object."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)) or base is not Inert or state:
        raise RefusedPickleError("it rebuilds an object of a class that is not known")
    return kind()


def no_bytes() -> bytes:
    """Stands for `bytes`, which protocol 2 calls for an empty string; `bytes(n)` is refused."""
    return b""


# Names of NumPy -> stand-ins; NumPy 2 renamed `core`.
NUMPY: dict[str, Any] = {"numpy.dtype": NumberType, "numpy.ndarray": Array}
for _core in ("numpy.core", "numpy._core"):
    NUMPY[f"{_core}.multiarray._reconstruct"] = Array  # whose state follows
    NUMPY[f"{_core}.multiarray.scalar"] = rebuild_number
    NUMPY[f"{_core}.numeric._frombuffer"] = rebuild_array_from_buffer
