"""What a run saves, besides its model, so that it can be resumed bit for bit.

Batches, augmentation, dropout and the learning rate depend on the seed and the step alone, so only
the optimiser's state and the mined triplets have to be saved.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from dir_jax.checkpoint import check_variables
from dir_jax.errors import UserError
from dir_jax.training.mining import MinedTriplets
from dir_jax.training.run_checkpoints import RunCheckpoints
from dir_jax.training.state import TrainState

log = logging.getLogger(__name__)


def saved_with_model(optimizer: optax.OptState, triplets: MinedTriplets | None) -> dict[str, Any]:
    """The arrays of a checkpoint that are not the model's, as `restore_newest` reads them."""
    arrays: dict[str, Any] = {"optimizer": _leaves_by_path(optimizer)}
    return arrays if triplets is None else {**arrays, "triplets": vars(triplets)}


def restore_newest(
    checkpoints: RunCheckpoints, state: TrainState
) -> tuple[int, TrainState, MinedTriplets | None]:
    """Reads the newest checkpoint of a run, whose state before the first update is `state`.

    Returns:
      The number of updates made, the state after them, and the triplets mined last. Without a
      checkpoint these are 0, `state` and None.

    Raises:
      UserError: the checkpoint cannot be read, or is that of another network or optimiser.
    """
    newest = checkpoints.restore_newest()
    if newest is None:
        return 0, state, None
    step, params, stats, train = newest
    expected = _leaves_by_path(state.optimizer)
    found = {name: np.asarray(value) for name, value in train["optimizer"].items()}
    for ours, theirs in ((state.params, params), (state.stats, stats), (expected, found)):
        check_variables(ours, theirs, f"the checkpoint {checkpoints.path(step)}")
    leaves = [np.asarray(found[name], leaf.dtype) for name, leaf in expected.items()]
    restored = TrainState(
        trained={name: params[name] for name in state.trained},
        fixed={name: params[name] for name in state.fixed},
        stats=stats,
        optimizer=jax.tree.unflatten(jax.tree.structure(state.optimizer), leaves),
    )
    log.info("resuming after step %d", step)
    return step, restored, MinedTriplets(**train["triplets"]) if "triplets" in train else None


def refuse_non_finite(metrics: Mapping[str, float], step: int, checkpoints: RunCheckpoints) -> None:
    """Raises UserError, naming the last good checkpoint, if a metric is no longer finite."""
    if np.isfinite(list(metrics.values())).all():
        return
    checkpoints.wait()
    where = "no checkpoint was saved before it"
    if last := checkpoints.latest():
        where = f"the last good checkpoint is {checkpoints.path(last)}"
    found = ", ".join(f"{name} {value}" for name, value in metrics.items())
    raise UserError(
        f"the loss or the gradient of step {step} is no longer finite ({found}); {where}; "
        "try a lower config.optimizer.learning_rate or config.model.dtype='float32'"
    )


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
