"""The batches of a run: the chunks of each step, loaded ahead, and the labels that go with them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from dir_jax.data.loader import BatchLoader
from dir_jax.data.samplers import Sampler
from dir_jax.retrieval.blockwise import finite_rows
from dir_jax.runtime.progress import progress_bar
from dir_jax.runtime.replicas import MeshReplicas
from dir_jax.training.current import CurrentNetwork
from dir_jax.training.mining import (
    MinedSampler,
    MinedTriplets,
    choose_pairs,
    choose_pool,
    mine_of_pairs,
    mine_triplets,
)
from dir_jax.training.setup import Setup
from dir_jax.training.state import TrainState


class Feed:
    """Gives the batch of each step: `chunks, labels = feed(step, state)`.

    Where the sampler is 'mined', triplets are mined with the current state when a run starts and
    every `config.mining.refresh_every` steps. Nothing is loaded before the first batch. Where there
    is `on_failure`, it is called with the path of an image that turns out to be damaged, and why;
    another of its class takes its place.
    """

    bar: tqdm  # of the images trained on; there is one after the first batch
    triplets: MinedTriplets | None  # those mined last, which a resumed run starts with

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        setup: Setup,
        replicas: MeshReplicas,
        current: CurrentNetwork,
        triplets: MinedTriplets | None,
        on_failure: Callable[[str, str], None] | None = None,
    ):
        self._config, self._setup, self._replicas = config, setup, replicas
        self._current, self.triplets, self._on_failure = current, triplets, on_failure
        self._sampler: Sampler | None = None
        self._chunks: Iterator[np.ndarray] = iter(())
        self._stop = -1  # the step at which the loader ends
        self._open = contextlib.ExitStack()  # the loader and the progress bar

    def __call__(self, step: int, state: TrainState) -> tuple[Iterator[np.ndarray], np.ndarray]:
        """The `chunks` and `labels` of a step, as `ThreeStageStep` takes them.

        Steps are asked for one after the other, with the REPLICATED state before each. Raises
        UserError where images cannot be read, or there is nothing to mine from.
        """
        if self._sampler is None or step >= self._stop:
            self._start(step, state)
        assert self._sampler is not None
        labels = self._setup.dataset.labels[self._sampler(step)]
        return self._chunks, _local(labels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _start(self, step: int, state: TrainState) -> None:
        """Loads from a step on, until the next mining or the end of the run."""
        self._open.close()
        config, setup = self._config, self._setup
        sampler, self._stop = setup.sampler, config.num_steps
        if sampler is None:
            every = config.mining.refresh_every
            if self.triplets is None or step % every == 0:
                self.triplets = self._mine(step, state)
            sampler = MinedSampler(self.triplets, config.batch_size, config.seed)
            self._stop = min(self._stop, (step // every + 1) * every)
        self._sampler = sampler
        loader = self._open.enter_context(
            BatchLoader(
                setup.dataset,
                setup.transform,
                sampler,
                seed=config.seed,
                rows=self._row_order(),
                unit=self._setup.chunk_size,
                start_step=step,
                stop_step=self._stop,
                num_workers=config.data.num_workers,
                prefetch=config.data.prefetch,
                **self._replacing(),
            )
        )
        self._chunks = _join(loader, self._replicas.local_count)
        total, done = config.num_steps * config.batch_size, step * config.batch_size
        bar = progress_bar("train", total, "img", shown=True, done=done)
        self.bar = self._open.enter_context(bar)

    def _mine(self, step: int, state: TrainState) -> MinedTriplets:
        config, setup = self._config, self._setup
        pool = choose_pool(setup.usable, config.mining.pool_size, config.seed, step)
        pairs = np.zeros((0, 2), np.int64)
        if setup.dataset.pairs is not None:
            usable = ~np.isin(setup.dataset.pairs, setup.skipped).any(axis=1)
            pairs = choose_pairs(
                setup.dataset.pairs[usable], config.mining.pairs, config.seed, step
            )
        images = np.union1d(pairs[:, 0], pool)
        descriptors = self._current.describe(state, images, setup.mining_transform, "mine")
        described = images[finite_rows(descriptors)]
        pool = pool[np.isin(pool, described)]
        rows_of_pool = descriptors[np.searchsorted(images, pool)]
        if setup.dataset.pairs is not None:
            pairs = pairs[np.isin(pairs[:, 0], described)]
            return mine_of_pairs(
                descriptors[np.searchsorted(images, pairs[:, 0])],
                rows_of_pool,
                setup.dataset.labels,
                pairs,
                pool,
                negatives=config.mining.negatives,
            )
        return mine_triplets(
            rows_of_pool,
            setup.dataset.labels[pool],
            pool,
            negatives=config.mining.negatives,
            positives=config.mining.positives,
        )

    def _replacing(self) -> dict[str, Any]:
        """What the loader does about images that turn out to be damaged."""
        if (on_failure := self._on_failure) is None:
            return {}
        dataset, labels = self._setup.dataset, self._setup.dataset.labels.copy()
        labels[self._setup.skipped] = -1
        return {
            "labels": labels,
            "on_damage": lambda number, why: on_failure(dataset.path(number), why),
        }

    def _row_order(self) -> np.ndarray:
        """The rows of this process as the step takes them: the k-th chunk of each device."""
        rows = _local(np.arange(self._config.batch_size))
        by_device = rows.reshape(self._replicas.local_count, -1, self._setup.chunk_size)
        return by_device.transpose(1, 0, 2).reshape(-1)


def _local(rows: np.ndarray) -> np.ndarray:
    """This process's part of an array with a row for each image of the batch."""
    return np.array_split(rows, jax.process_count())[jax.process_index()]


def _join(units: Iterable[np.ndarray], devices: int) -> Iterator[np.ndarray]:
    """Joins units, one for each device, into chunks."""
    units = iter(units)
    while chunk := list(itertools.islice(units, devices)):
        yield chunk[0] if devices == 1 else np.concatenate(chunk)
