"""Reads the headers of all images, so that a bad one is found before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dir_jax.data.images import NO_FILE, ImageDataset
from dir_jax.errors import UserError
from dir_jax.runtime.progress import progress_bar

_THREADS = 16  # they wait for the disk more than they compute
_BLOCK = 64  # images that a thread takes at once
_FAILURES_SHOWN = 5

IS_ROOT_RIGHT = "is the root right, the data set's second argument?"
"""What to say where not one image of a list exists."""


def check_dataset(dataset: ImageDataset) -> np.ndarray:
    """Width and height of each image, (N, 2) int32; raises UserError if one cannot be used."""
    sizes, failures = read_sizes(dataset)
    refuse_unreadable(failures, len(dataset))
    return sizes


def refuse_unreadable(failures: Mapping[int, str], total: int, advice: str = "") -> None:
    """As `refuse_failures`, for files of which the headers cannot be read."""
    if len(failures) == total:
        advice = IS_ROOT_RIGHT if all_missing(failures.values()) else ""
    refuse_failures(failures, total, advice)


def all_missing(failures: Iterable[str]) -> bool:
    """Whether no image could be used because none of the files exists."""
    return all(failure.startswith(NO_FILE) for failure in failures)


def refuse_failures(failures: Mapping[int, str], total: int, advice: str = "") -> None:
    """Raises UserError, which names the first few, if some of a list's images cannot be used.

    Args:
      failures: image number -> why it cannot be used.
      total: how many images the list has.
      advice: what the user can do about it, besides repairing the images.
    """
    if not failures:
        return
    shown = list(failures.values())[:_FAILURES_SHOWN]
    if len(failures) > len(shown):
        shown.append(f"and {len(failures) - len(shown)} more")
    hint = f" ({advice})" if advice else ""
    raise UserError(f"{len(failures)} of {total} images cannot be used{hint}: {'; '.join(shown)}")


def read_sizes(
    dataset: ImageDataset, chosen: np.ndarray | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads the header of every image, or of the `chosen` ones, (N,) int.

    Raises UserError where the data set has no images.

    Returns:
      sizes: (N, 2) int32, width and height of each image in pixels; 0 where no header was read.
      failures: image number -> why its header cannot be read.
    """
    if not len(dataset):
        raise UserError("the data set has no images")
    sizes = np.zeros((len(dataset), 2), np.int32)
    failures: dict[int, str] = {}
    numbers: Sequence[int] = range(len(dataset)) if chosen is None else chosen.tolist()

    def read_block(start: int) -> int:
        block = numbers[start : start + _BLOCK]
        for i in block:
            try:
                sizes[i] = dataset.size(i)
            except UserError as e:
                failures[i] = str(e)
        return len(block)

    pool = ThreadPoolExecutor(_THREADS)
    try:
        with progress_bar("check images", len(numbers), "img", shown=True, delay=1) as bar:
            for count in pool.map(read_block, range(0, len(numbers), _BLOCK)):
                bar.update(count)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for the whole list
    return sizes, dict(sorted(failures.items()))
