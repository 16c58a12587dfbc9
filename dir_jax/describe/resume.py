"""Keeps the descriptors of a long extraction as they come, so that a killed run can resume.

`PartialDescriptors` is a folder beside the output, OUTPUT.partial:

    identity.json    what is being described; the folder of another run is refused
    NAME.float32     the descriptors of one pass over a list, row after row
    NAME.batches     the numbers of the batches that are complete in it, int32 each
    NAME.failures    the images that cannot be used, one row of JSON for each
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dir_jax.errors import UserError
from dir_jax.runtime.files import take_lock, write_text
from dir_jax.runtime.platforms import read_at, sync_data, write_at

_SECONDS_BETWEEN_SYNCS = 5.0


class PartialDescriptors:
    """The folder of one extraction, locked against other processes."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identity: Mapping[str, Any],
        *,
        may_change: Collection[str] = (),
    ):
        """Opens the folder, or makes it.

        `identity` says in JSON values what is described, how, and in which batches. Where the
        folder's extraction differs in the keys `may_change` alone, it is dropped, not refused.

        Raises:
          UserError: the folder is that of another extraction, is in use, or cannot be written.
        """
        self.folder = Path(folder)
        self._open: list[StoredSink] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(f"cannot write {self.folder}: {e.strerror}") from e
        busy = f"{self.folder} is being written by another process"
        self._lock = take_lock(self.folder / "lock", busy)
        self._check_identity(identity, may_change)

    def _check_identity(self, identity: Mapping[str, Any], may_change: Collection[str]) -> None:
        file = self.folder / "identity.json"
        text = json.dumps(dict(identity), indent=1, sort_keys=True)
        if not file.exists():
            write_text(file, text)
        elif (there := file.read_text()) != text:
            names = _differences(there, json.loads(text))
            if names and set(names) <= set(may_change):
                # Without its .batches no file counts; the lock, which has no suffix, stays.
                for old in sorted(self.folder.glob("*.*"), key=lambda f: f.suffix != ".batches"):
                    old.unlink()
                write_text(file, text)
                return
            self.close()
            raise UserError(
                f"{self.folder} holds an unfinished extraction that differs in "
                f"{', '.join(names) or 'its description'}; finish it with the flags that it was "
                "started with, or delete that folder to start again"
            )

    def sink(self, name: str, rows: int, width: int) -> StoredSink:
        """Opens the files for the (rows, width) descriptors of the pass `name`."""
        sink = StoredSink(self.folder / name, rows, width)
        self._open.append(sink)
        return sink

    def sync(self) -> None:
        """Marks everything as done, so that what follows can fail without losing it."""
        for sink in self._open:
            sink.sync()

    def close(self) -> None:
        """Writes what is pending and releases the lock; a folder without descriptors goes."""
        empty = bool(self._open) and not any(sink.has_batches for sink in self._open)
        while self._open:
            self._open.pop().close()
        if empty:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    def delete(self) -> None:
        """Removes the folder, once the extraction's output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()


class StoredSink:
    """An `extractor.Sink` on disk.

    Attributes:
      failures: place -> why its row is NaN.
    """

    def __init__(self, path: Path, rows: int, width: int):
        self._shape = rows, width
        self._path = path.with_name(f"{path.name}.float32")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            self._rows = os.open(self._path, flags)
            self._batches = os.open(path.with_name(f"{path.name}.batches"), flags | os.O_APPEND)
            self._failures = os.open(path.with_name(f"{path.name}.failures"), flags | os.O_APPEND)
            os.ftruncate(self._rows, rows * width * 4)
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e
        marks = read_at(self._batches, os.fstat(self._batches).st_size, 0)
        # A number that was cut off belongs to a batch that is described again.
        os.ftruncate(self._batches, len(marks) // 4 * 4)
        self._done = set(np.frombuffer(marks[: len(marks) // 4 * 4], np.int32).tolist())
        self.failures = _read_failures(self._failures)
        self._unmarked: list[int] = []
        self._synced = time.monotonic()

    def is_done(self, batch: int) -> bool:
        """Whether this batch was written, by an earlier run or by this one."""
        return batch in self._done

    def write(
        self, batch: int, places: np.ndarray, descriptors: np.ndarray, failures: Mapping[int, str]
    ) -> None:
        """Writes the rows of a batch; it counts as done once they are on the disk.

        Raises:
          UserError: the rows cannot be written, as when the disk is full.
        """
        try:
            for place, row in zip(places.tolist(), descriptors, strict=True):
                data = np.ascontiguousarray(row, np.float32).tobytes()
                if write_at(self._rows, data, place * len(data)) != len(data):
                    raise OSError(28, "No space left on device")
            for place, reason in failures.items():
                os.write(self._failures, (json.dumps([place, reason]) + "\n").encode())
            self.failures |= failures
            self._unmarked.append(batch)
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                self.sync()
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e

    @property
    def has_batches(self) -> bool:
        """Whether a batch was written; -1 stands for the images that were left out of batches."""
        return any(batch >= 0 for batch in (*self._done, *self._unmarked))

    def sync(self) -> None:
        """Makes sure that all rows are on the disk, then marks their batches as done."""
        sync_data(self._rows)
        sync_data(self._failures)
        os.write(self._batches, np.array(self._unmarked, np.int32).tobytes())
        self._done.update(self._unmarked)
        self._unmarked = []
        self._synced = time.monotonic()

    @property
    def descriptors(self) -> np.ndarray:
        """A memory map of what has been written, (rows, width) float32."""
        if not all(self._shape):
            return np.zeros(self._shape, np.float32)
        return np.memmap(self._path, np.float32, "r", shape=self._shape)

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        for file in (self._rows, self._batches, self._failures):
            os.close(file)


def _read_failures(file: int) -> dict[int, str]:
    failures = {}
    text = read_at(file, os.fstat(file).st_size, 0)
    for row in text.split(b"\n")[:-1]:  # anything after the last line break was cut off
        place, reason = json.loads(row)
        failures[int(place)] = str(reason)
    # A new row must not be appended to a torn one.
    os.ftruncate(file, text.rfind(b"\n") + 1)
    return failures


def _differences(there: str, identity: Mapping[str, Any]) -> list[str]:
    try:
        other = json.loads(there)
        return [key for key in identity if other.get(key) != identity[key]]
    except (ValueError, AttributeError):
        return []
