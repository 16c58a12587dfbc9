"""Reads files of torch.save and safetensors, without running anything in them.

PyTorch's files are read by `torch.load(weights_only=True)`, after a rehearsal has shown that they
ask for no more than they hold (see `converters.torch_pickles`); safetensors by its own library.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from converters.file_errors import CheckpointFileError
from converters.torch_pickles import STAND_INS, Rehearsal
from converters.zip_files import check_stored, open_zip, unpacked_checkpoint
from dir_jax.data.pickles import resolve
from dir_jax.data.stand_ins import Inert, RefusedPickleError
from dir_jax.errors import shown

# Where training scripts keep the weights, and what else of a file is read.
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
PARTS = ("model_options", "preprocess", "pca", "meta", "dir_jax", "safetensors")
_ZIP, _PICKLE = b"PK\3\4", b"\x80"
_MAGIC_NUMBER, _PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch's layout before 1.6
_LARGEST_FILE = 16 << 30  # bytes; a ResNet-152 with Adam's state takes 0.7 GB
_COUNT_BYTES = 8  # of the number of elements before each storage in that layout
_LONGEST_HEADER = 8 << 20  # bytes of JSON in a safetensors file; a ResNet-152's has 0.1 MB
_SAFETENSORS_TYPES = {
    "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64,
    "U8": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
    "BOOL": np.bool_,
}  # fmt: skip
# What people have at hand when a download went wrong, or when it is another kind of file.
_OTHERS = {
    b"<": "a web page; download the file itself",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy array",
}


def read_file(path: str | os.PathLike[str]) -> Any:
    """Reads a file of torch.save in either layout, a safetensors file, or a zip that holds one.

    Returns:
      What was saved: dicts, lists, text and numbers; tensors and arrays as NumPy arrays, which may
      be read-only or strided; scikit-learn's PCA as `torch_pickles.InertPCA`, and any other object
      as an inert stand-in. For safetensors, a dict with `state_dict` and the metadata.

    Raises:
      CheckpointFileError: the file cannot be read, is not a checkpoint, is truncated or damaged, or
        asks for anything that a checkpoint has no need for; or it is PyTorch's, and PyTorch is not
        installed.
    """
    file = Path(path)
    if file.is_dir():
        raise CheckpointFileError(f"{file} is a folder, not a file that torch.save wrote")
    if not file.is_file():
        reason = "is not a file" if file.exists() else "does not exist"
        raise CheckpointFileError(f"the checkpoint {file} {reason}")
    try:
        if not 0 < (size := file.stat().st_size) <= _LARGEST_FILE:
            what = f"has {size >> 30} GB, more than any checkpoint" if size else "is empty"
            raise CheckpointFileError(f"{file} {what}")
        with file.open("rb") as stream:
            return _read(stream, file)
    except OSError as e:
        raise CheckpointFileError(f"{file} cannot be read: {e.strerror or e}") from e
    except (CheckpointFileError, RefusedPickleError) as e:
        raise CheckpointFileError(f"{file} cannot be used: {e}") from None


def _read(stream: BinaryIO, name: Path, *, in_zip: bool = False) -> Any:
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        if data[:4] == _ZIP:
            archive = stack.enter_context(open_zip(stream))
            if in_zip or any(path.split("/")[-1] == "data.pkl" for path in archive.namelist()):
                return _load(stream, _rehearse_zip(archive, data))
            inner = stack.enter_context(unpacked_checkpoint(archive, len(data)))
            return _read(inner, name, in_zip=True)
        if data[:1] == _PICKLE:
            return _load(stream, _rehearse_legacy(data))
        if data[8:9] == b"{" or name.suffix == ".safetensors":
            return _read_safetensors(data)
        head = data[:512]
    kind = next((name for start, name in _OTHERS.items() if head.startswith(start)), None)
    if head[257:262] == b"ustar":
        kind = "a tar archive, torch's layout before 2017 or a folder of files; unpack it first"
    raise CheckpointFileError(
        f"it is {kind}"
        if kind
        else "it is not a file that torch.save writes (its magic number is missing)"
    )


def _load(stream: BinaryIO, unknown: set[str]) -> Any:
    """Lets torch read a file whose pickle was rehearsed; `unknown` are names of no importance."""
    try:
        import torch
    except ImportError as e:
        raise CheckpointFileError(
            f"reading a file of PyTorch needs PyTorch, which cannot be imported ({e}); "
            "pip install 'dir_jax[torch]'"
        ) from e

    def to_numpy(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        leaf = leaf.detach()
        if leaf.dtype == torch.bfloat16:
            return leaf.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return leaf.numpy()

    stand_ins = STAND_INS | dict.fromkeys(unknown, Inert)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.serialization.safe_globals([(x, name) for name, x in stand_ins.items()]):
            stream.seek(0)
            try:
                tree = torch.load(stream, map_location="cpu", weights_only=True, encoding="latin1")
            except Exception as e:
                # torch's own first line tells people to switch its protection off.
                reason = re.search(r"WeightsUnpickler error:\s*([^\n]+)", str(e))
                what = reason[1] if reason else str(e).partition("\n")[0]
                if what.startswith("Unsupported operand"):
                    what = "only protocol 2 is; save the file again without pickle_protocol"
                raise CheckpointFileError(f"torch does not read its pickle: {shown(what)}") from e
    if not isinstance(tree, dict) or not any(isinstance(tree.get(x), dict) for x in CONTAINERS):
        return resolve(tree, to_numpy)
    for key, value in tree.items():
        try:
            tree[key] = resolve(value, to_numpy)
        except RefusedPickleError:
            if key in (*CONTAINERS, *PARTS):
                raise
            tree[key] = Inert()  # an array of dates or records, beside the weights
    return tree


def _rehearse_legacy(data: mmap.mmap) -> set[str]:
    """Checks torch's layout before 1.6: five pickles, then the storages one by one."""
    rehearsal = Rehearsal(data, 0, len(data), legacy=True)
    if rehearsal.load() != _MAGIC_NUMBER:
        raise CheckpointFileError(
            "it is a pickle, but not one of torch.save: the magic number is not there"
        )
    if rehearsal.load() != _PROTOCOL_VERSION:
        raise CheckpointFileError(f"it is not of torch's protocol {_PROTOCOL_VERSION}")
    rehearsal.load()  # the system that it was written on
    rehearsal.load()
    keys = rehearsal.load()
    storages, position = rehearsal.storages, rehearsal.source.position
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)) or sorted(
        keys
    ) != sorted(storages):
        raise CheckpointFileError("it is damaged: its list of storages is not that of its tensors")
    for i, key in enumerate(keys, start=1):
        count = int.from_bytes(data[position : position + _COUNT_BYTES], "little", signed=True)
        position += _COUNT_BYTES + storages[key].nbytes
        if position > len(data):
            raise CheckpointFileError(
                f"it is truncated: it ends in storage {i} of {len(keys)}; download it again"
            )
        if count != storages[key].numel:
            raise CheckpointFileError(
                f"it is damaged: storage {i} of {len(keys)} has {count} elements, not "
                f"{storages[key].numel}"
            )
    return rehearsal.unknown


