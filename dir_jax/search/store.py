"""An index on disk: a folder that any change leaves as it was, or as it is to be.

    index.json       the model and the recipe, the engine, and each file's size and checksum
    descriptors.G    (N, D) float32, little-endian, of unit norm
    images.G         (N, 5) int64, little-endian; the columns are those of `COLUMNS`
    names.G          the name of each image, relative to the folder `root`, in a row of UTF-8
    thumbnails.G     small JPEG copies, one after the other; only if they were asked for
    engine.G         what the engine keeps, such as FAISS's index
    lock             taken by whoever changes the index

G counts changes. A change appends to files, beyond what index.json says of them, or writes others
of a new G; then index.json is replaced, and what is no longer part of the index is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dir_jax.errors import UserError, shown
from dir_jax.fields import Rule, check_fields, is_whole
from dir_jax.model_recipe import recipe_from_json
from dir_jax.models.options import OPTION_RULES
from dir_jax.runtime.files import check_name, open_regular, write_text
from dir_jax.runtime.reading import MOST_ROWS, read_json

FORMAT_VERSION = 1
COLUMNS = ("id", "bytes", "modified", "thumbnail", "thumbnail_bytes")
"""Of an image: a number that no other image of the index has had; its file's size, and its time of
change in ns; where its copy in thumbnails.G starts, and how long it is, 0 for none."""
KINDS = ("descriptors", "images", "names", "thumbnails", "engine")
_BLOCK = 16 << 20  # bytes read or written at once
_MOST = 1 << 62
_TEXT = Rule(lambda v: isinstance(v, str), "a text")
_OBJECT = Rule(lambda v: isinstance(v, dict), "an object")
_COUNT = Rule(lambda v: is_whole(v, 0, _MOST), "a whole number")
_RULES = {
    "change": _COUNT,
    "count": Rule(lambda v: is_whole(v, 1, 1 << 31), "a number of images"),
    "size": Rule(lambda v: is_whole(v, 1, 1 << 16), "the length of a descriptor"),
    "next_id": _COUNT,
    "root": _TEXT,
    "model": _OBJECT,
    "recipe": _OBJECT,
    "engine": _OBJECT,
    "files": _OBJECT,
}
_MODEL_RULES = {"path": _TEXT, "arch": _TEXT, "digest": _TEXT, "options": _OBJECT}
_OPTION_RULES = {
    name: rule._replace(required=False) for name, rule in OPTION_RULES.items() if name != "arch"
}
_FILE_RULES = dict.fromkeys(("number", "bytes", "crc", "modified"), _COUNT)


@dataclasses.dataclass(frozen=True)
class Contents:
    """The images of an index.

    Attributes:
      folder: where it is.
      about: what index.json says.
      names: of the N images, relative to the folder `about["root"]`, or absolute.
      images: (N, 5) int64; see `COLUMNS`.
      descriptors: (N, D) float32, a memory map.
    """

    folder: Path
    about: dict[str, Any]
    names: list[str]
    images: np.ndarray
    descriptors: np.ndarray
    _map: mmap.mmap
    _thumbnails: int  # the file's number on its disk

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ids(self) -> np.ndarray:
        """(N,) int64, rising."""
        return self.images[:, 0]

    def file(self, kind: str) -> Path:
        """The path of a file of the index."""
        return _path(self.folder, kind, self.about["files"][kind]["number"])

    def forget_pages(self) -> None:
        """Lets the system have the memory back that reading the descriptors has taken."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def thumbnail(self, row: int) -> bytes | None:
        """The small JPEG copy of an image, where the index has one."""
        start, length = self.images[row, 3:].tolist()
        if not length or "thumbnails" not in self.about["files"]:
            return None
        with open_regular(self.file("thumbnails")) as file:
            if os.fstat(file.fileno()).st_ino != self._thumbnails:
                return None  # another index has been written in the place of this one
            file.seek(start)
            return file.read(length)


