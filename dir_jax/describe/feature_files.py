"""Files of descriptors: NumPy's, and HDF5 as hloc reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dir_jax.describe.describer import Descriptors
from dir_jax.errors import UserError
from dir_jax.runtime.files import replacing, write_text

SUFFIXES = (".npy", ".h5")


def output_paths(output: str, has_queries: bool) -> list[str]:
    """The files that `--output` means: one, or the queries' after the database's.

    Raises:
      UserError: a suffix that is neither .npy nor .h5, or a folder's name.
    """
    stem, suffix = os.path.splitext(output)
    suffix = suffix or ".npy"
    if suffix not in SUFFIXES:
        raise UserError(
            f"--output {output} ends in {suffix}; expected .npy, or .h5 for one group an image"
        )
    if os.path.isdir(output):
        raise UserError(f"--output {output} is a folder; expected a file's name")
    kinds = (".dbdescs", ".qdescs") if has_queries else ("",)
    return [f"{stem}{kind}{suffix}" for kind in kinds]


def make_folder(path: str) -> None:
    """Makes the folder of a file, as the original does. Raises UserError if it cannot."""
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the folder {folder}: {e.strerror}") from e
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder {folder} cannot be written to")


def save_descriptors(path: str, descriptors: Descriptors) -> None:
    """Writes descriptors as the file's suffix says, whole or not at all, in blocks of rows.

    `.npy` is (N, D) float32, NaN for images that cannot be used. `.h5` is hloc's layout: one group
    an image name, with `global_descriptor`, (D,) float32; images that cannot be used have none.

    Raises:
      UserError: it cannot be written.
    """
    save = _save_h5 if path.endswith(".h5") else _save_npy
    with replacing(path) as scratch:
        save(scratch, descriptors)
    _save_failures(path, descriptors)


def _save_npy(path: Path, descriptors: Descriptors) -> None:
    file = None
    with tqdm(total=len(descriptors), desc="write", unit="img", leave=False, delay=2) as bar:
        for start, rows in descriptors.blocks():
            if file is None:
                shape = len(descriptors), rows.shape[1]
                file = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            file[start : start + len(rows)] = rows
            bar.update(len(rows))
    if file is not None:
        file.flush()


def _save_h5(path: Path, descriptors: Descriptors) -> None:
    import h5py

    names = descriptors.dataset.names
    with (
        h5py.File(path, "w") as file,
        tqdm(total=len(names), desc="write", unit="img", leave=False, delay=2) as bar,
    ):
        for start, rows in descriptors.blocks():
            for i, row in enumerate(rows, start):
                # A name that is in the list twice is one image.
                if i not in descriptors.failures and names[i] not in file:
                    file.create_group(names[i]).create_dataset("global_descriptor", data=row)
                bar.update()


def _save_failures(path: str, descriptors: Descriptors) -> None:
    """A row for each image that cannot be used, in FILE.failed.txt; none where there are none."""
    file = Path(f"{path}.failed.txt")
    if descriptors.failures:
        write_text(file, failure_rows(descriptors.dataset.names, descriptors.failures))
    else:
        file.unlink(missing_ok=True)


def failure_rows(names: list[str], failures: Mapping[int, str]) -> str:
    """`name<TAB>reason` rows."""
    return "".join(f"{names[i]}\t{' '.join(failures[i].split())}\n" for i in sorted(failures))
