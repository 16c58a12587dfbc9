"""Synthetic landmarks: a retrieval data set made from a seed, with nothing to download.

    python -m dir_jax.data.synthetic --output DIR [--landmarks 60] [--views 20] [--image-size 128]

Every landmark is a small 3-D model of a building or monument, with a structure, materials and
ornaments of its own; every picture of it a photograph from elsewhere, in another light, weather and
company. Landmarks of one kind share their colours, and each picture has a cast, so that colour says
little. The output directory holds

    images/NAME.jpg       the pictures, NAME = landmark_view
    train.txt, test.txt   labelled lists, rows `images/NAME.jpg landmark`; no landmark is in both
    gnd_synthetic.pkl     Oxford-style ground truth over the test landmarks (see `grading`)
    views.json            what is known about every picture: visibility, viewpoint, light, weather
    synthetic.json        the options that all of it was made with
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dir_jax.data.synthetic_landmarks.contact_sheet import save_contact_sheet
from dir_jax.data.synthetic_landmarks.families import FAMILIES, build_landmark
from dir_jax.data.synthetic_landmarks.grading import ground_truth
from dir_jax.data.synthetic_landmarks.photograph import View, photograph
from dir_jax.errors import UserError

FORMAT_VERSION = 1
_TRAIN, _TEST = 0, 1  # keep the random streams of the two sets of landmarks apart
_SHAPE, _VIEW = 0, 1  # and those of a landmark's shape and of its pictures


@dataclasses.dataclass(frozen=True)
class _Options:
    train_landmarks: int
    test_landmarks: int
    views: int
    test_views: int
    image_size: int
    seed: int

    def __post_init__(self) -> None:
        lowest = {"views": 2, "test_views": 3, "image_size": 32, "seed": 0}
        for name, value in dataclasses.asdict(self).items():
            least = lowest.get(name, 1)
            if type(value) is not int or value < least:
                raise UserError(
                    f"synthetic landmarks: {name} is {value!r}; it must be a whole number, at least"
                    f" {least}"
                )
        if self.image_size > 1024:
            raise UserError(
                f"synthetic landmarks: image_size is {self.image_size}; it may be at most 1024"
            )


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
    workers: int | None = None,
) -> None:
    """Writes the data set, or returns at once if the directory holds it already.

    The directory appears when it is complete. The same options, machine and versions of NumPy
    and Pillow give the same bytes, whatever the number of workers. The workers are new Python
    processes: a script that calls this at its top level needs the usual
    `if __name__ == "__main__":`.

    Args:
      directory: where to; its parent is made if need be.
      train_landmarks, test_landmarks: numbers of landmarks; the two sets are disjoint.
      views, test_views: pictures of each training and test landmark.
      image_size: a picture's longer side in pixels; the other is at least 3/4 of it.
      seed: of everything random.
      workers: processes; None is one a CPU, 1 works in this process.

    Raises:
      UserError: an option is out of range; the directory holds something else, or a set made with
        other options; nothing can be written there.
    """
    options = _Options(train_landmarks, test_landmarks, views, test_views, image_size, seed)
    if workers is not None and (type(workers) is not int or workers < 1):
        raise UserError(f"synthetic landmarks: workers is {workers!r}; it must be at least 1")
    target = Path(os.path.abspath(directory))
    try:
        if _holds_set(target, options):
            return
        with _partial_directory(target) as partial:
            _fill(partial, options, workers)
            # Read by whoever comes later: written last, so that a complete set has it.
            record = {"format": FORMAT_VERSION, "options": dataclasses.asdict(options)}
            record["versions"] = {p: importlib.metadata.version(p) for p in ("numpy", "pillow")}
            (partial / "synthetic.json").write_text(json.dumps(record, indent=2) + "\n")
            try:
                os.replace(partial, target)
            except OSError:
                if not _holds_set(target, options):  # or another process was faster
                    raise
    except OSError as e:
        raise UserError(
            f"cannot write the synthetic landmarks to {target}: {e.strerror or e}; choose another"
            " directory, or make room"
        ) from e
    except BrokenProcessPool as e:
        raise UserError(
            "a worker process of the synthetic landmarks died: out of memory, or called from a"
            " script without `if __name__ == '__main__':`; try workers=1"
        ) from e


def _holds_set(target: Path, options: _Options) -> bool:
    """Whether `target` is the complete set of these options; an error if it is anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        record = json.loads((target / "synthetic.json").read_text())
        held, version = dict(record["options"]), record["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{target} exists and is no set of synthetic landmarks (it has no synthetic.json);"
            " choose another directory, or delete it"
        ) from None
    wanted = dataclasses.asdict(options)
    if (held, version) == (wanted, FORMAT_VERSION):
        return True
    differ = [f"{k}={held.get(k)!r}, not {v!r}" for k, v in wanted.items() if held.get(k) != v]
    what = "; ".join(differ) or f"format {version!r}, not {FORMAT_VERSION}"
    raise UserError(
        f"{target} holds synthetic landmarks of other options ({what}); choose another directory,"
        " or delete it"
    )


