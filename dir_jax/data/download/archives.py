"""Taking the pictures out of a .tgz that somebody else made.

Nothing is written under a name from the archive but a picture's last part, into a new folder, so
no member can reach anything else; an archive that tries to is not trusted with its pictures either.
"""

from __future__ import annotations

import gzip
import posixpath
import re
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

_BLOCK = 512  # bytes; a tar is made of these, and ends with empty ones
_LARGEST_READ = 1 << 20  # bytes; tarfile reads a header's extensions at once, however long


class ArchiveError(Exception):
    """The archive is damaged or cannot be trusted; the message says why."""


def extract_pictures(
    archive: Path, folder: Path, members: dict[str, str], limit: int, *, progress: bool = True
) -> int:
    """Writes the archive's regular `.jpg` files into `folder`, without their folders.

    Args:
      archive: a tar in gzip; it is read to its end, check sums included.
      folder: is there, and holds nothing but earlier archives' pictures.
      members: the member that each file in `folder` is from; grows.
      limit: bytes that the archive may decompress to.
      progress: show a bar.

    Returns:
      The bytes that it decompresses to.

    Raises:
      ArchiveError: it is damaged, too large, has two pictures of one name, or a member that is a
        device or leads out of the archive. `folder` then holds a part of the pictures.
      OSError: the archive cannot be read, or the pictures cannot be written.
    """
    try:
        with (
            gzip.open(archive) as unzipped,
            tqdm(
                desc=f"extract {archive.name.removesuffix('.partial')}",
                unit="img",
                leave=False,
                disable=not progress,
            ) as bar,
        ):
            stream = _Bounded(unzipped, limit)
            written = 0
            with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    _refuse_escape(member)
                    if member.isfile() and member.name.endswith(".jpg"):
                        written += member.size
                        stream.check(written)  # a sparse file is larger than its share of the tar
                        _extract(tar, member, folder, members)
                        bar.update()
                _check_end(stream)
            return max(stream.tell(), written)
    except gzip.BadGzipFile as e:  # an OSError, but not of the disk's
        raise ArchiveError(f"it is damaged, or no gzip file ({e})") from e
    except (ArchiveError, OSError):
        raise
    except Exception as e:  # a hostile or damaged archive can fail in any of tarfile's steps
        raise ArchiveError(f"it is damaged ({e or type(e).__name__})") from e


class _Bounded:
    """What tarfile reads from: gives no more than `limit` bytes, and no large piece at once."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, limit: int):
        self._stream = stream
        self._limit = limit
        self.last = b""  # what was read last

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_READ:
            raise ArchiveError(f"a header in it claims {size:,} bytes")
        self.last = self._stream.read(size)
        self.check(self.tell())
        return self.last

    def seek(self, position: int) -> None:
        self.check(position)
        self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def check(self, position: int) -> None:
        if position > self._limit:
            raise ArchiveError(f"it holds more than {self._limit:,} bytes, which is refused")


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, members: dict[str, str]
) -> None:
    base = re.split(r"[/\\]", member.name)[-1]
    if base in members:
        raise ArchiveError(f"{member.name!r} and {members[base]!r} would both become {base}")
    members[base] = member.name
    source = tar.extractfile(member)
    assert source is not None  # it is for folders and devices
    with source, (folder / base).open("xb") as stream:
        shutil.copyfileobj(source, stream)


def _refuse_escape(member: tarfile.TarInfo) -> None:
    if _leads_out(member.name):
        raise ArchiveError(f"its member {member.name!r} leads out of the folder")
    if member.issym() or member.islnk():
        start = posixpath.dirname(member.name) if member.issym() else ""
        target = posixpath.join(start, member.linkname)
        if _leads_out(posixpath.normpath(target)) or _leads_out_at_once(member.linkname):
            raise ArchiveError(
                f"its member {member.name!r} is a link out of the folder, to {member.linkname!r}"
            )
    elif not (member.isfile() or member.isdir()):
        raise ArchiveError(f"its member {member.name!r} is a device, a pipe or unknown")


def _leads_out(name: str) -> bool:
    return _leads_out_at_once(name) or ".." in re.split(r"[/\\]", name)


def _leads_out_at_once(name: str) -> bool:
    return re.match(r"[/\\]|[A-Za-z]:", name) is not None  # Windows' spellings as well


def _check_end(stream: _Bounded) -> None:
    """Reads on to the end: tarfile stops in silence at a damaged header, as at the end mark."""
    if stream.last != bytes(_BLOCK):
        raise ArchiveError("it is cut off, or damaged, within the tar")
    while block := stream.read(_LARGEST_READ):
        if any(block):
            raise ArchiveError("it goes on after its end")
