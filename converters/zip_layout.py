"""Zip files, read with every size and place checked: torch's layout since 1.6, and downloads.

Python's `zipfile` trusts a directory of any length and lets members overlap, which is how small
files unpack to petabytes (Fifield, A better zip bomb, WOOT 2019).
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import struct
import tempfile
import zlib
from typing import Any

from converters.constructors import CONSTRUCTORS, Storages
from converters.errors import CheckpointFileError, shown, some
from converters.unpickler import Unpickler

_MOST_MEMBERS = 100_000
# Weights hardly compress. Less than the floor is harmless whatever the ratio.
_LARGEST_RATIO, _UNPACKED_FLOOR = 10, 64 << 20
_PIECE = 1 << 20

_END = struct.Struct("<4s4H2LH")
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in a zip: `content` is its bytes as stored, `size` how many they unpack to."""

    name: str
    method: int
    crc: int
    size: int
    content: memoryview


def read_members(data: memoryview) -> dict[str, Member]:
    """The directory of a zip file.

    Raises:
      CheckpointFileError: it is truncated or damaged, its members overlap, share a name, or have a
        name that leads out of a folder.
    """
    count, position, size = _find_directory(data)
    if count > _MOST_MEMBERS:
        raise CheckpointFileError(f"it is a zip of {count} files; a checkpoint has far fewer")
    directory_start, end = position, position + size
    members: dict[str, Member] = {}
    spans = []
    for _ in range(count):
        (magic, _, _, flags, method, _, _, crc, packed, unpacked, *lengths, offset) = _unpack(
            _ENTRY, data[:end], position
        )
        name_length, extra_length, comment_length = lengths[:3]
        position += _ENTRY.size
        name = _checked_name(bytes(data[position : position + name_length]))
        extra = data[position + name_length : position + name_length + extra_length]
        position += name_length + extra_length + comment_length
        if magic != b"PK\1\2" or position > end:
            raise _damaged("its directory")
        unpacked, packed, offset = _with_zip64(extra, unpacked, packed, offset)
        if flags & 1:
            raise CheckpointFileError(f"the file {shown(name)} in it is encrypted; unpack it first")
        if name in members:
            raise CheckpointFileError(f"it is damaged: it has two files {shown(name)}")
        start = _content_start(data, offset, bytes(name, "utf-8"))
        if start + packed > directory_start:
            raise _damaged(shown(name))
        spans.append((offset, start + packed, name))
        members[name] = Member(name, method, crc, unpacked, data[start : start + packed])
    spans.sort()
    for (_, previous_end, name), (start, *_) in itertools.pairwise(spans):
        if start < previous_end:
            raise CheckpointFileError(f"it is damaged: {shown(name)} overlaps the file after it")
    return members


def unpack(member: Member) -> memoryview:
    """A member's content, through an unnamed temporary file where it is compressed.

    Raises:
      CheckpointFileError: it is damaged, or unpacks to implausibly much, or not to its size.
    """
    if member.method == _STORED:
        return _stored(member)
    if member.method != _DEFLATED:
        raise CheckpointFileError(
            f"{shown(member.name)} in it is compressed by method {member.method}; unpack it first"
        )
    if member.size > max(_UNPACKED_FLOOR, _LARGEST_RATIO * len(member.content)):
        raise CheckpointFileError(
            f"{shown(member.name)} in it would unpack from {len(member.content)} to "
            f"{member.size} bytes; weights do not compress so well"
        )
    if not member.size:
        raise _damaged(shown(member.name))
    inflater, crc, left = zlib.decompressobj(-zlib.MAX_WBITS), 0, member.size
    pending, position = b"", 0
    # Not in the heap: what is mapped from a file can leave memory again.
    with tempfile.TemporaryFile() as scratch:
        try:
            while left >= 0 and not inflater.eof:
                if not pending:
                    pending = bytes(member.content[position : position + _PIECE])
                    position += len(pending)
                if not pending:
                    break
                piece = inflater.decompress(pending, _PIECE)
                pending = inflater.unconsumed_tail
                left, crc = left - len(piece), zlib.crc32(piece, crc)
                scratch.write(piece)
            scratch.flush()
        except zlib.error:
            raise _damaged(shown(member.name)) from None
        except OSError as e:
            raise CheckpointFileError(f"it cannot be unpacked to a temporary file: {e}") from e
        if left or not inflater.eof or crc != member.crc:
            raise _damaged(shown(member.name))
        return memoryview(mmap.mmap(scratch.fileno(), 0, access=mmap.ACCESS_READ))


