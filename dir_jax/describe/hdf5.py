"""Descriptors in an HDF5 file as hloc reads it: a group for each image, named like the image."""

from __future__ import annotations

import io
import os
import posixpath
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import check_inside, open_regular

_DATASET = "global_descriptor"


def check_group_names(path: str, names: Iterable[str]) -> None:
    """Raises UserError where a name of an image cannot be that of a group in the file `path`."""
    for name in names:
        check_inside(path, name)
        if _DATASET in name.split("/") or posixpath.normpath(name) == ".":
            raise UserError(f"{quoted(name)} cannot be the name of a group in {path}")


def check_can_be_added(path: str, names: Sequence[str], width: int, *, again: bool) -> None:
    """Checks that descriptors of `width` values can be added to a file.

    With `again`, an earlier run may have added them; `write_groups` compares what is there then.

    Raises:
      UserError: the file is not HDF5, has descriptors of another length, or one of a name.
    """
    import h5py

    try:
        with open_regular(path) as stream, h5py.File(stream, "r") as file:
            found = file.visititems(lambda name, item: getattr(item, "shape", None))
            there = [] if again else [name for name in names if name in file]
    except FileNotFoundError:
        return
    except Exception as e:  # HDF5 fails in many ways on damaged files
        raise UserError(f"{path} cannot be added to: {_first_line(e)}") from e
    if found not in (None, (width,)):
        raise UserError(f"{path} has descriptors of the shape {found}; these are of ({width},)")
    if there:
        raise UserError(
            f"{path} already has {len(there)} of these images, such as {shown(there[0])}; leave "
            "them out of the list, or write another file"
        )


def write_groups(
    path: os.PathLike[str], described: Iterable[tuple[str, np.ndarray]], old: str | None = None
) -> None:
    """Writes groups, in order, into a new file, or into a copy of the file `old`.

    A name that comes twice is one image: the first counts.

    Raises:
      OSError: the file cannot be written, as when the disk is full.
      UserError: the old file has another descriptor of a name; or HDF5 cannot write one.
    """
    import h5py

    if old is not None:
        shutil.copyfile(old, path)
    raw = _Unfailing(path, "w+" if old is None else "r+")
    try:
        with h5py.File(raw, "w" if old is None else "r+") as file:
            new: set[str] = set()
            for name, row in described:
                if name not in file:
                    file.create_group(name).create_dataset(_DATASET, data=row)
                    new.add(name)
                elif name not in new and not np.array_equal(file[name][_DATASET][()], row):
                    raise UserError(f"{old} already has another descriptor of {shown(name)}")
                if raw.error is not None:
                    break
    except UserError:
        raise
    except Exception as e:
        raise raw.error or UserError(f"cannot write {path}: {_first_line(e)}") from e
    finally:
        raw.close()
    if raw.error is not None:
        raise raw.error


class _Unfailing(io.FileIO):
    """A file for HDF5, which crashes the process where its own writes fail, as on a full disk.

    Attributes:
      error: the first failure; nothing is written after it.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        total = len(left)
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as e:
            self.error = e
        return total

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as e:
            self.error = e
            return size or 0


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
