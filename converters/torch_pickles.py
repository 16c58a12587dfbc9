"""What the pickle of a PyTorch file may hold: a rehearsal on stand-ins, before torch reads it.

`torch.load(weights_only=True)` runs no code, but it allocates whatever a file declares, resizes
storages to the shapes that a file declares, and before 2.10 could be made to write beyond them. So
each pickle is first read with nothing behind it: every tensor has to lie within its storage, and
every storage has to be one that the file has the bytes for.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Sequence
from typing import Any

from dir_jax.data.pickles import Dispatch, Unpickler
from dir_jax.data.stand_ins import (
    NUMPY,
    Inert,
    RefusedPickleError,
    checked_numel,
    no_bytes,
    rebuild_object,
)
from dir_jax.errors import shown

# As in `torch.FloatStorage` -> bytes of an element.
ITEM_SIZES = {"Half": 2, "BFloat16": 2, "Float": 4, "Double": 8, "Byte": 1, "Char": 1, "Short": 2,
              "Int": 4, "Long": 8, "Bool": 1}  # fmt: skip
_UNREADABLE = {
    "_rebuild_qtensor": "quantised tensors",
    "_rebuild_sparse_tensor": "sparse tensors",
    "_rebuild_nested_tensor": "nested tensors",
    "_rebuild_meta_tensor_no_storage": "tensors without numbers (of the meta device)",
    "_rebuild_tensor_v3": "tensors of a type that only newer versions of torch have",
    "ComplexFloatStorage": "complex numbers",
    "ComplexDoubleStorage": "complex numbers",
    **{f"{name}Storage": "quantised tensors" for name in ("QInt8", "QUInt8", "QInt32")},
}
# What may be kept beside the weights, and does not matter to them. A name of a package that is
# neither Python's, NumPy's nor torch's does not matter either. Nothing that a file names is loaded
# or called in any case: others are refused because no checkpoint has a use for them.
_HARMLESS = re.compile(
    r"(argparse|collections|datetime|decimal|enum|fractions|http|ipaddress|pathlib|random|signal"
    r"|uuid|zoneinfo|numpy\.(ma|random)|torch\.(amp|nn|optim|utils\.data))(\.\w+)+"
    r"|types\.SimpleNamespace|functools\.partial|re\._compile|torch\.serialization\._get_layout"
    r"|numpy\.((float|int|uint|bool)\d*_?|matrix|mean|void|datetime64)"
    r"|builtins\.(int|float|str|bool|list|dict|tuple|complex|range|slice|Ellipsis|\w+Error)"
)
_STRICT = {*sys.stdlib_module_names, "torch", "numpy"}
_MOST_UNKNOWN = 50  # torch goes through all of them for every object
_DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64",
           "bool")  # fmt: skip


class InertPCA(Inert):
    """Stands for scikit-learn's PCA; its state is the attributes."""


@dataclasses.dataclass(frozen=True)
class StorageType:
    """A name such as `torch.FloatStorage`; it cannot be called."""

    item_size: int


@dataclasses.dataclass(frozen=True)
class Storage:
    """The numbers behind one or more tensors, as a file declares them."""

    item_size: int
    numel: int

    @property
    def nbytes(self) -> int:
        """How many bytes of the file it takes."""
        return self.numel * self.item_size


class Tensor(Inert):
    """Stands for a tensor that was found to lie within its storage."""

    def __init__(self, *args: Any):
        super().__init__()
        if args:
            self._check(*args)

    def _check(self, storage: Any, offset: Any, shape: Any, stride: Any) -> None:
        if not isinstance(storage, Storage) or not isinstance(offset, int) or offset < 0:
            raise RefusedPickleError("it is damaged: a tensor's storage makes no sense")
        numel = checked_numel(shape)
        checked_numel(stride)
        if len(shape) != len(stride):
            raise RefusedPickleError("it is damaged: a tensor's shape and strides do not fit")
        last = offset + sum(max(side - 1, 0) * n for side, n in zip(shape, stride, strict=True))
        if (numel and last >= storage.numel) or offset > storage.numel:
            raise RefusedPickleError(
                f"it is damaged: a tensor of shape {shown(shape)} reaches beyond its storage of "
                f"{shown(storage.numel)} elements"
            )
        if numel > storage.numel:
            raise RefusedPickleError(
                f"a tensor of shape {shown(shape)} repeats a storage of {shown(storage.numel)} "
                "elements; save a contiguous copy of it"
            )

    def __setstate__(self, state: Any) -> None:
        match state:
            case (storage, offset, shape, stride):  # of torch before 0.4
                self._check(storage, offset, shape, stride)
            case (Tensor(), *more) if _are_flags(more):
                pass  # of a Parameter: its tensor, requires_grad, hooks
            case _:
                raise RefusedPickleError("it is damaged: a tensor's state makes no sense")


def _are_flags(values: Sequence[Any]) -> bool:
    """Whether what follows a tensor's numbers is only requires_grad and empty hooks."""
    return all(isinstance(value, bool | None) or value == {} for value in values)