def read_contents(folder: str | os.PathLike[str]) -> Contents:
    """Opens an index.

    Raises:
      UserError: there is none; it is not whole; or it is not what was written.
    """
    folder = Path(folder)
    if not (folder / "index.json").exists():
        what = "is not an index: it has no index.json"
        if not folder.is_dir():
            what = "is a file, not an index" if folder.exists() else "does not exist"
        raise UserError(f"{shown(folder)} {what}; `dir-jax index` makes an index")
    try:
        try:
            return open_contents(folder, read_about(folder))
        except FileNotFoundError:  # another process has just changed it
            return open_contents(folder, read_about(folder))
    except FileNotFoundError as e:
        raise _damaged(folder, f"{Path(e.filename).name} is missing") from e
    except OSError as e:  # a folder in the place of a file, a file that others may not read
        raise UserError(f"the index {shown(folder)} cannot be read: {e.strerror or e}") from e


def read_about(folder: Path) -> dict[str, Any]:
    """What an index's index.json says. Raises UserError unless all fields are what they may be."""
    about = read_json(folder / "index.json")
    try:
        version = about.get("format_version") if isinstance(about, dict) else None
        if version != FORMAT_VERSION:
            raise UserError(f"format_version is {shown(version)}; expected {FORMAT_VERSION}")
        about = {name: value for name, value in about.items() if name != "format_version"}
        check_fields("index.json", about, _RULES)
        check_fields("its model", about["model"], _MODEL_RULES)
        check_fields("its model's options", about["model"]["options"], _OPTION_RULES)
        recipe_from_json("its recipe", about["recipe"])
        check_fields("its files", about["files"], {
            kind: Rule(lambda v: isinstance(v, dict), "an object", kind in KINDS[:3])
            for kind in KINDS})  # fmt: skip
        for kind, entry in about["files"].items():
            check_fields(kind, entry, _FILE_RULES)
    except UserError as e:
        raise _damaged(folder, str(e)) from e
    return about


def open_contents(folder: Path, about: dict[str, Any]) -> Contents:
    """Maps and reads the files that `about` speaks of; raises FileNotFoundError for one missing."""
    count, size, files = about["count"], about["size"], about["files"]
    for kind, width in (("descriptors", 4 * size), ("images", 8 * len(COLUMNS))):
        if files[kind]["bytes"] != count * width:
            raise _damaged(folder, f"{kind} has {files[kind]['bytes']} bytes, not {count * width}")
    for kind, entry in files.items():
        _check_file(folder, kind, entry)

    def content(kind: str) -> bytes:
        with open_regular(_path(folder, kind, files[kind]["number"])) as file:
            return file.read(files[kind]["bytes"])

    if files["names"]["bytes"] > MOST_ROWS:
        raise _damaged(folder, "its names are more than can be read")
    images = np.frombuffer(content("images"), "<i8").reshape(count, len(COLUMNS))
    try:
        names = content("names").decode().split("\n")[:-1]
        for name in names:
            check_name(name)
    except (UserError, UnicodeDecodeError) as e:
        raise _damaged(folder, f"names: {e}") from e
    if len(names) != count or (np.diff(images[:, 0]) <= 0).any():
        raise _damaged(folder, f"its names or ids are not those of {count} images")
    with open_regular(_path(folder, "descriptors", files["descriptors"]["number"])) as file:
        mapped = mmap.mmap(file.fileno(), files["descriptors"]["bytes"], access=mmap.ACCESS_READ)
    descriptors = np.frombuffer(mapped, "<f4").reshape(count, size)
    copies = files.get("thumbnails")
    number = os.stat(_path(folder, "thumbnails", copies["number"])).st_ino if copies else 0
    return Contents(folder, about, names, images, descriptors, mapped, number)


def _check_file(folder: Path, kind: str, entry: Mapping[str, int]) -> None:
    """Raises UserError where a file is shorter than it was, or has changed since it was written.

    A file that has the time of its writing is believed; of others, the checksum is computed.
    """
    with open_regular(_path(folder, kind, entry["number"])) as file:
        status = os.fstat(file.fileno())
        if status.st_size < entry["bytes"]:
            raise _damaged(folder, f"{kind} has {status.st_size} bytes, not {entry['bytes']}")
        if status.st_mtime_ns == entry["modified"]:
            return
        left, crc = entry["bytes"], 0
        while left and (data := file.read(min(left, _BLOCK))):
            crc, left = zlib.crc32(data, crc), left - len(data)
    if crc != entry["crc"]:
        raise _damaged(folder, f"{kind} is not what was written")


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(f"the index {shown(folder)} is damaged: {why}; build it again")


