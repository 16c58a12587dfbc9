"""Lists of images to describe: what their files' headers say, and which of them can be used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from dir_jax.data.ground_truth import QueryDataset
from dir_jax.data.headers import IS_ROOT_RIGHT, all_missing, read_sizes, refuse_failures
from dir_jax.data.images import ImageDataset
from dir_jax.data.pixels import too_large
from dir_jax.data.transforms import Transform
from dir_jax.describe.padded_shapes import Batch
from dir_jax.errors import UserError
from dir_jax.runtime.processes import gather, have_the_same

log = logging.getLogger(__name__)

_MOST_READ, _SAMPLE = 100_000, 10_000  # images of a list to train on whose headers are all read
# An image with more would need some 20 GB for the activations of a ResNet-50's first stage.
MAX_PIXELS = 40_000_000


@dataclasses.dataclass(frozen=True)
class ImageList:
    """Images to describe, and what their files' headers say."""

    name: str  # what progress bars call the list; '' for no bar
    dataset: ImageDataset
    # (len(dataset), 2) int, width and height of each file in pixels; 0 if its header was not read
    sizes: np.ndarray
    unreadable: Mapping[int, str] = dataclasses.field(default_factory=dict)  # by image, why
    chosen: np.ndarray | None = None  # (N,) int, what to describe, in this order; None for all

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def indices(self) -> np.ndarray:
        """(N,) int, the image that each place of the list means."""
        return np.arange(len(self.dataset)) if self.chosen is None else self.chosen

    def path(self, place: int) -> str:
        """The path of the image at a place of the list."""
        return self.dataset.path(int(self.indices[place]))

    def output_sizes(self, transform: Transform) -> tuple[np.ndarray, dict[int, str]]:
        """The sizes of the images after a transform, found without opening them.

        Returns:
          sizes: (N, 2) int64, width and height in pixels; 1 × 1 for images that cannot be used.
          failures: place in the list -> why this image cannot be used.

        Raises:
          UserError: the transform gives images of one size different sizes.
        """
        indices = self.indices
        result = np.ones((len(indices), 2), np.int64)
        failures = {
            place: self.unreadable[image]
            for place, image in enumerate(indices.tolist())
            if image in self.unreadable
        }
        distinct, inverse = np.unique(self.sizes[indices], axis=0, return_inverse=True)
        for group, size in enumerate(distinct.tolist()):
            places = [p for p in np.flatnonzero(inverse == group).tolist() if p not in failures]
            if places:
                result[places], problem = _output_size(tuple(size), transform)
                if problem:
                    failures |= {p: f"the image {self.path(p)}{problem}" for p in places}
        return result, failures

    def choose(self, name: str, chosen: np.ndarray) -> ImageList:
        """A list of the images `chosen`, (N,) int; reads those of their headers that were not."""
        new = chosen[self.sizes[chosen, 0] == 0]
        new = new[~np.isin(new, list(self.unreadable))]
        failures: Mapping[int, str] = {}
        if len(new):
            sizes, failures = read_sizes(self.dataset, new)
            self.sizes[new] = sizes[new]
        unreadable = {**self.unreadable, **failures}
        return dataclasses.replace(self, name=name, chosen=chosen, unreadable=unreadable)

    def check(self, transform: Transform) -> None:
        """Raises UserError, naming the images, unless all of them can be used with a transform."""
        self.refuse(self.output_sizes(transform)[1])

    def refuse(self, failures: Mapping[int, str], advice: str = "") -> None:
        """Raises UserError where there are failures; `advice` is what can be done about some."""
        if len(self.unreadable) == len(self.dataset):
            advice = ""
            if self.dataset.is_listed and all_missing(self.unreadable.values()):
                advice = IS_ROOT_RIGHT
        elif len(failures) == len(self):
            advice = ""
        refuse_failures(failures, len(self), advice)


@dataclasses.dataclass(frozen=True)
class Pass:
    """One list of images at one scale."""

    name: str  # what progress bars, and the files of a resumable run, call it
    images: ImageList
    transform: Transform
    batches: list[Batch]  # of the images that can be used; `places` are those in the list
    failures: dict[int, str]  # place in the list -> why this image cannot be used


def read_list(name: str, dataset: ImageDataset, chosen: np.ndarray | None = None) -> ImageList:
    """Reads the headers of a data set's images, or of the `chosen` ones, (N,) int.

    Of a plain data set, which may be very long, the list then has the chosen images alone.

    Raises:
      UserError: the data set has none.
    """
    if chosen is not None and type(dataset) is ImageDataset:
        names, exif = [dataset.names[i] for i in chosen.tolist()], dataset.exif
        dataset, chosen = ImageDataset(names, dataset.root).with_exif(exif), None
    images = ImageList(name, dataset, *read_sizes(dataset, chosen), chosen)
    if isinstance(dataset, QueryDataset):
        dataset.warn_of_cut(images.sizes)
    return images


def sample_list(name: str, dataset: ImageDataset) -> ImageList:
    """As `read_list`, but of more than 100,000 images only the headers of 10,000 are read.

    These are evenly spaced over the list. Whoever opens the other images finds out about them.
    Raises UserError where there are no images.
    """
    chosen = headers_to_read(len(dataset))
    if (count := len(chosen)) < len(dataset):
        message = "checking the headers of %d of %d images; the others are checked as they are used"
        log.info(message, count, len(dataset))
    return ImageList(name, dataset, *read_sizes(dataset, chosen))


def agree(images: ImageList, *, skip: bool) -> ImageList:
    """The list as all processes of a run use it; all of them call this at the same point.

    With `skip`, what one of them cannot read is unreadable in all. Raises UserError where machines
    have different copies of the images.
    """
    if skip:
        if not have_the_same(np.array(sorted(images.unreadable)).tobytes()):
            images = dataclasses.replace(images, unreadable=gather(images.unreadable))
    elif images.unreadable:
        return images  # whose images are then refused
    readable = ~np.isin(images.indices, list(images.unreadable))
    if not have_the_same(images.sizes[images.indices[readable]].tobytes()):
        raise UserError(
            f"the machines of this run have different copies of some images ({images.name}): their "
            "sizes in pixels are not the same; give all machines the same files"
        )
    return images


def headers_to_read(count: int) -> np.ndarray:
    """The numbers of the images whose headers `sample_list` reads of a list of `count`."""
    if count <= _MOST_READ:
        return np.arange(count)
    return np.linspace(0, count - 1, _SAMPLE).astype(int)


def _output_size(size: tuple[int, int], transform: Transform) -> tuple[tuple[int, int], str]:
    """The size that an image comes out in, and why it cannot be used ('' where it can)."""
    try:
        low, high = transform.output_size(size, size)
    except UserError as e:
        return (1, 1), f": {e}"
    if low != high:
        raise UserError(
            f"{transform!r} gives images of random sizes; images are described at one size"
        )
    if problem := too_large(transform.first_size(size)):
        return (1, 1), problem
    if low[0] * low[1] > MAX_PIXELS:
        return (1, 1), (
            f" has {low[0]} x {low[1]} pixels, more than the {MAX_PIXELS // 1_000_000} million "
            "that the network can be given; make it smaller, as Scale(1024, largest=True) does"
        )
    return low, ""
