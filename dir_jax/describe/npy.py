"""NumPy's files of float32 rows, written in place and mapped into memory."""

from __future__ import annotations

import io
import os

import numpy as np

from dir_jax.errors import UserError
from dir_jax.runtime.files import open_regular


def npy_header(rows: int, width: int) -> bytes:
    """What a .npy file of (rows, width) float32 begins with."""
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def map_npy(path: str, shape: tuple[int, int]) -> np.ndarray:
    """A memory map of a .npy file that `npy_header` begins.

    Raises:
      UserError: there is no such file, or it is not an array of this shape.
    """
    header = npy_header(*shape)
    size = len(header) + shape[0] * shape[1] * 4
    try:
        with open_regular(path) as file:
            if file.read(len(header)) != header or os.fstat(file.fileno()).st_size != size:
                raise UserError(f"{path} is damaged: it is not float32 of shape {shape}")
            return np.memmap(file, np.float32, "r", len(header), shape)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}") from e
