"""What tells whether a row of a list, and the file that it names, are still the same."""

from __future__ import annotations

import hashlib
import os


def mark(row: bytes, path: str) -> tuple[int, int, int]:
    """A hash of what a row says, and its file's size in bytes and modification time in nanoseconds.

    Each fits int64. The last two are −1 where there is no such file. Takes one `stat`, or none
    where the path is ''.
    """
    digest = hashlib.blake2b(row, digest_size=8).digest()
    if not path:
        return int.from_bytes(digest, "big", signed=True), -1, -1
    try:
        status = os.stat(path)
        size, modified = status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        size = modified = -1
    return int.from_bytes(digest, "big", signed=True), size, modified
