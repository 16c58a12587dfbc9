"""Turns a config into the pieces of a run, and refuses what would fail later. Writes nothing."""

from __future__ import annotations

import collections
import dataclasses
import logging

import jax
import ml_collections
import numpy as np

from dir_jax.checkpoint import Preprocessing
from dir_jax.data import samplers
from dir_jax.data.datasets import create_dataset
from dir_jax.data.ground_truth import RelevantsDataset
from dir_jax.data.headers import refuse_unreadable
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.samplers import Sampler
from dir_jax.data.transforms import Compose, parse_transforms
from dir_jax.describe.image_lists import ImageList, agree, headers_to_read, sample_list
from dir_jax.errors import UserError
from dir_jax.loading import load_model
from dir_jax.losses import LOSSES, BatchLoss
from dir_jax.losses.classification import create_class_weights
from dir_jax.model_recipe import Recipe
from dir_jax.models import RetrievalNetwork, create_model
from dir_jax.models.variables import merge_variables, split_variables
from dir_jax.training.held_out import HeldOutSets

log = logging.getLogger(__name__)

# What comes after the backbone: the projection, pooling, and the pyramid's own convolutions.
_NEW_LAYERS = ("fc", "adpool", "conv1x5", "conv3c4")


@dataclasses.dataclass(frozen=True)
class Setup:
    """The pieces of a run, checked."""

    dataset: LabelledDataset  # the images to train on
    images: ImageList  # the same images, with the sizes of their files, as far as they were read
    skipped: np.ndarray  # (K,) int64, those of them that are left out, as they cannot be read
    transform: Compose  # of the batches; all images come out in one size
    held_out: HeldOutSets
    recipe: Recipe  # of the held-out sets' images, before whitening
    whitening_transform: Compose  # of the images that the whitening is learned from
    mining_transform: Compose  # of the images that triplets are mined from
    sampler: Sampler | None  # None if triplets are mined
    loss: BatchLoss
    preprocessing: Preprocessing
    chunk_size: int  # images that go through one device at a time; it divides those of a device

    @property
    def usable(self) -> np.ndarray:
        """(M,) int64, the numbers of the images that are trained on."""
        return np.delete(np.arange(len(self.dataset)), self.skipped)

    def without(self, config: ml_collections.ConfigDict, skipped: np.ndarray) -> Setup:
        """The same with other images left out, as those that a run began without."""
        if np.array_equal(skipped, self.skipped):
            return self
        sampler = _create_sampler(config, self.dataset, skipped)
        return dataclasses.replace(self, skipped=skipped, sampler=sampler)


def create_setup(config: ml_collections.ConfigDict) -> Setup:
    """Builds the pieces of a run. Raises UserError where one of them would fail later."""
    chunk_size = _chunk_size(config)
    transform, eval_transform = _transform(config, "data"), _transform(config, "eval")
    whitening_transform = _transform(config, "whitening", config.eval.transform)
    mining_transform = _transform(config, "mining", config.eval.transform)
    dataset = _dataset(config, "train")
    if not isinstance(dataset, LabelledDataset):
        raise UserError(f"config.data.train={config.data.train!r} has no labels to train on")
    skips = config.data.on_error == "skip"
    held_out = _create_held_out(config, eval_transform, skips)  # before the headers of a long list
    images = sample_list("train", dataset)
    checked = len(headers_to_read(len(images)))
    if not skips or len(images.unreadable) == checked:
        advice = "--config.data.on_error=skip trains on the rest"
        refuse_unreadable(images.unreadable, checked, advice)
    images = agree(images, skip=skips)
    skipped = np.array(sorted(images.unreadable), np.int64)
    known = np.flatnonzero(images.sizes[:, 0])  # whose headers were read
    usable = dataclasses.replace(images, chosen=np.setdiff1d(known, skipped))
    _check_one_size(transform, images.sizes[usable.indices], config.data.transform)
    usable.check(transform)
    if config.sampler.name == "mined":
        usable.check(mining_transform)
    if config.whitening.name:
        usable.check(whitening_transform)
    return Setup(
        dataset=dataset,
        images=images,
        skipped=skipped,
        transform=transform,
        held_out=held_out,
        recipe=Recipe(
            trfs=(config.eval.transform,),
            whitenp=float(config.whitening.power),
            exif=config.data.exif,
        ),
        whitening_transform=whitening_transform,
        mining_transform=mining_transform,
        sampler=_create_sampler(config, dataset, skipped),
        loss=LOSSES[config.loss.name].bind(config.loss, of_triplets=config.sampler.name == "mined"),
        preprocessing=Preprocessing(tuple(config.data.mean), tuple(config.data.std)),
        chunk_size=chunk_size,
    )


