"""The three-stage gradient of a batch loss: any batch size, the memory of one chunk.

A listwise loss needs the descriptors of the whole batch at once, but only them (Revaud et al.,
"Learning with Average Precision", ICCV 2019, section 3.3 and figure 2):

1. describe the batch chunk by chunk, keeping descriptors and no activations;
2. the loss, and its gradient with respect to the descriptors;
3. each chunk again, back-propagating its rows of that gradient; the sums are the gradient of the
   undivided batch. One update follows.

Images stay on the host as uint8 and pass through the device a chunk at a time, so the device holds
one chunk's activations whatever the batch size; only the descriptors (batch × D) grow.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.preprocess import normalize
from dir_jax.models.variables import (
    Variables,
    batch_norm_parameters,
    merge_variables,
    statistics,
)
from dir_jax.runtime.replicas import AXIS, PARTIAL, REPLICATED, ROWS, SCALAR, Replicas

BatchLoss = Callable[..., jax.Array]
"""`loss(descriptors (b, D), labels (b,), axis_name=…) -> ()`: a replica's own rows in, the value of
the whole batch out, with an exact gradient by those rows."""

_IN_FLIGHT = 2  # chunks sent to the device ahead of the one it computes: enough to keep it busy


class TrainState(NamedTuple):
    """What one update turns into the next."""

    trained: Variables  # parameters that the optimiser changes
    fixed: Variables  # parameters that stay
    stats: Variables  # BatchNorm's running statistics
    optimizer: optax.OptState

    @property
    def params(self) -> Variables:
        """All parameters."""
        return {**self.fixed, **self.trained}


def create_state(
    params: Mapping[str, Any],
    stats: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    *,
    batch_norm: str,
) -> TrainState:
    """Divides parameters into trained and fixed ones, by `config.batch_norm`."""
    fixed = batch_norm_parameters(params) if batch_norm == "frozen" else set()
    trained = {name: value for name, value in params.items() if name not in fixed}
    return TrainState(
        trained=trained,
        fixed={name: value for name, value in params.items() if name in fixed},
        stats=dict(stats),
        optimizer=optimizer.init(trained),
    )


class ThreeStageStep:
    """One training step: `state, metrics = step(state, chunks, labels, seed)`."""

    def __init__(
        self,
        graphdef: nnx.GraphDef[RetrievalNetwork],
        loss: BatchLoss,
        optimizer: optax.GradientTransformation,
        replicas: Replicas,
        *,
        batch_size: int,
        chunk_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train_statistics: bool = False,
        dropout: bool = False,
    ):
        """Prepares the four programs of a step; each compiles at its first call.

        Args:
          graphdef: the network's structure.
          loss: a `BatchLoss`.
          optimizer: of the trained parameters.
          replicas: the devices.
          batch_size: images in the whole batch; a multiple of the devices times `chunk_size`.
          chunk_size: images that go through one device at once.
          mean: of the input's channels, in [0, 1].
          std: likewise.
          train_statistics: BatchNorm normalises with each chunk's own statistics and tracks them:
            one moving-average update a step, by the mean over the chunks. A chunk is one
            normalisation group whatever the number of devices.
          dropout: draw a dropout mask for each image, by its place in the batch.
        """
        rows = batch_size // replicas.count
        if rows * replicas.count != batch_size or rows % chunk_size:
            raise ValueError(f"{batch_size=} is not devices ({replicas.count}) × n × {chunk_size=}")
        self.num_chunks = rows // chunk_size
        self.chunk_size = chunk_size
        self._replicas = replicas

        def describe_images(
            params: Variables,
            stats: Variables,
            images: jax.Array,
            chunk: jax.Array,
            seed: jax.Array,
        ) -> tuple[jax.Array, Variables]:
            keys = None
            if dropout:
                first = jax.lax.axis_index(AXIS) * rows + chunk * chunk_size
                keys = jax.vmap(jax.random.fold_in, (None, 0))(
                    jax.random.key(seed), first + jnp.arange(chunk_size)
                )
            network = merge_variables(graphdef, params, stats)
            descriptors = network(
                normalize(images, mean, std),
                use_running_average=not train_statistics,
                dropout_keys=keys,
            )
            return descriptors, statistics(network)

        def start(state: TrainState) -> tuple[jax.Array, Variables, Variables]:
            width = jax.eval_shape(
                lambda: describe_images(
                    state.params,
                    state.stats,
                    jnp.zeros((chunk_size, 64, 64, 3), jnp.uint8),
                    jnp.int32(0),
                    jnp.uint32(0),
                )[0]
            ).shape[-1]
            zeros = jax.tree.map(jnp.zeros_like, (state.trained, state.stats))
            return jnp.zeros((rows, width), jnp.float32), *zeros

        def describe(
            state: TrainState,
            images: jax.Array,
            descriptors: jax.Array,
            chunk: jax.Array,
            seed: jax.Array,
        ) -> tuple[jax.Array, jax.Array]:
            own, _ = describe_images(state.params, state.stats, images, chunk, seed)
            descriptors = jax.lax.dynamic_update_slice(descriptors, own, (chunk * chunk_size, 0))
            return descriptors, own[:1, 0]

        def differentiate_loss(
            descriptors: jax.Array, labels: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            return jax.value_and_grad(lambda d: loss(d, labels, axis_name=AXIS))(descriptors)

        def back_propagate(
            state: TrainState,
            images: jax.Array,
            cotangents: jax.Array,
            gradient: Variables,
            new_stats: Variables,
            chunk: jax.Array,
            seed: jax.Array,
        ) -> tuple[Variables, Variables, jax.Array]:
            own = jax.lax.dynamic_slice_in_dim(cotangents, chunk * chunk_size, chunk_size)
            _, pull_back, stats = jax.vjp(
                lambda trained: describe_images(
                    {**state.fixed, **trained}, state.stats, images, chunk, seed
                ),
                state.trained,
                has_aux=True,
            )
            gradient = jax.tree.map(jnp.add, gradient, pull_back(own)[0])
            return gradient, jax.tree.map(jnp.add, new_stats, stats), own[:1, 0]

        def update(
            state: TrainState, gradient: Variables, new_stats: Variables, loss_value: jax.Array
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            gradient = jax.lax.psum(gradient, AXIS)
            changes, optimizer_state = optimizer.update(gradient, state.optimizer, state.trained)
            stats = state.stats
            if train_statistics:
                groups = replicas.count * self.num_chunks
                stats = jax.tree.map(lambda s: s / groups, jax.lax.psum(new_stats, AXIS))
            metrics = {"loss": loss_value, "gradient_norm": optax.tree.norm(gradient)}
            if "adpool.p" in state.params:
                metrics["gem_p"] = state.params["adpool.p"][0]
            trained = optax.apply_updates(state.trained, changes)
            return state._replace(trained=trained, stats=stats, optimizer=optimizer_state), metrics

        wrap = replicas.wrap
        self._start = wrap(start, (REPLICATED,), (ROWS, PARTIAL, PARTIAL))
        self._describe = wrap(
            describe, (REPLICATED, ROWS, ROWS, SCALAR, SCALAR), (ROWS, ROWS), donate=(2,)
        )
        self._differentiate_loss = wrap(differentiate_loss, (ROWS, ROWS), (REPLICATED, ROWS))
        self._back_propagate = wrap(
            back_propagate,
            (REPLICATED, ROWS, ROWS, PARTIAL, PARTIAL, SCALAR, SCALAR),
            (PARTIAL, PARTIAL, ROWS),
            donate=(3, 4),
        )
        # The old state is not donated: a step cut short must leave it whole, to be saved.
        self._update = wrap(
            update,
            (REPLICATED, PARTIAL, PARTIAL, REPLICATED),
            (REPLICATED, REPLICATED),
            donate=(1, 2),
        )

    def __call__(
        self,
        state: TrainState,
        chunks: Iterable[np.ndarray],
        labels: np.ndarray,
        seed: int = 0,
        on_chunk: Callable[[], None] = lambda: None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update from one batch.

        Args:
          state: REPLICATED.
          chunks: yields, `num_chunks` times, uint8 (local devices · chunk_size, H, W, 3): the k-th
            chunk of each of this process's devices. Device d's images are the contiguous rows
            [d · rows, (d + 1) · rows) of the batch.
          labels: (local rows,) int32, in batch order.
          seed: of this step's dropout.
          on_chunk: called after each chunk of stages 1 and 3; it may raise to abandon the step.

        Returns:
          The next state and the metrics 'loss', 'gradient_norm', 'gem_p' (REPLICATED scalars of the
          state before the update), not waited for.
        """
        replicas = self._replicas
        seed_ = np.uint32(seed)
        descriptors, gradient, new_stats = self._start(state)
        kept: list[np.ndarray] = []
        pace = _Pace()
        for k, images in zip(range(self.num_chunks), chunks, strict=False):
            kept.append(images)
            descriptors, token = self._describe(
                state, replicas.put_rows(images), descriptors, np.int32(k), seed_
            )
            pace(token)
            on_chunk()
        if len(kept) != self.num_chunks:
            raise ValueError(f"got {len(kept)} chunks of {self.num_chunks}")
        loss, cotangents = self._differentiate_loss(
            descriptors, replicas.put_rows(np.asarray(labels, np.int32))
        )
        for k, images in enumerate(kept):
            gradient, new_stats, token = self._back_propagate(
                state,
                replicas.put_rows(images),
                cotangents,
                gradient,
                new_stats,
                np.int32(k),
                seed_,
            )
            pace(token)
            on_chunk()
        return self._update(state, gradient, new_stats, loss)

    def memory_analysis(
        self, state: TrainState, height: int, width: int
    ) -> dict[str, dict[str, int]]:
        """XLA's own account of each program's memory on one device, in bytes.

        Returns:
          program -> {'arguments', 'outputs', 'temporaries'}, for images of this size.
        """
        replicas = self._replicas
        rows = self.num_chunks * self.chunk_size * replicas.local_count
        descriptors, gradient, new_stats = self._start(state)
        images = replicas.put_rows(
            np.zeros((self.chunk_size * replicas.local_count, height, width, 3), np.uint8)
        )
        labels = replicas.put_rows(np.zeros(rows, np.int32))
        k, seed = np.int32(0), np.uint32(0)
        loss = replicas.replicate(np.float32(0))
        programs = {
            "describe": self._describe.lower(state, images, descriptors, k, seed),
            "loss": self._differentiate_loss.lower(descriptors, labels),
            "back-propagate": self._back_propagate.lower(
                state, images, descriptors, gradient, new_stats, k, seed
            ),
            "update": self._update.lower(state, gradient, new_stats, loss),
        }
        analyses: dict[str, Any] = {
            name: program.compile().memory_analysis() for name, program in programs.items()
        }
        return {
            name: {
                "arguments": a.argument_size_in_bytes,
                "outputs": a.output_size_in_bytes,
                "temporaries": a.temp_size_in_bytes,
            }
            for name, a in analyses.items()
        }


class _Pace:
    """Keeps the host at most `_IN_FLIGHT` chunks ahead, or their images would fill the device."""

    def __init__(self) -> None:
        self._tokens: collections.deque[jax.Array] = collections.deque()

    def __call__(self, token: jax.Array) -> None:
        self._tokens.append(token)
        if len(self._tokens) > _IN_FLIGHT:
            jax.block_until_ready(self._tokens.popleft())
