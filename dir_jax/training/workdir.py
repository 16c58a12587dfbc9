"""A run's directory: whose it is, its metrics, and the signals that end it early."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import ml_collections

from dir_jax.errors import UserError
from dir_jax.runtime.files import write_text
from dir_jax.training.config import config_differences, config_to_json


def claim_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes `workdir` this experiment's, or recognises it as such.

    Raises:
      UserError: it belongs to another config, or cannot be written to.
    """
    mine, remembered = config_to_json(config), workdir / "config.json"
    if remembered.exists():
        try:
            old = json.loads(remembered.read_text())
        except (OSError, ValueError) as e:
            raise UserError(f"{remembered} cannot be read ({e}); choose another --workdir") from e
        if changed := config_differences(old, mine):
            some = ", ".join(f"config.{key}" for key in changed[:5])
            raise UserError(
                f"--workdir {workdir} holds a run with another config (they differ in {some}); "
                f"to resume it, give the config it was started with ({remembered}); "
                "to start anew, choose another --workdir or delete this one"
            )
    elif (workdir / "checkpoints").exists() or (workdir / "model").exists():
        raise UserError(
            f"--workdir {workdir} holds checkpoints but no config.json, so it is no run that can "
            "be resumed; choose another --workdir"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot make --workdir {workdir}: {e.strerror or e}") from e
    write_text(remembered, json.dumps(mine, indent=2) + "\n")


def check_free_space(workdir: Path, checkpoint_bytes: int, keep: int) -> None:
    """Refuses a disk that will be full before the run is over.

    Args:
      workdir: the run's directory, which need not exist yet.
      checkpoint_bytes: of one checkpoint.
      keep: how many of the newest are kept; the best is one more, and one is being written.

    Raises:
      UserError: there is too little room.
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
    """`metrics.jsonl`, one row a step, and the same as TensorBoard events."""

    def __init__(self, workdir: Path, last_step: int | None):
        """Opens the log of a run that goes on after `last_step`; later rows are dropped.

        Args:
          workdir: the run's directory.
          last_step: the checkpoint that the run goes on from; None starts the log anew.
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
        """Adds a row: 'step' and numbers, nested one deep at most."""
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

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut short is left out."""
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
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def check(self) -> None:
        """Raises `Stopped` once a signal has come."""
        if self.received is not None:
            raise Stopped

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
