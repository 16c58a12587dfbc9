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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dir_jax.errors import UserError
from dir_jax.runtime.files import take_lock, write_text

_SECONDS_BETWEEN_SYNCS = 5.0


class PartialDescriptors:
    """The folder of one extraction, locked against other processes."""

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any]):
        """Opens the folder, or makes it.

        Args:
          folder: where the descriptors are kept.
          identity: JSON values that say what is described, how, and in which batches.

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
        self._check_identity(identity)

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        file = self.folder / "identity.json"
        text = json.dumps(dict(identity), indent=1, sort_keys=True)
        if not file.exists():
            write_text(file, text)
        elif (there := file.read_text()) != text:
            self.close()
            raise UserError(
                f"{self.folder} holds an unfinished extraction that differs in "
                f"{_differences(there, json.loads(text))}; finish it with the flags that it was "
                "started with, or delete that folder to start again"
            )

    def sink(self, name: str, rows: int, width: int) -> StoredSink:
        """Opens the files for the (rows, width) descriptors of the pass `name`."""
        sink = StoredSink(self.folder / name, rows, width)
        self._open.append(sink)
        return sink

    def close(self) -> None:
        """Writes what is pending, and releases the lock."""
        while self._open:
            self._open.pop().close()
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
        flags = os.O_RDWR | os.O_CREAT
        try:
            self._rows = os.open(self._path, flags)
            self._batches = os.open(path.with_name(f"{path.name}.batches"), flags | os.O_APPEND)
            self._failures = os.open(path.with_name(f"{path.name}.failures"), flags | os.O_APPEND)
            os.ftruncate(self._rows, rows * width * 4)
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e
        marks = os.pread(self._batches, os.fstat(self._batches).st_size, 0)
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
                if os.pwrite(self._rows, data, place * len(data)) != len(data):
                    raise OSError(28, "No space left on device")
            for place, reason in failures.items():
                os.write(self._failures, (json.dumps([place, reason]) + "\n").encode())
            self.failures |= failures
            self._unmarked.append(batch)
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                self.sync()
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror}") from e

    def sync(self) -> None:
        """Makes sure that all rows are on the disk, then marks their batches as done."""
        os.fdatasync(self._rows)
        os.fdatasync(self._failures)
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
    text = os.pread(file, os.fstat(file).st_size, 0)
    for row in text.split(b"\n")[:-1]:  # anything after the last line break was cut off
        place, reason = json.loads(row)
        failures[int(place)] = str(reason)
    # A new row must not be appended to a torn one.
    os.ftruncate(file, text.rfind(b"\n") + 1)
    return failures


def _differences(there: str, identity: Mapping[str, Any]) -> str:
    try:
        other = json.loads(there)
        names = [key for key in identity if other.get(key) != identity[key]]
    except (ValueError, AttributeError):
        names = []
    return ", ".join(names) or "its description"
