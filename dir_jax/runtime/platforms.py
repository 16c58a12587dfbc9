"""What not every system has: Linux has all of it, macOS and Windows some."""

from __future__ import annotations

import os


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sync_data(descriptor: int) -> None:
    """Waits until what was written to a file is on the disk."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def write_at(descriptor: int, data: bytes, offset: int) -> int:
    """Writes at `offset`, and returns how many bytes were written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.write(descriptor, data)
