"""Files of descriptors, written and read: NumPy's, and HDF5 as hloc reads it.

NAME.npy
    (N, D) float32, a row for each image in the list's order; NaN for an image that cannot be used.
NAME.h5
    A group for each image, under its name in the list, with `global_descriptor`, (D,) float32. An
    image that cannot be used has none.
NAME.npy.failed.txt, NAME.h5.failed.txt
    `name<TAB>reason` rows, for images that cannot be used; no file where all can be.

`extract_features` writes one file, or NAME.dbdescs and NAME.qdescs for a data set with queries of
its own. `test_dir` keeps descriptors before whitening in STEM.bdescs.npy, STEM.qdescs.npy and, of
distractors, STEM.ddescs.npy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dir_jax.describe.hdf5 import check_group_names, write_groups
from dir_jax.describe.npy import npy_header
from dir_jax.errors import UserError, shown
from dir_jax.retrieval.blockwise import finite_rows
from dir_jax.runtime.files import check_name, open_regular, replacing, write_text
from dir_jax.runtime.progress import progress_bar
from dir_jax.runtime.reading import read_rows, read_text

if TYPE_CHECKING:
    from dir_jax.describe.descriptors import Descriptors
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


def saved_paths(stem: str, has_queries: bool, has_distractors: bool = False) -> list[str]:
    """The files that `test_dir --save-feats` writes: database's, queries', distractors'."""
    kinds = ["bdescs"] + ["qdescs"] * has_queries + ["ddescs"] * has_distractors
    return [f"{stem}.{kind}.npy" for kind in kinds]


def wrote(path: str, descriptors: Descriptors) -> str:
    """What to say once descriptors are in a file."""
    failed = len(descriptors.failures)
    without = f", {failed} of them without: see {path}.failed.txt" if failed else ""
    return f"wrote {path}: {len(descriptors)} images{without}"


def make_folder(path: str) -> None:
    """Makes the folder of a file. Raises UserError where the file could not be written to it."""
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; give the name of a file, such as one in it")
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make the folder {folder}: {e.strerror}") from e
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder {folder} cannot be written to")


def check_output(
    path: str, names: Sequence[str], *, overwrite: bool, append: bool, resumes: bool
) -> None:
    """Checks, before images of these names are described, that they can be written to a file.

    `overwrite` replaces what is there, and `append` adds to it; `resumes` is whether an earlier run
    was stopped, which may have written this file already.

    Raises:
      UserError: they cannot.
    """
    for name in names:
        check_name(name)
    hdf5 = path.endswith(".h5")
    if hdf5:
        check_group_names(path, names)
    elif append:
        raise UserError(f"--append adds to a .h5 file; {path} is another kind of file")
    if os.path.exists(path) and not (overwrite or append or resumes):
        add = ", --append adds to it" * hdf5
        raise UserError(f"{path} exists already; --overwrite replaces it{add}")


