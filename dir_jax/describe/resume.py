"""Keeps the descriptors of a long extraction as they come, so that a killed run can resume.

`PartialDescriptors` is a folder beside the output, OUTPUT.partial:

    identity.json    what is being described; the folder of another run is refused
    images.marks     of each image a hash of its path, its file's size and time; int64 each
    PASS.npy         (N, D) float32, the descriptors of one pass over a list
    PASS.batches     uint32 for each batch: the checksum of its rows in PASS.npy, 0 for none
    PASS.failures    the images that cannot be used, one row of JSON for each

As somebody else may have written them, they are checked before they are believed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dir_jax.data.ground_truth import QueryDataset
from dir_jax.data.marks import mark
from dir_jax.describe.image_lists import ImageList, Pass
from dir_jax.describe.npy import npy_header
from dir_jax.describe.padded_shapes import Batch
from dir_jax.errors import UserError, shown
from dir_jax.runtime.files import open_regular, replacing, take_lock, write_text
from dir_jax.runtime.platforms import sync_data, write_at
from dir_jax.runtime.reading import parse_json, read_json

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_SYNCS = 5.0
_LONGEST_FAILURE = 20_000  # bytes of a row in .failures
_NAMED = 3  # changed images that a message names


class PartialDescriptors:
    """The folder of one extraction, locked against other processes."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        passes: Sequence[Pass],
        *,
        images_may_change: bool = False,
    ):
        """Opens the folder, or makes it.

        `identity` says in JSON values how the images of the passes are described. With
        `images_may_change`, what was described of other images is dropped, not refused.

        Raises:
          UserError: the folder is that of another extraction, or some of the images that it has
            described have changed since; or it is damaged, in use, or cannot be written.
        """
        self.folder = Path(folder)
        self._passes = passes
        self._open: list[StoredSink] = []
        self._new = False  # whether nothing was in it
        self._lists = list({id(each.images): each.images for each in passes}.values())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            modes = [file.lstat().st_mode for file in (self.folder, *self.folder.iterdir())]
        except OSError as e:
            raise UserError(f"cannot write {self.folder}: {e.strerror}") from e
        if not (stat.S_ISDIR(modes[0]) and all(map(stat.S_ISREG, modes[1:]))):
            raise UserError(f"{self.folder} is a link or has links in it, which is refused; "
                            "delete it")  # fmt: skip
        busy = f"{self.folder} is being written by another process"
        self._lock = take_lock(self.folder / "lock", busy)
        try:
            self._check_identity(dict(identity), images_may_change)
        except BaseException:
            self.close()
            raise

    def _check_identity(self, identity: dict[str, Any], images_may_change: bool) -> None:
        marks = np.concatenate([_marks(images) for images in self._lists])
        identity["images"] = [len(marks), hashlib.sha256(marks[:, 0].tobytes()).hexdigest()]
        identity["batches"] = _digest_of_batches(self._passes)
        text = json.dumps(identity, indent=1, sort_keys=True)
        identity = json.loads(text)
        file = self.folder / "identity.json"
        problems = self._differences(identity, marks) if file.exists() else {}
        if problems and not (images_may_change and problems.keys() <= {"images", "batches"}):
            what = ", ".join(key + f" ({why})" * bool(why) for key, why in sorted(problems.items()))
            raise UserError(
                f"{self.folder} holds an unfinished extraction that differs in {what}; finish it "
                "as it was started, or delete that folder to start again"
            )
        if problems:
            # Without its .batches no file counts; the lock, which has no suffix, stays.
            for old in sorted(self.folder.glob("*.*"), key=lambda f: f.suffix != ".batches"):
                old.unlink()
        self._new = not file.exists()
        with replacing(self.folder / "images.marks") as scratch:
            scratch.write_bytes(marks.tobytes())
        write_text(file, text)

    def _differences(self, identity: Mapping[str, Any], marks: np.ndarray) -> dict[str, str]:
        """Which keys of the folder's identity differ, with what can be said about it."""
        file = self.folder / "identity.json"
        there = read_json(file)
        if not isinstance(there, dict) or there.keys() != identity.keys():
            raise _damaged(file, "it is not what this version of the program writes")
        problems = {key: "" for key in identity if there[key] != identity[key]}
        file = self.folder / "images.marks"
        size = file.stat().st_size if file.exists() else 0
        if size % 24 or not size or ("images" not in problems and size != marks.nbytes):
            raise _damaged(file, f"expected {marks.nbytes} bytes")
        before = np.frombuffer(_read(file, most=marks.nbytes), np.int64).reshape(-1, 3)
        if "images" in problems:
            changed = np.flatnonzero(before[:, 0] != marks[: len(before), 0]).tolist()
            said = [f"number {i + 1} is now {self._path(i)}" for i in changed[:_NAMED]]
            if size != marks.nbytes:
                said.insert(0, f"there are {len(marks)} instead of {size // 24}")
        else:
            changed = np.flatnonzero((before != marks).any(axis=1)).tolist()
            if "batches" not in problems:  # what has not been described yet may change
                described = self._described()
                changed = [i for i in changed if described[i]]
            said = [f"{self._path(i)} has been replaced" for i in changed[:_NAMED]]
        if len(changed) > _NAMED:
            said.append(f"and so on, {len(changed)} in all")
        if said:
            problems["images"] = ", ".join(said)
            problems.pop("batches", None)
        return problems

    def _described(self) -> np.ndarray:
        """For each image of all lists, whether a descriptor of it is kept."""
        kept = {id(images): np.zeros(len(images), bool) for images in self._lists}
        for each in self._passes:
            done = _read_batches(self.folder / f"{each.name}.batches", len(each.batches))
            for number in np.flatnonzero(done):
                kept[id(each.images)][each.batches[number].places] = True
        return np.concatenate(list(kept.values()))

    def _path(self, number: int) -> str:
        images, *others = self._lists
        while number >= len(images):
            number -= len(images)
            images, *others = others
        return shown(images.path(number))

    def sink(self, each: Pass, width: int) -> StoredSink:
        """Opens the files for the (N, width) descriptors of a pass."""
        sink = StoredSink(self.folder / each.name, len(each.images), width, each.batches)
        self._open.append(sink)
        return sink

    def sync(self) -> None:
        """Marks everything as done, so that what follows can fail without losing it."""
        for sink in self._open:
            sink.sync()

    def close(self) -> None:
        """Writes what is pending and releases the lock; a folder without descriptors goes."""
        known = self._new or self._open
        self._close(delete=bool(known) and not any(sink.has_batches for sink in self._open))

    def delete(self) -> None:
        """Removes the folder, once the extraction's output is written."""
        self._close(delete=True)

    def move_to(self, target: Path, keep: Collection[str]) -> None:
        """Makes the folder, once it is complete, `target`; only the files named are left in it.

        Raises:
          UserError: it cannot be renamed.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            while self._open:
                self._open.pop().close()
            try:
                self.folder.rename(target)
            except OSError as e:
                raise UserError(f"cannot write {target}: {e.strerror}") from e
            for file in target.iterdir():
                if file.name not in keep:
                    file.unlink()

    def _close(self, *, delete: bool) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            if delete:
                stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            while self._open:
                stack.callback(self._open.pop().close)


class StoredSink:
    """The descriptors of a pass on disk; `failures` says by place why a row is NaN."""

    def __init__(self, path: Path, rows: int, width: int, batches: Sequence[Batch]):
        self._shape = rows, width
        self._path = path.with_name(f"{path.name}.npy")
        marks, failures = (path.with_name(path.name + end) for end in (".batches", ".failures"))
        checksums = _read_batches(marks, len(batches))
        self._done = checksums > 0
        self.failures = _read_failures(failures, rows)
        header = npy_header(rows, width)
        self._start = len(header)
        size = self._start + rows * width * 4
        if self._done.any() and (not self._path.exists() or self._path.stat().st_size != size):
            raise _damaged(self._path, f"expected {size} bytes")
        self._unmarked: dict[int, int] = {}  # batch -> checksum
        self._synced = time.monotonic()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            self._rows = os.open(self._path, flags)
            self._marks = os.open(marks, flags)
            self._failures = os.open(failures, flags | os.O_APPEND)
            _reserve(self._rows, size)
            write_at(self._rows, header, 0)
            _reserve(self._marks, checksums.nbytes)
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e
        self._verify(batches, checksums)

    def _verify(self, batches: Sequence[Batch], checksums: np.ndarray) -> None:
        """Batches that are not what was written, or whose failures are lost, are not done."""
        kept = self.descriptors
        for number in np.flatnonzero(self._done).tolist():
            places = batches[number].places
            rows = kept[places]
            lacking = set(places[np.isnan(rows[:, 0])].tolist())
            good = _checksum(rows) == checksums[number] and lacking <= self.failures.keys()
            self._done[number] = good
        if damaged := int((checksums > 0).sum() - self._done.sum()):
            log.warning("%s: %d batches are damaged; they are described again", self._path, damaged)

    def is_done(self, batch: int) -> bool:
        """Whether this batch was written, by an earlier run or by this one."""
        return bool(self._done[batch])

    def write(
        self, batch: int, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
    ) -> None:
        """Writes the rows of a batch, or of no batch (-1); it is done once they are on the disk.

        Raises:
          UserError: the rows cannot be written, as when the disk is full; so does `sync`.
        """
        rows = np.ascontiguousarray(descriptors, np.float32)
        try:
            for place, row in zip(places.tolist(), rows, strict=True):
                data = row.tobytes()
                if write_at(self._rows, data, self._start + place * len(data)) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for place, reason in failures.items():
                data = f"{json.dumps([place, reason])}\n".encode()
                if os.write(self._failures, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e
        self.failures |= failures
        if batch >= 0:
            self._unmarked[batch] = _checksum(rows)
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self.sync()

    @property
    def has_batches(self) -> bool:
        """Whether a batch was written."""
        return bool(self._done.any()) or bool(self._unmarked)

    def sync(self) -> None:
        """Makes sure that all rows are on the disk, then marks their batches as done."""
        try:
            sync_data(self._rows)
            sync_data(self._failures)
            for batch, checksum in self._unmarked.items():
                write_at(self._marks, np.uint32(checksum).tobytes(), 4 * batch)
        except OSError as e:
            self._unmarked = {}  # a second try could succeed without the rows
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e
        self._done[list(self._unmarked)] = True
        self._unmarked = {}
        self._synced = time.monotonic()

    @property
    def descriptors(self) -> np.ndarray:
        """A memory map of what has been written, (rows, width) float32."""
        if not all(self._shape):
            return np.zeros(self._shape, np.float32)
        return np.memmap(self._path, np.float32, "r", self._start, self._shape)

    def close(self) -> None:
        """Syncs and closes."""
        try:
            self.sync()
        finally:
            for file in (self._rows, self._marks, self._failures):
                os.close(file)


def _reserve(file: int, size: int) -> None:
    """Makes a file as long as it is going to be, on disks that can with the space for it."""
    os.ftruncate(file, size)
    if size and hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def _marks(images: ImageList) -> np.ndarray:
    """(N, 3) int64: the `mark` of each image, whose row is its path and its box."""
    dataset = images.dataset
    boxes = dataset.boxes if isinstance(dataset, QueryDataset) else None
    marks = np.zeros((len(images), 3), np.int64)
    for i, image in enumerate(images.indices.tolist()):
        path = dataset.path(image)
        row = path.encode(errors="surrogatepass")
        if boxes is not None:
            row += np.ascontiguousarray(boxes[image]).tobytes()
        marks[i] = mark(row, path)
    return marks


def _digest_of_batches(passes: Sequence[Pass]) -> str:
    digest = hashlib.sha256()
    for each in passes:
        for batch in each.batches:
            head = (*batch.canvas, batch.rows, batch.exact, len(batch.places))
            digest.update(np.array(head, np.int64).tobytes())
            digest.update(np.asarray(batch.places, np.int64).tobytes())
    return digest.hexdigest()


def _damaged(file: Path, why: str) -> UserError:
    return UserError(f"{file} is damaged: {why}; delete {file.parent} to start again")


def _read(file: Path, most: int) -> bytes:
    """The first `most` bytes of a file, or b'' if it does not exist."""
    try:
        with open_regular(file) as stream:
            return stream.read(most)
    except FileNotFoundError:
        return b""
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror or e}") from e


def _read_batches(file: Path, batches: int) -> np.ndarray:
    """(batches,) uint32: the checksum of each batch that is done, 0 for the others."""
    content = _read(file, 4 * batches + 1)
    if len(content) > 4 * batches:
        raise _damaged(file, f"expected {4 * batches} bytes")
    return np.frombuffer(content.ljust(4 * batches, b"\0"), np.uint32)


def _checksum(rows: np.ndarray) -> int:
    return zlib.crc32(rows.data) or 1  # 0 stands for no rows


def _read_failures(file: Path, rows: int) -> dict[int, str]:
    """The reasons by place; cuts off a row that was not finished, to which none must be added."""
    most = rows * _LONGEST_FAILURE
    content = _read(file, most + 1)
    if len(content) > most:
        raise _damaged(file, f"it has more than {most} bytes")
    failures = {}
    whole = content[: content.rfind(b"\n") + 1]
    for number, row in enumerate(whole.splitlines(), 1):
        try:
            place, reason = parse_json(row.decode())
            if type(place) is not int or not 0 <= place < rows or not isinstance(reason, str):
                raise ValueError("expected the number of an image, and a text")
        except (ValueError, TypeError) as e:
            raise _damaged(file, f"line {number}: {str(e)[:100]}") from e
        failures[place] = reason
    if len(whole) != len(content):
        os.truncate(file, len(whole))
    return failures