def create_network(config: ml_collections.ConfigDict) -> RetrievalNetwork:
    """The network to start from: random weights, or those of `config.model.init` where they fit.

    Raises UserError where there is no such architecture or option, or the checkpoint cannot be read
    or is of another backbone.
    """
    options = config.model.to_dict()
    init, partial = options.pop("init"), options.pop("init_partial")
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
    groups = collections.Counter(name.split(".")[0] for name in left)
    which = ", ".join(f"{count} of {group}" for group, count in groups.items())
    what = f"{len(left)} of {len(params) + len(stats)} arrays of {options['arch']} ({which})"
    if not partial and any(not group.startswith(_NEW_LAYERS) for group in groups):
        raise UserError(
            f"config.model.init={init!r} is of another architecture: it lacks {what}; set "
            "config.model.arch to what it is, or let those stay random by "
            "--config.model.init_partial=True"
        )
    if left:
        log.warning("%s lacks %s: they stay as they begin", init, what)
    return merge_variables(graphdef, params, stats)


def create_loss_variables(
    config: ml_collections.ConfigDict, setup: Setup, width: int
) -> dict[str, jax.Array]:
    """What the loss trains of its own: (classes, width) 'class_weights', or nothing."""
    if not LOSSES[config.loss.name].class_weights:
        return {}
    return {"class_weights": create_class_weights(len(setup.dataset.classes), width, config.seed)}


def _create_held_out(
    config: ml_collections.ConfigDict, transform: Compose, skips: bool
) -> HeldOutSets:
    labelled, oxford = _dataset(config, "eval"), _dataset(config, "eval_oxford")
    if not isinstance(labelled, LabelledDataset | None):
        raise UserError(f"config.data.eval={config.data.eval!r} has no labels")
    if not isinstance(oxford, RelevantsDataset | None):
        words = f"config.data.eval_oxford={config.data.eval_oxford!r}"
        raise UserError(f"{words} is not Oxford-style: it has no lists of relevant images")
    return HeldOutSets(labelled, oxford, transform, skip_failures=skips)


def _dataset(config: ml_collections.ConfigDict, key: str) -> ImageDataset | None:
    """The data set that a key names, or None."""
    try:
        words = config.data[key]
        if not words:
            return None
        images = create_dataset(
            words,
            db_root=config.data.db_root or None,
            labelled=key != "eval_oxford",
            on_duplicate=config.data.on_duplicate,
        )
        return images.with_exif(config.data.exif)
    except UserError as e:
        raise UserError(f"config.data.{key}: {e}") from e


def _chunk_size(config: ml_collections.ConfigDict) -> int:
    devices = jax.device_count()
    shares = collections.Counter(device.process_index for device in jax.devices())
    if len(set(shares.values())) > 1:
        raise UserError(
            "the processes of this run have different numbers of devices "
            f"({', '.join(str(shares[process]) for process in sorted(shares))}), but each gets an "
            "equal part of a batch; start them so that all have as many"
        )
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
    wanted = min(config.chunk_size, rows)
    chunk = max(c for c in range(1, wanted + 1) if rows % c == 0)
    if chunk < wanted:
        message = "config.chunk_size=%d does not divide the %d images of a device; using %d"
        log.warning(message, config.chunk_size, rows, chunk)
    elif chunk < min(config.chunk_size, config.batch_size) and config.batch_norm == "trained":
        message = "each of %d devices has %d images: BatchNorm normalises these, not chunks of %d"
        log.warning(message, devices, rows, config.chunk_size)
    return chunk


def _create_sampler(
    config: ml_collections.ConfigDict, dataset: LabelledDataset, skipped: np.ndarray
) -> Sampler | None:
    """The sampler that the config names, of all images but the (K,) `skipped`."""
    numbers = np.delete(np.arange(len(dataset)), skipped)
    sampler = _sampler_of(config, dataset.labels[numbers], dataset.classes)
    return samplers.Chosen(sampler, numbers) if sampler and len(skipped) else sampler


def _sampler_of(
    config: ml_collections.ConfigDict, labels: np.ndarray, classes: list[str]
) -> Sampler | None:
    name, seed, batch = config.sampler.name, config.seed, config.batch_size
    if name != "shuffle":
        counts = np.bincount(labels, minlength=len(classes))
        if (counts > 0).sum() < 2 or not (counts > 1).any():
            raise UserError(
                f"config.data.train has {(counts > 0).sum()} classes, the largest with "
                f"{counts.max()} images; learning to rank needs at least two classes, and two "
                "images of one"
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
    return samplers.Shuffle(len(labels), batch, seed) if name == "shuffle" else None


def _transform(config: ml_collections.ConfigDict, group: str, otherwise: str = "") -> Compose:
    try:
        chain = parse_transforms(config[group].transform or otherwise)
        chain.check_normalize("it", mean=config.data.mean, std=config.data.std)
        return chain
    except UserError as e:
        raise UserError(f"config.{group}.transform: {e}") from e


def _check_one_size(transform: Compose, sizes: np.ndarray, text: str) -> None:
    """Raises UserError unless images of all `sizes`, (N, 2), come out in one size."""
    distinct = map(tuple, np.unique(sizes, axis=0).tolist())
    ranges = np.array([transform.output_size(size, size) for size in distinct])
    low, high = ranges[:, 0].min(axis=0), ranges[:, 1].max(axis=0)
    if (low != high).any():
        raise UserError(
            f"config.data.transform={text!r} gives images of {low[0]}×{low[1]} to "
            f"{high[0]}×{high[1]} pixels, but the images of a batch need one size; end it with "
            "RandomCrop(size) or CenterCrop(size)"
        )