def _rebuilt(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Tensor:
    if not _are_flags(more):
        raise RefusedPickleError("it is damaged: a tensor has hooks")
    return Tensor(storage, offset, shape, stride)


def _empty_tensor() -> Tensor:
    return Tensor()


def _parameter(data: Any = None, *more: Any) -> Tensor:
    if not isinstance(data, Tensor | None) or not _are_flags(more):
        raise RefusedPickleError("it is damaged: a parameter of something other than a tensor")
    return data or Tensor()


def _size(sides: Any) -> tuple[int, ...]:
    checked_numel(sides)
    return tuple(sides)


def _empty(container: type) -> Callable[..., Any]:
    return lambda *arguments: container()


# What torch does not know: a file's name -> what `torch.load` is given for it.
STAND_INS: dict[str, Any] = {
    **NUMPY,
    # The module was renamed in scikit-learn 0.22, and the old name is gone since 0.24.
    **{f"sklearn.decomposition.{module}.PCA": InertPCA for module in ("pca", "_pca")},
    "collections.defaultdict": _empty(dict),
    "collections.deque": _empty(list),
    "copyreg._reconstructor": rebuild_object,
    "builtins.object": Inert,
    "builtins.frozenset": frozenset,
    "builtins.bytes": no_bytes,
}


class Rehearsal(Unpickler):
    """Reads a pickle of torch.save on stand-ins.

    Attributes:
      storages: key -> what the pickle declares.
      unknown: names of other classes that it mentions, which do not matter.
    """

    most_steps = 2_000_000  # a ResNet-152 with Adam's state takes some 300,000
    key_types = (str, int, bytes, type(None))
    dispatch = Dispatch(
        Unpickler.dispatch | {pickle.BINPERSID[0]: pickle._Unpickler.load_binpersid}  # type: ignore[attr-defined]
    )

    def __init__(self, data: Any, position: int, available: int, *, legacy: bool):
        """Prepares to read the pickle at `position`; `available` bytes are there for storages."""
        super().__init__(data, position)
        self.storages: dict[str, Storage] = {}
        self.unknown: set[str] = set()
        self._views: dict[str, Any] = {}
        self._available, self._legacy = available, legacy
        self.names = {
            **STAND_INS,
            **self.names,
            "collections.Counter": self._counter,
            "torch.Size": _size,
            "torch.device": Inert,
            **{f"torch.{name}": Inert() for name in _DTYPES},
            "torch._utils._rebuild_tensor": _rebuilt,
            "torch._utils._rebuild_tensor_v2": _rebuilt,
            "torch._utils._rebuild_parameter": _parameter,
            "torch.nn.parameter.Parameter": _parameter,  # before 0.4, as the next line
            **{f"torch.{name}Tensor": _empty_tensor for name in ITEM_SIZES},
            **{f"torch.{name}Storage": StorageType(size) for name, size in ITEM_SIZES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; nothing is imported."""
        as_written = f"{module}.{name}"  # which torch looks up for some names of Python 2
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        path = f"{module}.{name}"
        harmless = module.split(".")[0] not in _STRICT or _HARMLESS.fullmatch(path)
        if harmless and path not in self.names:
            self.unknown |= {path, as_written}
            if len(self.unknown) > _MOST_UNKNOWN:
                raise RefusedPickleError("it asks for more classes than any checkpoint")
            return Inert
        if module.startswith("torch") and name in _UNREADABLE:
            raise RefusedPickleError(
                f"it holds {_UNREADABLE[name]}; save dense floating-point tensors instead"
            )
        return super().find_class(module, name)

    def _counter(self, counts: Any = ()) -> dict[Any, Any]:
        if not isinstance(counts, dict | tuple) or (isinstance(counts, tuple) and counts):
            raise RefusedPickleError("it is damaged: a Counter of something other than a dict")
        self._copy(100 * len(counts))
        return dict(counts)

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a tensor names."""
        match pid:
            case ("storage", StorageType() as kind, str(key), str(), int(numel), *view) if (
                len(view) == self._legacy
            ):
                storage = Storage(kind.item_size, numel)
            case ("module", *_):
                raise RefusedPickleError(
                    "it holds a whole pickled network, code included; save its state_dict instead"
                )
            case _:
                raise RefusedPickleError("it is damaged: a storage's description makes no sense")
        if numel < 0 or storage.nbytes > self._available:
            raise RefusedPickleError(
                f"it is truncated or damaged: the storage {shown(key)} claims {shown(numel)} "
                "elements, more than the file has"
            )
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedPickleError(f"it is damaged: two sizes for the storage {shown(key)}")
        match view:
            case [] | [None]:
                return storage
            case [(str(name), int(start), int(size))] if 0 <= start <= start + size <= numel:
                if self._views.setdefault(name, (key, start, size)) == (key, start, size):
                    return Storage(kind.item_size, size)
        raise RefusedPickleError("it is damaged: a storage's view reaches beyond it")

    def load(self) -> Any:
        """Reads one pickle; `source.position` is then where it ends."""
        tree = super().load()
        if self._views.keys() & self.storages.keys():
            raise RefusedPickleError("it is damaged: a storage and a view of another have one name")
        return tree
