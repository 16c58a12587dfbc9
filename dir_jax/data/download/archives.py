"""Takes the images out of a .tgz that somebody else made.

Only regular files are written, under the last part of their names, into a new folder. An archive
that tries to reach anything else is damaged or hostile, and none of its images are used.
"""

from __future__ import annotations

import gzip
import posixpath
import re
import tarfile
from pathlib import Path
from typing import BinaryIO

from dir_jax.errors import UserError
from dir_jax.runtime.files import inside
from dir_jax.runtime.progress import progress_bar

_BLOCK = 512  # bytes; a tar is made of these, and ends with empty ones
_LARGEST_READ = 1 << 20  # bytes; tarfile reads a header's extensions at once, however long
_MOST_MEMBERS = 1_000_000


class ArchiveError(Exception):
    """The archive is damaged or cannot be trusted; the message says why."""


def extract_images(archive: Path, folder: Path, limit: int, *, progress: bool = True) -> None:
    """Writes the archive's regular `.jpg` files into `folder`, without their folders.

    Args:
      archive: a tar in gzip; it is read to its end, checksums included.
      folder: an existing folder with nothing but the images of earlier archives.
      limit: the largest unpacked size that is accepted, in bytes.
      progress: whether progress is shown.

    Raises:
      ArchiveError: it is damaged or too large, an image has the name of another, or a member is a
        device or leads out of the archive. `folder` then holds a part of the images.
      OSError: the archive cannot be read, or the images cannot be written.
    """
    name = f"extract {archive.name.removesuffix('.partial')}"
    try:
        with gzip.open(archive) as unzipped, progress_bar(name, None, "img", progress) as bar:
            stream = _Bounded(unzipped, limit)
            written = count = 0
            with tarfile.open(fileobj=stream, mode="r:") as tar:  # type: ignore[call-overload]
                while member := tar.next():
                    tar.members.clear()  # tarfile would keep them all
                    _check(member, folder)
                    if (count := count + 1) > _MOST_MEMBERS:
                        raise ArchiveError(f"it has more than {_MOST_MEMBERS:,} members")
                    if member.isfile() and member.name.endswith(".jpg"):
                        written += member.size
                        stream.check(written)  # a sparse file is larger than its share of the tar
                        _extract(tar, member, folder)
                        bar.update()
                _check_end(stream)
    except gzip.BadGzipFile as e:  # an OSError, but not one of the disk's
        raise ArchiveError(f"it is damaged, or not a gzip file ({e})") from e
    except (ArchiveError, OSError):
        raise
    except Exception as e:  # a hostile or damaged archive can fail in any of tarfile's steps
        raise ArchiveError(f"it is damaged ({str(e)[:200] or type(e).__name__})") from e


class _Bounded:
    """What tarfile reads from: gives at most `limit` bytes, and no large piece at once."""

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


def _check(member: tarfile.TarInfo, folder: Path) -> None:
    """Refuses devices, pipes, and whatever leads out of the folder."""
    name = member.name[:200]
    try:
        inside(folder, member.name)
        tarfile.data_filter(member, str(folder))
        if member.issym() or member.islnk():  # never made, but Windows' spellings mean no good
            start = posixpath.dirname(member.name) if member.issym() else ""
            inside(folder, posixpath.normpath(posixpath.join(start, member.linkname)))
    except tarfile.SpecialFileError as e:
        raise ArchiveError(f"its member {name!r} is a device, a pipe or unknown") from e
    except (UserError, tarfile.FilterError) as e:
        raise ArchiveError(f"its member {name!r} leads out of the folder") from e


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    base = re.split(r"[/\\]", member.name)[-1]
    if (folder / base).exists():
        raise ArchiveError(f"{member.name[:200]!r} would become {base}, as another image does")
    flat = member.replace(name=base, deep=False)
    tar.extract(flat, folder, set_attrs=False, filter="data")


def _check_end(stream: _Bounded) -> None:
    """Reads on to the end: tarfile stops silently at a damaged header, as it does at the end."""
    if stream.last != bytes(_BLOCK):
        raise ArchiveError("it is cut off, or damaged, within the tar")
    while block := stream.read(_LARGEST_READ):
        if any(block):
            raise ArchiveError("it goes on after its end")
