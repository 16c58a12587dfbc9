"""The three-stage gradient of a batch loss: any batch size, the memory of one chunk.

A listwise loss needs the descriptors of the whole batch at once, but nothing else of it. So the
batch goes through the network twice, in chunks (Revaud et al., "Learning with Average Precision",
ICCV 2019, arXiv 1906.07589, section 3.3). Figure 2, for a batch of B images in chunks of c:

    stage 1, each chunk     images (c, H, W, 3) ──▶ network ──▶ descriptors (c, D)
    describe_chunk          No activation is kept.

    stage 2, once           descriptors (B, D), labels (B,) ──▶ loss ──▶ ∂loss/∂descriptors (B, D)
    differentiate_loss      The network takes no part.

    stage 3, each chunk     images (c, H, W, 3) ──▶ network ◀── its rows of ∂loss/∂descriptors
    back_propagate_chunk    The sum over the chunks is ∂loss/∂parameters of the undivided batch.

    update, once            parameters ──▶ optimiser ──▶ new parameters

Each of these is a pure function that can be read and tested alone; `dir_jax.training.step` compiles
them for one or more devices and sends the chunks through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import optax
from flax import nnx

from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.preprocess import normalize
from dir_jax.models.variables import Variables, merge_variables, statistics
from dir_jax.training.state import TrainState

BatchLoss = Callable[..., jax.Array]
"""`loss(descriptors (b, D), labels (b,), axis_name=…) -> ()`: takes the rows of one replica and
returns the loss of the whole batch, with an exact gradient with respect to those rows."""


@dataclasses.dataclass(frozen=True)
class Forward:
    """The network as training runs it: `descriptors, stats = forward(params, stats, images)`.

    Attributes:
      graphdef: the structure of the network.
      mean: the mean of the input's three channels, for images in [0, 1].
      std: the standard deviation of the input's three channels, for images in [0, 1].
      train_statistics: whether BatchNorm normalises by the mean and variance of these images and
        updates its running averages, or uses the running averages as they are.
    """

    graphdef: nnx.GraphDef[RetrievalNetwork]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_statistics: bool = False

    def __call__(
        self,
        params: Variables,
        stats: Variables,
        images: jax.Array,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        """Describes images.

        Args:
          params: all parameters, by dotted name.
          stats: BatchNorm's running means and variances, by dotted name.
          images: (c, H, W, 3) uint8.
          dropout_keys: (c,) random keys, one for each image; None for no dropout.

        Returns:
          The descriptors, (c, D) float32 of norm 1, and the statistics after these images.
        """
        network = merge_variables(self.graphdef, params, stats)
        descriptors = network(
            normalize(images, self.mean, self.std),
            use_running_average=not self.train_statistics,
            dropout_keys=dropout_keys,
        )
        return descriptors, statistics(network)


def describe_chunk(
    forward: Forward,
    state: TrainState,
    images: jax.Array,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Stage 1: the descriptors of a chunk, (c, D) float32, of images (c, H, W, 3) uint8."""
    descriptors, _ = forward(state.params, state.stats, images, dropout_keys)
    return descriptors


def differentiate_loss(
    loss: BatchLoss, descriptors: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Stage 2: the loss of the batch, and its gradient with respect to the descriptors.

    Args:
      loss: a `BatchLoss`, with its `axis_name` bound where the batch is split over replicas.
      descriptors: (b, D) float32, all rows of the batch, or those of this replica.
      labels: (b,) int32.

    Returns:
      The loss, () float32, and the gradient, (b, D) float32.
    """
    return jax.value_and_grad(loss)(descriptors, labels)


def back_propagate_chunk(
    forward: Forward,
    state: TrainState,
    images: jax.Array,
    cotangents: jax.Array,
    dropout_keys: jax.Array | None = None,
) -> tuple[Variables, Variables]:
    """Stage 3: a chunk's share of the gradient with respect to the trained parameters.

    Args:
      forward: the network; it must describe the chunk as stage 1 did.
      state: the state that stage 1 used.
      images: (c, H, W, 3) uint8.
      cotangents: (c, D) float32, the chunk's rows of the gradient of stage 2.
      dropout_keys: those of stage 1.

    Returns:
      The gradient, shaped like `state.trained`, to be summed over the chunks; and BatchNorm's
      statistics after this chunk, shaped like `state.stats`, to be averaged over the chunks.
    """
    _, pull_back, stats = jax.vjp(
        lambda trained: forward({**state.fixed, **trained}, state.stats, images, dropout_keys),
        state.trained,
        has_aux=True,
    )
    return pull_back(cotangents)[0], stats


def update(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    gradient: Variables,
    stats: Variables,
) -> TrainState:
    """One update: the optimiser's, from the gradient of the whole batch.

    Args:
      optimizer: the optimiser that `state.optimizer` belongs to.
      state: the state before.
      gradient: the sum of what stage 3 returned, shaped like `state.trained`.
      stats: BatchNorm's new statistics, shaped like `state.stats`.
    """
    changes, optimizer_state = optimizer.update(gradient, state.optimizer, state.trained)
    trained = optax.apply_updates(state.trained, changes)
    return state._replace(trained=trained, stats=stats, optimizer=optimizer_state)
