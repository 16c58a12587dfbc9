"""What a run saves so that it can be resumed bit for bit: its state and its mined triplets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from dir_jax.checkpoint import Preprocessing, RunCheckpoints, check_variables
from dir_jax.errors import UserError
from dir_jax.models import RetrievalNetwork
from dir_jax.models.variables import merge_variables
from dir_jax.training.mining import MinedTriplets
from dir_jax.training.state import TrainState

log = logging.getLogger(__name__)


class SavedRun:
    """The checkpoints of a run, in `checkpoints/STEP/`; each also holds a model that can be used.

    Batches, augmentation, dropout and the learning rate depend on the seed and the step alone, so
    nothing of them has to be saved.
    """

    def __init__(
        self,
        directory: Path,
        graphdef: nnx.GraphDef[RetrievalNetwork],
        preprocessing: Preprocessing,
        keep: int,
    ):
        """Opens what there is.

        Args:
          directory: the directory of the run.
          graphdef: the structure of the network.
          preprocessing: the mean and standard deviation of its input.
          keep: how many of the newest checkpoints stay, besides the one with the best mAP.
        """
        self._graphdef, self._preprocessing = graphdef, preprocessing
        self._checkpoints = RunCheckpoints(directory / "checkpoints", keep=keep)

    def restore(self, state: TrainState) -> tuple[int, TrainState, MinedTriplets | None]:
        """Reads the newest checkpoint.

        Args:
          state: the state before the first update.

        Returns:
          The number of updates made, the state after them, and the triplets mined last. Without a
          checkpoint these are 0, `state` and None.

        Raises:
          UserError: the checkpoint cannot be read, or is that of another network or optimiser.
        """
        step = self._checkpoints.latest() or 0
        if not step:
            return 0, state, None
        params, stats, train = self._checkpoints.restore(step)
        source = f"the checkpoint {self._checkpoints.path(step)}"
        check_variables(state.params, params, source)
        check_variables(state.stats, stats, source)
        expected = _leaves_by_path(state.optimizer)
        found = {name: np.asarray(value) for name, value in train["optimizer"].items()}
        check_variables(expected, found, source)
        leaves = [np.asarray(found[name], dtype=leaf.dtype) for name, leaf in expected.items()]
        log.info("resuming after step %d", step)
        return (
            step,
            TrainState(
                trained={name: params[name] for name in state.trained},
                fixed={name: params[name] for name in state.fixed},
                stats=stats,
                optimizer=jax.tree.unflatten(jax.tree.structure(state.optimizer), leaves),
            ),
            MinedTriplets(**train["triplets"]) if "triplets" in train else None,
        )

    def save(
        self,
        step: int,
        state: TrainState,
        triplets: MinedTriplets | None,
        mean_average_precision: float | None,
    ) -> None:
        """Saves a state in the background, unless its step is saved already or is 0.

        Args:
          step: the number of updates made.
          state: the state after them, as host arrays.
          triplets: those mined last, or None.
          mean_average_precision: the mAP of this state, in [0, 1], or None if it was not evaluated.

        Raises:
          UserError: this checkpoint, or an earlier one in the background, cannot be written.
        """
        if not step:
            return
        train: dict[str, Any] = {"optimizer": _leaves_by_path(state.optimizer)}
        if triplets is not None:
            train["triplets"] = vars(triplets)
        self._checkpoints.save(
            step,
            merge_variables(self._graphdef, state.params, state.stats),
            train,
            preprocessing=self._preprocessing,
            mean_average_precision=mean_average_precision,
        )

    def wait(self) -> None:
        """Returns when everything is on disk. Raises UserError where it cannot be written."""
        self._checkpoints.wait()

    def newest(self) -> Path | None:
        """Where the newest checkpoint is; None if there is none."""
        step = self._checkpoints.latest()
        return self._checkpoints.path(step) if step else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpoints.close()


def refuse_non_finite(metrics: Mapping[str, float], step: int, saved: SavedRun) -> None:
    """Raises UserError, naming the last good checkpoint, if a metric is no longer finite."""
    if np.isfinite(list(metrics.values())).all():
        return
    saved.wait()
    good = saved.newest()
    where = f"the last good checkpoint is {good}" if good else "no checkpoint was saved before it"
    found = ", ".join(f"{name} {value}" for name, value in metrics.items())
    raise UserError(
        f"the loss or the gradient of step {step} is no longer finite ({found}); {where}; "
        "try a lower config.optimizer.learning_rate or config.model.dtype='float32'"
    )


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
