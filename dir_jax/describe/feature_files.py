"""Files of descriptors, written and read: NumPy's, and HDF5 as hloc reads it.

NAME.npy
    (N, D) float32, a row for each image in the list's order; NaN for an image that cannot be used.
NAME.h5
    A group for each image, under its name in the list, with `global_descriptor`, (D,) float32. An
    image that cannot be used has none.
NAME.npy.failed.txt, NAME.h5.failed.txt
    `name<TAB>reason` rows, for images that cannot be used; no file where all can be.

`extract_features` writes one file, or NAME.dbdescs and NAME.qdescs for a data set with queries of
its own. `test_dir` keeps descriptors before whitening in STEM.bdescs.npy and STEM.qdescs.npy.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dir_jax.errors import UserError, quoted, shown
from dir_jax.retrieval.blockwise import finite_rows
from dir_jax.runtime.files import check_inside, open_regular, replacing, write_text
from dir_jax.runtime.progress import progress_bar
from dir_jax.runtime.reading import read_rows

if TYPE_CHECKING:
    from dir_jax.describe.describer import Descriptors
    from dir_jax.describe.kapture_features import GlobalFeatures


def extracted_paths(output: str, has_queries: bool) -> list[str]:
    """The files that `extract_features --output` writes: the database's, then the queries'.

    `output` is the value of the flag; without a suffix, .npy is meant.

    Raises:
      UserError: the suffix is neither .npy nor .h5, or `output` is a folder.
    """
    stem, suffix = os.path.splitext(output)
    suffix = suffix or ".npy"
    if suffix not in (".npy", ".h5"):
        raise UserError(
            f"--output {output} ends in {suffix}; expected .npy, or .h5 for one group per image"
        )
    if os.path.isdir(output):
        raise UserError(f"--output {output} is a folder; expected the name of a file")
    kinds = (".dbdescs", ".qdescs") if has_queries else ("",)
    return [f"{stem}{kind}{suffix}" for kind in kinds]


def saved_paths(stem: str, has_queries: bool) -> list[str]:
    """The files that `test_dir --save-feats STEM` writes: the database's, then the queries'."""
    kinds = ("bdescs", "qdescs") if has_queries else ("bdescs",)
    return [f"{stem}.{kind}.npy" for kind in kinds]


def check_groups(path: str, names: Sequence[str]) -> None:
    """Checks, before anything is described, that images' names can be those of groups.

    Raises:
      UserError: `path` is a .h5 file, and a name is absolute, leads outside, or is not text.
    """
    for name in names if path.endswith(".h5") else ():
        try:
            check_inside(path, name)
            if "global_descriptor" in name.split("/") or not name.strip("./"):
                raise UserError(f"{quoted(name)} is not the name of a group")
        except UserError as e:
            raise UserError(
                f"--output {shown(path)}: {e}; give the list a root to which its images' paths are "
                "relative, or write a .npy file"
            ) from e


def make_folder(path: str) -> None:
    """Makes the folder of a file. Raises UserError where it cannot be made or written to."""
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the folder {folder}: {e.strerror}") from e
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder {folder} cannot be written to")


def save_descriptors(path: str, descriptors: Descriptors) -> None:
    """Writes descriptors as the file's suffix says, whole or not at all, in blocks of rows.

    Raises:
      UserError: the file cannot be written.
    """
    save = _save_h5 if path.endswith(".h5") else _save_npy
    with replacing(path) as scratch:
        save(scratch, descriptors)
    failed, failures = Path(f"{path}.failed.txt"), descriptors.failures
    names = descriptors.dataset.names
    if failures:
        rows = (f"{names[i]}\t{' '.join(failures[i].split())}\n" for i in sorted(failures))
        write_text(failed, "".join(rows))
    else:
        failed.unlink(missing_ok=True)


def save_kapture(features: GlobalFeatures, descriptors: Descriptors, length: int) -> None:
    """Adds descriptors, of `length` values each, to those of one type in a kapture dataset.

    Raises:
      UserError: a file cannot be written.
    """
    with features.writing(length) as write:
        for start, rows in _blocks(descriptors):
            for i, row in enumerate(rows, start):
                if i not in descriptors.failures:
                    write(descriptors.dataset.names[i], row)


def load_descriptors(
    path: str, names: Sequence[str], width: int | None = None, *, skip_failures: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads the descriptors of a list of images from a .npy file.

    Args:
      path: the file, which may have PATH.failed.txt beside it.
      names: the list's names of its N images.
      width: how long each descriptor should be, D; any length by default.
      skip_failures: leaves out rows that are not finite, instead of raising.

    Returns:
      descriptors: (N, D) float32; NaN for images that have none.
      failures: image number -> why there is no descriptor.

    Raises:
      UserError: there is no such file, it is damaged, or holds something else; or a row is not
        finite, and PATH.failed.txt does not say that this image was left out.
    """
    found = _read_npy(path, (len(names), width))
    bad = np.flatnonzero(~finite_rows(found)).tolist()
    if not bad:
        return found, {}
    found[bad] = np.nan
    reasons = _read_failures(f"{path}.failed.txt")
    unknown = [i for i in bad if names[i] not in reasons]
    if unknown and not skip_failures:
        first = ", ".join(f"{i} ({quoted(names[i])})" for i in unknown[:3])
        raise UserError(
            f"{shown(path)}: {len(unknown)} of {len(found)} rows are not finite, and its "
            f".failed.txt does not list their images, the first: {first}; describe the images "
            "again, or leave these out by --on-error skip"
        )
    missing = f"its row in {shown(path)} is not finite"
    return found, {i: reasons.get(names[i], f"{shown(names[i])}: {missing}") for i in bad}


