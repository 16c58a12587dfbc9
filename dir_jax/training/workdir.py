"""The directory of a run: who may use it, and its log."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import ml_collections

from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import take_lock, write_text
from dir_jax.runtime.processes import check_shared, is_first
from dir_jax.runtime.reading import parse_json, read_json, read_text
from dir_jax.training.config import config_differences, config_to_json

log = logging.getLogger(__name__)


@contextlib.contextmanager
def claimed_workdir(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
    """Makes `workdir` the directory of this run, whose `config.json` keeps the config.

    Of several processes, the first one does that, and the others check that they see it.

    Raises:
      UserError: the directory holds a run with another config, is in use by another run, is not
        shared by all processes, or cannot be written to, now or in the body of the `with`
        statement.
    """
    if is_first():
        _check_config(workdir, config)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(f"cannot make --workdir {workdir}: {e.strerror or e}") from e
    with contextlib.ExitStack() as at_end:
        if is_first():
            busy = (
                f"another process is training in --workdir {workdir}; stop it or choose another "
                "(processes that are to train together need --distributed=on)"
            )
            at_end.callback(take_lock(workdir / ".lock", busy).release)
        try:
            if is_first():
                text = json.dumps(config_to_json(config), indent=2) + "\n"
                write_text(workdir / "config.json", text)
            check_shared(workdir, "--workdir")
            yield
        except OSError as e:
            raise UserError(f"cannot write to --workdir {workdir}: {e.strerror or e}") from e


def _check_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Raises UserError unless the directory is free, or holds a run that `config` can resume."""
    remembered = workdir / "config.json"
    if remembered.exists():
        try:
            old = read_json(remembered)
            before = old.get("num_steps") if isinstance(old, dict) else None
            if before is None:
                raise UserError(f"{remembered} holds {quoted(old)}; expected the config of a run")
            changed = config_differences(old, config_to_json(config))
        except (UserError, RecursionError) as e:
            raise UserError(f"{e}; restore that file, or choose another --workdir") from e
        if changed == ["num_steps"] and isinstance(before, int) and before < config.num_steps:
            log.info(
                "this run is lengthened from %d to %d steps; from here on, the learning rate is "
                "that of a run of %d steps", before, config.num_steps, config.num_steps,
            )  # fmt: skip
        elif changed:
            some = shown(", ".join(f"config.{key}" for key in changed[:5]))
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

    Of several processes, the first one writes it.

    Attributes:
      rows: all rows so far; the first has the evaluation before training.
    """

    def __init__(self, workdir: Path, last_step: int | None, kept: list[Any] | None = None):
        """Starts the log, or continues that of a run which is resumed after `last_step`.

        `kept` are the rows up to there, from the checkpoint. If the file has others, there is a
        warning, and it is written again.

        Raises:
          UserError: the rows have to come from the file, and one of them is damaged.
        """
        from tensorboardX.event_file_writer import EventsWriter

        self._path = workdir / "metrics.jsonl"
        self.rows: list[dict[str, Any]] = []
        if last_step is not None:
            self.rows = self._rows_until(last_step, kept)
        if not is_first():
            return
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = self._path.open("a")
        # Not its SummaryWriter, whose thread would print a traceback when the disk is full.
        (workdir / "tensorboard").mkdir(exist_ok=True)
        self._events = EventsWriter(str(workdir / "tensorboard" / "events"), f".{time.time_ns()}")
        # TensorBoard drops what an earlier process wrote after this step.
        first = 0 if last_step is None else last_step + 1
        self._add_event(first, session_log={"status": "START"})

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row: 'step', and numbers or dicts of numbers."""
        self.rows.append(row)
        if not is_first():
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for key, value in row.items():
            nested = value if isinstance(value, dict) else {"": value}
            tags = {name: f"{key}/{name}" if name else f"train/{key}" for name in nested}
            values = [{"tag": tags[name], "simple_value": x} for name, x in nested.items()]
            if key != "step" and values:
                self._add_event(row["step"], summary={"value": values})
        self._events.flush()

    def _add_event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(step=step, wall_time=time.time(), **content))

    def evaluation(self, step: int) -> dict[str, float]:
        """The measures of the evaluation after a step; empty if it is not the last step logged."""
        row = self.rows[-1] if self.rows else {}
        return row.get("eval", {}) if row.get("step") == step else {}

    def _rows_until(self, last_step: int, kept: list[Any] | None) -> list[Any]:
        try:
            rows = [row for row in _read_rows(self._path) if row["step"] <= last_step]
            problem = f"{self._path} is not complete"
        except UserError as e:
            rows, problem = [], str(e)
            if kept is None:
                raise UserError(f"{e}; restore that file, or choose another --workdir") from e
        if kept is not None and json.dumps(rows) != json.dumps(kept):  # NaN is not equal to itself
            log.warning("%s; it is written again from the checkpoint", problem)
        rows = rows if kept is None else kept
        if not rows or not _is_row(rows[0]) or rows[0]["step"] or "eval" not in rows[0]:
            lacks = f"{self._path} lacks the evaluation before training (step 0)"
            raise UserError(f"{lacks}; restore that file, or choose another --workdir")
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if is_first():
            self._file.close()
            self._events.close()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, without a last line that was cut short.

    Raises UserError, with its number, at a line that is not a row.
    """
    rows = []
    for number, line in enumerate(read_text(path, most=1 << 30).split("\n")[:-1], start=1):
        row: Any = None
        with contextlib.suppress(ValueError):
            row = parse_json(line)
        if not _is_row(row):
            raise UserError(f"{path}, line {number}: {quoted(line)} is not a row of the log")
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """Whether a JSON value has a step, numbers, and dicts of numbers."""
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return False
    values = [v for x in row.values() for v in (x.values() if isinstance(x, dict) else [x])]
    return all(isinstance(v, int | float) for v in values)
