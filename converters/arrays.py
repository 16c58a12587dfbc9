"""Tensors and arrays as a file describes them: checked when read, copied out when asked for."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import ml_dtypes
import numpy as np

from converters.errors import CheckpointFileError, shown
from converters.unpickler import Buildable

_MOST_DIMENSIONS = 16
_LARGEST_EMPTY = 1 << 31  # what the other sides of an array without elements may multiply to
_NUMPY_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")

# As in `torch.FloatStorage`.
STORAGE_TYPES = {
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Float": np.dtype(np.float32),
    "Double": np.dtype(np.float64),
    "Byte": np.dtype(np.uint8),
    "Char": np.dtype(np.int8),
    "Short": np.dtype(np.int16),
    "Int": np.dtype(np.int32),
    "Long": np.dtype(np.int64),
    "Bool": np.dtype(np.bool_),
}


@dataclasses.dataclass
class StorageData:
    """The numbers behind one or more tensors; `buffer` comes when they are found in the file."""

    key: str
    dtype: np.dtype
    numel: int
    buffer: memoryview | None = None
    byteorder: str = "<"

    @property
    def nbytes(self) -> int:
        """How many bytes of the file it takes."""
        return self.numel * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Storage:
    """A contiguous part of the data: all of it, but for the views of torch's first versions."""

    data: StorageData
    start: int
    numel: int


class Tensor(Buildable):
    """A tensor in the file.

    Attributes:
      shape: as in torch.
      dtype: of NumPy, or ml_dtypes' bfloat16.
    """

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any):
        """Checks that it lies within its storage; the arguments come from the file."""
        self._set(storage, offset, shape, stride)

    @classmethod
    def empty(cls) -> Tensor:
        """A tensor whose state is to come, as torch wrote them before 0.4."""
        return cls(Storage(StorageData("", STORAGE_TYPES["Float"], 0), 0, 0), 0, (0,), (1,))

    def _set(self, storage: Any, offset: Any, shape: Any, stride: Any) -> None:
        if not (
            isinstance(storage, Storage)
            and isinstance(offset, int)
            and _are_sizes(shape)
            and _are_sizes(stride)
            and len(shape) == len(stride)
            and offset >= 0
        ):
            raise CheckpointFileError("it is damaged: a tensor's shape or strides make no sense")
        numel = _checked_numel(shape)
        # A side of length 1 is never stepped along, whatever its stride.
        stride = tuple(step if side > 1 else 0 for side, step in zip(shape, stride, strict=True))
        last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        if numel and last >= storage.numel:
            raise CheckpointFileError(
                f"it is damaged: a tensor of shape {shown(shape)} reaches beyond its storage of "
                f"{shown(storage.numel)} elements"
            )
        if numel > storage.numel:
            raise CheckpointFileError(
                f"a tensor of shape {shown(shape)} repeats a storage of {shown(storage.numel)} "
                "elements; save a contiguous copy of it"
            )
        self.shape, self.dtype = shape, storage.data.dtype
        self._data, self._offset, self._stride = storage.data, storage.start + offset, stride

    def build(self, state: Any) -> None:
        """Takes the state of a tensor (torch < 0.4) or of a Parameter around one."""
        match state:
            case (storage, offset, shape, stride):
                self._set(storage, offset, shape, stride)
            case (Tensor() as tensor, _, _, _, _):
                vars(self).update(vars(tensor))
            case (bool(), _, _) | dict():  # requires_grad and hooks; Python attributes
                pass
            case _:
                raise CheckpointFileError("it is damaged: a tensor's state makes no sense")

    def numpy(self) -> np.ndarray:
        """A copy of the numbers: C-contiguous, of `shape` and `dtype`."""
        buffer, size = self._data.buffer, self.dtype.itemsize
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        assert buffer is not None, "the reader finds every storage before it returns"
        words = np.ndarray(
            self.shape,
            f"{self._data.byteorder}u{size}",
            buffer,
            self._offset * size,
            tuple(step * size for step in self._stride),
        )
        native = np.array(words, f"=u{size}", order="C")
        return native != 0 if self.dtype == np.bool_ else native.view(self.dtype)


class NumpyType(Buildable):
    """A NumPy dtype of numbers."""

    def __init__(self, name: Any):
        """`name` comes from the file."""
        if not isinstance(name, str):
            raise CheckpointFileError("it is damaged: a NumPy type's name is no text")
        if not _NUMPY_TYPE.fullmatch(name):
            what = "objects, which would have to run" if name.startswith("O") else shown(name)
            raise CheckpointFileError(f"it holds a NumPy array of {what}; only numbers are read")
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        """Takes (version, byte order, …); the rest describes records, which are not numbers."""
        match state:
            case (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
                self.dtype = self.dtype.newbyteorder(order)
            case _:
                raise CheckpointFileError("it holds NumPy records; only numbers are read")


class Array(Buildable):
    """A NumPy array in the file."""

    shape: tuple[int, ...] = (0,)
    dtype: np.dtype = np.dtype(np.uint8)
    _content: bytes = b""
    _order: Any = "C"

    def build(self, state: Any) -> None:
        """Takes (version, shape, dtype, Fortran order, bytes)."""
        match state:
            case (_, shape, NumpyType() as kind, bool() | 0 | 1 as fortran, content):
                self.fill(shape, kind, "F" if fortran else "C", content)
            case _:
                raise CheckpointFileError("it is damaged: a NumPy array's state makes no sense")

    def fill(self, shape: Any, kind: NumpyType, order: str, content: Any) -> None:
        """Checks and takes what the file says; `order` is 'C' or 'F'."""
        content = as_bytes(content)
        if not _are_sizes(shape) or _checked_numel(shape) * kind.dtype.itemsize != len(content):
            raise CheckpointFileError(
                f"it is damaged: a NumPy array of shape {shown(shape)} and type {kind.dtype} has "
                f"{len(content)} bytes"
            )
        self.shape, self.dtype, self._order, self._content = shape, kind.dtype, order, content

    def numpy(self) -> np.ndarray:
        """The numbers in the machine's byte order; may be read-only."""
        array = np.frombuffer(self._content, self.dtype).reshape(self.shape, order=self._order)
        return array.astype(self.dtype.newbyteorder("="), copy=False)


def as_bytes(content: Any) -> bytes:
    """Bytes, also where Python 2 wrote them as a string."""
    if isinstance(content, bytes):
        return content
    try:
        return content.encode("latin1")
    except (AttributeError, UnicodeEncodeError):
        raise CheckpointFileError("it is damaged: a NumPy array's content is not bytes") from None


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= _MOST_DIMENSIONS
        and all(isinstance(side, int) and side >= 0 for side in value)
    )


def _checked_numel(shape: tuple[int, ...]) -> int:
    numel = math.prod(shape)
    if not numel and math.prod(side or 1 for side in shape) > _LARGEST_EMPTY:
        raise CheckpointFileError(f"it is damaged: an array of shape {shown(shape)}")
    return numel