def _read_npy(path: str, expected: tuple[int, int | None]) -> np.ndarray:
    rows, width = expected
    try:
        with open_regular(path) as file:
            shape, fortran_order, dtype = _read_header(file)
            good = len(shape) == 2 and shape[0] == rows and width in (None, shape[1])
            if not good or dtype.kind != "f":
                long = f"described by {width} dimensions" if width else "each with its descriptor"
                raise UserError(
                    f"{shown(path)} holds {dtype} of shape {shown(shape)}; expected floats of "
                    f"shape ({rows}, {width or 'any'}): {rows} images, {long}"
                )
            size, there = dtype.itemsize * math.prod(shape), os.fstat(file.fileno()).st_size
            if file.tell() + size > there:  # before anything is allocated
                raise UserError(f"{shown(path)} is cut off: it should have {size} bytes of numbers")
            values = np.fromfile(file, dtype, math.prod(shape))
    except FileNotFoundError as e:
        raise UserError(f"there is no file {shown(path)}") from e
    except OSError as e:
        raise UserError(f"{shown(path)} cannot be read: {e.strerror or e}") from e
    except ValueError as e:
        raise UserError(f"{shown(path)} is not an array that NumPy can read: {e}") from e
    with np.errstate(over="ignore"):  # is infinity, which is refused
        return values.reshape(shape, order="F" if fortran_order else "C").astype(np.float32)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Raises ValueError if it is not the header of a .npy file."""
    magic = file.read(4)
    if magic == b"PK\3\4":
        raise ValueError("it is an archive, such as .npz, of several arrays")
    file.seek(0)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
        (3, 0): np.lib.format.read_array_header_2_0,  # differs only where fields have names
    }
    try:
        with warnings.catch_warnings(action="ignore"):
            return read[np.lib.format.read_magic(file)](file)
    except Exception as e:  # NumPy parses the header as Python, which fails in many ways
        raise ValueError(shown(str(e).split("\n")[0] or type(e).__name__)) from e


def _read_failures(path: str) -> dict[str, str]:
    """Name -> reason of the images that a NAME.failed.txt lists."""
    if not os.path.lexists(path):
        return {}
    rows = (row for _, row in read_rows(path) if row)
    return {name: reason for name, _, reason in (row.rpartition("\t") for row in rows)}


def _save_npy(path: Path, descriptors: Descriptors) -> None:
    with open(path, "wb") as file:
        for start, rows in _blocks(descriptors):
            if start == 0:
                shape = len(descriptors), rows.shape[1]
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(rows.astype("<f4").tobytes())


def _save_h5(path: Path, descriptors: Descriptors) -> None:
    import h5py

    names = descriptors.dataset.names
    with h5py.File(path, "w") as file:
        for start, rows in _blocks(descriptors):
            for i, row in enumerate(rows, start):
                # A name that is in the list twice is one image.
                if i not in descriptors.failures and names[i] not in file:
                    file.create_group(names[i]).create_dataset("global_descriptor", data=row)


def _blocks(descriptors: Descriptors) -> Iterator[tuple[int, np.ndarray]]:
    """The descriptors' blocks of rows, with a progress bar where writing them takes long."""
    with progress_bar("write", len(descriptors), "img", shown=True, delay=2) as bar:
        for start, rows in descriptors.blocks():
            yield start, rows
            bar.update(len(rows))
