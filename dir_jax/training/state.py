"""What a training step changes, and what `config.batch_norm` keeps as it is.

| `config.batch_norm` | scale and bias | running mean and variance                             |
|---------------------|----------------|-------------------------------------------------------|
| 'frozen'            | fixed          | fixed, and used to normalise (fine-tuning)            |
| 'frozen_statistics' | trained        | fixed, and used to normalise                          |
| 'trained'           | trained        | each chunk uses its own, and the averages follow them |

BatchNorm is frozen in two places: `create_state` keeps scales and biases away from the optimiser,
and `train_statistics` of `ThreeStageStep` decides which mean and variance normalise a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

from dir_jax.models.variables import Variables, batch_norm_parameters


class TrainState(NamedTuple):
    """What one update turns into the next: a pytree of variables by their dotted names."""

    trained: Variables  # the parameters that the optimiser changes
    fixed: Variables  # the parameters that stay as they are
    stats: Variables  # BatchNorm's running means and variances
    loss: Variables  # what the loss trains of its own: 'class_weights', or nothing
    optimizer: optax.OptState  # the optimiser's own state, over `learned`

    @property
    def params(self) -> Variables:
        """All parameters."""
        return {**self.fixed, **self.trained}

    @property
    def learned(self) -> Variables:
        """All that the optimiser changes: `trained` and `loss`."""
        return {**self.trained, **self.loss}


def create_state(
    params: Mapping[str, Any],
    stats: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    batch_norm: str,
    loss: Variables | None = None,
) -> TrainState:
    """The state before the first update, with the `params` and `stats` of `split_variables`.

    `loss` are the arrays by name that the loss trains and takes as arguments; none by default.
    """
    fixed = batch_norm_parameters(params) if batch_norm == "frozen" else set()
    trained = {name: value for name, value in params.items() if name not in fixed}
    return TrainState(
        trained=trained,
        fixed={name: value for name, value in params.items() if name in fixed},
        stats=dict(stats),
        loss=dict(loss or {}),
        optimizer=optimizer.init({**trained, **(loss or {})}),
    )


def count_bytes(state: TrainState) -> int:
    """The memory of all arrays of a state, in bytes; a checkpoint of it takes about as much."""
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(state))
