"""Which images a run began with: kept with its checkpoints, compared when it is resumed."""

from __future__ import annotations

import array
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from dir_jax.data.ground_truth import QueryDataset, RelevantsDataset
from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.marks import mark
from dir_jax.describe.describer import queries_of
from dir_jax.errors import UserError, shown
from dir_jax.runtime.processes import is_first
from dir_jax.training.saving import Resumed
from dir_jax.training.setup import Setup

_PAIRS = " (pairs)"
_MOST_FILES = 100_000  # of a list, of which the system is asked for size and time
log = logging.getLogger(__name__)


def check_images(config: ml_collections.ConfigDict, setup: Setup, resumed: Resumed) -> ImageRecord:
    """The record of a run's images, all of which must be those that it began with.

    Raises UserError where they are not, unless `config.data.on_change` is 'continue'.
    """
    record = ImageRecord({"train": setup.dataset, **setup.held_out.sets}, setup.skipped)
    if resumed.images is None:
        if resumed.step:
            log.warning("the checkpoint does not say which images the run began with: not compared")
        return record
    record.same_rows = record.has_rows_of(resumed.images, train := "config.data.train")
    pairs = f"{train}{_PAIRS}"
    record.same_pairs = pairs not in resumed.images or record.has_rows_of(resumed.images, pairs)
    if resumed.skipped is not None and record.same_rows:
        # Batches are drawn from the images that the run began with, whatever became of the others.
        record.skipped = np.intersect1d(resumed.skipped, np.arange(len(setup.dataset)))
    changes = record.changes_since(resumed.images, damage_too=config.data.on_error != "skip")
    if not changes:
        record.arrays |= resumed.images
    else:
        what = f"the data of this run have changed: {'; '.join(changes)}"
        if config.data.on_change != "continue":
            raise UserError(
                f"{what}; put them back as they were, choose another --workdir to start again, or "
                "go on with them as they are now by --config.data.on_change=continue"
            )
        log.warning("%s", what)
    return record


class ImageRecord:
    """The rows of some lists, by the config keys of their data sets. Opens no image.

    Attributes:
      arrays: name of a list -> (N, 3) int64: of each row a digest, and its file's size in bytes and
        modification time in nanoseconds, or -1 where it has no file of its own. Of a list of more
        than 200,000 rows the files of some 100,000 are compared, evenly spaced; the others have -1.
      skipped: (K,) int64, the training images that the run began without.
      same_rows: whether the number of a training image means what it meant when the run began.
      same_pairs: whether the matching pairs of training images are those that it began with.
    """

    def __init__(self, datasets: Mapping[str, ImageDataset], skipped: np.ndarray | None = None):
        self.skipped = np.zeros(0, np.int64) if skipped is None else skipped
        self.same_rows = self.same_pairs = True
        self.arrays: dict[str, np.ndarray] = {}
        self._paths: dict[str, Callable[[int], str]] = {}
        for key, dataset in datasets.items():
            for name, rows, path in _lists(f"config.data.{key}", dataset):
                marks = array.array("q")  # a long list's would be large as a list
                every = max(1, len(rows) // _MOST_FILES)
                for i, row in enumerate(rows):
                    file = path(i) if i % every == 0 else ""
                    marks.extend(mark(json.dumps(row).encode(), file))
                self.arrays[name] = np.array(marks, np.int64).reshape(-1, 3)
                self._paths[name] = path

    def has_rows_of(self, before: Mapping[str, Any], name: str) -> bool:
        """Whether a list's rows, but not necessarily its files, are those of an earlier record."""
        old, now = (np.asarray(arrays.get(name, ())) for arrays in (before, self.arrays))
        return np.array_equal(old[..., :1], now[..., :1])

    def changes_since(self, before: Mapping[str, Any], *, damage_too: bool = True) -> list[str]:
        """What differs from the arrays of an earlier record: a phrase for each list that does.

        Files that are only lost or damaged since then do not count if `damage_too` is false. Of
        several processes, the first one compares files, and all compare rows.
        """
        found = []
        for name, now in self.arrays.items():
            if name.endswith(_PAIRS) and name not in before:
                continue  # an earlier version did not keep them
            old = np.asarray(before.get(name, np.zeros((0, 3), np.int64)))
            if old.shape != now.shape:
                found.append(f"{name} has {len(now)} rows and had {len(old)}")
                continue
            others, files = old[:, 0] != now[:, 0], (old != now).any(axis=1)
            if not is_first():  # the record is of process 0's files; this machine may have copies
                files = others
            if others.any() and (np.sort(old[:, 0]) == np.sort(now[:, 0])).all():
                found.append(f"{name} has another order, from {self._row(name, others)} on")
            elif others.any():
                what = f"{others.sum()} of the {len(now)} rows of {name} are others"
                found.append(f"{what}, such as {self._row(name, others)}")
            elif files.any() and (damage_too or not self._are_damaged(name, files)):
                what = f"{files.sum()} of the {len(now)} image files of {name} have another size"
                found.append(f"{what} or modification time, such as {self._row(name, files)}")
        return found

    def _are_damaged(self, name: str, which: np.ndarray) -> bool:
        """Whether none of some files can be read; ends at the first that can."""
        for place in np.flatnonzero(which).tolist():
            with contextlib.suppress(UserError):
                ImageDataset([self._paths[name](place)]).open(0)
                return False
        return True

    def _row(self, name: str, which: np.ndarray) -> str:
        first = int(which.argmax())
        path = self._paths[name](first)
        return f"row {first + 1}" + (f" ({shown(path)})" if path else "")


def _lists(
    name: str, dataset: ImageDataset
) -> Iterator[tuple[str, Sequence[object], Callable[[int], str]]]:
    """Each list of a data set: its name, what each row says, and the path of a row's file."""
    rows: Sequence[object] = dataset.names
    if isinstance(dataset, LabelledDataset):
        rows = list(zip(dataset.names, dataset.texts(), strict=True))
    elif isinstance(dataset, QueryDataset) and dataset.boxes is not None:
        rows = list(zip(dataset.names, dataset.boxes.tolist(), strict=True))
    yield name, rows, dataset.path
    if dataset.pairs is not None:
        yield f"{name}{_PAIRS}", dataset.pairs.tolist(), lambda _: ""
    if (queries := queries_of(dataset)) is not None:
        yield from _lists(f"{name} (queries)", queries)
    if isinstance(dataset, RelevantsDataset):
        truth = [{k: v.tolist() for k, v in each.items()} for each in dataset.ground_truth]
        yield f"{name} (ground truth)", truth, lambda _: ""
