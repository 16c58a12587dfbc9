"""What ends a run early: a signal, or numbers that are no longer finite."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from dir_jax.errors import NotFiniteError
from dir_jax.runtime.signals import AT_ONCE, ENDING

log = logging.getLogger(__name__)

_COLLAPSED, _COLLAPSED_STEPS = 0.99, 50


def check_step(row: dict[str, float], step: int) -> None:
    """Raises NotFiniteError unless what `ThreeStageStep` gives of a step is finite."""
    if not row["finite"] or not np.isfinite(list(row.values())).all():
        found = ", ".join(f"{name} {value:g}" for name, value in row.items() if name != "finite")
        what = f"step {step} makes parameters or statistics that are not finite ({found})"
        raise NotFiniteError(what)


class CollapseWatch:
    """Warns once where the descriptors of many batches in a row are nearly all the same."""

    def __init__(self) -> None:
        self._steps = 0

    def see(self, mean_similarity: float) -> None:
        """Takes the mean cosine of all pairs of a batch."""
        self._steps = self._steps + 1 if mean_similarity > _COLLAPSED else 0
        if self._steps == _COLLAPSED_STEPS:
            log.warning(
                "the descriptors of the last %d batches are nearly all the same (mean similarity "
                "%.4f): the network may have collapsed; try a lower "
                "config.optimizer.learning_rate with config.optimizer.warmup_steps, a larger "
                "config.batch_size, or for triplets config.loss.mining=semihard",
                _COLLAPSED_STEPS, mean_similarity,
            )  # fmt: skip


def check_weights(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Raises NotFiniteError, naming the first, unless all arrays of a network are finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NotFiniteError(f"{source} has numbers in {name} that are not finite")


class Stopped(Exception):  # noqa: N818
    """A signal asked the run to end."""


class StopSignals:
    """Keeps Ctrl-C, SIGTERM or SIGHUP in `received`, so that the run can save before it ends.

    Another Ctrl-C, more than a second later, interrupts at once. Signals that are ignored when the
    run starts, as after `nohup`, stay ignored.

    Several processes have to end at the same point, so that they save the same step. For that there
    is JAX's preemption notice, which SIGTERM gives: all processes hear of it, and agree on a future
    call of `check`, without a computation. The other signals are passed on to it.
    """

    received: signal.Signals | None = None

    def __init__(self) -> None:
        self._several, self._calls = jax.process_count() > 1, 0

    def check(self) -> None:
        """Raises `Stopped` if a signal has come to this process, or to another one.

        Of several processes, all have to call this equally often. It takes no time.
        """
        if self._several:
            self._calls += 1
            if not multihost_utils.reached_preemption_sync_point(self._calls):
                return
            interrupted = multihost_utils.process_allgather(self.received == signal.SIGINT)
            self.received = signal.SIGINT if interrupted.any() else signal.SIGTERM
        if self.received is not None:
            raise Stopped

    def __enter__(self) -> Self:
        self._previous = {}
        for number in ENDING:
            if self._several and number == signal.SIGTERM:
                continue  # JAX's own handler of it stays
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._first = signal.Signals(number), time.monotonic()
            if self._several:
                signal.raise_signal(signal.SIGTERM)
        elif number == signal.SIGINT and time.monotonic() - self._first > AT_ONCE:
            interrupt = self._previous[signal.SIGINT]
            assert callable(interrupt)
            interrupt(number, frame)