def _path(folder: Path, kind: str, number: int) -> Path:
    return folder / f"{kind}.{number}"


class Change:
    """A change of an index: files are appended to or written, then all at once become the index.

    Used as a context manager: after an error, the folder is as it was.

    Attributes:
      about: what index.json is to say.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        """`about` is what index.json says now; of a new index, without files."""
        self.folder = folder
        self.about: dict[str, Any] = json.loads(json.dumps(dict(about)))
        self.about["change"] += 1
        self._before: dict[str, Any] = dict(about["files"])
        self._wrote: set[str] = set()

    def __enter__(self) -> Change:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        with contextlib.suppress(OSError, UserError):
            there = self.folder / "index.json"
            if there.exists() and read_about(self.folder)["change"] == self.about["change"]:
                return  # it is the index already
            for wrote in self._wrote:
                before = self._before.get(wrote)
                if before is not None and self._number(wrote) == before["number"]:
                    os.truncate(_path(self.folder, wrote, before["number"]), before["bytes"])
                else:
                    _path(self.folder, wrote, self.about["change"]).unlink(missing_ok=True)
        if isinstance(error, OSError):
            why = error.strerror or error
            raise UserError(f"cannot write the index {shown(self.folder)}: {why}") from error

    def _number(self, kind: str) -> int:
        return self.about["files"].get(kind, {"number": self.about["change"]})["number"]

    def write(self, kind: str, blocks: Iterable[bytes], *, append: bool) -> None:
        """Appends to a file of the index, or writes another in its place."""
        entry = self.about["files"].get(kind) if append else None
        if entry is None:
            entry = {"number": self.about["change"], "bytes": 0, "crc": 0, "modified": 0}
        self.about["files"][kind] = entry
        self._wrote.add(kind)
        path = _path(self.folder, kind, entry["number"])
        with path.open("r+b" if entry["bytes"] else "wb") as file:
            file.truncate(entry["bytes"])  # what a killed change has left
            file.seek(0, os.SEEK_END)
            for block in blocks:
                file.write(block)
                entry["crc"] = zlib.crc32(block, entry["crc"])
                entry["bytes"] += len(block)
            self._close(file, entry)

    def adopt(self, kind: str, write: Any) -> None:
        """Has `write` make a file at the path that it is given, in the place of the old one."""
        path = _path(self.folder, kind, self.about["change"])
        self._wrote.add(kind)
        entry = {"number": self.about["change"], "bytes": 0, "crc": 0, "modified": 0}
        self.about["files"][kind] = entry
        write(path)
        with path.open("r+b") as file:
            while block := file.read(_BLOCK):
                entry["crc"] = zlib.crc32(block, entry["crc"])
                entry["bytes"] += len(block)
            self._close(file, entry)

    def _close(self, file: BinaryIO, entry: dict[str, int]) -> None:
        file.flush()
        os.fsync(file.fileno())
        entry["modified"] = os.fstat(file.fileno()).st_mtime_ns

    def contents(self) -> Contents:
        """The index as it is to be."""
        return open_contents(self.folder, self.about)

    def commit(self) -> None:
        """Makes the change the index."""
        text = json.dumps({"format_version": FORMAT_VERSION, **self.about}, indent=1)
        write_text(self.folder / "index.json", text + "\n")
        kept = {f"{kind}.{entry['number']}" for kind, entry in self.about["files"].items()}
        for file in self.folder.iterdir():
            old = file.stem in KINDS and file.name not in kept
            if old or file.match(".*.index.json"):  # which a killed change was writing
                file.unlink(missing_ok=True)


def rows_as_bytes(rows: np.ndarray, keep: np.ndarray | None = None) -> Iterator[bytes]:
    """The (n, D) rows, or those of the numbers `keep`, as little-endian bytes, block by block."""
    size = max(1, _BLOCK // max(1, rows[:1].nbytes))
    count = len(rows) if keep is None else len(keep)
    for start in range(0, count, size):
        part = rows[start : start + size] if keep is None else rows[keep[start : start + size]]
        yield part.astype(part.dtype.newbyteorder("<"), copy=False).tobytes()
