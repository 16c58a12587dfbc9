"""The data set on disk: drawn by several processes, and there in whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from .errors import DrawingError
from .families import FAMILIES, build_landmark
from .grading import ground_truth
from .photograph import View, photograph

FORMAT_VERSION = 1
# Parts of the seeds, which keep the random numbers of the splits apart, and those of a
# landmark's shape from those of its pictures.
_TRAIN, _TEST, _DISTRACTORS = 0, 1, 2
_SHAPE, _VIEW = 0, 1


@dataclasses.dataclass(frozen=True)
class _Options:
    train_landmarks: int
    test_landmarks: int
    views: int
    test_views: int
    image_size: int
    seed: int
    distractors: int

    def __post_init__(self) -> None:
        lowest = {"views": 2, "test_views": 3, "image_size": 32, "seed": 0, "distractors": 0}
        for name, value in dataclasses.asdict(self).items():
            least = lowest.get(name, 1)
            if type(value) is not int or value < least:
                raise DrawingError(
                    f"{name} is {value!r}; expected a whole number of at least {least}"
                )
        if self.image_size > 1024:
            raise DrawingError(f"image_size is {self.image_size}; expected at most 1024")


@dataclasses.dataclass(frozen=True)
class _Landmark:
    """One landmark to draw and photograph, independently of all others."""

    name: str
    family: int  # index into FAMILIES
    split: int
    number: int  # within its split
    views: int
    image_size: int
    seed: int


def write_synthetic_landmarks(
    directory: str | os.PathLike[str],
    *,
    train_landmarks: int = 60,
    test_landmarks: int = 20,
    views: int = 20,
    test_views: int = 15,
    image_size: int = 128,
    seed: int = 0,
    distractors: int = 0,
    workers: int | None = None,
) -> bool:
    """Writes the data set, or returns at once if the directory holds it already.

    The directory appears only once the set is complete. The same options, machine and versions of
    NumPy and Pillow give the same bytes, whatever the number of workers. The workers are new Python
    processes: a script that calls this function at its top level needs the usual
    `if __name__ == "__main__":`.

    Args:
      directory: The directory to write; its parent is made if necessary.
      train_landmarks: The number of landmarks in train.txt.
      test_landmarks: The number of landmarks in test.txt; none of them is in train.txt.
      views: The number of pictures of each training landmark.
      test_views: The number of pictures of each test landmark.
      image_size: The longer side of a picture in pixels; the shorter is at least 3/4 of it.
      seed: The seed of everything random.
      distractors: The number of pictures in distractors.txt, each of a landmark of its own that is
        in neither of the other lists.
      workers: The number of processes; None is one per CPU, 1 draws in this process.

    Returns:
      True if the set was drawn, False if it was there already.

    Raises:
      DrawingError: An option is out of range; the directory holds something else, or a set drawn
        with other options; or it cannot be written.
    """
    options = _Options(
        train_landmarks, test_landmarks, views, test_views, image_size, seed, distractors
    )
    if workers is not None and (type(workers) is not int or workers < 1):
        raise DrawingError(f"workers is {workers!r}; expected a whole number of at least 1")
    target = Path(os.path.abspath(directory))
    try:
        if _holds_set(target, options):
            return False
        with _partial_directory(target) as partial:
            _fill(partial, options, workers)
            # Later runs recognise a complete set by this file, so it is written last.
            record = {"format": FORMAT_VERSION, "options": dataclasses.asdict(options)}
            record["versions"] = {p: importlib.metadata.version(p) for p in ("numpy", "pillow")}
            (partial / "synthetic.json").write_text(json.dumps(record, indent=2) + "\n")
            try:
                os.replace(partial, target)
            except OSError:
                if not _holds_set(target, options):  # otherwise another process was faster
                    raise
    except OSError as e:
        raise DrawingError(
            f"cannot write the synthetic landmarks to {target}: {e.strerror or e}; choose another"
            " directory, or free some space"
        ) from e
    except BrokenProcessPool as e:
        raise DrawingError(
            "a process that draws synthetic landmarks died: it ran out of memory, or the calling"
            " script lacks `if __name__ == '__main__':`; try 1 worker"
        ) from e
    return True


def _holds_set(target: Path, options: _Options) -> bool:
    """Whether `target` holds the complete set of these options, rather than nothing.

    Raises:
      DrawingError: It holds anything else.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        record = json.loads((target / "synthetic.json").read_text())
        # Sets drawn before there were distractors have none.
        held, version = {"distractors": 0, **record["options"]}, record["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DrawingError(
            f"{target} exists but is not a set of synthetic landmarks (it has no readable"
            " synthetic.json); choose another directory, or delete it"
        ) from None
    wanted = dataclasses.asdict(options)
    if (held, version) == (wanted, FORMAT_VERSION):
        return True
    differ = [f"{k}={held.get(k)!r}, not {v!r}" for k, v in wanted.items() if held.get(k) != v]
    what = "; ".join(differ) or f"format {version!r}, not {FORMAT_VERSION}"
    raise DrawingError(
        f"{target} holds synthetic landmarks drawn with other options ({what}); choose another"
        " directory, or delete it"
    )


