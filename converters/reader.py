"""Reads the files that torch.save writes, without torch and without running anything in them.

`read_file` gives the pickled object: dicts, lists, tuples, sets, strings, bytes, numbers; tensors
as `arrays.Tensor` and NumPy arrays as `arrays.Array`, whose `numpy()` gives the numbers;
scikit-learn's PCA as a `constructors.Record` of its attributes. Time and memory are bounded by the
file's size: nothing is allocated because the file says so.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

from converters.errors import CheckpointFileError
from converters.legacy_layout import load_legacy_layout
from converters.zip_layout import choose_checkpoint, load_zip_layout, read_members, unpack

_ZIP, _PICKLE = b"PK\3\4", b"\x80"
# What people have in hand when a download went wrong, or when it is another kind of file.
_OTHERS = {
    b"<": "a web page; download the file itself",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy array",
}


def read_file(path: str | os.PathLike[str]) -> Any:
    """Reads a file of torch.save, in either layout, or a zip that holds one.

    The arrays are read from the file when `numpy()` is called: do not change it meanwhile.

    Raises:
      CheckpointFileError: the file cannot be read, is no checkpoint, is truncated or damaged, or
        asks for anything that a checkpoint has no business with.
    """
    file = Path(path)
    if file.is_dir():
        raise CheckpointFileError(f"{file} is a folder, not a file that torch.save wrote")
    try:
        if not file.is_file():
            reason = "is not a file" if file.exists() else "does not exist"
            raise CheckpointFileError(f"the checkpoint {file} {reason}")
        with file.open("rb") as stream:
            if not os.fstat(stream.fileno()).st_size:
                raise CheckpointFileError(f"{file} is empty")
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as e:
        raise CheckpointFileError(f"{file} cannot be read: {e.strerror or e}") from e
    try:
        return _read(data)
    except CheckpointFileError as e:
        raise CheckpointFileError(f"{file} cannot be used: {e}") from None


def _read(data: memoryview) -> Any:
    if _starts(data, _ZIP):
        members = read_members(data)
        if any(name.split("/")[-1] == "data.pkl" for name in members):
            return load_zip_layout(members)
        data = unpack(choose_checkpoint(members))
        if _starts(data, _ZIP):
            return load_zip_layout(read_members(data))
    if _starts(data, _PICKLE):
        return load_legacy_layout(data)
    head = bytes(data[:512])
    kind = next((name for start, name in _OTHERS.items() if head.startswith(start)), None)
    if head[257:262] == b"ustar":
        kind = "a tar archive, torch's layout before 2017 or a folder of files; unpack it first"
    raise CheckpointFileError(
        f"it is {kind}" if kind else "it is no file of torch.save (the magic number is not there)"
    )


def _starts(data: memoryview, head: bytes) -> bool:
    return bytes(data[: len(head)]) == head