def save_descriptors(path: str, descriptors: Descriptors, *, append: bool = False) -> None:
    """Writes descriptors as the file's suffix says, whole or not at all, in blocks of rows.

    With `append`, an .h5 file keeps what it has.

    Raises:
      UserError: the file cannot be written.
    """
    names, failures = descriptors.dataset.names, descriptors.failures
    with replacing(path) as scratch:
        if path.endswith(".h5"):
            good = (
                (names[i], row)
                for start, rows in _blocks(descriptors)
                for i, row in enumerate(rows, start)
                if i not in failures
            )
            write_groups(scratch, good, path if append and os.path.exists(path) else None)
        else:
            _save_npy(scratch, descriptors)
    failed = Path(f"{path}.failed.txt")
    kept = read_text(failed).splitlines() if append and failed.exists() else []
    known = set(names)
    lines = [line for line in kept if line.split("\t")[0] not in known]
    lines += failed_rows(names, failures)
    if lines:
        write_text(failed, "".join(f"{line}\n" for line in lines))
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
    path: str, names: Sequence[str], *, skip_failures: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads the descriptors of a list of images from a .npy file.

    Args:
      path: the file, which may have PATH.failed.txt beside it.
      names: what the list calls its N images.
      skip_failures: leaves out rows that are not finite, instead of raising.

    Returns:
      descriptors: (N, D) float32; NaN for images that have none.
      failures: image number -> why there is none.

    Raises:
      UserError: there is no such file, it is damaged, or holds something else; or a row is not
        finite, and PATH.failed.txt does not say that its image could not be described.
    """
    with _opened(path) as file:
        found = _read_npy(path, file, len(names))
    bad = np.flatnonzero(~finite_rows(found)).tolist()
    found[bad] = np.nan
    failed = Path(f"{path}.failed.txt")
    reasons = read_failed(failed) if bad and failed.exists() else {}
    known = {i: reasons[names[i]] for i in bad if names[i] in reasons}
    return found, reasons_of_failures(path, bad, names, known, skip_failures=skip_failures)


def reasons_of_failures(
    path: str,
    bad: Sequence[int],
    names: Sequence[str],
    known: Mapping[int, str],
    *,
    skip_failures: bool,
) -> dict[int, str]:
    """Row -> why it is not finite, of the rows `bad` of PATH; `known` is what is known of some.

    Raises:
      UserError: of others it is not known, and they are not to be skipped.
    """
    unknown = [i for i in bad if i not in known]
    if unknown and not skip_failures:
        which = ", ".join(f"{i} ({shown(names[i])})" for i in unknown[:3])
        which += ", …" * (len(unknown) > 3)
        failed = f"{Path(path).name}.failed.txt does not list"
        if os.path.isdir(path):
            failed = "no .failed.txt in it lists"
        raise UserError(
            f"{len(unknown)} of {len(names)} descriptors in {path} are not finite, and {failed} "
            f"their images: rows {which}; --on-error skip leaves these images out"
        )
    return {i: known.get(i, f"{shown(names[i])}: its row in {path} is not finite") for i in bad}


def failed_rows(names: Sequence[str], failures: Mapping[int, str]) -> list[str]:
    """The rows of a NAME.failed.txt."""
    return [f"{names[i]}\t{' '.join(failures[i].split())}" for i in sorted(failures)]


def read_failed(file: Path) -> dict[str, str]:
    """Name -> reason of the images that a NAME.failed.txt lists."""
    rows = (row.rpartition("\t") for _, row in read_rows(file) if row)
    return {name: reason for name, _, reason in rows}


def open_npy(path: str) -> tuple[tuple[int, int], tuple[Any, ...]]:
    """The shape, (N, D), of the array in a .npy file, and what `numpy.memmap` needs to map it.

    Raises:
      UserError: there is no such file, it is damaged, or holds something else.
    """
    with _opened(path) as file:
        shape, by_columns, dtype = _read_layout(path, file)
        return shape, (dtype, "r", file.tell(), shape, "F" if by_columns else "C")


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError as e:
        raise UserError(f"there is no file {path}") from e
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}") from e


def _read_npy(path: str, file: BinaryIO, rows: int) -> np.ndarray:
    shape, by_columns, dtype = _read_layout(path, file, rows)
    numbers = np.fromfile(file, dtype).reshape(shape, order="F" if by_columns else "C")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return np.ascontiguousarray(numbers, np.float32)


def _read_layout(
    path: str, file: BinaryIO, rows: int | None = None
) -> tuple[tuple[int, int], bool, np.dtype[Any]]:
    """The shape, whether it lies by columns, and the type of the array that follows in a file."""
    start = file.read(8)
    if start[:2] == b"PK":
        raise UserError(f"{path} is not a .npy file, but an archive of several")
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\1\0", b"\2\0"):
        raise UserError(f"{path} is not an array as numpy.save writes it")
    try:
        shape, by_columns, dtype = readers[start[6]](file)
    except Exception as e:  # Python's parser reads it, and fails in many ways
        raise UserError(f"{path} is damaged: its header cannot be read") from e
    fits = len(shape) == 2 and shape[0] == (rows or shape[0]) and shape[0] > 0
    if dtype.kind != "f" or not fits or not shape[1]:
        wanted = "(N, D), a row for each image" if rows is None else (
            f"({rows}, D), a row for each of {rows} images"
        )  # fmt: skip
        raise UserError(
            f"{path} holds {shown(dtype)} of shape {shown(shape)}; expected floats of shape "
            f"{wanted}"
        )
    size = os.fstat(file.fileno()).st_size - file.tell()
    if not 0 < shape[1] <= size or size != shape[0] * shape[1] * dtype.itemsize:
        raise UserError(f"{path} is damaged: {shown(shape)} {dtype} are not {size} bytes")
    return (shape[0], shape[1]), by_columns, dtype


def _save_npy(path: Path, descriptors: Descriptors) -> None:
    with open(path, "wb") as file:
        for start, rows in _blocks(descriptors):
            if start == 0:
                file.write(npy_header(len(descriptors), rows.shape[1]))
            file.write(rows.astype("<f4").tobytes())


def _blocks(descriptors: Descriptors) -> Iterator[tuple[int, np.ndarray]]:
    """The descriptors' blocks of rows, with a progress bar where writing them takes long."""
    with progress_bar("write", len(descriptors), "img", shown=True, delay=2) as bar:
        for start, rows in descriptors.blocks():
            yield start, rows
            bar.update(len(rows))
