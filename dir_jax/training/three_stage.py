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

A batch of one chunk needs to go through the network only once: what stage 1 computed for it may be
kept until stage 3, which leaves out a quarter of the arithmetic (`describe_to_differentiate`).

Each of these is a pure function that can be read and tested alone; `dir_jax.training.step` compiles
them for one or more devices and sends the chunks through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import optax
from flax import nnx

from dir_jax.losses import BatchLoss
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.preprocess import normalize
from dir_jax.models.variables import Variables, merge_variables, statistics
from dir_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Forward:
    """The network as training runs it: `descriptors, stats = forward(params, stats, images)`.

    `mean` and `std` are those of the input's three channels, for images in [0, 1].
    """

    graphdef: nnx.GraphDef[RetrievalNetwork]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # Whether BatchNorm normalises by the mean and variance of these images and updates its running
    # averages, or uses the running averages as they are.
    train_statistics: bool = False

    def __call__(
        self,
        params: Variables,
        stats: Variables,
        images: jax.Array,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        """The descriptors, (c, D) float32 of norm 1, and BatchNorm's statistics after the images.

        `params` and `stats` are those of a `TrainState`, `images` (c, H, W, 3) uint8, and
        `dropout_keys` (c,) random keys, or None for no dropout.
        """
        network = merge_variables(self.graphdef, params, stats)
        descriptors = network(
            normalize(images, self.mean, self.std),
            use_running_average=not self.train_statistics,
            dropout_keys=dropout_keys,
        )
        return descriptors, statistics(network)


def describe_chunk(
    forward: Forward, state: TrainState, images: jax.Array, dropout_keys: jax.Array | None = None
) -> jax.Array:
    """Stage 1: the descriptors of a chunk, (c, D) float32, of images (c, H, W, 3) uint8."""
    descriptors, _ = forward(state.params, state.stats, images, dropout_keys)
    return descriptors


def differentiate_loss(
    loss: BatchLoss, descriptors: jax.Array, labels: jax.Array, own: Variables | None = None
) -> tuple[jax.Array, tuple[jax.Array, Variables]]:
    """Stage 2: the loss of the batch, () float32, and its gradient, (b, D) float32.

    `descriptors`, (b, D) float32, and `labels`, (b,) int32, are those of the batch; or those of one
    replica, where `loss` has its `axis_name` bound. `own` is `TrainState.loss`, whose gradient (of
    one replica, its share) comes second.
    """
    return jax.value_and_grad(lambda x, more: loss(x, labels, **more), (0, 1))(
        descriptors, own or {}
    )


def describe_to_differentiate(
    forward: Forward, state: TrainState, images: jax.Array, dropout_keys: jax.Array | None = None
) -> tuple[jax.Array, Callable[[jax.Array], Variables], Variables]:
    """Stage 1 with its activations kept for stage 3.

    Returns:
      The descriptors, (c, D) float32; what takes their cotangents, of the same shape, to the
      gradient with respect to the trained parameters, shaped like `state.trained`; and BatchNorm's
      statistics after this chunk, shaped like `state.stats`.
    """
    descriptors, pull_back, stats = jax.vjp(
        lambda trained: forward({**state.fixed, **trained}, state.stats, images, dropout_keys),
        state.trained,
        has_aux=True,
    )
    return descriptors, lambda cotangents: pull_back(cotangents)[0], stats


def back_propagate_chunk(
    forward: Forward,
    state: TrainState,
    images: jax.Array,
    cotangents: jax.Array,
    dropout_keys: jax.Array | None = None,
) -> tuple[Variables, Variables]:
    """Stage 3: a chunk's share of the gradient with respect to the trained parameters.

    The arguments are those of stage 1, and `cotangents`, (c, D) float32, which are the chunk's rows
    of the gradient of stage 2.

    Returns:
      The gradient, shaped like `state.trained`, to be summed over the chunks; and BatchNorm's
      statistics after this chunk, shaped like `state.stats`, to be averaged over the chunks.
    """
    _, pull_back, stats = describe_to_differentiate(forward, state, images, dropout_keys)
    return pull_back(cotangents), stats


def update(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    gradient: Variables,
    stats: Variables,
) -> TrainState:
    """The state after the optimiser's update by a gradient shaped like `state.learned`, which is
    the sum over all chunks, and with new BatchNorm statistics shaped like `state.stats`."""
    changes, optimizer_state = optimizer.update(gradient, state.optimizer, state.learned)
    learned = optax.apply_updates(state.learned, changes)
    return state._replace(
        trained={name: learned[name] for name in state.trained},
        loss={name: learned[name] for name in state.loss},
        stats=stats,
        optimizer=optimizer_state,
    )
