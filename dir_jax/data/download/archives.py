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

from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import inside, open_regular
from dir_jax.runtime.progress import progress_bar

_LARGEST_READ = 1 << 20  # bytes; tarfile reads a header's extensions at once, however long
_MOST_MEMBERS = 1_000_000


def extract_images(archive: Path, folder: Path, limit: int) -> None:
    """Writes the regular `.jpg` files of a .tgz into `folder`, without their folders.

    The archive is read to its end, checksums included. `folder` holds nothing but the images of
    earlier archives. `limit` is the largest unpacked size that is accepted, in bytes.

    Raises:
      UserError: it is damaged, hostile or too large. `folder` then holds a part of the images.
      OSError: the archive cannot be read, or the images cannot be written.
    """
    name = archive.name.removesuffix(".partial")
    bar = progress_bar(f"extract {name}", None, "img", shown=True)
    try:
        with bar, open_regular(archive) as file, _Bounded(fileobj=file) as stream:
            stream.limit, written = limit, 0
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                kept: list[tarfile.TarInfo] = tar.members  # type: ignore[attr-defined]
                for count, member in enumerate(iter(tar.next, None)):
                    kept.clear()  # tarfile would keep them all
                    if count == _MOST_MEMBERS:
                        raise UserError(f"it has more than {_MOST_MEMBERS:,} members")
                    _check(member, folder)
                    if not (member.isfile() and member.name.endswith(".jpg")):
                        continue
                    written += member.size
                    stream.check(written)  # a sparse file is larger than its share of the tar
                    base = re.split(r"[/\\]", member.name)[-1]
                    if (folder / base).exists():
                        name = quoted(member.name)
                        raise UserError(f"its member {name} has the name of another")
                    flat = member.replace(name=base, deep=False)
                    tar.extract(flat, folder, set_attrs=False, filter="data")
                    bar.update()
            # tarfile stops silently at a damaged header, as it does at the empty block at the end.
            if stream.last != bytes(512):
                raise UserError("the tar in it is cut off or damaged")
            while block := stream.read(_LARGEST_READ):
                if any(block):
                    raise UserError("it has more data after the end of the tar")
    except gzip.BadGzipFile as e:  # an OSError, but not one of the disk's
        raise UserError(f"it is damaged, or not a gzip file ({e})") from e
    except (UserError, OSError):
        raise
    except Exception as e:  # a hostile or damaged archive can fail in any of tarfile's steps
        raise UserError(f"it is damaged ({shown(e) or type(e).__name__})") from e


class _Bounded(gzip.GzipFile):
    """What tarfile reads from: gives at most `limit` bytes, and no large piece at once."""

    limit = 0
    last = b""  # what was read last

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _LARGEST_READ:
            raise UserError(f"a header in it claims {size:,} bytes")
        self.last = super().read(size)
        self.check(self.tell())
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        self.check(offset)
        return super().seek(offset, whence)

    def check(self, position: int) -> None:
        if position > self.limit:
            raise UserError(f"it holds more than {self.limit:,} bytes, which is refused")


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
