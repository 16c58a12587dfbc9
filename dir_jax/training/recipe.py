"""The training run, from a config to a model on disk, in the order in which it happens.

What is not the recipe has a module of its own: the pieces that a config asks for (`setup`), one
update (`three_stage`, run by `step`), the batches (`feed`), descriptors by the network as it is now
(`current`), saving and restoring (`saving`), the run's directory and log (`workdir`), and what is
written at the end (`results`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

import ml_collections
from tqdm.contrib.logging import logging_redirect_tqdm

from dir_jax.errors import ImageError, UserError
from dir_jax.models.variables import split_variables
from dir_jax.runtime.processes import is_first
from dir_jax.runtime.replicas import create_replicas
from dir_jax.runtime.together import Together
from dir_jax.training.announcement import announce
from dir_jax.training.config import validate_config
from dir_jax.training.current import CurrentNetwork
from dir_jax.training.feed import Feed
from dir_jax.training.image_record import check_images
from dir_jax.training.optimizer import create_optimizer, create_schedule
from dir_jax.training.results import is_complete, log_evaluation, write_results
from dir_jax.training.run_checkpoints import RunCheckpoints
from dir_jax.training.saving import check_chunk_size, restore_newest, saved_with_model
from dir_jax.training.setup import create_loss_variables, create_network, create_setup
from dir_jax.training.skipped import SkippedImages
from dir_jax.training.state import count_bytes, create_state
from dir_jax.training.step import ThreeStageStep
from dir_jax.training.stopping import (
    CollapseWatch,
    NotFiniteError,
    Stopped,
    StopSignals,
    check_step,
    check_weights,
)
from dir_jax.training.three_stage import Forward
from dir_jax.training.workdir import MetricsLog, check_free_space, claimed_workdir

log = logging.getLogger(__name__)


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    preempted: int = 0,
    together: Together | None = None,
) -> int:
    """Trains as `config` says, or resumes the run in `workdir` where it stopped.

    Writes config.json, metrics.jsonl, tensorboard/ and checkpoints/STEP/, skipped_images.txt where
    images are skipped, and at the end model/, curves.png, ranked.png and summary.json. Makes
    `workdir` if it does not exist. Of several processes, which all call this, the first one writes;
    `together` are these processes.

    Returns:
      The exit code of the process: 0 when the run is complete; `preempted` when it was saved after
      SIGTERM or SIGHUP; 130 when it was saved after Ctrl-C.

    Raises:
      UserError: bad input, before anything is written; or numbers that are no longer finite.
    """
    directory = Path(workdir)
    _set_up_logging()

    # Set up: what cannot work is refused here, before anything is written.
    validate_config(config)
    network = create_network(config)
    setup = create_setup(config)
    optimizer = create_optimizer(config.optimizer, config.num_steps)
    schedule = create_schedule(config.optimizer, config.num_steps)
    graphdef, params, stats = split_variables(network)
    check_weights({**params, **stats}, f"config.model.init={config.model.init!r}")
    own = create_loss_variables(config, setup, network.descriptor_size)
    state = create_state(params, stats, optimizer, batch_norm=config.batch_norm, loss=own)
    if is_first():
        check_free_space(directory, count_bytes(state), config.checkpoint.keep)
    replicas = create_replicas(config.parallel)
    colours, train_statistics = setup.preprocessing, config.batch_norm == "trained"
    advance = ThreeStageStep(
        Forward(graphdef, colours.mean, colours.std, train_statistics),
        setup.loss,
        optimizer,
        replicas,
        batch_size=config.batch_size,
        chunk_size=setup.chunk_size,
        dropout=config.model.dropout_p > 0,
    )
    with (
        claimed_workdir(directory, config),
        StopSignals() as signals,
        logging_redirect_tqdm(),
        contextlib.closing(
            RunCheckpoints(directory / "checkpoints", keep=config.checkpoint.keep)
        ) as checkpoints,
    ):
        if together:
            together.before_leaving = checkpoints.wait
        # Resume, or begin.
        resumed = restore_newest(checkpoints, state, setup.dataset.classes)
        step, state = resumed.step, resumed.state
        if is_complete(directory, step, config.num_steps):
            log.info("this run is complete: %s", directory)
            return 0
        check_chunk_size(config, setup.chunk_size, resumed)
        images, collapse = check_images(config, setup, resumed), CollapseWatch()
        setup = setup.without(config, images.skipped)
        same = images.same_rows and images.same_pairs
        triplets = resumed.triplets if same else None  # else mined again
        on_failure = None
        if config.data.on_error == "skip":
            on_failure = SkippedImages(directory, resumes=step > 0).add
            for number in setup.skipped.tolist():
                on_failure(
                    setup.dataset.path(number), setup.images.unreadable.get(number, "skipped")
                )
        announce(config, setup, resumed, advance)
        state = replicas.replicate(state)
        current = CurrentNetwork(network, setup, config, replicas, signals.check, on_failure)
        described = None  # the held-out sets, as the last evaluation described them
        with (
            MetricsLog(directory, step or None, resumed.rows) as metrics,
            Feed(config, setup, replicas, current, triplets, on_failure) as feed,
        ):

            def save() -> None:
                if step and is_first():
                    loss, optimizer = replicas.fetch((state.loss, state.optimizer))
                    checkpoints.save(
                        step,
                        current.network(state),
                        saved_with_model(
                            loss,
                            optimizer,
                            feed.triplets,
                            metrics.rows,
                            images.arrays,
                            images.skipped,
                            setup.chunk_size,
                            setup.dataset.classes,
                        ),
                        preprocessing=setup.preprocessing,
                        recipe=setup.recipe,
                        mean_average_precision=metrics.evaluation(step).get("mAP"),
                    )

            def on_chunk() -> None:
                feed.bar.update(config.batch_size / advance.num_chunks / 2)  # in stages 1 and 3
                signals.check()

            try:
                if not metrics.rows:
                    described = current.describe_held_out(state)
                    metrics.write({"step": 0, "eval": described.metrics()})
                    log_evaluation("before training", metrics.rows[0]["eval"])

                while step < config.num_steps:
                    # One update.
                    chunks, labels = feed(step, state)
                    started = time.perf_counter()
                    seed = (config.seed * 1_000_003 + step) % 2**32
                    new_state, values = advance(state, chunks, labels, seed, on_chunk)
                    row = {name: float(value) for name, value in replicas.fetch(values).items()}
                    check_step(row, step + 1)
                    del row["finite"]
                    collapse.see(row["mean_similarity"])
                    row["learning_rate"] = float(schedule(step))
                    row["images_per_second"] = config.batch_size / (time.perf_counter() - started)

                    # Evaluate, before the step counts: if stopped here, the run repeats the step.
                    evaluation = {}
                    if _is_due(step + 1, config.eval.every, config):
                        described = current.describe_held_out(new_state)
                        evaluation = {"eval": described.metrics()}
                    state, step = new_state, step + 1

                    # Log and save.
                    if evaluation or _is_due(step, config.log_every, config):
                        metrics.write({"step": step, **row, **evaluation})
                        log_evaluation(f"step {step}", evaluation.get("eval", {}))
                    feed.bar.set_postfix(step=step, loss=f"{row['loss']:.4f}", refresh=False)
                    if _is_due(step, config.checkpoint.every, config):
                        save()
                    signals.check()

                # Finish.
                save()
                described = described or current.describe_held_out(state)
                write_results(directory, config, setup, current, state, described, metrics.rows)
            except Stopped:
                save()
                checkpoints.wait()
                after = f"after step {step} and saved" if step else "before the first step ended"
                log.info("stopped %s; the same command resumes", after)
                return 130 if signals.received == signal.SIGINT else preempted
            except ImageError as e:
                checkpoints.wait()
                raise UserError(f"{e}; --config.data.on_error=skip goes on without it") from e
            except NotFiniteError as e:
                checkpoints.wait()
                last = checkpoints.latest()
                good = f"the last good checkpoint is {checkpoints.path(last)}" if last else ""
                advice = (
                    "try a lower config.optimizer.learning_rate or config.model.dtype='float32'"
                )
                raise UserError(f"{e}; {good or 'there is no checkpoint yet'}; {advice}") from e
    return 0


def _is_due(step: int, every: int, config: ml_collections.ConfigDict) -> bool:
    """Whether what happens `every` so many steps (0: never) happens after this one, or at last."""
    return step == config.num_steps or (every > 0 and step % every == 0)


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("dir_jax").setLevel(logging.INFO if is_first() else logging.ERROR)
    # Orbax logs the traceback of an error in its background thread, which it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
