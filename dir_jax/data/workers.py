"""Values that threads or worker processes (of Grain) make ahead, in order."""

from __future__ import annotations

import collections
import gc
import itertools
import os
import re
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import jax
import numpy as np

from dir_jax.errors import UserError
from dir_jax.runtime.signals import ENDING, hold_signals

if TYPE_CHECKING:
    import grain  # which takes long: imported where there are worker processes

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates over make(0), make(1), … make(count - 1), which are made ahead.

    The values are pytrees of NumPy arrays and of other leaves that can be pickled; they belong to
    the caller. About `prefetch` values are in memory with threads, and about prefetch + 4 for each
    worker with worker processes.

    Use it as a context manager, or call `close`. Worker processes also end when this one does.

    Args:
      make: a function without side effects from a number to a value; picklable, for workers.
      count: how many values there are.
      num_workers: how many processes make them; 0 for threads of this process.
      prefetch: how many values are prepared ahead, by each worker if there are any; at least 1.

    Raises:
      UserError: while iterating: what `make` raised, or a worker died.
    """

    def __init__(self, make: Callable[[int], T], count: int, *, num_workers: int, prefetch: int):
        self._length = count
        self._iterator: grain.DatasetIterator | Generator[T, None, None] | None
        if num_workers:
            self._iterator = _start_workers(make, count, num_workers, prefetch)
        else:
            self._iterator = _in_threads(make, count, prefetch)
        self._copies = num_workers > 0
        # The workers must end even if nobody calls `close`.
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
            # The frames of the traceback hold arrays in shared memory; see `close`.
            traceback.clear_frames(e.__traceback__)
            self.close()
            if (death := _describe_death(e)) is not None:
                raise UserError(death) from e
            raise
        if not self._copies:
            return value
        # An array from a worker lies in shared memory that is freed with it; a copy does not.
        return jax.tree.map(lambda x: np.array(x) if isinstance(x, np.ndarray) else x, value)

    def close(self) -> None:
        """Ends the workers and discards what they have prepared."""
        if self._iterator is None:
            return
        self._close()
        self._iterator = None
        if self._copies:
            # Grain's iterators leave reference cycles that hold shared memory until the next
            # garbage collection, or until Python exits and warns of a leak. A thread frees it.
            gc.collect()
            time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _in_threads(make: Callable[[int], T], count: int, prefetch: int) -> Generator[T, None, None]:
    numbers, pool = iter(range(count)), ThreadPoolExecutor(min(prefetch, os.cpu_count() or 1))

    def begin(most: int) -> Iterator[Future[T]]:
        return (pool.submit(make, number) for number in itertools.islice(numbers, most))

    try:
        begun = collections.deque(begin(prefetch))
        while begun:
            begun.extend(begin(1))
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_workers(
    make: Callable[[int], Any], count: int, num_workers: int, prefetch: int
) -> grain.DatasetIterator:
    import grain
    from absl import flags

    # Grain keeps as many again in this process.
    workers = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=(prefetch + 1) // 2)
    # No threads within a worker, as more workers do the same with less memory.
    values = grain.MapDataset.range(count).map(make).to_iter_dataset(grain.ReadOptions(0, 0))
    iterator = iter(values.mp_prefetch(workers, _live_with_parent))
    if not flags.FLAGS.is_parsed():
        # Grain reads flags of its own from absl, which fails in programs that do not use absl.
        flags.FLAGS.mark_as_parsed()
    # Starts all workers now, while the caller prepares other things. `close` then ends all of them;
    # it would miss those that have not delivered anything.
    iterator.get_state()
    hold_signals(True)  # the workers let them wait until they can ignore them
    try:
        iterator.start_prefetch()
    finally:
        hold_signals(False)
    return iterator


def _live_with_parent(index: int, count: int) -> None:
    """Makes a worker process live exactly as long as its parent wants it to."""
    del index, count
    # Ctrl-C, and SIGTERM from a scheduler, reach the whole process group. The main process decides
    # what they mean, and may still need batches in order to end cleanly.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    hold_signals(False)
    parent = parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _describe_death(error: BaseException) -> str | None:
    """What to tell the user if Grain's error says that a worker died; otherwise None."""
    died = re.search(r"Worker process was terminated .* exit code (-?\d+)", str(error))
    if died is None:
        return None
    why = {
        "-9": "it was killed, most likely because memory ran out",
        "-7": "a bus error, most likely because /dev/shm ran out (--shm-size of docker)",
        "1": "see its messages above; a script of your own that loads data has to run everything "
        'under if __name__ == "__main__":',
    }.get(died[1], "see its messages above")
    return (
        f"a worker process of the data loader died with exit code {died[1]} ({why}); fewer workers "
        "and a smaller prefetch need less memory, and with 0 workers there are only threads"
    )