@contextlib.contextmanager
def _partial_directory(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, gone at the end unless it was renamed.

    It is locked as long as this process lives, so that a later run can tell one that was left
    behind by a killed process from one at work.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    for old in target.parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), _lock(old):
            shutil.rmtree(old)
    partial = target.parent / f"{prefix}{secrets.token_hex(6)}"
    partial.mkdir()
    try:
        with _lock(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Holds a directory's lock, or raises OSError if somebody else does."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


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
    truth = ground_truth([views[mark.name] for mark in landmarks if mark.split == _TEST])
    (directory / "gnd_synthetic.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    facts = {
        image: {"landmark": mark.name, **dataclasses.asdict(view)}
        for mark in landmarks
        for image, view in views[mark.name].items()
    }
    (directory / "views.json").write_text(json.dumps(facts, indent=0) + "\n")


def _plan(options: _Options) -> list[_Landmark]:
    """All landmarks, those of training first; kinds come in pairs, to tell their members apart."""
    landmarks: list[_Landmark] = []
    for split, count, views in (
        (_TRAIN, options.train_landmarks, options.views),
        (_TEST, options.test_landmarks, options.test_views),
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
    """Yields each landmark's name and views, in the order in which they are done."""
    if workers is None:
        workers = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
    workers = min(workers or 1, len(landmarks))
    if workers == 1:
        for mark in landmarks:
            yield mark.name, _photograph_landmark(directory, mark)
        return
    # Spawned, for a fork would copy whatever threads (jax's, say) the caller has.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        jobs = {pool.submit(_photograph_landmark, directory, mark): mark.name for mark in landmarks}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends the worker should the parent be killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _photograph_landmark(directory: Path, mark: _Landmark) -> dict[str, View]:
    """Writes a landmark's pictures. Returns their facts by name, in order."""
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


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dir_jax.data.synthetic",
        description="Make the synthetic landmarks data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the directory to make")
    for name, default, meaning in (
        ("--landmarks", 60, "training landmarks"),
        ("--test-landmarks", 20, "test landmarks"),
        ("--views", 20, "pictures of a training landmark"),
        ("--test-views", 15, "pictures of a test landmark"),
        ("--image-size", 128, "pixels of the longer side"),
        ("--seed", 0, "of everything random"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=meaning)
    parser.add_argument("--workers", type=int, metavar="N", help="processes; None is one a CPU")
    parser.add_argument(
        "--contact-sheet", metavar="FILE", help="also draw an overview, such as a.png"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    args = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        write_synthetic_landmarks(
            args.output,
            train_landmarks=args.landmarks,
            test_landmarks=args.test_landmarks,
            views=args.views,
            test_views=args.test_views,
            image_size=args.image_size,
            seed=args.seed,
            workers=args.workers,
        )
        if args.contact_sheet:
            save_contact_sheet(args.output, args.contact_sheet)
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"{args.output}: train.txt, test.txt, gnd_synthetic.pkl, images/")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
