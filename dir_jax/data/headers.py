"""Reads the headers of all images, so that a bad one is found before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from dir_jax.data.images import ImageDataset
from dir_jax.errors import UserError

_THREADS = 16  # they wait for the disk more than they compute
_BLOCK = 64  # images that a thread takes at once
_FAILURES_SHOWN = 5

IS_ROOT_RIGHT = "is the root right, the data set's second argument?"
"""What to say where not one image can be read."""


def check_dataset(dataset: ImageDataset, *, progress: bool = True) -> np.ndarray:
    """Reads the header of every image, and refuses a data set with missing or damaged ones.

    Args:
      dataset: the images.
      progress: whether to show a bar with the rate.

    Returns:
      (N, 2) int32, width and height of each image in pixels.

    Raises:
      UserError: images cannot be read (the message says how many and names the first few), or the
        data set is empty.
    """
    sizes, failures = read_sizes(dataset, progress=progress)
    none_good = len(failures) == len(dataset)
    refuse_failures(failures, len(dataset), IS_ROOT_RIGHT if none_good else "")
    return sizes


def refuse_failures(failures: Mapping[int, str], total: int, advice: str = "") -> None:
    """Stops where some images of a list cannot be used.

    Args:
      failures: image number -> why it cannot be used; without any, this does nothing.
      total: how many images the list has.
      advice: what the user can do about it, if there is something besides repairing the images.

    Raises:
      UserError: names the first few images, and says how many there are.
    """
    if not failures:
        return
    shown = list(failures.values())[:_FAILURES_SHOWN]
    if len(failures) > len(shown):
        shown.append(f"and {len(failures) - len(shown)} more")
    hint = f" ({advice})" if advice else ""
    raise UserError(f"{len(failures)} of {total} images cannot be used{hint}: {'; '.join(shown)}")


def read_sizes(
    dataset: ImageDataset, *, progress: bool = True
) -> tuple[np.ndarray, dict[int, str]]:
    """Reads the header of every image.

    Args:
      dataset: the images.
      progress: whether to show a bar with the rate.

    Returns:
      sizes: (N, 2) int32, width and height of each image in pixels; 0 for those with no header.
      failures: image number -> why its header cannot be read.

    Raises:
      UserError: the data set is empty.
    """
    if not len(dataset):
        raise UserError("the data set has no images")

    def read_block(start: int) -> list[tuple[int, int] | str]:
        found: list[tuple[int, int] | str] = []
        for i in range(start, min(start + _BLOCK, len(dataset))):
            try:
                found.append(dataset.size(i))
            except UserError as e:
                found.append(str(e))
        return found

    sizes = np.zeros((len(dataset), 2), np.int32)
    failures: dict[int, str] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        with tqdm(
            total=len(dataset),
            desc="check images",
            unit="img",
            leave=False,
            delay=1,
            disable=not progress,
        ) as bar:
            starts = range(0, len(dataset), _BLOCK)
            for start, block in zip(starts, pool.map(read_block, starts), strict=True):
                for i, found in enumerate(block, start):
                    if isinstance(found, str):
                        failures[i] = found
                    else:
                        sizes[i] = found
                bar.update(len(block))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for the whole list
    return sizes, failures
