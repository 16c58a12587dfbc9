"""Takes the images out of a .tgz or a .tar that somebody else made.

Only regular files are written, under names that the caller chooses, into a new folder. An archive
that tries to reach anything else is damaged or hostile, and none of its images are used.
"""

from __future__ import annotations

import gzip
import posixpath
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import inside, open_regular
from dir_jax.runtime.progress import progress_bar

_LARGEST_READ = 1 << 20  # bytes; tarfile reads a header's extensions at once, however long
_MOST_MEMBERS = 1_000_000


def flat(name: str) -> str | None:
    """The place of a `.jpg` without its folders; None for other members."""
    return re.split(r"[/\\]", name)[-1] if name.endswith(".jpg") else None


def extract_images(
    archive: Path, folder: Path, limit: int, *, place: Callable[[str], str | None] = flat
) -> list[str]:
    """Writes the images of an archive into `folder`; returns their places.

    The archive is read to its end, checksums included.

    Args:
      archive: a tar, packed with gzip unless its name ends in `.tar`.
      folder: a folder with nothing but the images of earlier archives.
      limit: the largest unpacked size that is accepted, in bytes.
      place: where a member goes, by its name: a path in `folder`, or None for one that is left out.

    Raises:
      UserError: it is damaged, hostile or too large. `folder` then holds a part of the images.
      OSError: the archive cannot be read, or the images cannot be written.
    """
    name = archive.name.removesuffix(".partial")
    bar = progress_bar(f"extract {name}", None, "img", shown=place is flat)
    places: set[str] = set()
    try:
        with bar, open_regular(archive) as file:
            packed = not name.endswith(".tar")
            stream: Any = _Bounded(gzip.GzipFile(fileobj=file) if packed else file, limit)
            written = 0
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                kept: list[tarfile.TarInfo] = tar.members  # type: ignore[attr-defined]
                for count, member in enumerate(iter(tar.next, None)):
                    kept.clear()  # tarfile would keep them all
                    if count == _MOST_MEMBERS:
                        raise UserError(f"it has more than {_MOST_MEMBERS:,} members")
                    _check(member, folder)
                    base = place(member.name) if member.isfile() else None
                    if base is None:
                        continue
                    written += member.size
                    stream.check(written)  # a sparse file is larger than its share of the tar
                    if inside(folder, base).exists():
                        name = quoted(member.name)
                        raise UserError(f"its member {name} has the name of another")
                    renamed = member.replace(name=base, deep=False)
                    tar.extract(renamed, folder, set_attrs=False, filter="data")
                    places.add(base)
                    bar.update()
            # tarfile stops silently at a damaged header, as it does at the empty block at the end.
            if stream.last != bytes(512):
                raise UserError("the tar in it is cut off or damaged")
            while block := stream.read(_LARGEST_READ):
                if any(block):
                    raise UserError("it has more data after the end of the tar")
            return sorted(places)
    except gzip.BadGzipFile as e:  # an OSError, but not one of the disk's
        raise UserError(f"it is damaged, or not a gzip file ({e})") from e
    except (UserError, OSError):
        raise
    except Exception as e:  # a hostile or damaged archive can fail in any of tarfile's steps
        raise UserError(f"it is damaged ({shown(e) or type(e).__name__})") from e


class _Bounded:
    """What tarfile reads from: gives at most `limit` bytes, and no large piece at once."""

    last = b""  # what was read last

    def __init__(self, stream: BinaryIO | gzip.GzipFile, limit: int):
        self._stream, self._limit = stream, limit
        self.tell = stream.tell

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _LARGEST_READ:
            raise UserError(f"a header in it claims {size:,} bytes")
        self.last = self._stream.read(size)
        self.check(self.tell())
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        self.check(offset)
        return self._stream.seek(offset, whence)

    def check(self, position: int) -> None:
        if position > self._limit:
            raise UserError(f"it holds more than {self._limit:,} bytes, which is refused")


def _check(member: tarfile.TarInfo, folder: Path) -> None:
    """Refuses devices, pipes, and whatever leads out of the folder."""
    name = quoted(member.name)
    try:
        inside(folder, member.name)
        tarfile.data_filter(member, str(folder))
        if member.issym() or member.islnk():  # never made, but Windows' spellings mean no good
            start = posixpath.dirname(member.name) if member.issym() else ""
            inside(folder, posixpath.normpath(posixpath.join(start, member.linkname)))
    except tarfile.SpecialFileError as e:
        raise UserError(f"its member {name} is a device, a pipe or of an unknown type") from e
    except tarfile.FilterError as e:
        raise UserError(f"its member {name} leads out of the folder") from e
    except UserError as e:
        raise UserError(f"its member {name} is refused: {e}") from e
