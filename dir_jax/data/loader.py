"""The batches of images for training, decoded and transformed ahead.

An image depends on the seed, the step and its row in the batch alone. So its bytes are the same for
any number of workers, whichever rows a process loads, and after a restart at any step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from dir_jax.data.images import ImageDataset
from dir_jax.data.samplers import Sampler
from dir_jax.data.transforms import Transform
from dir_jax.data.workers import Prefetcher
from dir_jax.errors import ImageError, UserError, shown

_REPLACE = 201  # separates the random numbers that replace images from those of the transforms

Augmentation = Callable[[Image.Image, np.random.Generator], Image.Image]


class BatchLoader(Prefetcher[Any]):
    """Iterates over the batches of a range of steps, `unit` images at a time.

    Yields uint8 arrays (unit, H, W, 3) that belong to the caller. Each step has len(rows) / unit of
    them, with the images `sampler(step)[rows]` in that order. The transform decides H and W, which
    may differ from one array to the next.

    Args:
      dataset: the images.
      transform: what is applied to each image; its random numbers are seeded by the seed and
        step · batch_size + row.
      sampler: which images are in the batch of a step.
      seed: the seed of the transforms; not negative.
      rows: (R,) int, the rows of each batch that this process loads, in the order wanted.
      unit: how many images are in an array; it divides R.
      start_step: the first step; `stop_step` is the one after the last.
      num_workers: as in `Prefetcher`, which counts arrays; `prefetch` as well.
      labels: (N,) int; an image that cannot be read is replaced by another with its label, which
        depends on the seed, the step, the row, and on which images can be read. None, the default,
        replaces nothing.
      on_damage: called with the number of an image that was replaced, or could not take another's
        place, and why.

    Raises:
      UserError: `unit` does not divide the rows. While iterating: an image cannot be read or
        replaced, cannot be transformed, or has another size than the others of its array (it is
        named); or a worker died.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        transform: Augmentation,
        sampler: Sampler,
        *,
        seed: int,
        rows: np.ndarray,
        unit: int,
        start_step: int,
        stop_step: int,
        num_workers: int,
        prefetch: int,
        labels: np.ndarray | None = None,
        on_damage: Callable[[int, str], None] = lambda number, why: None,
    ):
        if len(rows) % unit:
            raise UserError(f"{len(rows)} rows of a batch cannot be divided into units of {unit}")
        units = np.asarray(rows).reshape(-1, unit)
        count = max(stop_step - start_step, 0) * len(units)
        self._on_damage = on_damage
        make = functools.partial(
            _load_unit, dataset, transform, sampler, seed, units, start_step, labels
        )
        super().__init__(make, count, num_workers=num_workers, prefetch=prefetch)

    def __next__(self) -> np.ndarray:
        images, damaged = super().__next__()
        for number, why in damaged.items():
            self._on_damage(number, why)
        return images


def _load_unit(
    dataset: ImageDataset,
    transform: Augmentation,
    sampler: Sampler,
    seed: int,
    units: np.ndarray,  # (arrays of a step, unit), rows of the batch
    start_step: int,
    labels: np.ndarray | None,
    number: int,
) -> tuple[np.ndarray, dict[int, str]]:
    """The array with a number, and which images could not be read, and why.

    Each is made on its own, and Grain divides them between workers.
    """
    steps, part = divmod(number, len(units))
    step, rows = start_step + steps, units[part]
    batch, first = sampler(step), ""
    images = np.empty((len(rows), 0, 0, 3), np.uint8)
    damaged: dict[int, str] = {}
    for place, row in enumerate(rows.tolist()):
        # Each row has its own stream of random numbers, whichever process draws from it.
        key = seed, step * sampler.batch_size + row
        load = functools.partial(_load, dataset, transform, key)
        path, image = _load_or_replace(load, key, batch, row, labels, damaged)
        if place == 0:
            images, first = np.empty((len(rows), *image.shape), np.uint8), path
        elif image.shape != images.shape[1:]:
            raise UserError(
                f"{transform!r} gives the images of a batch different sizes: "
                f"{first} has {_by(images[0])} pixels, {path} has {_by(image)}; "
                "end the transforms with one that gives a fixed size, such as RandomCrop(224)"
            )
        images[place] = image
    return images, damaged


def _load(
    dataset: ImageDataset, transform: Augmentation, key: tuple[int, int], number: int
) -> tuple[str, np.ndarray]:
    """The path of an image, and the image transformed; raises ImageError if it cannot be read."""
    path, view = dataset.path(number), dataset.view(number)
    try:
        rng = np.random.default_rng(key)
        if isinstance(transform, Transform):
            return path, np.asarray(transform.view(view, rng).image())
        return path, np.asarray(transform(view.image(), rng))
    except ImageError:
        raise
    except Exception as e:
        why = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {shown(e)}"
        raise UserError(f"the image {path} cannot be transformed: {why}") from e


def _load_or_replace(
    load: Callable[[int], tuple[str, np.ndarray]],
    key: tuple[int, int],
    batch: np.ndarray,
    row: int,
    labels: np.ndarray | None,
    damaged: dict[int, str],
) -> tuple[str, np.ndarray]:
    """What `load` gives for a row of a batch, or for another image of its label, which is not in
    the batch if there is such a one. What cannot be read is added to `damaged`."""
    wanted = int(batch[row])
    if labels is None:
        return load(wanted)
    candidates = np.array([wanted])
    for _ in range(2):
        for number in candidates.tolist():
            try:
                return load(number)
            except ImageError as e:
                damaged[number] = str(e)
        others = np.setdiff1d(np.flatnonzero(labels == labels[wanted]), [wanted])
        others = np.random.default_rng((*key, _REPLACE)).permutation(others)
        candidates = others[np.argsort(np.isin(others, batch), kind="stable")]
    raise UserError(
        f"{damaged[wanted]}; no other image has its label and can be read, so it cannot be replaced"
    )


def _by(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
