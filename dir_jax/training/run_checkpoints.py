"""The steps that a training run saves, each of which is also a checkpoint of a model."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dir_jax.checkpoint import arrays_of, orbax_handlers, reading, to_host, writing
from dir_jax.description import (
    DamagedCheckpointError,
    check_digests,
    describe_model,
    read_description,
)
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe
from dir_jax.models import RetrievalNetwork
from dir_jax.models.preprocess import Preprocessing
from dir_jax.models.variables import Variables, split_variables

log = logging.getLogger(__name__)


class RunCheckpoints:
    """The checkpoints of one training run, saved in the background; the newest and best are kept.

    A step's directory is renamed into place when it is complete, so that a killed run always finds
    its last complete step.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int, metric: str = "mAP"):
        """Opens or makes `directory`; keeps the `keep` newest steps and the best by `metric`."""
        policy = ocp.checkpoint_managers.preservation_policy
        self._metric = metric
        self._manager = ocp.CheckpointManager(
            Path(directory).absolute(),
            item_handlers={**orbax_handlers(), "train": ocp.PyTreeCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                preservation_policy=policy.AnyPreservationPolicy(
                    [
                        policy.LatestN(keep),
                        policy.BestN(
                            get_metric_fn=lambda metrics: metrics[metric],
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
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
        """Copies the state to the host and writes it while training continues.

        Args:
          step: the number of updates that the state has seen.
          model: the network, whose variables every process holds whole.
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
        with writing(self._manager.directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.JsonSave(description),
                    **{name: ocp.args.PyTreeSave(tree) for name, tree in items.items()},
                ),
                metrics=(
                    None
                    if mean_average_precision is None
                    else {self._metric: float(mean_average_precision)}
                ),
                force=True,
            )

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def restore_newest(self) -> tuple[int, Variables, Variables, Any] | None:
        """Reads the newest step that is not damaged; damaged ones after it are put aside.

        Returns:
          The step, its parameters, BatchNorm statistics and training state as NumPy arrays; None
          where there are no steps.

        Raises:
          UserError: every step is damaged, or the newest is of another version of the format.
        """
        damaged: list[tuple[int, DamagedCheckpointError]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = step, *self._restore(step)
            except DamagedCheckpointError as e:
                damaged.append((step, e))
                continue
            for later, error in damaged:
                aside = self.path(later).with_name(f"damaged-{later}")
                shutil.rmtree(aside, ignore_errors=True)
                self.path(later).rename(aside)
                log.warning("%s; it is now %s; continuing from step %d", error, aside, step)
            self._manager.reload()
            return found
        if damaged:
            raise UserError(
                f"{damaged[0][1]}; there is no other step to continue from: delete "
                f"{self._manager.directory} to start again"
            )
        return None

    def _restore(self, step: int) -> tuple[Variables, Variables, Any]:
        what = f"the checkpoint {self.path(step)}"
        description = read_description(self.path(step))
        with reading(what):
            restore = {name: ocp.args.PyTreeRestore() for name in ("arrays", "train")}
            items = dict(self._manager.restore(step, args=ocp.args.Composite(**restore)).items())
            check_digests(description, items, what)
            return items["arrays"]["params"], items["arrays"]["batch_stats"], items["train"]

    def path(self, step: int) -> Path:
        """The directory of a step."""
        return Path(self._manager.directory) / str(step)

    def wait(self) -> None:
        """Waits until everything saved so far is on disk.

        Raises:
          UserError: it cannot be written.
        """
        with writing(self._manager.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the threads. Raises what `wait` does."""
        try:
            with writing(self._manager.directory):
                self._manager.close()
        finally:  # a step that could not be written would keep its part of a full disk
            if jax.process_index() == 0:
                for unfinished in Path(self._manager.directory).glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
