"""Zip files with bounds: downloads that hold a checkpoint, and torch's layout since 1.6.

Python's `zipfile` reads a directory of any length and lets members overlap, which is how small
files unpack to petabytes (Fifield, A better zip bomb, WOOT 2019).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from converters.file_errors import CheckpointFileError, some
from dir_jax.errors import shown

_LARGEST_DIRECTORY = 4 << 20  # bytes; a ResNet-152's has 0.1 MB
# Weights hardly compress. Less than the floor is harmless whatever the ratio.
_LARGEST_RATIO, _UNPACKED_FLOOR = 10, 64 << 20
_PIECE = 1 << 20
_LOCAL_HEADER = 30  # bytes before a member's name and content
# How `zipfile` fails where a zip is damaged.
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError)


class _BoundedStream:
    """A file that refuses long reads while `zipfile` reads the directory."""

    def __init__(self, stream: Any):
        self._stream, self.limit = stream, float(_LARGEST_DIRECTORY)
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, count: int = -1) -> bytes:
        if count > self.limit:
            raise CheckpointFileError("it is a zip of far more files than a checkpoint has")
        return self._stream.read(count)


@contextlib.contextmanager
def open_zip(stream: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Opens a zip whose members are apart from each other and have names of their own.

    Raises:
      CheckpointFileError: it is truncated or damaged; members overlap, share a name, are encrypted
        or have a name that leads out of a folder.
    """
    try:
        bounded = _BoundedStream(stream)
        with zipfile.ZipFile(bounded) as archive:
            bounded.limit = float("inf")
            _check_members(archive)
            yield archive
    except _BROKEN as e:
        what = "the end is missing" if "not a zip" in str(e) else shown(e)
        raise CheckpointFileError(f"it is a damaged or truncated zip: {what}") from None


def _check_members(archive: zipfile.ZipFile) -> None:
    end, names = 0, set()
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name = info.filename
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise CheckpointFileError(f"the name {shown(name)} in it leads out of the zip")
        if info.flag_bits & 1:
            raise CheckpointFileError(f"the file {shown(name)} in it is encrypted; unpack it first")
        if name in names:
            raise CheckpointFileError(f"it is damaged: it has two files {shown(name)}")
        names.add(name)
        if info.header_offset < end:
            raise CheckpointFileError(f"it is damaged: {shown(name)} overlaps another file in it")
        end = info.header_offset + _LOCAL_HEADER + len(name) + info.compress_size
    if end > archive.start_dir:
        raise CheckpointFileError("it is damaged: a file in it reaches into the directory")


def check_stored(archive: zipfile.ZipFile, data: Any) -> None:
    """Checks that a zip is as torch.save writes them, and each member's checksum.

    torch's own reader does not look at checksums. It is another program than `zipfile`: a file
    that the two could understand differently is refused.

    Raises:
      CheckpointFileError: it is not, or a member is damaged.
    """
    infos = archive.infolist()
    # Nothing before the first member and nothing after the end: one place for the directory.
    if min(info.header_offset for info in infos) or data[-22:-18] != b"PK\5\6":
        raise CheckpointFileError("it is damaged: there is more around the zip than a zip")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise CheckpointFileError(
                f"it is damaged: {shown(info.filename)} is not stored as torch.save stores it"
            )
        if not info.CRC:
            del info.CRC  # what torch writes where it is told not to compute checksums
        with archive.open(info) as member:
            while member.read(_PIECE):
                pass


@contextlib.contextmanager
def unpacked_checkpoint(archive: zipfile.ZipFile, packed: int) -> Iterator[BinaryIO]:
    """The checkpoint in a zip of `packed` bytes that holds one, as a temporary file.

    Raises:
      CheckpointFileError: there is none or more than one, or it unpacks to far more than weights
        do.
    """
    hidden = re.compile(r"__MACOSX/|(.*/)?\.[^/]*$|.*/$")  # folders, too
    infos = [info for info in archive.infolist() if not hidden.match(info.filename)]
    if len(infos) > 1:
        suffixes = (".pt", ".pth", ".tar", ".safetensors")
        infos = [info for info in infos if info.filename.endswith(suffixes)]
    if len(infos) != 1:
        there = some(archive.namelist())
        raise CheckpointFileError(
            f"it is a zip with {len(infos)} checkpoints, not one; it holds {there}"
        )
    if infos[0].file_size > max(_UNPACKED_FLOOR, _LARGEST_RATIO * packed):
        raise CheckpointFileError(
            f"the file {shown(infos[0].filename)} in it would unpack to {infos[0].file_size:,} "
            "bytes, which weights never do"
        )
    with tempfile.TemporaryFile() as out:
        with archive.open(infos[0]) as member:
            shutil.copyfileobj(member, out, _PIECE)
        out.flush()
        yield out
