"""The batches of images for training, decoded and transformed ahead.

An image depends on the seed, the step and its row in the batch alone. So its bytes are the same for
any number of workers, whichever rows a process loads, and after a restart at any step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from dir_jax.data.images import ImageDataset
from dir_jax.data.samplers import Sampler
from dir_jax.data.transforms import Transform
from dir_jax.data.workers import Prefetcher
from dir_jax.errors import UserError, shown

Augmentation = Callable[[Image.Image, np.random.Generator], Image.Image]


class BatchLoader(Prefetcher[np.ndarray]):
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

    Raises:
      UserError: `unit` does not divide the rows. While iterating: an image cannot be read or
        transformed, or has another size than the others of its array (it is named); or a worker
        died.
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
    ):
        if len(rows) % unit:
            raise UserError(f"{len(rows)} rows of a batch cannot be divided into units of {unit}")
        units = np.asarray(rows).reshape(-1, unit)
        count = max(stop_step - start_step, 0) * len(units)
        make = functools.partial(_load_unit, dataset, transform, sampler, seed, units, start_step)
        super().__init__(make, count, num_workers=num_workers, prefetch=prefetch)


def _load_unit(
    dataset: ImageDataset,
    transform: Augmentation,
    sampler: Sampler,
    seed: int,
    units: np.ndarray,  # (arrays of a step, unit), rows of the batch
    start_step: int,
    number: int,
) -> np.ndarray:
    """The array with a number; each is made on its own, and Grain divides them between workers."""
    steps, part = divmod(number, len(units))
    step, rows = start_step + steps, units[part]
    numbers = sampler(step)[rows].tolist()
    images = np.empty((len(rows), 0, 0, 3), np.uint8)
    for place, row in enumerate(rows.tolist()):
        path, view = dataset.path(numbers[place]), dataset.view(numbers[place])
        try:
            # Each row has its own stream of random numbers, whichever process draws from it.
            rng = np.random.default_rng((seed, step * sampler.batch_size + row))
            if isinstance(transform, Transform):
                image = np.asarray(transform.view(view, rng).image())
            else:
                image = np.asarray(transform(view.image(), rng))
        except Exception as e:
            why = str(e) if isinstance(e, UserError) else f"{type(e).__name__}: {shown(e)}"
            raise UserError(f"the image {path} cannot be transformed: {why}") from e
        if place == 0:
            images = np.empty((len(rows), *image.shape), np.uint8)
        elif image.shape != images.shape[1:]:
            raise UserError(
                f"{transform!r} gives the images of a batch different sizes: "
                f"{dataset.path(numbers[0])} has {_by(images[0])} pixels, {path} has {_by(image)}; "
                "end the transforms with one that gives a fixed size, such as RandomCrop(224)"
            )
        images[place] = image
    return images


def _by(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
