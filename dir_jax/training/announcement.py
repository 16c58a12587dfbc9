"""What a run says of itself as it starts."""

from __future__ import annotations

import logging

import jax
import ml_collections
import numpy as np

from dir_jax.training.saving import Resumed
from dir_jax.training.setup import Setup
from dir_jax.training.state import count_bytes
from dir_jax.training.step import ThreeStageStep

log = logging.getLogger(__name__)


def announce(
    config: ml_collections.ConfigDict, setup: Setup, resumed: Resumed, advance: ThreeStageStep
) -> None:
    """Logs a paragraph: the device, the data, the network, the steps, and the memory."""
    state, device = resumed.state, jax.devices()[0]
    trained, fixed = (sum(x.size for x in tree.values()) for tree in (state.trained, state.fixed))
    weights = f"from {config.model.init}" if config.model.init else "from random weights"
    if resumed.step:
        weights = f"resumed after step {resumed.step}"
    low, _ = setup.transform.output_size((1000, 1000), (1000, 1000))
    kept = advance.activation_bytes(state, *low)
    # The state before and after an update, and the gradient, besides one chunk's activations.
    need = 2 * count_bytes(state) + 4 * trained + kept
    log.info(
        "training %s on %d × %s\n"
        "  data: %d images of %d classes, as %d × %d pixels\n"
        "  network: %.1f million parameters, %.1f million of them trained; %s\n"
        "  steps: %d, each of %d images in chunks of %d; learning rate %g, %s\n"
        "  memory: about %.1f GB on each device, and %.1f GB here for a batch",
        config.model.arch, jax.device_count(), device.device_kind,
        len(setup.usable), len(np.unique(setup.dataset.labels[setup.usable])), *low,
        (trained + fixed) / 1e6, trained / 1e6, weights,
        config.num_steps, config.batch_size, setup.chunk_size,
        config.optimizer.learning_rate, config.optimizer.schedule,
        need / 1e9, config.batch_size * low[0] * low[1] * 3 / 1e9,
    )  # fmt: skip
