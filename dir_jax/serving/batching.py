"""Requests that wait are answered together, by one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Answers queries, many at once where many wait; JAX belongs to its thread.

    Nothing is delayed so that more may come: while the device is busy, they gather by themselves.

    Args:
      answer: gives an answer, or an exception to raise, for each of some queries.
      most: how many queries it is given at once.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Sequence[A | Exception]], most: int):
        self._answer, self._most = answer, most
        self._waiting: queue.SimpleQueue[tuple[Q, Future[A]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, query: Q) -> Future[A]:
        """Lets a query wait for its answer; one whose future is cancelled is left out."""
        future: Future[A] = Future()
        self._waiting.put((query, future))
        return future

    def close(self) -> None:
        """Answers what waits, and ends the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        going_on = True
        while going_on:
            waiting = [self._waiting.get()]
            while len(waiting) < self._most and not self._waiting.empty():
                waiting.append(self._waiting.get())
            going_on = None not in waiting
            batch = [each for each in waiting if each and each[1].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                answers = self._answer([query for query, _ in batch])
            except Exception as e:  # a bug of ours, of which every request hears
                answers = [e] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
