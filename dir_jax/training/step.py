"""Runs the three stages of a training step on one or more devices.

The images of the batch stay on the host as uint8, and a device holds the activations of one chunk,
whatever the batch size. Only the descriptors, and what the loss computes from them, grow with it.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from dir_jax.losses import BatchLoss
from dir_jax.models.variables import Variables
from dir_jax.runtime.replicas import AXIS, PARTIAL, REPLICATED, ROWS, SCALAR, MeshReplicas
from dir_jax.training.state import TrainState
from dir_jax.training.three_stage import (
    Forward,
    back_propagate_chunk,
    describe_chunk,
    describe_to_differentiate,
    differentiate_loss,
    update,
)

_IN_FLIGHT = 2  # chunks sent to a device ahead of the one it computes: enough to keep it busy


class ThreeStageStep:
    """One training step over replicas: `state, metrics = step(state, chunks, labels, seed)`."""

    def __init__(
        self,
        forward: Forward,
        loss: BatchLoss,
        optimizer: optax.GradientTransformation,
        replicas: MeshReplicas,
        *,
        batch_size: int,
        chunk_size: int,
        dropout: bool = False,
    ):
        """Prepares the programs of a step; each is compiled at its first call.

        Args:
          forward: the network. If it trains BatchNorm's statistics, a chunk is one normalisation
            group, whatever the number of devices; the running averages move once a step, by the
            mean over the chunks.
          loss: the loss of the batch.
          optimizer: the optimiser of the trained parameters.
          replicas: the devices.
          batch_size: images in the whole batch; a multiple of devices times `chunk_size`.
          chunk_size: images that go through one device at once.
          dropout: whether to draw a dropout mask for each image, by its row in the batch.

        Raises:
          ValueError: the batch cannot be divided into whole chunks.
        """
        rows = batch_size // replicas.count
        if rows * replicas.count != batch_size or rows % chunk_size:
            raise ValueError(f"{batch_size=} is not devices ({replicas.count}) × n × {chunk_size=}")
        self.num_chunks = rows // chunk_size
        self.chunk_size = chunk_size
        self._replicas, self._forward = replicas, forward
        # The functions of the stages, for the `chunk`-th chunk of one of the replicas.

        def dropout_keys(chunk: Array, seed: Array) -> Array | None:
            if not dropout:
                return None
            first = jax.lax.axis_index(AXIS) * rows + chunk * chunk_size
            numbers = first + jnp.arange(chunk_size)
            return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)

        def start(state: TrainState) -> tuple[Array, Variables, Variables]:
            images = jax.ShapeDtypeStruct((chunk_size, 64, 64, 3), jnp.uint8)
            width = jax.eval_shape(functools.partial(describe_chunk, forward), state, images)
            zeros = jax.tree.map(jnp.zeros_like, (state.trained, state.stats))
            return jnp.zeros((rows, width.shape[-1]), jnp.float32), *zeros

        def stage_1(
            state: TrainState, images: Array, descriptors: Array, chunk: Array, seed: Array
        ) -> tuple[Array, Array]:
            own = describe_chunk(forward, state, images, dropout_keys(chunk, seed))
            descriptors = jax.lax.dynamic_update_slice(descriptors, own, (chunk * chunk_size, 0))
            return descriptors, own[:1, 0]

        def stage_2(
            descriptors: Array, labels: Array, state: TrainState
        ) -> tuple[dict[str, Array], Array, Variables]:
            of_all_replicas = functools.partial(loss, axis_name=AXIS)
            value, (cotangents, by_own) = differentiate_loss(
                of_all_replicas, descriptors, labels, state.loss
            )
            # A loss may leave out a triplet with NaN, as it compares with nothing.
            finite = jax.lax.pmin(_all_finite(descriptors).astype(jnp.int32), AXIS)
            # Of all pairs of unit vectors, from the norm of their sum.
            total = jnp.square(jax.lax.psum(descriptors.sum(axis=0), AXIS)).sum()
            similarity = (total - batch_size) / max(batch_size * (batch_size - 1), 1)
            found = {"loss": jnp.where(finite, value, jnp.nan), "mean_similarity": similarity}
            return found, cotangents, by_own

        def stage_3(
            state: TrainState, images: Array, cotangents: Array,
            gradient: Variables, new_stats: Variables, chunk: Array, seed: Array,
        ) -> tuple[Variables, Variables, Array]:  # fmt: skip
            own = jax.lax.dynamic_slice_in_dim(cotangents, chunk * chunk_size, chunk_size)
            keys = dropout_keys(chunk, seed)
            shares = back_propagate_chunk(forward, state, images, own, keys)
            return *jax.tree.map(jnp.add, (gradient, new_stats), shares), own[:1, 0]

        def finish(
            state: TrainState, gradient: Variables, by_own: Variables, new_stats: Variables,
            found: dict[str, Array],
        ) -> tuple[TrainState, dict[str, Array]]:  # fmt: skip
            gradient, stats = jax.lax.psum({**gradient, **by_own}, AXIS), state.stats
            if forward.train_statistics:
                chunks = replicas.count * self.num_chunks
                stats = jax.tree.map(lambda s: s / chunks, jax.lax.psum(new_stats, AXIS))
            metrics = {**found, "gradient_norm": optax.tree.norm(gradient)}
            if "adpool.p" in state.params:
                metrics["gem_p"] = state.params["adpool.p"][0]
            new = update(optimizer, state, gradient, stats)
            return new, {**metrics, "finite": _all_finite(new)}

        def all_stages(
            state: TrainState, images: Array, labels: Array, seed: Array
        ) -> tuple[TrainState, dict[str, Array]]:
            descriptors, pull_back, new_stats = describe_to_differentiate(
                forward, state, images, dropout_keys(jnp.int32(0), seed)
            )
            found, cotangents, by_own = stage_2(descriptors, labels, state)
            return finish(state, pull_back(cotangents), by_own, new_stats, found)

        wrap = replicas.wrap
        self._start = wrap(start, (REPLICATED,), (ROWS, PARTIAL, PARTIAL))
        self._stage_1 = wrap(
            stage_1, (REPLICATED, ROWS, ROWS, SCALAR, SCALAR), (ROWS, ROWS), donate=(2,)
        )
        self._stage_2 = wrap(stage_2, (ROWS, ROWS, REPLICATED), (REPLICATED, ROWS, PARTIAL))
        of_stage_3 = (REPLICATED, ROWS, ROWS, PARTIAL, PARTIAL, SCALAR, SCALAR)
        self._stage_3 = wrap(stage_3, of_stage_3, (PARTIAL, PARTIAL, ROWS), donate=(3, 4))
        # The old state is not donated: when a step is abandoned, that state is what gets saved.
        of_finish = (REPLICATED, PARTIAL, PARTIAL, PARTIAL, REPLICATED)
        self._finish = wrap(finish, of_finish, (REPLICATED, REPLICATED), donate=(1, 2, 3))
        # A batch of one chunk has no need of a second forward pass.
        of_all = (REPLICATED, ROWS, ROWS, SCALAR)
        self._all_stages = wrap(all_stages, of_all, (REPLICATED, REPLICATED))

    def __call__(
        self,
        state: TrainState,
        chunks: Iterable[np.ndarray],
        labels: np.ndarray,
        seed: int = 0,
        on_chunk: Callable[[], None] = lambda: None,
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update from one batch.

        Args:
          state: the state before, REPLICATED.
          chunks: `num_chunks` arrays, uint8 (local devices · chunk_size, H, W, 3): the k-th has the
            k-th chunk of each device of this process. The images of device d are the rows
            [d · rows, (d + 1) · rows) of the batch.
          labels: (local rows,) int32, in the order of the batch.
          seed: the seed of this step's dropout.
          on_chunk: called for each chunk of stages 1 and 3, and twice for a batch of one chunk; it
            may raise to abandon the step.

        Returns:
          The next state; and as REPLICATED scalars the 'loss' (NaN if a descriptor is not finite),
          the 'mean_similarity' of all pairs of descriptors, 'gradient_norm' and 'gem_p', all of the
          state before the update, and whether all numbers of the next one are 'finite'. The device
          may still be computing them.

        Raises:
          ValueError: there are fewer than `num_chunks` chunks.
        """
        put, seed_ = self._replicas.put_rows, np.uint32(seed)
        todo, own_labels = _exactly(self.num_chunks, chunks), put(np.asarray(labels, np.int32))
        if self.num_chunks == 1:
            (images,) = todo
            on_chunk()
            result = self._all_stages(state, put(images), own_labels, seed_)
            on_chunk()
            return result

        in_flight: collections.deque[Array] = collections.deque()

        def pace(token: Array) -> None:  # keeps images from filling the device
            in_flight.append(token)
            if len(in_flight) > _IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            on_chunk()

        descriptors, gradient, new_stats = self._start(state)
        kept: list[np.ndarray] = []
        for k, images in enumerate(todo):
            kept.append(images)
            descriptors, token = self._stage_1(state, put(images), descriptors, np.int32(k), seed_)
            pace(token)
        found, cotangents, by_own = self._stage_2(descriptors, own_labels, state)
        for k, images in enumerate(kept):
            gradient, new_stats, token = self._stage_3(
                state, put(images), cotangents, gradient, new_stats, np.int32(k), seed_
            )
            pace(token)
        return self._finish(state, gradient, by_own, new_stats, found)

    def activation_bytes(self, state: TrainState, width: int, height: int) -> int:
        """What stage 3 keeps of a chunk's images of this size, before XLA makes it less."""
        images = jax.ShapeDtypeStruct((self.chunk_size, height, width, 3), jnp.uint8)

        def residuals(state: TrainState, images: Array) -> Any:
            return jax.vjp(lambda p: self._forward(p, state.stats, images)[0], state.params)[1]

        kept = jax.tree.leaves(jax.eval_shape(residuals, state, images))
        return sum(x.size * x.dtype.itemsize for x in kept)

    def memory_analysis(self, state: TrainState, height: int, width: int) -> dict[str, Any]:
        """XLA's `CompiledMemoryStats` of the programs 'describe', 'loss', 'back-propagate' and
        'update' on one device, for images of this size in pixels; a batch of one chunk runs them as
        one, and has the figures of 'step' instead."""
        put, local = self._replicas.put_rows, self._replicas.local_count
        k, seed = np.int32(0), np.uint32(0)
        images = put(np.zeros((self.chunk_size * local, height, width, 3), np.uint8))
        labels = put(np.zeros(self.num_chunks * self.chunk_size * local, np.int32))
        if self.num_chunks == 1:
            program = self._all_stages.lower(state, images, labels, seed)
            return {"step": program.compile().memory_analysis()}
        descriptors, gradient, new_stats = self._start(state)
        names = ("loss", "mean_similarity")
        found = self._replicas.replicate({name: np.float32(0) for name in names})
        by_own = self._stage_2(descriptors, labels, state)[2]
        programs = {
            "describe": self._stage_1.lower(state, images, descriptors, k, seed),
            "loss": self._stage_2.lower(descriptors, labels, state),
            "back-propagate": self._stage_3.lower(
                state, images, descriptors, gradient, new_stats, k, seed
            ),
            "update": self._finish.lower(state, gradient, by_own, new_stats, found),
        }
        return {name: each.compile().memory_analysis() for name, each in programs.items()}


def _exactly(count: int, chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    number = 0
    for images in itertools.islice(chunks, count):
        number += 1
        yield images
    if number < count:
        raise ValueError(f"got {number} chunks of {count}")


def _all_finite(tree: Any) -> Array:
    return jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()