def load_zip_layout(members: dict[str, Member]) -> Any:
    """Reads what torch.save wrote: one folder of `data.pkl` and `data/KEY` for each storage."""
    pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise CheckpointFileError(f"it is damaged: it has {len(pickles)} data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in members or any(n.startswith(f"{root}code/") for n in members):
        raise CheckpointFileError(
            "it is a TorchScript program; save the network's state_dict instead"
        )
    order = members.get(f"{root}byteorder")
    byteorder = {b"little": "<", b"big": ">"}.get(bytes(_stored(order)) if order else b"little")
    if byteorder is None:
        raise _damaged("its byte order")
    storages = Storages(sum(len(member.content) for member in members.values()))
    pickled = _stored(members[pickles[0]])
    tree, _ = Unpickler(pickled, CONSTRUCTORS, storages.from_persistent_id).load()
    for data in storages.found.values():
        member = members.get(f"{root}data/{data.key}")
        if member is None:
            raise CheckpointFileError(f"it is damaged: the storage {shown(data.key)} is missing")
        content = _stored(member)
        if len(content) != data.nbytes:
            raise CheckpointFileError(
                f"it is damaged: the storage {shown(data.key)} has {len(content)} bytes, not "
                f"{data.nbytes}"
            )
        data.buffer, data.byteorder = content, byteorder
    return tree


def choose_checkpoint(members: dict[str, Member]) -> Member:
    """The checkpoint in a zip that holds one, as downloads do."""
    files = [
        member
        for name, member in members.items()
        if not name.endswith("/")
        and not name.startswith("__MACOSX/")
        and not name.split("/")[-1].startswith(".")
    ]
    if len(files) > 1:
        files = [m for m in files if m.name.endswith((".pt", ".pth", ".pth.tar", ".tar"))]
    if len(files) != 1:
        raise CheckpointFileError(
            f"it is a zip with {len(files)} checkpoints, not one; it holds {some(list(members))}"
        )
    return files[0]


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """The directory's number of entries, its place and its length."""
    tail_start = max(0, len(data) - _END.size - 0xFFFF)
    place = bytes(data[tail_start:]).rfind(b"PK\5\6")
    if place < 0:
        raise CheckpointFileError("it is truncated: a zip whose end is missing")
    end_start = place + tail_start
    _, disk, _, _, count, size, offset, _ = _unpack(_END, data, end_start)
    if 0xFFFF in (disk, count) or 0xFFFFFFFF in (size, offset):
        magic, _, end_start, _ = _unpack(_END_64_LOCATOR, data, end_start - _END_64_LOCATOR.size)
        if magic != b"PK\6\7":
            raise _damaged("its end")
        magic, _, _, _, disk, _, _, count, size, offset = _unpack(_END_64, data, end_start)
        if magic != b"PK\6\6":
            raise _damaged("its end")
    if disk or offset + size > end_start:
        raise _damaged("its end")
    return count, offset, size


def _with_zip64(extra: memoryview, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The three numbers of an entry, from its ZIP64 field where they do not fit 32 bits."""
    numbers = [unpacked, packed, offset]
    large = [i for i, number in enumerate(numbers) if number == 0xFFFFFFFF]
    position = 0
    while large and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1 and length >= 8 * len(large) and position + 4 + length <= len(extra):
            for i, value in zip(
                large, struct.unpack_from(f"<{len(large)}Q", extra, position + 4), strict=True
            ):
                numbers[i] = value
            large = []
        position += 4 + length
    if large:
        raise _damaged("its directory")
    return numbers[0], numbers[1], numbers[2]


def _content_start(data: memoryview, offset: int, name: bytes) -> int:
    magic, *_, name_length, extra_length = _unpack(_LOCAL, data, offset)
    start = offset + _LOCAL.size
    if magic != b"PK\3\4" or bytes(data[start : start + name_length]) != name:
        raise _damaged("its directory")
    return start + name_length + extra_length


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise _damaged("a file's name") from None
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise CheckpointFileError(
            f"the name {shown(name)} in it leads out of the zip; no checkpoint has such a name"
        )
    return name


def _stored(member: Member) -> memoryview:
    if member.method != _STORED or member.size != len(member.content):
        raise CheckpointFileError(
            f"it is damaged: {shown(member.name)} is not stored as torch.save stores it"
        )
    # Zero is what torch writes where it is told not to compute checksums.
    if member.crc and zlib.crc32(member.content) != member.crc:
        raise _damaged(shown(member.name))
    return member.content


def _unpack(kind: struct.Struct, data: memoryview, position: int) -> tuple[Any, ...]:
    if position < 0 or position + kind.size > len(data):
        raise CheckpointFileError("it is truncated or damaged: a zip with a part missing")
    return kind.unpack_from(data, position)


def _damaged(what: str) -> CheckpointFileError:
    return CheckpointFileError(f"it is damaged: {what} cannot be read")
