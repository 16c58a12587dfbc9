"""The steps that a training run saves, each of which is also a checkpoint of a model."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from dir_jax.array_files import open_arrays, read_arrays
from dir_jax.checkpoint import (
    alone,
    array_handler,
    arrays_of,
    check_files,
    orbax_handlers,
    reading,
    to_host,
    writing,
)
from dir_jax.description import (
    DamagedCheckpointError,
    check_digests,
    describe_model,
    read_description,
)
from dir_jax.errors import UserError
from dir_jax.fields import check_fields
from dir_jax.model_recipe import Recipe
from dir_jax.models import RetrievalNetwork
from dir_jax.models.preprocess import Preprocessing
from dir_jax.models.variables import Variables, split_variables
from dir_jax.runtime.processes import from_first, is_first
from dir_jax.runtime.reading import read_json

log = logging.getLogger(__name__)


class RunCheckpoints:
    """The checkpoints of one training run, saved in the background; the newest and best are kept.

    A step's directory is renamed into place when it is complete, so that a killed run always finds
    its last complete step. Of several processes, the first one writes, with Orbax's barriers over
    itself alone, and decides which step is read by all.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int):
        """Opens or makes `directory`; keeps the `keep` newest steps and the one of the best mAP."""
        root = self._root = Path(directory).absolute()
        if not is_first():
            return
        root.mkdir(parents=True, exist_ok=True)
        policy = ocp.checkpoint_managers.preservation_policy
        best = policy.BestN(
            get_metric_fn=lambda metrics: metrics.get("mAP", -1.0), n=1,
            keep_checkpoints_without_metrics=False,
        )  # fmt: skip
        _put_unreadable_aside(root)
        with reading(f"the folder of checkpoints {root}"):
            check_files(root, "*")
            self._manager = ocp.CheckpointManager(
                root,
                item_handlers={**orbax_handlers(), "train": array_handler()},
                options=ocp.CheckpointManagerOptions(
                    create=False,
                    multiprocessing_options=alone(),
                    cleanup_tmp_directories=True,
                    preservation_policy=policy.AnyPreservationPolicy([policy.LatestN(keep), best]),
                ),
            )

    def save(
        self,
        step: int,
        model: RetrievalNetwork,
        train: Mapping[str, Any],
        *,
        preprocessing: Preprocessing,
        recipe: Recipe,
        mean_average_precision: float | None = None,
    ) -> None:
        """Copies the state to the host and writes it while training continues; in process 0.

        Args:
          step: the number of updates that the state has seen.
          model: the network.
          train: a pytree of arrays: optimiser and sampler.
          preprocessing: how the network's input is made.
          recipe: how images are described with it.
          mean_average_precision: the mAP of exactly this state, if it was evaluated.

        Raises:
          UserError: this step, or an earlier one in the background, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        _, params, stats = split_variables(model)
        items = {"arrays": arrays_of(params, stats, {}), "train": to_host(train)}
        description = describe_model(model, preprocessing, items, {"step": step}, recipe)
        args = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
        args["model"] = ocp.args.JsonSave(description)
        score = mean_average_precision
        metrics = None if score is None else {"mAP": float(score)}
        with writing(self._root):
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics, force=True)

    def latest(self) -> int | None:
        """The newest complete step, or None; as far as this process sees it on the disk."""
        if is_first():
            return self._manager.latest_step()
        steps = [int(step.name) for step in self._root.glob("[0-9]*") if step.name.isdigit()]
        return max(steps, default=None)

    def restore_newest(self) -> tuple[int, Variables, Variables, Any] | None:
        """Reads the newest step that is not damaged; damaged ones after it are put aside.

        All processes call this at the same point, and read the step that process 0 finds.

        Returns:
          The step, its parameters, BatchNorm statistics and training state as NumPy arrays; None
          where there are no steps.

        Raises:
          UserError: every step is damaged, or the newest is of another version of the format.
        """
        found = self._find_newest() if is_first() else None
        step = from_first(found[0] if found else -1)
        return found if is_first() or step < 0 else (step, *self._restore(step))

    def _find_newest(self) -> tuple[int, Variables, Variables, Any] | None:
        damaged: list[tuple[int, DamagedCheckpointError]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = step, *self._restore(step)
            except DamagedCheckpointError as e:
                damaged.append((step, e))
                continue
            for later, error in damaged:
                _put_aside(self.path(later), error)
            if damaged:
                log.warning("continuing from step %d", step)
                self._manager.reload()
            return found
        if damaged:
            raise _nothing_left(damaged[0][1])
        return None

    def _restore(self, step: int) -> tuple[Variables, Variables, Any]:
        what = f"the checkpoint {self.path(step)}"
        description = read_description(self.path(step) / "model" / "model.json")
        with reading(what):
            check_files(self.path(step))
            parts = {name: self.path(step) / name for name in ("arrays", "train")}
            items = {name: read_arrays(open_arrays(part)) for name, part in parts.items()}
            check_digests(description, items, what)
            return items["arrays"]["params"], items["arrays"]["batch_stats"], items["train"]

    def path(self, step: int) -> Path:
        """The directory of a step."""
        return self._root / str(step)

    def wait(self) -> None:
        """Waits until everything saved so far is on disk; raises UserError if it cannot be."""
        if is_first():
            with writing(self._root):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the threads. Raises what `wait` does."""
        if not is_first():
            return
        try:
            with writing(self._root):
                self._manager.close()
        finally:  # a step that could not be written would keep its part of a full disk
            for unfinished in self._root.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)


def _put_unreadable_aside(root: Path) -> None:
    """Puts steps aside that would keep Orbax from opening the run at all."""
    damaged: dict[Path, UserError] = {}
    steps = [folder for folder in root.glob("[0-9]*") if folder.name.isdigit()]
    for folder in steps:
        try:
            check_files(folder)
            for file in (folder / "_CHECKPOINT_METADATA", folder / "metrics" / "metrics"):
                if file.exists():
                    check_fields(str(file), read_json(file), {}, closed=False)
        except UserError as e:
            damaged[folder] = e
    for folder, error in damaged.items():
        if len(damaged) == len(steps):
            raise _nothing_left(error)
        _put_aside(folder, error)


def _put_aside(folder: Path, error: UserError) -> None:
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    log.warning("%s; the step is now %s", error, aside)


def _nothing_left(error: UserError) -> UserError:
    return UserError(
        f"{error}; there is no other step to continue from: choose another --workdir, or delete "
        "this one to start again"
    )
