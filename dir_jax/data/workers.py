"""Values made ahead, in order, by threads or worker processes (Grain)."""

from __future__ import annotations

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
from typing import Any, Generic, Self, TypeVar

import grain
import jax
import numpy as np
from absl import flags

from dir_jax.errors import UserError

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates over make(0), make(1), … make(count - 1), which are made ahead.

    Values are pytrees of NumPy arrays and other picklable leaves, and the caller's own. Memory on
    the host: about `prefetch` values in all where num_workers is 0, and about prefetch + 4 a worker
    otherwise.

    Use it as a context manager, or call `close`: worker processes end with it. They end with this
    process as well, however it ends.
    """

    def __init__(self, make: Callable[[int], T], count: int, *, num_workers: int, prefetch: int):
        """Starts.

        Args:
          make: from a number to a value, without side effects; picklable where there are workers.
          count: how many values.
          num_workers: processes that make them; 0 is threads in this one.
          prefetch: values to prepare ahead, by each worker where there are some; at least 1.

        Raises:
          UserError: while iterating: what `make` raises, or a worker died.
        """
        self._length = count
        self._iterator: grain.DatasetIterator | None = _start(make, count, num_workers, prefetch)
        self._copies = num_workers > 0
        # Collected, or at exit, without having been closed: the workers must end all the same.
        self._close = weakref.finalize(self, self._iterator.close)

    def __len__(self) -> int:
        """How many values there are in all."""
        return self._length

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._iterator is None:
            raise StopIteration
        try:
            value = next(self._iterator)
        except BaseException as e:
            # Its frames hold arrays in shared memory; see `close`.
            traceback.clear_frames(e.__traceback__)
            self.close()
            if (death := _describe_death(e)) is not None:
                raise UserError(death) from e
            raise
        # A worker's array lies in shared memory that is freed with it; ours has no such strings.
        return jax.tree.map(_own, value) if self._copies else value

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()


def _own(leaf: Any) -> Any:
    return np.array(leaf) if isinstance(leaf, np.ndarray) else leaf


def _start(
    make: Callable[[int], Any], count: int, num_workers: int, prefetch: int
) -> grain.DatasetIterator:
    numbers = grain.MapDataset.range(count).map(make)
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
    del index, count
    live_with_parent()


def live_with_parent() -> None:
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