def _rehearse_zip(archive: zipfile.ZipFile, data: mmap.mmap) -> set[str]:
    """Checks torch's layout since 1.6: a folder of `data.pkl`, and `data/KEY` for each storage."""
    names = set(archive.namelist())
    pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise CheckpointFileError(f"it is damaged: it has {len(pickles)} data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names or any(name.startswith(f"{root}code/") for name in names):
        raise CheckpointFileError(
            "it is a TorchScript program; save the network's state_dict instead"
        )
    check_stored(archive, data)
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") not in (b"little", b"big"):
        raise CheckpointFileError("it is damaged: its byte order makes no sense")
    rehearsal = Rehearsal(archive.read(pickles[0]), 0, len(data), legacy=False)
    rehearsal.load()
    for key, storage in rehearsal.storages.items():
        if (name := f"{root}data/{key}") not in names:
            raise CheckpointFileError(f"it is damaged: the storage {shown(key)} is missing")
        if (size := archive.getinfo(name).file_size) != storage.nbytes:
            raise CheckpointFileError(
                f"it is damaged: the storage {shown(key)} has {size} bytes, not {storage.nbytes}"
            )
    return rehearsal.unknown


def _read_safetensors(data: mmap.mmap) -> dict[str, Any]:
    from safetensors import SafetensorError, deserialize

    header = int.from_bytes(data[:8], "little")
    if header > min(_LONGEST_HEADER, len(data) - 8):
        raise CheckpointFileError("it is a damaged or truncated safetensors file: its header")
    try:
        described = json.loads(data[8 : 8 + header])
        metadata = described.pop("__metadata__", None) or {}
        end = max((tensor["data_offsets"][1] for tensor in described.values()), default=0)
        if end != len(data) - 8 - header:  # the library copies the whole file before it looks
            raise ValueError("the last tensor does not end where the file ends")
        content = deserialize(data[:])
    except (SafetensorError, ValueError, RecursionError, AttributeError, LookupError,
            TypeError) as e:  # fmt: skip
        raise CheckpointFileError(f"it is a damaged safetensors file: {shown(e)}") from None
    tensors = {}
    for name, tensor in content:
        if tensor["dtype"] not in _SAFETENSORS_TYPES:
            raise CheckpointFileError(
                f"{shown(name)} is of type {tensor['dtype']}; expected floating point"
            )
        kind = np.dtype(_SAFETENSORS_TYPES[tensor["dtype"]])
        tensors[name] = np.frombuffer(tensor["data"], kind).reshape(tensor["shape"])
    return {"state_dict": tensors, "safetensors": metadata}
