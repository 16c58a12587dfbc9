"""Pictures are decoded in processes of their own, which are ended when one takes too long.

What is sent by others reaches Pillow's decoders there and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import multiprocessing
import queue
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import numpy as np

from dir_jax.data.given import check_box
from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms.views import Box, Size
from dir_jax.errors import UserError, shown
from dir_jax.report.thumbnails import small_jpeg
from dir_jax.runtime.files import open_regular
from dir_jax.runtime.signals import hold_signals

_MEMORY = 4 << 30  # bytes that a process may have besides what it begins with
_STARTING = 120  # seconds


class TooLargeError(UserError):
    """A picture has more pixels than are taken."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A picture to decode.

    Attributes:
      source: the file's bytes, or the path of an image of the index.
      name: what messages call it.
      box: left, top, right and bottom of the part that is wanted.
      most: the most pixels that the picture may have.
      side: the longer side of a JPEG copy that is wanted instead of the pixels.
    """

    source: bytes | str
    name: str
    box: tuple[float, ...] | None = None
    most: int | None = None
    side: int | None = None


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What came of a job."""

    whole: Size  # width and height of the picture
    size: Size  # of the part that was wanted
    data: bytes  # its pixels, 8-bit RGB, or the JPEG file

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return np.frombuffer(self.data, np.uint8).reshape(self.size[1], self.size[0], 3)


class Decoders:
    """Processes that decode, each one picture at a time.

    Attributes:
      count: how many there are.
    """

    def __init__(self, count: int, *, exif: bool, seconds: float):
        """Starts them; `exif` is whether pictures are turned, `seconds` the time that one has."""
        self.count, self._exif, self._seconds = count, exif, seconds
        self._changing, self._closed = threading.Lock(), False
        self._all = [_Process(exif) for _ in range(count)]
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def decode(self, job: Job) -> Decoded:
        """Decodes; waits for a process that is free.

        Raises:
          TooLargeError: the picture has more pixels than it may have.
          UserError: it cannot be decoded, or not in time, or the box is not inside it.
        """
        process = self._free.get()
        try:
            return process.decode(job, self._seconds)
        except _EndedError:
            process.end()
            with self._changing:
                if not self._closed:  # else nobody would end another one
                    place = self._all.index(process)
                    process = self._all[place] = _Process(self._exif)
            raise
        finally:
            self._free.put(process)

    def close(self) -> None:
        """Ends the processes."""
        with self._changing:
            self._closed = True
            for process in self._all:
                process.end()


class _EndedError(UserError):
    """A process has ended, or is to be ended."""


class _Process:
    def __init__(self, exif: bool):
        self._connection, theirs = multiprocessing.Pipe()
        arguments = theirs, exif
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_decode_for_ever, args=arguments, daemon=True)
        hold_signals(True)  # until it can ignore them
        try:
            self._process.start()
        finally:
            hold_signals(False)
        theirs.close()
        self._ready = False

    def decode(self, job: Job, seconds: float) -> Decoded:
        try:
            if not self._ready:
                if not self._connection.poll(_STARTING):
                    raise EOFError
                self._connection.recv_bytes()
                self._ready = True
            self._connection.send(job)
            if not self._connection.poll(seconds):
                why = f"takes longer than the {seconds:g} seconds that it has"
                raise _EndedError(f"the image {shown(job.name)} {why}")
            # Not unpickled: a process that a picture has taken over gets no further.
            reply = json.loads(self._connection.recv_bytes())
            data = self._connection.recv_bytes()
        except (EOFError, OSError) as e:
            raise _EndedError(f"the image {shown(job.name)} cannot be decoded") from e
        if "error" in reply:
            raise (TooLargeError if reply["large"] else UserError)(reply["error"])
        return Decoded(tuple(reply["whole"]), tuple(reply["size"]), data)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


class _One(ImageDataset):
    """The picture of a job."""

    is_listed = False

    def __init__(self, job: Job):
        super().__init__([job.name])
        self._job = job

    def path(self, i: int) -> str:
        del i
        return self._job.name

    def _box(self, i: int, size: Size) -> Box:
        box = self._job.box
        return super()._box(i, size) if box is None else check_box(box, size, self._job.name)

    def _file(self, i: int) -> BinaryIO:
        del i
        source = self._job.source
        return io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)


def _decode(job: Job, exif: bool) -> Decoded:
    whole = _One(dataclasses.replace(job, box=None)).with_exif(exif).size(0)
    if job.most is not None and math.prod(whole) > job.most:
        raise TooLargeError(
            f"the image {shown(job.name)} has {whole[0]} x {whole[1]} pixels, more than the "
            f"{job.most:,} that are taken; make it smaller"
        )
    view = _One(job).with_exif(exif).view(0)
    if job.side is not None:
        image = view.small(4 * job.side)
        return Decoded(whole, whole, small_jpeg(image, job.side))
    return Decoded(whole, view.size, view.image().tobytes())


def _decode_for_ever(connection: Connection, exif: bool) -> None:
    """Decodes what comes, until the other end is closed, as it is when its process has ended."""
    for name in ("SIGINT", "SIGHUP"):  # of Ctrl-C, every process gets one
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    hold_signals(False)
    _limit_memory()
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(b"ready")
        while True:
            job, data = connection.recv(), b""
            reply: dict[str, Any]
            try:
                done = _decode(job, exif)
                reply, data = {"whole": done.whole, "size": done.size}, done.data
            except UserError as e:
                reply = {"error": str(e), "large": isinstance(e, TooLargeError)}
            connection.send_bytes(json.dumps(reply).encode())
            connection.send_bytes(data)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # where there is no such thing
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, hard))
