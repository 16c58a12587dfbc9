"""Global features in a kapture dataset, read and written.

    reconstruction/global_features/TYPE/
        global_features.txt       one row: name, dtype, length, metric
        IMAGE.gfeat               the numbers of one image's descriptor, little-endian
        global_features.tar       or an archive of such files, from which they are then read

Nothing is written outside the dataset's folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import logging
import os
import posixpath
import re
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from dir_jax.data.kapture import HEADER, read_fields
from dir_jax.errors import UserError, quoted
from dir_jax.runtime.files import check_inside, inside, open_regular
from dir_jax.runtime.reading import row_error

log = logging.getLogger(__name__)

_LENGTH = re.compile(r"[0-9]{1,9}")
_BYTES = {"float32": 4, "float64": 8}  # the dtypes that features may have, and their sizes
_OURS = ("dir_jax", "dirtorch")  # who computed features; the original's are the same numbers
_LONGEST_TAR_HEADER = 1 << 20  # bytes
_SCRATCH = ".dir_jax.writing"  # in the features' folder; what a killed run leaves in it is lost


@dataclasses.dataclass(frozen=True)
class FeatureKind:
    """What global_features.txt says of descriptors."""

    name: str  # what computed them
    dtype: str  # 'float32' or 'float64'
    length: int  # the number of values of each, D
    metric: str  # how they are compared

    def __str__(self) -> str:
        name = "" if self.name in _OURS else f" by {quoted(self.name)}"
        metric = "" if self.metric == "L2" else f" compared by {quoted(self.metric)}"
        return f"{self.length} {self.dtype}{name}{metric}"

    @property
    def size(self) -> int:
        """The bytes of one descriptor."""
        return self.length * _BYTES[self.dtype]


def _read_kind(file: Path) -> FeatureKind:
    rows = list(itertools.islice(read_fields(file), 2))
    if len(rows) != 1:
        raise UserError(f"{file}: expected one row: name, dtype, length, metric")
    ((line, fields),) = rows
    if len(fields) != 4:
        raise row_error(file, line, f"{len(fields)} fields; expected name, dtype, length, metric")
    name, dtype, length, metric = fields
    if dtype not in _BYTES:
        expected = " or ".join(_BYTES)
        raise row_error(file, line, f"the dtype is {quoted(dtype)}; expected {expected}")
    if not _LENGTH.fullmatch(length) or not int(length):
        found = quoted(length)
        raise row_error(file, line, f"the length is {found}; expected a positive integer")
    return FeatureKind(name, dtype, int(length), metric)


class GlobalFeatures:
    """The global features of one type in a kapture dataset.

    Attributes:
      kind: what the dataset says about them, or None where it does not have them yet.
    """

    def __init__(self, root: str, name: str):
        """Reads what a dataset's folder `root` has of the type `name`, the name of a folder.

        Raises:
          UserError: global_features.txt or global_features.tar is not valid.
        """
        self._root, self._name = root, name
        self._folder = Path(root, "reconstruction", "global_features", name)
        self._description = self._folder / "global_features.txt"
        self.kind = _read_kind(self._description) if os.path.exists(self._description) else None
        self._tar = self._folder / "global_features.tar"
        self._members = _read_tar(self._tar) if os.path.exists(self._tar) else None

    def missing(self, images: Iterable[str]) -> list[str]:
        """Those of the images that have no features of this type, or damaged ones."""
        if self.kind is None:
            return list(images)
        sizes = {image: self._size(image) for image in images}
        damaged = [image for image, size in sizes.items() if size not in (None, self.kind.size)]
        if damaged:
            log.warning(
                "%s: the features of %d images are damaged and will be replaced; the first: %s",
                self._folder, len(damaged), quoted(damaged[0]),
            )  # fmt: skip
        return [image for image, size in sizes.items() if size != self.kind.size]

    def check(self, images: Iterable[str], length: int) -> None:
        """Checks that our descriptors of these images, of `length` values each, can be added.

        Raises:
          UserError: the dataset has features of this type that are of another kind, or a folder
            for them is a link that leads out of the dataset.
        """
        images = list(images)
        ours = FeatureKind(_OURS[0], "float32", length, "L2")
        advice = "give another --global-features-type"
        there = self.kind
        if there is None:
            wrong = [image for image in images if self._size(image) not in (None, ours.size)]
            if wrong:
                raise UserError(
                    f"{self._folder} has features, such as that of {quoted(wrong[0])}, which "
                    f"are not {length} {ours.dtype}, and no global_features.txt; {advice}"
                )
        elif there.name not in _OURS or dataclasses.replace(there, name=ours.name) != ours:
            raise UserError(
                f"the global features {self._name!r} of {self._root} are {there}; "
                f"these would be {ours}: {advice}"
            )
        self._check_inside(self._folder)
        self._check_inside(self._tar)
        if self._members is None:
            for folder in {posixpath.dirname(image) for image in images}:
                self._check_inside(self._folder / folder)

    @contextlib.contextmanager
    def writing(self, length: int) -> Iterator[Callable[[str, np.ndarray], None]]:
        """A function that writes one image's descriptor, whole or not at all.

        The function takes the image's name and its (D,) descriptor. Features in an archive appear
        together when the block ends. The description of a new type of features is written last, so
        that a run that was killed before is not taken for a complete one.

        Raises:
          UserError: a file cannot be written, or would be outside the dataset.
        """
        scratch = self._folder / _SCRATCH
        try:
            self._make(self._folder)
            self._check_inside(self._tar)
            scratch.unlink(missing_ok=True)
            if self._members is not None:
                shutil.copy(self._tar, scratch)  # a killed run must not leave a torn archive
                with open(scratch, "ab") as file:
                    file.write(bytes(1024))  # its end mark, which such a run of others left out
                with tarfile.TarFile(scratch, "a") as archive:

                    def append(image: str, row: np.ndarray) -> None:
                        check_inside(self._folder, image)
                        member = tarfile.TarInfo(f"{image}.gfeat")
                        member.size = row.size * 4
                        archive.addfile(member, io.BytesIO(_encode(row)))

                    yield append
                os.replace(scratch, os.path.realpath(self._tar))
            else:
                folders = {self._folder}

                def write(image: str, row: np.ndarray) -> None:
                    target = inside(self._folder, f"{image}.gfeat")
                    if target.parent not in folders:
                        self._make(target.parent)
                        folders.add(target.parent)
                    scratch.write_bytes(_encode(row))
                    os.replace(scratch, target)

                yield write
            if self.kind is None:
                columns = "# name, dtype, dsize, metric_type"
                row = f"{_OURS[0]}, float32, {length}, L2"
                scratch.write_text(f"{HEADER}\n{columns}\n{row}\n", encoding="utf-8")
                os.replace(scratch, self._description)
        except OSError as e:
            at = e.filename2 or e.filename or self._folder
            raise UserError(f"cannot write {at}: {e.strerror or e}") from e
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def partial_folder(self) -> str:
        """The folder for unfinished work, in the dataset's."""
        return os.path.join(self._root, f".dir_jax-{self._name}.partial")

    def _size(self, image: str) -> int | None:
        """The bytes of an image's features, or None where there are none."""
        if self._members is not None:
            return self._members.get(f"{image}.gfeat")
        try:
            there = os.stat(os.path.join(self._folder, f"{image}.gfeat"))
        except OSError:
            return None
        return there.st_size if stat.S_ISREG(there.st_mode) else None

    def _check_inside(self, path: Path) -> None:
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(os.path.realpath(self._root)):
            raise UserError(
                f"{path} leads to {real}, outside the dataset, where nothing is written; "
                "replace the link by a folder"
            )

    def _make(self, folder: Path) -> None:
        self._check_inside(folder)
        folder.mkdir(parents=True, exist_ok=True)


