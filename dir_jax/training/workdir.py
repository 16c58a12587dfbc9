"""The directory of a run: who may use it, its log, and the signals that end the run early."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import jax
import ml_collections
import numpy as np

from dir_jax.errors import UserError
from dir_jax.runtime.files import take_lock, write_text
from dir_jax.training.config import config_differences, config_to_json


@contextlib.contextmanager
def claimed_workdir(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Makes `workdir` the directory of this run, and keeps other processes out of it.

    Args:
      workdir: the directory; it is made if it does not exist.
      config: the config of the run, which `config.json` keeps.

    Raises:
      UserError: the directory holds a run with another config, is in use by another process, or
        cannot be written to, now or in the body of the `with` statement.
    """
    _check_config(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make --workdir {workdir}: {e.strerror or e}") from e
    lock = None
    if jax.process_index() == 0:  # the processes of one run share its directory
        busy = f"another process is training in --workdir {workdir}; stop it or choose another"
        lock = take_lock(workdir / ".lock", busy)
    try:
        write_text(workdir / "config.json", json.dumps(config_to_json(config), indent=2) + "\n")
        yield
    except OSError as e:
        raise UserError(f"cannot write to --workdir {workdir}: {e.strerror or e}") from e
    finally:
        if lock is not None:
            lock.release()


def _check_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError unless the directory is free, or holds a run that `config` can resume."""
    remembered = workdir / "config.json"
    if remembered.exists():
        try:
            old = json.loads(remembered.read_text())
        except (OSError, ValueError) as e:
            raise UserError(f"{remembered} cannot be read ({e}); choose another --workdir") from e
        if changed := config_differences(old, config_to_json(config)):
            some = ", ".join(f"config.{key}" for key in changed[:5])
            raise UserError(
                f"--workdir {workdir} holds a run with another config (they differ in {some}); "
                f"to resume that run, give the config that it was started with ({remembered}); "
                "to start a new run, choose another --workdir or delete this one"
            )
    elif (workdir / "checkpoints").exists() or (workdir / "model").exists():
        raise UserError(
            f"--workdir {workdir} holds checkpoints but no config.json, so it is not a run that "
            "can be resumed; choose another --workdir"
        )


def check_free_space(workdir: Path, checkpoint_bytes: int, keep: int) -> None:
    """Refuses a disk that will be full before the run is over.

    Args:
      workdir: the directory of the run, which may not exist yet.
      checkpoint_bytes: the size of one checkpoint.
      keep: how many of the newest checkpoints are kept. The best one is kept as well, and another
        one is being written.

    Raises:
      UserError: there is too little space.
    """
    place = next(folder for folder in (workdir, *workdir.absolute().parents) if folder.is_dir())
    saved = len(list((workdir / "checkpoints").glob("[0-9]*")))
    needed = checkpoint_bytes * max(keep + 2 - saved, 1)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"--workdir {workdir} has {free / 1e6:.0f} MB free, and the run's checkpoints need "
            f"{needed / 1e6:.0f} MB more ({checkpoint_bytes / 1e6:.0f} MB each); free some, choose "
            "another disk, or lower config.checkpoint.keep"
        )


class MetricsLog:
    """The log of a run: `metrics.jsonl`, with one row for each step, and TensorBoard events.

    Attributes:
      rows: all rows so far, those of the resumed run included.
    """

    def __init__(self, workdir: Path, last_step: int | None):
        """Opens the log of a run that continues after `last_step`, and drops later rows.

        Args:
          workdir: the directory of the run.
          last_step: the step of the checkpoint that the run is resumed from; None starts a new log.
        """
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        self.rows: list[dict[str, Any]] = []
        if last_step is not None and self._path.exists():
            self.rows = [row for row in read_metrics(self._path) if row["step"] <= last_step]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("a")
        self._events = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=len(self.rows) and (last_step or 0) + 1
        )

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row: 'step', and numbers or dicts of numbers."""
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for key, value in row.items():
            nested = value if isinstance(value, dict) else {"": value}
            for name, number in nested.items():
                if key != "step":
                    tag = f"{key}/{name}" if name else f"train/{key}"
                    self._events.add_scalar(tag, number, row["step"])
        self._events.flush()

    def evaluation(self, step: int) -> dict[str, float]:
        """The measures of the evaluation after a step; empty if it is not the last step logged."""
        row = self.rows[-1] if self.rows else {}
        return row.get("eval", {}) if row.get("step") == step else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, without a last line that was cut short."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Stopped(Exception):  # noqa: N818
    """A signal asked the run to end."""


class StopSignals:
    """Turns SIGTERM and Ctrl-C into a flag, so that the run can save before it ends.

    A second Ctrl-C interrupts at once.

    Attributes:
      received: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raises `Stopped` if a signal has come and there is no other process to wait for."""
        if self.received is not None and jax.process_count() == 1:
            raise Stopped

    def check_together(self) -> None:
        """Raises `Stopped` in all processes if a signal has come to one of them.

        Every process of the run has to call this at the same point, so that all of them save the
        same step.
        """
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            received = multihost_utils.process_allgather(np.int32(self.received or 0)).max()
            self.received = signal.Signals(int(received)) if received else None
        if self.received is not None:
            raise Stopped

    @property
    def exit_code(self) -> int:
        """The exit code of a process that the signal stopped: 0 after SIGTERM, 130 after Ctrl-C."""
        return 0 if self.received == signal.SIGTERM else 130

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
