"""The training run, from a config to a model on disk."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dir_jax.checkpoint import RunCheckpoints, check_variables, save_model
from dir_jax.data.loader import BatchLoader
from dir_jax.data.samplers import Sampler
from dir_jax.describe.extractor import Extractor
from dir_jax.describe.passes import describe_lists
from dir_jax.errors import UserError
from dir_jax.models import RetrievalNetwork
from dir_jax.models.variables import merge_variables, split_variables
from dir_jax.report.figures import save_training_curves
from dir_jax.retrieval.whitening import Whitening, learn_whitening
from dir_jax.runtime.files import write_text
from dir_jax.runtime.replicas import create_replicas
from dir_jax.training.config import validate_config
from dir_jax.training.held_out import DescribedSets
from dir_jax.training.mining import MinedSampler, MinedTriplets, choose_pool, mine_triplets
from dir_jax.training.optimizer import create_optimizer, create_schedule
from dir_jax.training.setup import Setup, create_network, create_setup
from dir_jax.training.state import TrainState, create_state
from dir_jax.training.three_stage import ThreeStageStep
from dir_jax.training.workdir import (
    MetricsLog,
    Stopped,
    StopSignals,
    check_free_space,
    claim_workdir,
)

log = logging.getLogger(__name__)

_WHITEN = 2  # keeps the random choice of whitening images apart from other streams


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> int:
    """Trains as `config` says, or goes on where a run in `workdir` stopped.

    Writes config.json, metrics.jsonl, tensorboard/, checkpoints/STEP/, and at the end model/,
    summary.json, curves.png and ranked.png.

    Returns:
      The process's exit code: 0 when the run is complete or was ended by SIGTERM after saving,
      130 after Ctrl-C (saved, too).

    Raises:
      UserError: bad input, before anything is written; or a loss that is no longer finite.
    """
    directory = Path(workdir)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("dir_jax").setLevel(logging.INFO)
    # Orbax logs the traceback of an error in the background, which it raises as well.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    validate_config(config)
    network = create_network(config)
    setup = create_setup(config)
    check_free_space(directory, _checkpoint_bytes(config, network), config.checkpoint.keep)
    claim_workdir(directory, config)
    with StopSignals() as signals, logging_redirect_tqdm():
        try:
            run = _Run(config, directory, setup, network, signals)
            try:
                run.complete()
            except Stopped:
                run.save()
                run.checkpoints.wait()
                log.info("stopped after step %d and saved; the same command resumes", run.step)
                return 0 if signals.received == signal.SIGTERM else 130
            finally:
                run.close()
        except OSError as e:
            raise UserError(f"cannot write to --workdir {directory}: {e.strerror or e}") from e
    return 0


class _Run:
    """A run in progress: its state on the devices, its files, and how far it is."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        directory: Path,
        setup: Setup,
        network: RetrievalNetwork,
        signals: StopSignals,
    ):
        self.config, self.directory, self.setup, self.signals = config, directory, setup, signals
        self.graphdef, params, stats = split_variables(network)
        optimizer = create_optimizer(config.optimizer, config.num_steps)
        state = create_state(params, stats, optimizer, batch_norm=config.batch_norm)
        self.replicas = create_replicas(config.parallel)
        self.checkpoints = RunCheckpoints(directory / "checkpoints", keep=config.checkpoint.keep)
        self.step = self.checkpoints.latest() or 0
        self.triplets: MinedTriplets | None = None
        self.evaluated: DescribedSets | None = None  # by the last evaluation
        if self.step:
            state = self._restore(state)
            log.info("resuming after step %d", self.step)
        self.log = MetricsLog(directory, self.step or None)
        self.state: TrainState = self.replicas.replicate(state)
        self.schedule = create_schedule(config.optimizer, config.num_steps)
        normalization = {"mean": setup.preprocessing.mean, "std": setup.preprocessing.std}
        self.advance = ThreeStageStep(
            self.graphdef,
            setup.loss,
            optimizer,
            self.replicas,
            batch_size=config.batch_size,
            chunk_size=setup.chunk_size,
            train_statistics=config.batch_norm == "trained",
            dropout=config.model.dropout_p > 0,
            **normalization,
        )
        self.extractor = Extractor(
            self.graphdef,
            width=network.descriptor_size,
            max_batch_size=config.eval.batch_size,
            num_workers=config.data.num_workers,
            prefetch=config.data.prefetch,
            **normalization,
        )

    def complete(self) -> None:
        """Trains to the end and writes the results; does what is left of it."""
        if (self.directory / "summary.json").exists() and self.step >= self.config.num_steps:
            log.info("this run is complete: %s", self.directory / "summary.json")
            return
        if not self.log.rows:
            self.log.write({"step": 0, "eval": self._evaluate(self.state)})
        while self.step < self.config.num_steps:
            self._train_until_refresh()
        self.save()
        self._finish()

    def save(self) -> None:
        """Saves the state after the last complete step, unless it is saved already."""
        if not self.step:
            return
        row = self.log.rows[-1] if self.log.rows else {}
        evaluated = row.get("eval", {}) if row.get("step") == self.step else {}
        state = self.replicas.fetch(self.state)
        train: dict[str, Any] = {"optimizer": _leaves_by_path(state.optimizer)}
        if self.triplets is not None:
            train["triplets"] = vars(self.triplets)
        self.checkpoints.save(
            self.step,
            merge_variables(self.graphdef, state.params, state.stats),
            train,
            preprocessing=self.setup.preprocessing,
            mean_average_precision=evaluated.get("mAP"),
        )

    def close(self) -> None:
        """Finishes writing."""
        self.checkpoints.close()
        self.log.close()

    def _restore(self, state: TrainState) -> TrainState:
        params, stats, train = self.checkpoints.restore(self.step)
        source = f"the checkpoint {self.checkpoints.path(self.step)}"
        check_variables(state.params, params, source)
        check_variables(state.stats, stats, source)
        saved = _leaves_by_path(state.optimizer)
        check_variables(saved, {k: np.asarray(v) for k, v in train["optimizer"].items()}, source)
        if "triplets" in train:
            self.triplets = MinedTriplets(**train["triplets"])
        leaves = [
            np.asarray(train["optimizer"][name], dtype=leaf.dtype) for name, leaf in saved.items()
        ]
        return TrainState(
            trained={name: params[name] for name in state.trained},
            fixed={name: params[name] for name in state.fixed},
            stats=stats,
            optimizer=jax.tree.unflatten(jax.tree.structure(state.optimizer), leaves),
        )

    def _train_until_refresh(self) -> None:
        """Trains until the triplets are mined anew, or to the end where none are."""
        config, data = self.config, self.setup.data
        stop = config.num_steps
        sampler = self.setup.sampler
        if sampler is None:
            every = config.mining.refresh_every
            if self.triplets is None or self.step % every == 0:
                self.triplets = self._mine()
            sampler = MinedSampler(self.triplets, config.batch_size, config.seed)
            stop = min(stop, (self.step // every + 1) * every)
        unit, devices = self.setup.chunk_size, self.replicas.local_count
        with (
            BatchLoader(
                data.dataset,
                data.transform,
                sampler,
                seed=config.seed,
                rows=self._row_order(),
                unit=unit,
                start_step=self.step,
                stop_step=stop,
                num_workers=config.data.num_workers,
                prefetch=config.data.prefetch,
            ) as loader,
            tqdm(
                total=config.num_steps * config.batch_size,
                initial=self.step * config.batch_size,
                desc="train",
                unit="img",
                smoothing=0.1,
            ) as bar,
        ):
            units = iter(loader)
            while self.step < stop:
                self._one_step(sampler, _group(units, devices), bar)

    def _one_step(self, sampler: Sampler, chunks: Any, bar: tqdm) -> None:
        config, started = self.config, time.perf_counter()
        labels = self.setup.data.dataset.labels[sampler(self.step)]
        per_chunk = config.batch_size / self.advance.num_chunks / 2

        def on_chunk() -> None:
            bar.update(per_chunk)
            if jax.process_count() == 1:
                self.signals.check()

        state, metrics = self.advance(
            self.state,
            chunks,
            self._local(labels),
            seed=(config.seed * 1_000_003 + self.step) % 2**32,
            on_chunk=on_chunk,
        )
        values = {name: float(v) for name, v in self.replicas.fetch(metrics).items()}
        if not all(np.isfinite(list(values.values()))):
            self._refuse_nan(values)
        row: dict[str, Any] = {
            **values,
            "learning_rate": float(self.schedule(self.step)),
            "images_per_second": config.batch_size / (time.perf_counter() - started),
        }
        last = self.step + 1 == config.num_steps
        if last or (config.eval.every and (self.step + 1) % config.eval.every == 0):
            # Before the step counts as made: a signal meanwhile means that it is made again.
            row["eval"] = self._evaluate(state)
        self.state, self.step = state, self.step + 1
        if "eval" in row or last or self.step % config.log_every == 0:
            self.log.write({"step": self.step, **row})
        bar.set_postfix(step=self.step, loss=f"{values['loss']:.4f}", refresh=False)
        if last or self.step % config.checkpoint.every == 0:
            self.save()
        self._may_stop()

    def _mine(self) -> MinedTriplets:
        config, data = self.config, self.setup.data
        pool = choose_pool(data.dataset.labels, config.mining.pool_size, config.seed, self.step)
        descriptors = self._describe(self.setup.mining_transform, pool, "mine")
        return mine_triplets(
            descriptors,
            data.dataset.labels[pool],
            pool,
            negatives=config.mining.negatives,
            positives=config.mining.positives,
        )

    def _finish(self) -> None:
        """Whitening, the model, the pictures and the summary."""
        config, setup = self.config, self.setup
        state = self.replicas.fetch(self.state)
        whitenings: dict[str, Whitening] = {}
        if config.whitening.name:
            labels = setup.data.dataset.labels
            # No more than were trained on, so that a trial of a few steps ends after a few images.
            most = config.whitening.max_images or config.num_steps * config.batch_size
            chosen = choose_pool(labels, most, config.seed, _WHITEN)
            found = self._describe(setup.whitening_transform, chosen, "learn whitening")
            try:
                whitenings[config.whitening.name] = learn_whitening(found)
            except UserError as e:  # all descriptors are alike; the model is worth having still
                log.warning("no whitening is learned: %s", e)
        if self.evaluated is None:  # resumed after the last step
            self._evaluate(self.state)
        described = self.evaluated
        assert described is not None
        summary: dict[str, Any] = {
            "before": self.log.rows[0]["eval"],
            "after": described.metrics(),
        }
        for whitening in whitenings.values():
            white = described.whitened(whitening, config.whitening.power)
            summary["after_whitened"] = white.metrics()
        summary |= {"steps": self.step, "images_seen": self.step * config.batch_size}
        if jax.process_index():
            return
        save_model(
            self.directory / "model",
            merge_variables(self.graphdef, state.params, state.stats),
            preprocessing=setup.preprocessing,
            whitenings=whitenings,
            notes={"step": self.step, "metrics": summary["after"]},
            overwrite=True,
        )
        save_training_curves(self.directory / "curves.png", self.log.rows)
        described.save_ranked_picture(self.directory / "ranked.png")
        # Last: its presence says that the run is complete.
        write_text(self.directory / "summary.json", json.dumps(summary, indent=2) + "\n")
        for when in ("before", "after", "after_whitened"):
            if shares := summary.get(when):
                shown = ", ".join(f"{k} {shares[k]:.4f}" for k in shares if k.startswith("mAP"))
                log.info("%s: %s", when.replace("_", " "), shown)
        log.info("wrote %s", self.directory)

    def _evaluate(self, state: TrainState) -> dict[str, float]:
        fetched = self.replicas.fetch(state)
        self.evaluated = self.setup.held_out.describe(
            self.extractor, fetched.params, fetched.stats, on_batch=self._may_stop
        )
        return self.evaluated.metrics()

    def _describe(self, transform: Any, chosen: np.ndarray, name: str) -> np.ndarray:
        """The descriptors of some of the training images by the current variables, (N, D)."""
        state = self.replicas.fetch(self.state)
        images = dataclasses.replace(self.setup.data.images, name=name, chosen=chosen)
        return describe_lists(
            self.extractor,
            state.params,
            state.stats,
            [images],
            transform,
            on_batch=self._may_stop,
        )[0]

    def _may_stop(self) -> None:
        if jax.process_count() > 1:  # all processes leave at the same place
            from jax.experimental import multihost_utils

            received = multihost_utils.process_allgather(np.int32(self.signals.received or 0))
            self.signals.received = signal.Signals(int(received.max())) if received.max() else None
        self.signals.check()

    def _refuse_nan(self, values: dict[str, float]) -> None:
        self.checkpoints.wait()
        good = self.checkpoints.latest()
        where = (
            f"the last good checkpoint is {self.checkpoints.path(good)}"
            if good
            else "no checkpoint was saved before it"
        )
        found = ", ".join(f"{name} {value}" for name, value in values.items())
        raise UserError(
            f"step {self.step + 1} is no longer finite ({found}); {where}; "
            "try a lower config.optimizer.learning_rate or config.model.dtype='float32'"
        )

    def _local(self, labels: np.ndarray) -> np.ndarray:
        """This process's rows of a batch-long array."""
        return np.array_split(labels, jax.process_count())[jax.process_index()]

    def _row_order(self) -> np.ndarray:
        """This process's rows in the order that the step takes them: each device's k-th chunk."""
        rows = self._local(np.arange(self.config.batch_size))
        by_device = rows.reshape(self.replicas.local_count, -1, self.setup.chunk_size)
        return by_device.transpose(1, 0, 2).reshape(-1)


def _checkpoint_bytes(config: ml_collections.ConfigDict, network: RetrievalNetwork) -> int:
    _, params, stats = split_variables(network)
    optimizer = create_optimizer(config.optimizer, config.num_steps)
    state = jax.eval_shape(
        lambda: create_state(params, stats, optimizer, batch_norm=config.batch_norm)
    )
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(state))


def _group(units: Any, size: int) -> Any:
    """Joins a step's units, one a device, into chunks."""
    while group := list(itertools.islice(units, size)):
        yield group[0] if size == 1 else np.concatenate(group)


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
