"""Files on disk: written whole or not at all, locked, and the folder of caches."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import filelock

from dir_jax.errors import UserError

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def inside(folder: str | os.PathLike[str], name: str) -> Path:
    """The path of a name from somebody else's file, which must stay inside a folder.

    Only the name is looked at: links on the disk are the user's own. Backslashes separate folders
    as slashes do, on every system.

    Args:
      folder: the folder.
      name: a relative path below it, such as `paris/louvre/1.jpg`.

    Raises:
      UserError: the name is empty, absolute, starts with a drive, or contains `..` or NUL.
    """
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ".." in parts or "\0" in name or re.match("[A-Za-z]:", name):
        shown = repr(name[:200]) + "…" * (len(name) > 200)
        raise UserError(
            f"{shown} is not a name inside {folder}: expected a relative path without '..'"
        )
    return Path(folder, name)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to instead of `path`, which it replaces once complete.

    Raises:
      UserError: the file cannot be written; what `path` held before is still there.
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
    """Replaces a file's contents at once: a reader sees the old text or the new, never a part.

    Raises:
      UserError: the file cannot be written.
    """
    with replacing(path) as scratch:
        scratch.write_text(text)


def cache_folder(name: str) -> Path:
    """The folder `dir_jax/NAME` in the user's cache folder, which need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dir_jax" / name


def take_lock(path: str | os.PathLike[str], busy: str) -> filelock.BaseFileLock:
    """Takes the lock that is the file `path`, which is made and stays; `release()` gives it back.

    The lock ends with the process, however it ends. On file systems that have no locks there is
    a warning and no protection.

    Args:
      path: the lock's file.
      busy: the message where another process holds it.

    Raises:
      UserError: another process holds the lock, or the file cannot be made.
    """
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as e:
        raise UserError(busy) from e
    except OSError as e:
        if e.errno not in _NO_LOCKS:
            raise UserError(f"cannot write {path}: {e.strerror or e}") from e
        log.warning("%s: this file system has no locks; run one process at a time here", path)
    return lock
