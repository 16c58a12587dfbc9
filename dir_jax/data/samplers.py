"""Which images make the batch of a step.

A sampler maps the number of a step to the numbers of the images in its batch. It is a pure function
of the seed and the step, so every process and worker computes the same batch, and a run can be
resumed at any step. Each keeps its last batch, so that asking for one row at a time is cheap.
"""

from __future__ import annotations

import abc
import bisect
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dir_jax.errors import UserError

log = logging.getLogger(__name__)

# Separate the random streams that one seed gives.
_EPOCHS, _CLASSES, _IMAGES, _ROWS, _TURNS = range(101, 106)


class Sampler(abc.ABC):
    """What all samplers have in common: `batch_size`, and a batch for each step.

    The `labels` of samplers are (N,) int, the class of each image; a class without images does not
    count. The `seed` of every random choice is not negative.
    """

    def __init__(self, batch_size: int):
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} images is too small; it needs at least one")
        self.batch_size = batch_size
        self._last: tuple[int, np.ndarray] | None = None

    def __call__(self, step: int) -> np.ndarray:
        """The numbers of the images in the batch of a step: (batch_size,) int64, read-only."""
        last = self._last  # read once, as other threads may replace it
        if last is None or last[0] != step:
            batch = self._batch(int(step))
            batch.flags.writeable = False
            self._last = last = (step, batch)
        return last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    @abc.abstractmethod
    def _batch(self, step: int) -> np.ndarray:
        """Draws the batch of a step."""


class Listed(Sampler):
    """Images in a given order: `indices`, (N,) int, of which the batch size divides N."""

    def __init__(self, indices: np.ndarray, batch_size: int):
        super().__init__(batch_size)
        self._batches = np.array(indices, np.int64).reshape(-1, batch_size)

    def _batch(self, step: int) -> np.ndarray:
        return self._batches[step]


class Chosen(Sampler):
    """The batches that a sampler of some images draws: `numbers`, (N,) int, are those images."""

    def __init__(self, sampler: Sampler, numbers: np.ndarray):
        super().__init__(sampler.batch_size)
        self._sampler, self._numbers = sampler, np.asarray(numbers, np.int64)

    def _batch(self, step: int) -> np.ndarray:
        return self._numbers[self._sampler(step)]


