"""Which images make the batch of a step.

A sampler has a `batch_size`, and maps a step to the numbers of its images. It is a pure function
of (seed, step): every process and worker computes the same batch, and a run resumes anywhere.
Picklable; the batch of the last step is kept, so that asking for one row at a time is cheap.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dir_jax.errors import UserError

log = logging.getLogger(__name__)

# Separate the random streams that one seed gives.
_EPOCHS, _CLASSES, _IMAGES, _ROWS, _TURNS = range(101, 106)


class Sampler:
    """What samplers share: the batch of the last step is kept.

    Attributes:
      batch_size: images in a batch.
    """

    def __init__(self, batch_size: int):
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} images was asked for; the least is 1")
        self.batch_size = batch_size
        self._last: tuple[int, np.ndarray] | None = None

    def __call__(self, step: int) -> np.ndarray:
        """The batch of a step: (batch_size,) int64, read-only, numbers of images."""
        last = self._last  # one read: other threads may replace it
        if last is None or last[0] != step:
            batch = self._batch(int(step))
            batch.flags.writeable = False
            self._last = last = (step, batch)
        return last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def _batch(self, step: int) -> np.ndarray:
        raise NotImplementedError


class Listed(Sampler):
    """Given images in their order."""

    def __init__(self, indices: np.ndarray, batch_size: int):
        """Step s has the s-th `batch_size` of indices (N,); N is a multiple of it."""
        super().__init__(batch_size)
        self._indices = np.array(indices, np.int64)
        if len(self._indices) % batch_size:
            raise ValueError(f"{len(self._indices)} images are no whole batches of {batch_size}")

    def _batch(self, step: int) -> np.ndarray:
        if not 0 <= step < len(self._indices) // self.batch_size:
            raise IndexError(step)
        return self._indices[step * self.batch_size :][: self.batch_size]


class Shuffle(Sampler):
    """Random permutations of all images, one after the other.

    Every image comes once before any comes again; a batch may end one permutation and begin the
    next.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int):
        """Permutes images 0 … num_images − 1."""
        super().__init__(batch_size)
        if num_images < 1:
            raise UserError("there are no images to draw batches from")
        self._num_images = num_images
        self._seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_epochs": {}}

    def _batch(self, step: int) -> np.ndarray:
        start, stop = step * self.batch_size, (step + 1) * self.batch_size
        first, last = start // self._num_images, (stop - 1) // self._num_images
        known = self._epochs
        epochs = {
            e: known[e] if e in known else self._permutation(e) for e in range(first, last + 1)
        }
        self._epochs = {last: epochs[last]}
        offset = start - first * self._num_images
        return np.concatenate(list(epochs.values()))[offset:][: self.batch_size]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, _EPOCHS, epoch)).permutation(self._num_images)


class EveryClass(Sampler):
    """Every class in every batch, as AP-GeM is trained (Revaud et al., ICCV 2019, section 4).

    The classes' shares of a batch are as equal as their sizes and the batch allow: no image comes
    twice in a batch, so a class gives at most all that it has, and the others make up for it; where
    the batch does not divide evenly, the classes take turns with one image more. Each class walks
    through random permutations of its images, so that all of them are seen equally.

    Where the batch cannot hold two images of every class (one, where a class has one), it has two
    images each of batch_size / 2 classes, and the classes take turns in random permutations; the
    image of a class with only one is then drawn twice, and differs by its augmentation.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        """Works out the classes' shares.

        Args:
          labels: (N,) int, the class of each image; numbers without an image are no class.
          batch_size: at most N.
          seed: of every random choice; not negative.

        Raises:
          UserError: the batch is larger than the data set, or odd where classes must take turns.
        """
        super().__init__(batch_size)
        self._seed = seed
        self._classes = _Classes(labels, seed)
        sizes = self._classes.sizes
        if batch_size > sizes.sum():
            raise UserError(
                f"a batch of {batch_size} images cannot be drawn from {sizes.sum()} without "
                "repeating some; take a smaller batch"
            )
        self._in_turns = bool(np.minimum(sizes, 2).sum() > batch_size)
        if self._in_turns:
            if batch_size % 2:
                raise UserError(
                    f"a batch of {batch_size} images cannot hold two of each of the {len(sizes)} "
                    "classes, so it takes pairs from some of them; make it even"
                )
            log.warning(
                "a batch of %d images cannot hold two of each of the %d classes: they take turns, "
                "%d in a batch",
                batch_size,
                len(sizes),
                batch_size // 2,
            )
        self._level = _equal_shares(sizes, batch_size)
        # The classes that have more to give, in the order of their turns.
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
            # How often each class's turn came among the first step · extra turns: rounded up.
            before = -((places - step * self._extra) // turns)
            after = -((places - (step + 1) * self._extra) // turns)
            windows = counts.copy()
            windows[self._larger] += 1
            positions[self._larger] += before
            counts[self._larger] += after - before
            varies[self._larger] = True
        shares = zip(positions.tolist(), counts.tolist(), windows.tolist(), varies, strict=True)
        return np.concatenate(
            [
                self._classes.draw(c, position, count, window, varies=bool(varying))
                for c, (position, count, window, varying) in enumerate(shares)
            ]
        )


class ClassesByImages(Sampler):
    """P classes, K images of each: the usual batches of triplet losses (Hermans et al., 2017).

    The classes take turns in random permutations, and so do the images of each class. A class with
    fewer than K images repeats them as evenly as possible; they differ by their augmentation.
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
        """Checks that the classes have what a batch needs.

        Args:
          labels: (N,) int, the class of each image; numbers without an image are no class.
          classes: P, of a batch; at most those that there are.
          images_per_class: K.
          seed: of every random choice; not negative.
          class_names: what error messages call the classes; by default their numbers.

        Raises:
          UserError: there are fewer than P classes, or K > 1 and a class has a single image.
        """
        super().__init__(classes * images_per_class)
        self._seed = seed
        self._num_classes, self._images_per_class = classes, images_per_class
        self._classes = _Classes(labels, seed)
        if classes > len(self._classes.sizes):
            raise UserError(
                f"batches of {classes} classes were asked for, but the data set has "
                f"{len(self._classes.sizes)}"
            )
        alone = np.unique(labels)[self._classes.sizes == 1].tolist()
        if images_per_class > 1 and alone:
            names = [str(c) if class_names is None else class_names[c] for c in alone[:5]]
            if len(alone) > len(names):
                names.append(f"and {len(alone) - len(names)} more")
            raise UserError(
                f"a class with a single image has no pairs, and {len(alone)} have one: "
                f"{', '.join(names)}; leave them out of the list, or add images"
            )

    def _batch(self, step: int) -> np.ndarray:
        batch = self._classes.draw_turns(step, self._num_classes, self._images_per_class)
        return np.random.default_rng((self._seed, _ROWS, step)).permutation(batch)


