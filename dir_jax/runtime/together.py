"""When one of several processes fails, all of them end, and say which one it was.

The others may be waiting for it in a computation that never ends. So a process that fails leaves
its reason in the key-value store of JAX's coordination service, which a thread of every process
looks at. A process that is killed leaves nothing: JAX finds out, by a connection that closes or by
heartbeats, and ends the others by `abort()` with a page of C++ log (and calls no Python function,
see jax-ml/jax's `missed_heartbeat_callback`). That end is caught, and the page becomes a line.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, Self

from dir_jax.errors import UserError, shown
from dir_jax.runtime.processes import HEARTBEAT, name

_FAILED, _ENDED = "dir_jax/failed", "dir_jax/ended/"
_GOODBYE = 10.0  # seconds that process 0, which has the store, waits for the others to read it
_HELD_FOR = 3.0  # seconds that a line of JAX waits for what follows it
_READ_WITHIN = 5.0  # seconds after which what C++ wrote has been read, on a busy machine
_LONGEST_PAGE = 1 << 16  # bytes
_BY_ANOTHER = 1  # exit code of a process that ends because another one did


class Together:
    """The processes of a run, from `start_processes` to the end of the `with` statement.

    An error in one process ends all: that one with its message and, for a UserError, exit code 2;
    the others with a line that names it and exit code 1. With one process, nothing is changed.

    Attributes:
      count: how many they are.
      before_leaving: called before this process ends because another one failed, from a thread.
    """

    before_leaving: Callable[[], None] = staticmethod(lambda: None)

    def __enter__(self) -> Self:
        self.count = 1
        if "jax" not in sys.modules:  # so that a mistake on the command line is told at once
            return self
        from jax._src import distributed  # the store has no public name; Orbax takes the same

        state = distributed.global_state
        if state.client is not None and state.num_processes > 1:
            self._own, self.count = state.process_id, state.num_processes
            self._client: Any = state.client
            self._leaving, self._over = threading.Lock(), threading.Event()
            self._log = _NativeLog(self._on_death)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        if self.count == 1:
            return
        if error is None:
            import jax

            jax.distributed.shutdown()  # waits for all
            self._over.set()
            self._log.close()
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> NoReturn:
        code, words = 2, str(error)
        if not isinstance(error, UserError):
            # What a computation says when another process is gone: who it was is known soon.
            if isinstance(error, ValueError | RuntimeError):
                time.sleep(HEARTBEAT + 15)
            code, words = 1, f"{type(error).__name__}: {shown(error)}"
            if isinstance(error, KeyboardInterrupt):
                code, words = 130, "interrupted"
            else:
                traceback.print_exception(error)
        own = name(self._own, self.count, socket.gethostname())
        try:
            self._client.key_value_set(_FAILED, json.dumps(f"{own} failed: {words}"))
        except Exception:  # another one was faster
            time.sleep(HEARTBEAT + 15)
        self._leave(f"{own}: {words}", code)

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            with contextlib.suppress(Exception):  # there is none, or the process that has it died
                reason = json.loads(self._client.key_value_try_get(_FAILED))
                self._leave(f"{reason}; this process ends with it", _BY_ANOTHER)

    def _on_death(self, dead: list[int]) -> NoReturn:
        who = " and ".join(name(number, self.count) for number in dead) or "another process"
        line = f"{who} ended without a word (killed, out of memory, or its machine was lost)"
        if self._own == 0:
            time.sleep(2)  # else the others might take this end for the first
        # JAX's client waits for this thread, and can tell the others nothing.
        line = f"{line}; the same command resumes from the last checkpoint"
        self._leave(line, _BY_ANOTHER, tell=False)

    def _leave(self, line: str, code: int, *, tell: bool = True) -> NoReturn:
        if not self._leaving.acquire(blocking=False):
            time.sleep(3600)  # another thread is ending this process
        os.write(self._log.real, f"error: {line}\n".encode(errors="backslashreplace"))
        late = threading.Timer(_GOODBYE + 10, os._exit, (code,))  # whatever hangs below
        late.daemon = True
        late.start()
        with contextlib.suppress(Exception):
            self.before_leaving()
        with contextlib.suppress(Exception):
            if not tell:
                os._exit(code)
            self._client.key_value_set(f"{_ENDED}{self._own}", "")
            end = time.monotonic() + _GOODBYE
            while self._own == 0 and time.monotonic() < end:
                if len(self._client.key_value_dir_get(_ENDED)) == self.count:
                    break
                time.sleep(0.1)
        os._exit(code)


class _NativeLog:
    """What C++ code writes to standard error, passed on; except where JAX ends this process.

    Python's own `sys.stderr` writes past this. `on_death` is then called with the numbers of the
    processes that died, as far as JAX says.
    """

    def __init__(self, on_death: Callable[[list[int]], Any]):
        self._on_death, self._held, self._understood = on_death, b"", False
        self._read = b""  # the end of all that was read, passed on or not
        sys.stderr.flush()
        self.real = os.dup(2)
        self._pipe, end = os.pipe()
        os.dup2(end, 2)
        os.close(end)
        self._python = sys.stderr
        sys.stderr = os.fdopen(self.real, "w", 1, errors="backslashreplace", closefd=False)
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()
        # Handlers of Python's `signal` wait for the main thread; this runs in the one that aborts.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._on_abort)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)

    def close(self) -> None:
        """Gives standard error back."""
        ctypes.CDLL(None).signal(signal.SIGABRT, None)
        sys.stderr = self._python
        os.dup2(self.real, 2)
        self._thread.join(timeout=1)

    def _pass_on(self) -> None:
        is_open = True
        while is_open:
            ready, _, _ = select.select([self._pipe], [], [], _HELD_FOR)
            text = os.read(self._pipe, 1 << 16) if ready else b""
            is_open, self._held = bool(text) or not ready, self._held + text
            self._read = (self._read + text)[-_LONGEST_PAGE:]
            if self._understood or _FATAL.search(self._held):
                continue
            if not (text and _OF_JAX.search(self._held)):  # or some time later it still runs
                os.write(self.real, self._held)
                self._held = b""

    def _on_abort(self, number: int) -> None:
        end = time.monotonic() + _READ_WITHIN
        while not _FATAL.search(self._read) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.2)  # until all of it is read
        if not _FATAL.search(self._read):
            os.write(self.real, self._held)
            return  # `abort` then does what it does
        self._understood = True
        leader = b"Failed to send RPC to coordination service" in self._read
        dead = _DEAD.search(self._read)
        self._on_death([0] if leader else [int(n) for n in dead[1].split()] if dead else [])


_OF_JAX = re.compile(rb"^[WEF]\d{4} .*(preemption_sync_manager|coordination_service)", re.M)
_FATAL = re.compile(rb"the JAX distributed service detected fatal errors")
_DEAD = re.compile(rb"stopped sending heartbeats\):\n([\d\n]+)")
