"""Descriptors by the network as it is now: to evaluate it, to mine triplets, to learn whitening."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from dir_jax.data.transforms import Compose
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.passes import describe_lists
from dir_jax.models import RetrievalNetwork
from dir_jax.models.variables import Variables, merge_variables, split_variables
from dir_jax.runtime.replicas import MeshReplicas
from dir_jax.training.held_out import DescribedSets
from dir_jax.training.setup import Setup
from dir_jax.training.state import TrainState


class CurrentNetwork:
    """The network with the variables of a state, which is REPLICATED.

    `on_batch` is called after each batch of images, and may raise to stop. An image that cannot be
    used is a UserError that names it; or `on_failure` is called with its path and why, and its row
    is NaN.
    """

    def __init__(
        self,
        network: RetrievalNetwork,
        setup: Setup,
        config: ml_collections.ConfigDict,
        replicas: MeshReplicas,
        on_batch: Callable[[], None],
        on_failure: Callable[[str, str], None] | None = None,
    ):
        self._graphdef, _, _ = split_variables(network)
        self._setup, self._replicas = setup, replicas
        self._hooks: dict[str, Any] = {"on_batch": on_batch, "on_failure": on_failure}
        self._extractor = Extractor(
            self._graphdef,
            width=network.descriptor_size,
            mean=setup.preprocessing.mean,
            std=setup.preprocessing.std,
            max_batch_size=config.eval.batch_size,
            num_workers=config.data.num_workers,
            prefetch=config.data.prefetch,
        )

    def _variables(self, state: TrainState) -> tuple[Variables, Variables]:
        return self._replicas.fetch((state.params, state.stats))

    def network(self, state: TrainState) -> RetrievalNetwork:
        """The network itself, with host arrays."""
        return merge_variables(self._graphdef, *self._variables(state))

    def describe_held_out(self, state: TrainState) -> DescribedSets:
        """Describes the data sets that the run is evaluated on."""
        variables = self._variables(state)
        return self._setup.held_out.describe(self._extractor, *variables, **self._hooks)

    def describe(
        self, state: TrainState, chosen: np.ndarray, transform: Compose, name: str
    ) -> np.ndarray:
        """The descriptors, (N, D) float32 of norm 1, of the training images `chosen`, (N,) int.

        `name` is for the progress bar.
        """
        images = self._setup.images.choose(name, chosen)
        return describe_lists(
            self._extractor, *self._variables(state), [images], transform, **self._hooks
        )[0]
