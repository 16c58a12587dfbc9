"""Batches of images, decoded and transformed ahead by threads or worker processes (Grain).

A row of a batch depends on (seed, step, row) alone: the same bytes come for any number of workers,
for any share of the rows, and after a restart at any step.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import re
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import connection, parent_process
from types import TracebackType
from typing import Protocol

import grain
import numpy as np
from absl import flags
from PIL import Image

from dir_jax.data.images import ImageDataset
from dir_jax.errors import UserError

Transform = Callable[[Image.Image, np.random.Generator], Image.Image]


class BatchSampler(Protocol):
    """Which images make the batch of a step; see `dir_jax.data.samplers`."""

    @property
    def batch_size(self) -> int:
        """Images in a batch."""

    def __call__(self, step: int) -> np.ndarray:
        """(batch_size,) numbers of images."""


class BatchLoader:
    """Iterates over the batches of a range of steps, `unit` images at a time.

    Yields (unit, H, W, 3) uint8 arrays, which are the caller's own: for each step, the images
    `sampler(step)[rows]` in that order, in len(rows) / unit arrays. H and W are those that the
    transform gives; they may differ from one array to the next.

    Memory on the host: about `prefetch` arrays in all where num_workers is 0, and about
    prefetch + 4 a worker otherwise.

    Use it as a context manager, or call `close`: worker processes end with it. They end with this
    process as well, however it ends.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transform: Transform,
        sampler: BatchSampler,
        *,
        seed: int,
        rows: np.ndarray,
        unit: int,
        start_step: int,
        stop_step: int,
        num_workers: int,
        prefetch: int,
    ):
        """Starts to load.

        Args:
          dataset: the images.
          transform: of each image; its random numbers are seeded by seed and
            step · batch_size + row alone.
          sampler: the images of each step's batch.
          seed: of the transforms; not negative.
          rows: (R,) int, the rows of each batch that this process loads, in the order wanted.
          unit: images in an array; divides R.
          start_step: the first step.
          stop_step: the step before which to stop.
          num_workers: processes that decode and transform; 0 is threads in this one.
          prefetch: arrays to prepare ahead, by each worker where there are some; at least 1.

        Raises:
          UserError: `unit` does not divide the rows. While iterating: an image cannot be read or
            transformed, or gets another size than those it shares an array with (names it); or a
            worker died.
        """
        if len(rows) % unit:
            raise UserError(
                f"{len(rows)} rows of a batch cannot be loaded in whole units of {unit} images"
            )
        units = _Units(dataset, transform, sampler, seed, np.asarray(rows), unit, start_step)
        self._length = max(stop_step - start_step, 0) * (len(rows) // unit)
        self._iterator: grain.DatasetIterator | None = _start(
            units, self._length, num_workers, prefetch
        )
        self._copies = num_workers > 0
        # Collected, or at exit, without having been closed: the workers must end all the same.
        self._close = weakref.finalize(self, self._iterator.close)

    def __len__(self) -> int:
        """How many arrays there are in all."""
        return self._length

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        if self._iterator is None:
            raise StopIteration
        try:
            images = next(self._iterator)
        except BaseException as e:
            # Its frames hold arrays in shared memory; see `close`.
            traceback.clear_frames(e.__traceback__)
            self.close()
            if (death := _describe_death(e)) is not None:
                raise UserError(death) from e
            raise
        # A worker's array lies in shared memory that is freed with it; ours has no such strings.
        return np.array(images) if self._copies else images

    def close(self) -> None:
        """Ends the workers, and drops what they have prepared."""
        if self._iterator is None:
            return
        self._close()
        self._iterator = None
        if self._copies:
            # Grain's iterators end in reference cycles, which would hold shared memory until Python
            # happens to look, or to exit, where it warns of a leak. A thread of Grain's frees it.
            gc.collect()
            time.sleep(0.1)

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class _Units:
    """The arrays by number, each made on its own: what Grain shares out between workers."""

    dataset: ImageDataset
    transform: Transform
    sampler: BatchSampler
    seed: int
    rows: np.ndarray
    unit: int
    start_step: int

    def __call__(self, number: int) -> np.ndarray:
        steps, part = divmod(number, len(self.rows) // self.unit)
        step = self.start_step + steps
        rows = self.rows[part * self.unit :][: self.unit].tolist()
        numbers = self.sampler(step)
        images: np.ndarray | None = None
        for place, row in enumerate(rows):
            image = self._load(int(numbers[row]), step * self.sampler.batch_size + row)
            if images is None:
                images = np.empty((self.unit, *image.shape), np.uint8)
            elif image.shape != images.shape[1:]:
                first = self.dataset.path(int(numbers[rows[0]]))
                other = self.dataset.path(int(numbers[row]))
                raise UserError(
                    f"images of one batch come out of {self.transform!r} in different sizes: "
                    f"{first} with {_by(images.shape[1:])} pixels, {other} with "
                    f"{_by(image.shape)}; end the transforms with one that gives a fixed size, "
                    "such as RandomCrop(224)"
                )
            images[place] = image
        assert images is not None
        return images

    def _load(self, number: int, stream: int) -> np.ndarray:
        image = self.dataset.open(number)
        try:
            # A row's own stream of random numbers, whoever draws them.
            image = self.transform(image, np.random.default_rng((self.seed, stream)))
        except Exception as e:
            why = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {e}"
            raise UserError(
                f"the image {self.dataset.path(number)} cannot be transformed: {why}"
            ) from e
        return np.asarray(image)


def _start(units: _Units, count: int, num_workers: int, prefetch: int) -> grain.DatasetIterator:
    numbers = grain.MapDataset.range(count).map(units)
    if num_workers == 0:
        threads = min(prefetch, os.cpu_count() or 1)
        return iter(numbers.to_iter_dataset(grain.ReadOptions(threads, prefetch)))
    workers = grain.MultiprocessingOptions(
        num_workers=num_workers,
        # Grain keeps as many again on this side of the pipe.
        per_worker_buffer_size=(prefetch + 1) // 2,
    )
    iterator = iter(
        # No threads within a worker: more workers do the same with less memory.
        numbers.to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(workers, _set_up_worker)
    )
    if not flags.FLAGS.is_parsed():
        # Grain asks absl for flags of its own, which fails in a program that does not use absl.
        flags.FLAGS.mark_as_parsed()
    # All workers start now, while the caller has other things to prepare; and `close` then knows
    # them all, where otherwise it would overlook those that had delivered nothing.
    iterator.get_state()
    iterator.start_prefetch()
    return iterator


def _set_up_worker(index: int, count: int) -> None:
    """Makes a worker process live exactly as long as its parent wants it."""
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group: what they mean is for the main
    # process to decide, which may still need batches to come to a clean end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _describe_death(error: BaseException) -> str | None:
    """What to do about a worker's death, where Grain's error is about one."""
    died = re.search(r"Worker process was terminated .* exit code (-?\d+)", str(error))
    if died is None:
        return None
    why = {
        "-9": "killed, most likely for lack of memory",
        "-7": "a bus error, most likely for lack of shared memory (/dev/shm; docker's --shm-size)",
        "1": "see its messages above; where a script of your own loads the data, it needs "
        'if __name__ == "__main__": around what it runs',
    }.get(died[1], "see its messages above")
    return (
        f"a worker process of the data loader died with exit code {died[1]} ({why}); "
        "fewer workers and a smaller prefetch need less memory, and 0 workers are threads"
    )


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
