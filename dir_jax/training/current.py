"""Descriptors by the network as it is now: to evaluate it, to mine triplets, to learn whitening."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import ml_collections
import numpy as np

from dir_jax.data.transforms import Compose
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.passes import describe_lists
from dir_jax.models import RetrievalNetwork
from dir_jax.models.variables import merge_variables, split_variables
from dir_jax.runtime.replicas import Replicas
from dir_jax.training.held_out import DescribedSets
from dir_jax.training.setup import Setup
from dir_jax.training.state import TrainState


class CurrentNetwork:
    """Describes images with the variables of a state."""

    def __init__(
        self,
        network: RetrievalNetwork,
        setup: Setup,
        config: ml_collections.ConfigDict,
        replicas: Replicas,
        on_batch: Callable[[], None] = lambda: None,
    ):
        """Prepares to describe; each shape of images is compiled when it first comes.

        Args:
          network: the network; its variables do not matter.
          setup: the pieces of the run.
          config: the config of the run.
          replicas: the devices that states are on.
          on_batch: called after each batch; it may raise to stop.
        """
        self._graphdef, _, _ = split_variables(network)
        self._setup, self._replicas, self._on_batch = setup, replicas, on_batch
        self._extractor = Extractor(
            self._graphdef,
            width=network.descriptor_size,
            mean=setup.preprocessing.mean,
            std=setup.preprocessing.std,
            max_batch_size=config.eval.batch_size,
            num_workers=config.data.num_workers,
            prefetch=config.data.prefetch,
        )

    def network(self, state: TrainState) -> RetrievalNetwork:
        """The network with the variables of a state (REPLICATED)."""
        fetched = self._replicas.fetch(state)
        return merge_variables(self._graphdef, fetched.params, fetched.stats)

    def describe_held_out(self, state: TrainState) -> DescribedSets:
        """Describes the data sets that the run is evaluated on.

        Raises:
          UserError: an image cannot be used (it is named).
        """
        fetched = self._replicas.fetch(state)
        return self._setup.held_out.describe(
            self._extractor, fetched.params, fetched.stats, on_batch=self._on_batch
        )

    def describe(
        self, state: TrainState, chosen: np.ndarray, transform: Compose, name: str
    ) -> np.ndarray:
        """Describes some of the training images.

        Args:
          state: the state whose variables to use, REPLICATED.
          chosen: (N,) int, numbers of training images.
          transform: what is applied to each of them.
          name: what the progress bar says.

        Returns:
          (N, D) float32 descriptors of norm 1.

        Raises:
          UserError: an image cannot be used (it is named).
        """
        fetched = self._replicas.fetch(state)
        images = dataclasses.replace(self._setup.data.images, name=name, chosen=chosen)
        return describe_lists(
            self._extractor,
            fetched.params,
            fetched.stats,
            [images],
            transform,
            on_batch=self._on_batch,
        )[0]
