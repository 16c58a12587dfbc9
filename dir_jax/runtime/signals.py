"""Ctrl-C and its relatives: a command ends with one line, whenever they come and however often."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn, Self

# Ctrl-C, a scheduler's request, and a terminal that is closed; Windows has no SIGHUP.
ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
AT_ONCE = 1.0  # seconds in which several Ctrl-C count as one


def hold_signals(held: bool) -> None:
    """Lets the signals that end a process wait, or lets them come; not on Windows.

    Processes started now, and this one after a restart, let them wait too, until they are ready.
    """
    if change := getattr(signal, "pthread_sigmask", None):
        change(signal.SIG_BLOCK if held else signal.SIG_UNBLOCK, ENDING)


class Interrupts:
    """Turns Ctrl-C into one KeyboardInterrupt.

    Others that come within a second belong to the same; later ones end the process at once, in case
    something hangs. Where Ctrl-C is ignored, as after `nohup`, it stays so.

    Attributes:
      received: whether Ctrl-C came. The exception itself may be lost in a library's callback.
    """

    received = False

    def __enter__(self) -> Self:
        self._previous = signal.getsignal(signal.SIGINT)
        self._first = 0.0
        if self._previous is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._receive)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous or signal.SIG_DFL)
        sys.unraisablehook = self._hook

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if _imports(frame) or (self.received and time.monotonic() - self._first > AT_ONCE):
            leave(number, frame)
        if not self.received:
            self.received, self._first = True, time.monotonic()
            raise KeyboardInterrupt

    def _unraisable(self, unraisable: Any) -> None:
        # Raised where nobody can catch it, which would print a traceback and go on.
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            leave(signal.SIGINT, None)
        else:
            self._hook(unraisable)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported, many of which an exception leaves half made: they print
    tracebacks of their own, or crash."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of Ctrl-C that ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one, now, would write a second line
    os.write(2, b"interrupted\n")
    os._exit(130)
