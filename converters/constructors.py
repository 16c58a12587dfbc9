"""The global names that a checkpoint may mention, and the inert objects they become here."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.arrays import (
    STORAGE_TYPES,
    Array,
    NumpyType,
    Storage,
    StorageData,
    Tensor,
    as_bytes,
)
from converters.errors import CheckpointFileError, shown
from converters.unpickler import Budget, Buildable, Constructor, Global, checked_key


class Record(Buildable):
    """An object of a known class, as its class's name and its attributes; no method runs."""

    def __init__(self, path: str):
        """`path` is 'module.Class'."""
        self.path = path
        self.state: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """Takes the attributes."""
        if not isinstance(state, dict):
            raise CheckpointFileError(f"it is damaged: the state of a {self.path} is no dict")
        self.state = state


class Storages:
    """The storages that a file's pickle mentions, by key."""

    def __init__(self, available: int):
        """`available` is how many bytes of the file there are for them."""
        self.found: dict[str, StorageData] = {}
        self._available = available

    def from_persistent_id(self, value: Any) -> Storage:
        """From ('storage', type, key, device, number of elements[, view]), of the file."""
        match value:
            case ("storage", Global() as kind, str(key), str(), int(numel), *view) if numel >= 0:
                data = self._declare(kind, key, numel)
            case ("module", *_):
                raise CheckpointFileError(
                    "it holds a whole pickled network, code included; save its state_dict instead"
                )
            case _:
                raise CheckpointFileError("it is damaged: a storage's description makes no sense")
        match view:
            case [] | [None]:
                return Storage(data, 0, numel)
            case [(_, int(start), int(size))] if 0 <= start <= start + size <= numel and size >= 0:
                return Storage(data, start, size)
        raise CheckpointFileError("it is damaged: a storage's view reaches beyond it")

    def _declare(self, kind: Global, key: str, numel: int) -> StorageData:
        module, name = kind.path
        dtype = STORAGE_TYPES.get(name.removesuffix("Storage"))
        if dtype is None or not name.endswith("Storage"):
            raise CheckpointFileError(f"it is damaged: {module}.{name} is no type of storage")
        data = self.found.setdefault(key, StorageData(key, dtype, numel))
        if (data.dtype, data.numel) != (dtype, numel):
            raise CheckpointFileError(f"it is damaged: two sizes for the storage {shown(key)}")
        if data.nbytes > self._available:
            raise CheckpointFileError(
                f"it is truncated or damaged: the storage {shown(key)} claims {shown(numel)} "
                f"elements of {dtype}, more than the file has"
            )
        return data


def _ordered_dict(args: tuple[Any, ...], budget: Budget) -> dict[Any, Any]:
    match args:
        case ():
            return {}
        case (list(pairs),) if all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            budget.spend(100 * len(pairs))
            return {checked_key(key): value for key, value in pairs}
    raise _damaged("an OrderedDict")


def _tensor(args: tuple[Any, ...], budget: Budget) -> Tensor:
    # (storage, offset, size, stride[, requires_grad, hooks, metadata])
    if len(args) < 4:
        raise _damaged("a tensor")
    return Tensor(*args[:4])


def _parameter(args: tuple[Any, ...], budget: Budget) -> Tensor:
    match args:
        case ():
            return Tensor.empty()
        case (Tensor() as tensor, *_):
            return tensor
    raise _damaged("a parameter")


def _empty_tensor(args: tuple[Any, ...], budget: Budget) -> Tensor:
    return Tensor.empty()


def _size(args: tuple[Any, ...], budget: Budget) -> tuple[Any, ...]:
    match args:
        case (tuple(size),):
            return size
    raise _damaged("a torch.Size")


def _set(args: tuple[Any, ...], budget: Budget) -> set[Any]:
    match args:
        case ():
            return set()
        case (list() | tuple() as members,):
            budget.spend(100 * len(members))
            return set(map(checked_key, members))
    raise _damaged("a set")


def _encode(args: tuple[Any, ...], budget: Budget) -> bytes:
    # Protocol 2 has no opcode for bytes: they are the Latin-1 text that encodes to them.
    match args:
        case (str(text), "latin1" | "latin-1"):
            budget.spend(len(text))
            return as_bytes(text)
        case ():
            return b""
    raise _damaged("a byte string")


def _numpy_type(args: tuple[Any, ...], budget: Budget) -> NumpyType:
    if not args:
        raise _damaged("a NumPy type")
    return NumpyType(args[0])  # then (align, copy), which mean nothing for numbers


def _numpy_array(args: tuple[Any, ...], budget: Budget) -> Array:
    match args:
        case (Global(path=("numpy", "ndarray")), _, _):
            return Array()
    raise _damaged("a NumPy array")


def _numpy_array_from_buffer(args: tuple[Any, ...], budget: Budget) -> Array:
    match args:
        case (content, NumpyType() as kind, shape, "C" | "F" as order):
            array = Array()
            array.fill(shape, kind, order, content)
            return array
    raise _damaged("a NumPy array")


def _numpy_scalar(args: tuple[Any, ...], budget: Budget) -> Any:
    match args:
        case (NumpyType(dtype=dtype), content) if len(as_bytes(content)) == dtype.itemsize:
            return np.frombuffer(as_bytes(content), dtype)[0].item()
    raise _damaged("a NumPy number")


def _record_of(path: str) -> Constructor:
    return lambda args, budget: Record(path)


def _reconstructed(args: tuple[Any, ...], budget: Budget) -> Record:
    match args:
        case (Global() as kind, Global(path=(_, "object")), None) if kind.path in _RECORDS:
            return Record(str(kind))
    raise _damaged("an object")


def _damaged(what: str) -> CheckpointFileError:
    return CheckpointFileError(f"it is damaged: {what} is not described as {what} should be")


# The module was renamed in scikit-learn 0.22, and the old name is gone since 0.24.
_RECORDS = tuple((f"sklearn.decomposition.{module}", "PCA") for module in ("pca", "_pca"))

CONSTRUCTORS: dict[tuple[str, str], Constructor | None] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,  # before 0.4, as the next line
    **{("torch", f"{name}Tensor"): _empty_tensor for name in STORAGE_TYPES},
    **{("torch", f"{name}Storage"): None for name in STORAGE_TYPES},
    ("torch", "Size"): _size,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _numpy_type,
    ("numpy", "ndarray"): None,
    # `core` was renamed in NumPy 2.
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _numpy_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _numpy_scalar for core in ("core", "_core")},
    **{
        (f"numpy.{core}.numeric", "_frombuffer"): _numpy_array_from_buffer
        for core in ("core", "_core")
    },
    # Python 2's names, which Python 3 still writes in protocol 2, and Python 3's own.
    **{(module, "set"): _set for module in ("__builtin__", "builtins")},
    **{(module, "frozenset"): _set for module in ("__builtin__", "builtins")},
    **{(module, "bytes"): _encode for module in ("__builtin__", "builtins")},
    **{(module, "object"): None for module in ("__builtin__", "builtins")},
    **{(module, "_reconstructor"): _reconstructed for module in ("copy_reg", "copyreg")},
    **{path: _record_of(".".join(path)) for path in _RECORDS},
}