class Shuffle(Sampler):
    """Random permutations of all images, one after the other.

    Every image is used once before any is used again. A batch may contain the end of one
    permutation and the beginning of the next. Raises UserError where there are no images.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int):
        super().__init__(batch_size)
        if num_images < 1:
            raise UserError("there are no images to draw batches from")
        self._num_images = num_images
        self._key = (seed, _EPOCHS)

    def _batch(self, step: int) -> np.ndarray:
        return _walk(self._key, self._num_images, step * self.batch_size, self.batch_size, 1)


class EveryClass(Sampler):
    """Every class in every batch, as AP-GeM is trained (Revaud et al., ICCV 2019, section 4).

    The classes have shares of the batch that are as equal as possible. No image is twice in a
    batch, so a small class gives all its images, and the others give more. Where the batch cannot
    be divided evenly, the classes take turns to give one image more. Each class goes through random
    permutations of its images, so that all of them are seen equally often.

    A batch that is too small for two images of every class (one for a class that has one) contains
    two images each of batch_size / 2 classes, and the classes take turns in random permutations. A
    class with a single image then gives it twice; the two differ by their augmentation.

    Raises:
      UserError: the batch is larger than the data set, or is odd although the classes have to take
        turns.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        super().__init__(batch_size)
        self._seed = seed
        self._classes = _Classes(labels, seed)
        sizes = self._classes.sizes
        if batch_size > sizes.sum():
            raise UserError(
                f"a batch of {batch_size} different images cannot be drawn from {sizes.sum()}; "
                "choose a smaller batch"
            )
        self._in_turns = bool(np.minimum(sizes, 2).sum() > batch_size)
        if self._in_turns:
            each = f"for two of each of the {len(sizes)} classes"
            small = f"a batch of {batch_size} images is too small {each}"
            if batch_size % 2:
                raise UserError(f"{small}, so it takes two of some of them; make it an even number")
            log.warning("%s: the classes take turns, %d in each batch", small, batch_size // 2)
        # The most images that every class can give, or all it has if it is smaller.
        self._level = bisect.bisect_right(
            range(int(sizes.max()) + 1), batch_size, key=lambda n: int(np.minimum(sizes, n).sum())
        ) - 1  # fmt: skip
        # The classes that have more images than that, in the order of their turns.
        larger = np.flatnonzero(sizes > self._level)
        self._larger = np.random.default_rng((seed, _TURNS)).permutation(larger)
        self._extra = int(batch_size - np.minimum(sizes, self._level).sum())

    def _batch(self, step: int) -> np.ndarray:
        if self._in_turns:
            batch = self._classes.draw_turns(step, self.batch_size // 2, 2)
        else:
            batch = self._draw_every_class(step)
        return np.random.default_rng((self._seed, _ROWS, step)).permutation(batch)

    def _draw_every_class(self, step: int) -> np.ndarray:
        counts = np.minimum(self._classes.sizes, self._level)
        positions = step * counts
        windows, varies = counts, np.zeros(len(counts), bool)
        if self._extra:
            places, turns = np.arange(len(self._larger)), len(self._larger)
            # How often it was each class's turn among the first step · extra turns, rounded up.
            before = -((places - step * self._extra) // turns)
            after = -((places - (step + 1) * self._extra) // turns)
            windows = counts.copy()
            windows[self._larger] += 1
            positions[self._larger] += before
            counts[self._larger] += after - before
            varies[self._larger] = True
        shares = zip(positions.tolist(), counts.tolist(), windows.tolist(), varies, strict=True)
        return np.concatenate([self._classes.draw(c, *share) for c, share in enumerate(shares)])


class ClassesByImages(Sampler):
    """P classes with K images each, the usual batches of triplet losses (Hermans et al., 2017).

    The classes take turns in random permutations, and so do the images of each class. A class with
    fewer than K images repeats them as evenly as possible; the copies differ by their augmentation.
    Error messages name the classes by `class_names`, or else by their numbers.

    Raises:
      UserError: there are fewer than P classes, or K > 1 and a class has a single image.
    """

    def __init__(
        self,
        labels: np.ndarray,
        classes: int,
        images_per_class: int,
        seed: int,
        *,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(classes * images_per_class)
        self._seed = seed
        self._num_classes, self._images_per_class = classes, images_per_class
        self._classes = _Classes(labels, seed)
        if classes > len(self._classes.sizes):
            there = len(self._classes.sizes)
            raise UserError(f"a batch of {classes} classes is too large: there are only {there}")
        alone = np.unique(labels)[self._classes.sizes == 1].tolist()
        if images_per_class > 1 and alone:
            names = [str(c) if class_names is None else class_names[c] for c in alone[:5]]
            if len(alone) > len(names):
                names.append(f"and {len(alone) - len(names)} more")
            raise UserError(
                f"every class needs at least two images, but {len(alone)} have only one: "
                f"{', '.join(names)}; remove these classes from the list, or add images"
            )

    def _batch(self, step: int) -> np.ndarray:
        batch = self._classes.draw_turns(step, self._num_classes, self._images_per_class)
        return np.random.default_rng((self._seed, _ROWS, step)).permutation(batch)


class _Classes:
    """The images of each class, and random walks through them."""

    def __init__(self, labels: np.ndarray, seed: int):
        self._seed = seed
        self._images = np.argsort(labels, kind="stable")
        _, self.sizes = np.unique(labels, return_counts=True)
        self._starts = np.cumsum(self.sizes) - self.sizes

    def draw(self, c: int, *share: Any) -> np.ndarray:
        """Images of class `c`, by its walk; a share is `_walk`'s position, count, window, …"""
        places = _walk((self._seed, _IMAGES, c), int(self.sizes[c]), *share)
        return self._images[self._starts[c] + places]

    def draw_turns(self, step: int, classes: int, images_per_class: int) -> np.ndarray:
        """Images of the classes whose turn it is, by a walk through all classes."""
        total, start = len(self.sizes), step * classes
        turns = _walk((self._seed, _CLASSES), total, start, classes, classes)
        # The walk visits each class once in a lap: it was drawn from as often as there were laps.
        laps = (start + np.arange(classes)) // total
        k = images_per_class
        pairs = zip(turns.tolist(), laps.tolist(), strict=True)
        return np.concatenate([self.draw(c, lap * k, k, k) for c, lap in pairs])


def _walk(
    key: tuple[int, ...], size: int, position: int, count: int, window: int, varies: bool = False
) -> np.ndarray:
    """A part of an endless random walk that visits each of `size` places once in every lap.

    Returns the `count` places that begin at `position`, at least one: (count,) int64 in [0, size).
    Laps are in different orders, but any `window` successive places, as many as are taken at a time
    (or fewer, where that `varies`), are all different if there are so many. Every part is computed
    directly, without the parts before it.
    """
    lap, offset = divmod(position, size)
    laps = range(lap, (position + count - 1) // size + 1)
    orders = [_lap(key, size, each, window, varies) for each in laps]
    return np.concatenate(orders)[offset : offset + count]


def _lap(key: tuple[int, ...], size: int, lap: int, window: int, varies: bool) -> np.ndarray:
    overlap = window - 1
    if size < 3 * overlap:
        # Too much of a window lies in two laps for them to have different orders: the order stays
        # the same until a lap and a window end at the same place.
        laps = window // math.gcd(size, window)
        return np.random.default_rng((*key, 0 if varies else lap // laps)).permutation(size)
    order = np.random.default_rng((*key, lap)).permutation(size)
    if lap and overlap:
        # The last places of the lap before must not come first, so they are moved behind as many
        # others. That leaves the end of this lap as it is; hence a lap depends on one other only.
        before = np.random.default_rng((*key, lap - 1)).permutation(size)[-overlap:]
        head = order[: 2 * overlap]
        waits = np.isin(head, before)
        order[: 2 * overlap] = np.concatenate([head[~waits], head[waits]])
    return order
