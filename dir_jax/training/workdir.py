"""The directory of a run: who may use it, its log, and the signals that end the run early."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self

import jax
import ml_collections
import numpy as np

from dir_jax.errors import UserError
from dir_jax.runtime.files import take_lock, write_text
from dir_jax.training.config import config_differences, config_to_json


@contextlib.contextmanager
def claimed_workdir(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Makes `workdir` the directory of this run, whose `config.json` keeps the config.

    Raises:
      UserError: the directory holds a run with another config, is in use by another process, or
        cannot be written to, now or in the body of the `with` statement.
    """
    _check_config(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make --workdir {workdir}: {e.strerror or e}") from e
    with contextlib.ExitStack() as at_end:
        if jax.process_index() == 0:  # the processes of one run share its directory
            busy = f"another process is training in --workdir {workdir}; stop it or choose another"
            at_end.callback(take_lock(workdir / ".lock", busy).release)
        try:
            text = json.dumps(config_to_json(config), indent=2) + "\n"
            write_text(workdir / "config.json", text)
            yield
        except OSError as e:
            raise UserError(f"cannot write to --workdir {workdir}: {e.strerror or e}") from e


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
    """Raises UserError if the disk of `workdir`, which may not exist yet, is too small for the run.

    There must be room for the `keep` newest checkpoints, the best one, and one being written.
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

    A run that is resumed after `last_step` drops later rows; without `last_step` the log is new.
    `rows` are all rows so far.
    """

    def __init__(self, workdir: Path, last_step: int | None):
        from tensorboardX import SummaryWriter

        self._path = workdir / "metrics.jsonl"
        self.rows: list[dict[str, Any]] = []
        if last_step is not None and self._path.exists():
            self.rows = [row for row in _read_rows(self._path) if row["step"] <= last_step]
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

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, without a last line that was cut short."""
    with contextlib.suppress(ValueError):
        for line in path.read_text().splitlines():
            yield json.loads(line)


class Stopped(Exception):  # noqa: N818
    """A signal asked the run to end."""


class StopSignals:
    """Keeps SIGTERM or Ctrl-C in `received`, so that the run can save before it ends.

    A second Ctrl-C interrupts at once.
    """

    received: signal.Signals | None = None

    def check(self) -> None:
        """Raises `Stopped` if a signal has come and there is no other process to wait for."""
        if self.received is not None and jax.process_count() == 1:
            raise Stopped

    def check_together(self) -> None:
        """Raises `Stopped` in all processes if a signal has come to one of them.

        All processes have to call this at the same point, so that they save the same step.
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
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._previous = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
