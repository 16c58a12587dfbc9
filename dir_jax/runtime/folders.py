"""Folders written whole: whatever kills a writer, the old folder or the new one is there.

A new folder is filled beside its place, in a hidden scratch folder, and then the two are exchanged:
by one call of the system where it has one, else by two renames. Whoever finds nothing in the place
after a kill between the two looks for the old folder with `left_behind`, and the next writer puts
it back and clears what killed writers left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dir_jax.errors import UserError, shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A path to make a folder at, which becomes `target` at the end, or not at all after an error.

    Raises:
      FileExistsError: `target` exists, and `overwrite` is False.
      OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_behind(target)
    if target.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    with _scratch_folder(target) as scratch:
        new, old = scratch / "new", scratch / "old"
        yield new
        if not (overwrite and target.exists()):
            new.rename(target)
        elif not _exchange(new, target):
            target.rename(old)
            new.rename(target)


def check_replaceable(target: Path, file: str, what: str) -> None:
    """Refuses to replace a folder that is not of the kind that would replace it, such as photos.

    Args:
      target: the folder.
      file: a path in it that every folder of this kind has; an empty folder needs none.
      what: the kind in words, such as `an index`.

    Raises:
      UserError: it is another folder, or a file.
    """
    if target.is_dir() and ((target / file).exists() or not any(target.iterdir())):
        return
    if target.exists():
        raise UserError(f"{shown(target)} is not {what}; --overwrite replaces nothing else")


def left_behind(target: Path) -> Path | None:
    """The folder that `target` was until a writer was killed while replacing it, if that is so."""
    old = (scratch / "old" for scratch in _scratch_folders(target))
    return None if target.exists() else next((folder for folder in old if folder.is_dir()), None)


def _scratch_folders(target: Path) -> Iterator[Path]:
    prefix = f".{target.name}."
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(target.parent)):
            if entry.startswith(prefix) and entry.endswith(".writing"):
                yield target.parent / entry


@contextlib.contextmanager
def _scratch_folder(target: Path) -> Iterator[Path]:
    """A hidden folder, locked while its writer lives and gone after it."""
    while True:
        scratch = Path(tempfile.mkdtemp(".writing", f".{target.name}.", target.parent))
        lock = _lock(scratch)
        try:
            if scratch.exists():  # otherwise another writer took it for one that was left behind
                yield scratch
                return
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def _lock(folder: Path, how: int = 0) -> int | None:
    """Locks a folder until the descriptor is closed or the process dies; None if it cannot."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        return descriptor
    except OSError:  # it is locked or gone, or its file system has no locks
        if descriptor is not None:
            os.close(descriptor)
        return None


def _clear_left_behind(target: Path) -> None:
    for scratch in _scratch_folders(target):
        lock = _lock(scratch, fcntl.LOCK_NB) if fcntl else None
        if lock is not None:
            if (scratch / "old").is_dir() and not target.exists():
                (scratch / "old").rename(target)
            shutil.rmtree(scratch, ignore_errors=True)
            os.close(lock)


def _exchange(a: Path, b: Path) -> bool:
    """Exchanges two folders in one step; False where the system cannot."""
    if sys.platform not in ("linux", "darwin"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(a), os.fsencode(b)
    at_cwd, exchange = -100, 2  # AT_FDCWD; RENAME_EXCHANGE of Linux is RENAME_SWAP of macOS
    if hasattr(library, "renameat2"):
        failed = library.renameat2(at_cwd, names[0], at_cwd, names[1], exchange)
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, exchange)
    else:
        return False
    if failed and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(b))
    return not failed