class _Headers(io.FileIO):
    """What tarfile reads headers from; never a large piece at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_TAR_HEADER:
            raise UserError(f"a header in it claims {size} bytes")
        return super().read(size)


def _read_tar(file: Path) -> dict[str, int]:
    """Name -> bytes of the regular files in an uncompressed archive; the last of a name counts."""
    sizes, end = {}, 0
    try:
        with (
            open_regular(file) as stream,
            _Headers(stream.fileno(), closefd=False) as headers,
            tarfile.TarFile(fileobj=headers) as tar,
        ):
            while (member := tar.next()) is not None:
                if tar.offset <= end:
                    raise UserError("a header in it leads back")
                end = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # a million take a gigabyte
                if member.isreg():
                    sizes[posixpath.normpath(member.name).replace("\\", "/")] = member.size
            headers.seek(tar.offset)
            if any(headers.read(512)):  # neither the end mark nor the file's end
                raise UserError(f"what follows its {len(sizes)} files is not a file")
    except Exception as e:  # a hostile or damaged archive can fail in any of tarfile's steps
        raise UserError(f"the archive {file} is damaged: {str(e)[:200] or type(e).__name__}") from e
    return sizes


def _encode(row: np.ndarray) -> bytes:
    return np.ascontiguousarray(row, "<f4").tobytes()