@contextlib.contextmanager
def _partial_directory(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, which is deleted at the end unless it was renamed.

    It stays locked as long as this process lives. A later run deletes those that are not locked:
    they were left behind by processes that were killed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    for old in target.parent.glob(f"{prefix}*"):
        if (lock := _lock(old)) is not None:
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    partial = target.parent / f"{prefix}{secrets.token_hex(6)}"
    partial.mkdir()
    lock = _lock(partial)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(directory: Path) -> int | None:
    """Locks a directory until the descriptor is closed; None if another process has it locked, or
    the system or its disk has no locks."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None


def _fill(directory: Path, options: _Options, workers: int | None) -> None:
    (directory / "images").mkdir()
    landmarks = _plan(options)
    total = sum(mark.views for mark in landmarks)
    views: dict[str, dict[str, View]] = {}
    with tqdm(total=total, desc="synthetic landmarks", unit=" images") as bar:
        for name, taken in _photograph_all(directory, landmarks, workers):
            views[name] = taken
            bar.update(len(taken))
    for split, file in ((_TRAIN, "train.txt"), (_TEST, "test.txt")):
        rows = [
            f"images/{image}.jpg {mark.name}\n"
            for mark in landmarks
            if mark.split == split
            for image in views[mark.name]
        ]
        (directory / file).write_text("".join(rows))
    if options.distractors:
        rows = [
            f"images/{image}.jpg\n"
            for mark in landmarks
            if mark.split == _DISTRACTORS
            for image in views[mark.name]
        ]
        (directory / "distractors.txt").write_text("".join(rows))
    truth = ground_truth([views[mark.name] for mark in landmarks if mark.split == _TEST])
    (directory / "gnd_synthetic.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    facts = {
        image: {"landmark": mark.name, **dataclasses.asdict(view)}
        for mark in landmarks
        for image, view in views[mark.name].items()
    }
    (directory / "views.json").write_text(json.dumps(facts, indent=0) + "\n")


def _plan(options: _Options) -> list[_Landmark]:
    """All landmarks, those of training first.

    Landmarks of one kind come in pairs, so that it takes more than the kind to tell them apart.
    """
    landmarks: list[_Landmark] = []
    for split, count, views in (
        (_TRAIN, options.train_landmarks, options.views),
        (_TEST, options.test_landmarks, options.test_views),
        (_DISTRACTORS, options.distractors, 1),
    ):
        order = np.random.default_rng([options.seed, split]).permutation(len(FAMILIES))
        for number in range(count):
            family = int(order[number // 2 % len(order)])
            name = f"{FAMILIES[family][0]}_{len(landmarks):03d}"
            landmarks.append(
                _Landmark(name, family, split, number, views, options.image_size, options.seed)
            )
    return landmarks


def _photograph_all(
    directory: Path, landmarks: list[_Landmark], workers: int | None
) -> Iterator[tuple[str, dict[str, View]]]:
    """Yields each landmark's name and views, in the order in which they are finished."""
    if workers is None:
        workers = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
    workers = min(workers or 1, len(landmarks))
    if workers == 1:
        for mark in landmarks:
            yield mark.name, _photograph_landmark(directory, mark)
        return
    # Spawned rather than forked, because the caller may have threads, which do not survive a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        _hold_interrupts(True)
        jobs = {pool.submit(_photograph_landmark, directory, mark): mark.name for mark in landmarks}
        _hold_interrupts(False)
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends the worker if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _hold_interrupts(False)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _hold_interrupts(held: bool) -> None:
    """Lets Ctrl-C wait, in processes that are started now too; not on Windows."""
    if change := getattr(signal, "pthread_sigmask", None):
        change(signal.SIG_BLOCK if held else signal.SIG_UNBLOCK, [signal.SIGINT])


def _photograph_landmark(directory: Path, mark: _Landmark) -> dict[str, View]:
    """Writes a landmark's pictures. Returns what is known about each, by its name, in order."""
    family = FAMILIES[mark.family][1]
    stream = [mark.seed, mark.split, mark.number]
    mesh = build_landmark(family, np.random.default_rng([*stream, _SHAPE]), mark.image_size)
    faces = mesh.arrays()
    views = {}
    for k in range(mark.views):
        name = f"{mark.name}_{k:02d}"
        rng = np.random.default_rng([*stream, _VIEW, k])
        data, view = photograph(
            faces, rng, mark.image_size, water=family.water, raised=family.raised
        )
        (directory / "images" / f"{name}.jpg").write_bytes(data)
        views[name] = view
    return views
