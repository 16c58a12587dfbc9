"""What a run leaves at its end: the model with its whitening, pictures, and the summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from dir_jax.checkpoint import save_model
from dir_jax.errors import UserError
from dir_jax.report.figures import save_training_curves
from dir_jax.retrieval.blockwise import finite_rows
from dir_jax.retrieval.whitening import Whitening, learn_whitening
from dir_jax.runtime.files import write_text
from dir_jax.runtime.processes import from_first, is_first
from dir_jax.training.current import CurrentNetwork
from dir_jax.training.finished import SUMMARY
from dir_jax.training.held_out import DescribedSets
from dir_jax.training.mining import choose_pool
from dir_jax.training.setup import Setup
from dir_jax.training.state import TrainState

log = logging.getLogger(__name__)

_WHITEN = 2  # separates the random choice of whitening images from other random streams


def is_complete(directory: Path, step: int, num_steps: int) -> bool:
    """Whether the results of the last of `num_steps` are there, as process 0 sees it.

    Those of a shorter run, which is being lengthened, are put aside.
    """
    summary = directory / SUMMARY
    found = is_first() and summary.exists()
    if found and step < num_steps:
        summary.rename(directory / f"summary-{step}-steps.json")
        found = False
    return bool(from_first(found))


def write_results(
    directory: Path,
    config: ml_collections.ConfigDict,
    setup: Setup,
    current: CurrentNetwork,
    state: TrainState,
    described: DescribedSets,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Learns the whitening, then writes model/, curves.png, ranked.png and summary.json.

    Of several processes, all describe the images, and the first one does the rest.

    `described` are the held-out sets by the last `state`, which is REPLICATED; `rows` are the run's
    log, whose first row has the evaluation before training.

    Raises:
      UserError: an image cannot be read, or the results cannot be written.
    """
    whitenings = _learn_whitening(config, setup, current, state)
    if not is_first():
        return
    summary: dict[str, Any] = {"before": rows[0]["eval"], "after": described.metrics()}
    for whitening in whitenings.values():
        whitened = described.whitened(whitening, config.whitening.power)
        summary["after_whitened"] = whitened.metrics()
    summary |= {"steps": config.num_steps, "images_seen": config.num_steps * config.batch_size}
    save_model(
        directory / "model",
        current.network(state),
        preprocessing=setup.preprocessing,
        whitenings=whitenings,
        recipe=setup.recipe.changed(whiten=next(iter(whitenings), None)),
        notes={"step": config.num_steps, "metrics": summary["after"]},
        overwrite=True,
    )
    save_training_curves(directory / "curves.png", rows)
    described.save_ranked_picture(directory / "ranked.png")
    write_text(directory / SUMMARY, json.dumps(summary, indent=2) + "\n")
    for when in ("before", "after", "after_whitened"):
        log_evaluation(when.replace("_", " "), summary.get(when, {}))
    warn_if_worse(summary["before"], summary["after"])
    log.info("wrote %s", directory)


def log_evaluation(when: str, metrics: Mapping[str, float]) -> None:
    """Logs the mAP of an evaluation, or nothing if there was none."""
    if shown := ", ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k.startswith("mAP")):
        log.info("%s: %s", when, shown)


def warn_if_worse(before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Warns where an mAP is lower after training than it was before."""
    lower = [
        f"{name} from {before[name]:.4f} to {value:.4f}"
        for name, value in after.items()
        if name.startswith("mAP") and value < before.get(name, value)
    ]
    if lower:
        log.warning(
            "training has made the network worse on held-out images (%s); try a lower "
            "config.optimizer.learning_rate, or fewer steps: checkpoints/ also keeps the evaluated "
            "step with the highest mAP", ", ".join(lower)
        )  # fmt: skip


def _learn_whitening(
    config: ml_collections.ConfigDict, setup: Setup, current: CurrentNetwork, state: TrainState
) -> dict[str, Whitening]:
    """The whitening that the config asks for, by its name."""
    if not config.whitening.name:
        return {}
    # From no more images than were trained on, so that a trial run of a few steps ends soon.
    most = config.whitening.max_images or config.num_steps * config.batch_size
    chosen = choose_pool(setup.usable, most, config.seed, _WHITEN)
    descriptors = current.describe(state, chosen, setup.whitening_transform, "learn whitening")
    if not is_first():
        return {}
    try:
        whitening = learn_whitening(descriptors[finite_rows(descriptors)])
    except UserError as e:  # the descriptors are all alike; the model is still worth keeping
        log.warning("no whitening is learned: %s", e)
        return {}
    kept, width = whitening.components_.shape
    if kept < width:
        log.warning(
            "the whitening has %d of %d dimensions: %d images do not vary along more "
            "(config.whitening.max_images, config.num_steps)", kept, width, len(chosen)
        )  # fmt: skip
    return {config.whitening.name: whitening}
