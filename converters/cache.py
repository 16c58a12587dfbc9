"""Conversions that are kept, so that a .pt file can be given where a directory is expected."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from dir_jax.description import FORMAT_VERSION
from dir_jax.errors import UserError
from dir_jax.runtime.files import cache_folder

log = logging.getLogger(__name__)

_CONVERTER_VERSION = 3  # to be raised when the same file converts to something else


def cached_conversion(path: str | os.PathLike[str], *, again: bool = False) -> Path:
    """The checkpoint directory that a file of PyTorch converts to; converted at the first call.

    It is kept under the file's content, in `dir_jax/converted` of the user's cache folder; if there
    is none, until the process ends. With `again`, what is kept there is replaced.

    Raises:
      CheckpointFileError: the file cannot be converted.
      UserError: the cache cannot be written.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror or e}") from e
    kept = cache_folder("converted")
    if kept is None:
        kept = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, kept, ignore_errors=True)
    target = kept / f"{digest}-{FORMAT_VERSION}.{_CONVERTER_VERSION}"
    if target.is_dir() and not again:
        return target
    from converters.conversion import convert

    conversion = convert(file)
    log.warning("converted %s, kept in %s", file, target)
    for warning in conversion.warnings:
        log.warning("%s: %s", file, warning)
    try:
        conversion.save(target, overwrite=again)
    except UserError as e:
        if target.is_dir() and not again:  # another process was faster
            return target
        raise UserError(
            f"{e}; set XDG_CACHE_HOME to a folder that can be written, or convert the file by "
            f"python -m converters.from_torch --checkpoint {file} --output DIR"
        ) from e
    return target
