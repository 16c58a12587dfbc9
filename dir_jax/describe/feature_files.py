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

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dir_jax.errors import UserError
from dir_jax.runtime.files import replacing, write_text
from dir_jax.runtime.progress import progress_bar

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
    """The files that `test_dir --save-feats` writes: the database's, then the queries'."""
    kinds = ("bdescs", "qdescs") if has_queries else ("bdescs",)
    return [f"{stem}.{kind}.npy" for kind in kinds]


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


def load_descriptors(path: str, rows: int) -> np.ndarray:
    """Reads the descriptors of a .npy file.

    Args:
      path: the file.
      rows: how many images the descriptors are to be of, N.

    Returns:
      (N, D) float32.

    Raises:
      UserError: there is no such file, it is damaged, or holds something else.
    """
    try:
        # Mapped, so that a header that declares more than the file holds allocates nothing.
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as e:
        raise UserError(f"there is no file {path}") from e
    except (OSError, ValueError, EOFError) as e:
        raise UserError(f"{path} is not an array that NumPy can read: {e}") from e
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path} is not a .npy file, but an archive of several")
    if found.ndim != 2 or len(found) != rows or not found.size or found.dtype.kind != "f":
        raise UserError(
            f"{path} holds {found.dtype} of shape {found.shape}; expected floats of shape "
            f"({rows}, D), a row for each of {rows} images"
        )
    return np.array(found, np.float32)


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
