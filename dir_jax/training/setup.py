"""Turns a config into the pieces of a run, and refuses what cannot work.

Nothing is written here. A config that gets through does not fail later for what could have been
known at the start.
"""

from __future__ import annotations

import dataclasses
import functools
import logging

import jax
import ml_collections
import numpy as np

from dir_jax.checkpoint import Preprocessing
from dir_jax.data import samplers
from dir_jax.data.datasets import create_dataset
from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.headers import check_dataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.samplers import Sampler
from dir_jax.data.transforms import Compose, parse_transforms
from dir_jax.describe.passes import ImageList
from dir_jax.errors import UserError
from dir_jax.loading import load_model
from dir_jax.losses import (
    batch_triplet_loss,
    grouped_triplet_loss,
    listwise_average_precision_loss,
)
from dir_jax.models import RetrievalNetwork, create_model
from dir_jax.models.variables import merge_variables, split_variables
from dir_jax.training.held_out import HeldOutSets
from dir_jax.training.three_stage import BatchLoss

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The images to train on.

    Attributes:
      dataset: the images and their labels.
      images: the same images, with the sizes of their files.
      transform: what is applied to each image; all come out in one size.
    """

    dataset: LabelledDataset
    images: ImageList
    transform: Compose


@dataclasses.dataclass(frozen=True)
class Setup:
    """The pieces of a run, checked.

    Attributes:
      data: the images to train on.
      held_out: the data sets to evaluate on.
      whitening_transform: what is applied to the images that the whitening is learned from.
      mining_transform: what is applied to the images that triplets are mined from.
      sampler: which images are in a batch; None if triplets are mined.
      loss: the loss of a batch.
      preprocessing: the mean and standard deviation of the network's input.
      chunk_size: how many images go through one device at a time; it divides those of a device.
    """

    data: TrainingData
    held_out: HeldOutSets
    whitening_transform: Compose
    mining_transform: Compose
    sampler: Sampler | None
    loss: BatchLoss
    preprocessing: Preprocessing
    chunk_size: int


def create_setup(config: ml_collections.ConfigDict) -> Setup:
    """Builds and checks the pieces of a run.

    Raises:
      UserError: something in the config or in its data would fail later.
    """
    chunk_size = _chunk_size(config)
    parse = _parse_named
    transform = parse(config.data.transform, "config.data.transform")
    eval_transform = parse(config.eval.transform, "config.eval.transform")
    whitening_transform = parse(
        config.whitening.transform or config.eval.transform, "config.whitening.transform"
    )
    mining_transform = parse(
        config.mining.transform or config.eval.transform, "config.mining.transform"
    )
    db_root = config.data.db_root or None
    dataset = create_dataset(config.data.train, db_root=db_root)
    if not isinstance(dataset, LabelledDataset):
        raise UserError(f"config.data.train={config.data.train!r} has no labels to train on")
    held_out = _create_held_out(config, eval_transform)  # before the headers of a long list
    images = ImageList("train", dataset, check_dataset(dataset))
    smallest, largest = _output_sizes(transform, images.sizes)
    if smallest != largest:
        raise UserError(
            f"config.data.transform={config.data.transform!r} gives images of {_by(smallest)} to "
            f"{_by(largest)} pixels, but the images of a batch need one size; end it with "
            "RandomCrop(size) or CenterCrop(size)"
        )
    if config.sampler.name == "mined":
        images.check(mining_transform)
    if config.whitening.name:
        images.check(whitening_transform)
    return Setup(
        data=TrainingData(dataset, images, transform),
        held_out=held_out,
        whitening_transform=whitening_transform,
        mining_transform=mining_transform,
        sampler=_create_sampler(config, dataset.labels, dataset.classes),
        loss=_create_loss(config),
        preprocessing=Preprocessing(tuple(config.data.mean), tuple(config.data.std)),
        chunk_size=chunk_size,
    )


def create_network(config: ml_collections.ConfigDict) -> RetrievalNetwork:
    """The network to start from: random weights, or those of `config.model.init` where they fit.

    Raises:
      UserError: there is no such architecture or option, or `config.model.init` cannot be read or
        has no array that fits.
    """
    options = config.model.to_dict()
    init = options.pop("init")
    options["dropout_p"] = options["dropout_p"] or None
    model = create_model(**options, seed=config.seed)
    if not init:
        return model
    graphdef, params, stats = split_variables(model)
    _, old_params, old_stats = split_variables(load_model(init).model)
    left = []
    for variables, old in ((params, old_params), (stats, old_stats)):
        for name, value in variables.items():
            if name in old and old[name].shape == value.shape:
                variables[name] = old[name]
            else:
                left.append(name)
    if len(left) == len(params) + len(stats):
        raise UserError(f"config.model.init={init!r} has no array that fits {options['arch']}")
    if left:
        log.warning("%s lacks these arrays, which stay random: %s", init, ", ".join(left))
    return merge_variables(graphdef, params, stats)


def _create_held_out(config: ml_collections.ConfigDict, transform: Compose) -> HeldOutSets:
    keys, db_root = config.data, config.data.db_root or None
    labelled = create_dataset(keys.eval, db_root=db_root) if keys.eval else None
    oxford = create_dataset(keys.eval_oxford, db_root=db_root) if keys.eval_oxford else None
    if not isinstance(labelled, LabelledDataset | None):
        raise UserError(f"config.data.eval={keys.eval!r} has no labels")
    if not isinstance(oxford, RelevantsDataset | None):
        raise UserError(
            f"config.data.eval_oxford={keys.eval_oxford!r} is not Oxford-style: it has no lists of "
            "relevant images"
        )
    return HeldOutSets(labelled, oxford, transform)


def _chunk_size(config: ml_collections.ConfigDict) -> int:
    devices = jax.device_count()
    if config.batch_size % devices:
        below = config.batch_size // devices * devices
        raise UserError(
            f"config.batch_size={config.batch_size} cannot be divided evenly between {devices} "
            f"devices; use {' or '.join(str(b) for b in (below, below + devices) if b)}"
        )
    rows = config.batch_size // devices
    if config.sampler.name == "mined" and rows % 3:
        raise UserError(
            f"config.batch_size={config.batch_size} gives each of {devices} devices {rows} images, "
            f"which are not whole triplets; use a multiple of {3 * devices}"
        )
    chunk = max(c for c in range(1, min(config.chunk_size, rows) + 1) if rows % c == 0)
    if chunk < min(config.chunk_size, rows):
        log.warning(
            "config.chunk_size=%d does not divide the %d images of a device; using %d",
            config.chunk_size,
            rows,
            chunk,
        )
    return chunk


def _create_sampler(
    config: ml_collections.ConfigDict, labels: np.ndarray, classes: list[str]
) -> Sampler | None:
    name, seed, batch = config.sampler.name, config.seed, config.batch_size
    if name != "shuffle":
        counts = np.bincount(labels, minlength=len(classes))
        if len(classes) < 2 or not (counts > 1).any():
            raise UserError(
                f"config.data.train has {len(classes)} classes, the largest with {counts.max()} "
                "images; learning to rank needs at least two classes, and two images of one"
            )
    if name == "every_class":
        return samplers.EveryClass(labels, batch, seed)
    if name == "classes":
        per_class = config.sampler.images_per_class
        if batch % per_class:
            raise UserError(
                f"config.batch_size={batch} is not a multiple of "
                f"config.sampler.images_per_class={per_class}"
            )
        return samplers.ClassesByImages(
            labels, batch // per_class, per_class, seed, class_names=classes
        )
    if name == "shuffle":
        return samplers.Shuffle(len(labels), batch, seed)
    return None


def _create_loss(config: ml_collections.ConfigDict) -> BatchLoss:
    options = config.loss
    if options.name in ("ap", "tie_aware_ap"):
        return functools.partial(
            listwise_average_precision_loss,
            num_bins=options.num_bins,
            class_weighted=options.class_weighted,
            tie_aware=options.name == "tie_aware_ap",
        )
    log_exp = options.name == "triplet_log_exp"
    if config.sampler.name == "mined":
        return functools.partial(grouped_triplet_loss, margin=options.margin, log_exp=log_exp)
    return functools.partial(
        batch_triplet_loss, mining=options.mining, margin=options.margin, log_exp=log_exp
    )


def _parse_named(text: str, key: str) -> Compose:
    try:
        return parse_transforms(text)
    except UserError as e:
        raise UserError(f"{key}: {e}") from e


def _output_sizes(transform: Compose, sizes: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest and the largest width and height of images after the transform, in pixels."""
    ranges = [
        transform.output_size((width, height), (width, height))
        for width, height in np.unique(sizes, axis=0).tolist()
    ]
    low = np.min([smallest for smallest, _ in ranges], axis=0).tolist()
    high = np.max([largest for _, largest in ranges], axis=0).tolist()
    return (low[0], low[1]), (high[0], high[1])


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
