"""Files on disk: written whole or not at all, locked, and the folder of caches."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import filelock

from dir_jax.errors import UserError, quoted

log = logging.getLogger(__name__)

_LEADS_OUT = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.($|[/\\])")
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_PART = 4096, 255  # bytes; a part is what stands between two slashes
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class BusyError(UserError):
    """Another process holds a lock."""


def inside(folder: str | os.PathLike[str], name: str) -> Path:
    """The path of a name from somebody else's file, such as `paris/1.jpg`, inside a folder.

    Only the name is checked: links on the disk are the user's own. A backslash separates folders
    as a slash does, on every system.

    Raises:
      UserError: `check_name` refuses the name, or it is absolute, starts with a drive, or contains
        `..`.
    """
    check_inside(folder, name)
    return Path(folder, name)


def check_inside(folder: str | os.PathLike[str], name: str) -> None:
    """Checks what `inside` checks; faster, for long lists."""
    check_name(name)
    if (".." in name or name[0] in "/\\" or name[1:2] == ":") and _LEADS_OUT.search(name):
        expected = "expected a relative path without '..'"
        raise UserError(f"{quoted(name)} is not a name inside {folder}: {expected}")


def check_name(name: str) -> None:
    """Checks that a name, which may be a path, from somebody else's file is one.

    Raises:
      UserError: the name is empty or too long, or contains control characters or lone surrogates.
    """
    if 0 < len(name) <= _LONGEST_PART / 4 and name.isprintable():  # quick, for long lists
        return
    if not name:
        raise UserError("'' is not a name: it is empty")
    if _NOT_TEXT.search(name):
        raise UserError(f"{quoted(name)} is not a name: it has control characters or surrogates")
    longest = max(len(part.encode()) for part in re.split(r"[/\\]", name))
    if longest > _LONGEST_PART or len(name.encode()) > _LONGEST_NAME:
        raise UserError(f"{quoted(name)} is too long for a name")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file for reading bytes. A pipe or a device would never end, or never begin.

    Raises:
      OSError: the file does not exist, cannot be read, or is not a regular file.
    """

    def regular(path: str, flags: int) -> int:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise OSError("it is a folder, a pipe or a device, not a regular file")

    return open(path, "rb", opener=regular)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` at the end, or not at all after an error.

    Raises:
      UserError: the file cannot be written.
    """
    target = Path(path)
    scratch = target.with_name(f".{os.getpid()}.{target.name}")  # keeps the suffix
    try:
        yield scratch
        os.replace(scratch, target)
    except OSError as e:
        raise UserError(f"cannot write {target}: {e.strerror or e}") from e
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replaces a file's text at once; see `replacing`."""
    with replacing(path) as scratch:
        scratch.write_text(text)


def cache_folder(name: str, given: str | None = None) -> Path | None:
    """The folder `given`, or else `dir_jax/NAME` in the user's cache folder, made if need be.

    Where there is no home, or the folder cannot be written, a warning says so, and it is None.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(given) if given else Path(home) / "dir_jax" / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as e:
        log.warning("no cache folder can be used, so nothing is kept for the next run: %s", e)
        return None


def take_lock(
    path: str | os.PathLike[str], busy: str, *, wait: bool = False
) -> filelock.BaseFileLock:
    """Locks the file `path`, which is created and stays, until `release()` or the process's end.

    On file systems that have no locks there is a warning and no protection. Where another process
    holds the lock, `wait` says so (with the message `busy`) and waits for it.

    Raises:
      BusyError: another process holds the lock, and not `wait`; its message is `busy`.
      UserError: the file cannot be created.
    """
    lock = filelock.FileLock(path, timeout=0)
    try:
        with warnings.catch_warnings(action="error"):  # that a weaker kind of lock is tried
            lock.acquire()
    except filelock.Timeout as e:
        if not wait:
            raise BusyError(busy) from e
        log.warning(busy)
        lock.acquire(timeout=-1)
    except (OSError, NotImplementedError, UserWarning) as e:
        if getattr(e, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise UserError(f"cannot write {path}: {getattr(e, 'strerror', None) or e}") from e
        log.warning("%s: this file system has no locks; run only one process at a time here", path)
    return lock