class _Classes:
    """The images of each class, and random walks through them."""

    def __init__(self, labels: np.ndarray, seed: int):
        self._seed = seed
        self._images = np.argsort(labels, kind="stable")
        _, self._starts, self.sizes = np.unique(
            np.asarray(labels)[self._images], return_index=True, return_counts=True
        )

    def draw(
        self, c: int, position: int, count: int, window: int, *, varies: bool = False
    ) -> np.ndarray:
        """`count` images of class `c`, from `position` of its walk; see `_walk`."""
        key = (self._seed, _IMAGES, c)
        places = _walk(key, int(self.sizes[c]), position, count, window, varies=varies)
        return self._images[self._starts[c] + places]

    def draw_turns(self, step: int, classes: int, images_per_class: int) -> np.ndarray:
        """Images of the classes whose turn it is, in a walk through all classes."""
        total, start = len(self.sizes), step * classes
        turns = _walk((self._seed, _CLASSES), total, start, classes, classes)
        # The walk visits each class once a lap: the lap's number says how often it was drawn from.
        laps = (start + np.arange(classes)) // total
        return np.concatenate(
            [
                self.draw(c, lap * images_per_class, images_per_class, images_per_class)
                for c, lap in zip(turns.tolist(), laps.tolist(), strict=True)
            ]
        )


def _equal_shares(sizes: np.ndarray, batch_size: int) -> int:
    """The largest number that every class (or all of it, where smaller) can give to a batch."""
    low, high = 0, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(sizes, middle).sum() <= batch_size:
            low = middle
        else:
            high = middle - 1
    return low


def _walk(
    key: tuple[int, ...], size: int, position: int, count: int, window: int, *, varies: bool = False
) -> np.ndarray:
    """A part of an endless random walk that visits each of `size` places once a lap.

    Wherever it is cut, `window` places in a row are all different (if `size` allows), though laps
    are in different orders; and any part is found without walking there.

    Args:
      key: of the random stream.
      size: number of places.
      position: where the part begins.
      count: how many places to return, 1 … window.
      window: how many places are taken at a time.
      varies: whether fewer are taken at some times.

    Returns:
      (count,) int64 in [0, size).
    """
    lap, offset = divmod(position, size)
    laps = range(lap, (position + count - 1) // size + 1)
    orders = [_lap(key, size, each, window, varies=varies) for each in laps]
    return np.concatenate(orders)[offset : offset + count]


def _lap(key: tuple[int, ...], size: int, lap: int, window: int, *, varies: bool) -> np.ndarray:
    overlap = window - 1
    if size < 3 * overlap:
        # Two laps share too much of a window to have different orders: the same order again, until
        # a lap ends where a window does.
        laps = window // math.gcd(size, window)
        return np.random.default_rng((*key, 0 if varies else lap // laps)).permutation(size)
    order = np.random.default_rng((*key, lap)).permutation(size)
    if lap and overlap:
        # The last places of the lap before must not come first: they wait behind as many others.
        # That moves no place of this lap's own end, so it depends on one lap before only.
        before = np.random.default_rng((*key, lap - 1)).permutation(size)[-overlap:]
        head = order[: 2 * overlap]
        waits = np.isin(head, before)
        order[: 2 * overlap] = np.concatenate([head[~waits], head[waits]])
    return order
