"""What a training run reads before its first step, on generated lists of the published sizes.

    python -m benchmarks.metadata

Each case runs in a process of its own: it reads the lists, the headers that are checked (the images
of these rows are there, one small JPEG by many names; no other is), makes the record of the images
that a resumed run is compared with, the every-class sampler, and its first batch. Memory is the
process's peak, with JAX and everything else that training imports.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.results import write_figures
from benchmarks.side_by_side import ROOT, machine

_BATCH = 4096
_STEPS = ("lists", "headers", "record", "sampler", "first batch")


def write_clean(root: Path) -> None:
    """`train_clean.csv`: 1,580,470 images of 81,313 landmarks, at least two of each."""
    folder = root / "gldv2/metadata"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    spare = rng.multinomial(1_580_470 - 2 * 81_313, rng.dirichlet(np.full(81_313, 0.3)))
    ids = iter(_ids(1_580_470))
    with (folder / "train_clean.csv").open("w") as file:
        file.write("landmark_id,images\n")
        for landmark, count in enumerate((spare + 2).tolist()):
            file.write(f"{landmark},{' '.join(next(ids) for _ in range(count))}\n")


def write_train(root: Path) -> None:
    """`train.csv`: 4,132,914 images of 203,094 landmarks."""
    folder = root / "gldv2/metadata"
    folder.mkdir(parents=True)
    with (folder / "train.csv").open("w") as file:
        file.write("id,url,landmark_id\n")
        for number, image in enumerate(_ids(4_132_914)):
            url = f"https://upload.wikimedia.org/wikipedia/commons/{image[:2]}/{image}/{number}.jpg"
            file.write(f"{image},{url},{number * 7919 % 203_094}\n")


def write_sfm(root: Path) -> None:
    """`retrieval-SfM-120k.pkl`: 91,642 images of 551 clusters, 181,697 pairs; and validation."""
    rng, db = np.random.default_rng(0), {}
    for split, images, clusters, pairs in (
        ("train", 91_642, 551, 181_697),
        ("val", 6_403, 162, 1_691),
    ):
        numbers = rng.integers(0, images, (2, pairs)).tolist()
        db[split] = {
            "cids": [f"{i:032x}" for i in rng.integers(0, 1 << 62, images).tolist()],
            "cluster": rng.integers(0, clusters, images).tolist(),
            "qidxs": numbers[0],
            "pidxs": numbers[1],
        }
    folder = root / "train/retrieval-SfM-120k"
    folder.mkdir(parents=True)
    (folder / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(db, protocol=2))


CASES: dict[str, Callable[[Path], None]] = {
    "GLDv2_train_clean": write_clean,
    "GLDv2_train": write_train,
    "SfM120k_train": write_sfm,
}


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--case", nargs=2, metavar="X", help="measures one case, in this process")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(*args.case)))
        return
    cases = {}
    for name, write in CASES.items():
        with tempfile.TemporaryDirectory() as root:
            write(Path(root))
            write_checked_images(name, root)
            command = [sys.executable, "-m", "benchmarks.metadata", "--case", name, root]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            cases[name] = json.loads(done.stdout.splitlines()[-1])
    head = ["data set", "images", "classes", *(f"{s} (s)" for s in _STEPS), "all (s)", "peak (MB)"]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, case in cases.items():
        seconds = [f"{case[step]:.1f}" for step in _STEPS]
        total = f"{sum(case[step] for step in _STEPS):.1f}"
        counts = [f"{case[key]:,}" for key in ("images", "classes")]
        rows.append(f"| {' | '.join([name, *counts, *seconds, total, str(case['peak'])])} |")
    table = "\n".join(rows)
    print(table)
    write_figures(args.json, machine(), table, cases=cases)


def write_checked_images(name: str, root: str) -> None:
    """Makes the images whose headers are read at the start."""
    from dir_jax.data.datasets import create_dataset
    from dir_jax.describe.image_lists import headers_to_read

    dataset, picture = create_dataset(name, db_root=root), Path(root, "picture.jpg")
    Image.new("RGB", (64, 48)).save(picture)
    for number in headers_to_read(len(dataset)).tolist():
        path = Path(dataset.path(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(picture)


def measure(name: str, root: str) -> dict[str, Any]:
    """Seconds of each step, the counts of images and classes, and the peak of memory in MB."""
    import dir_jax.training.recipe  # noqa: F401 - so that memory is that of a training run
    from dir_jax.data.datasets import create_dataset
    from dir_jax.data.labelled import LabelledDataset
    from dir_jax.data.samplers import EveryClass
    from dir_jax.describe.image_lists import sample_list
    from dir_jax.training.image_record import ImageRecord

    seconds, last = {}, time.perf_counter()

    def took(step: str) -> None:
        nonlocal last
        seconds[step], last = time.perf_counter() - last, time.perf_counter()

    dataset = create_dataset(name, db_root=root)
    assert isinstance(dataset, LabelledDataset)
    took("lists")
    images = sample_list("train", dataset)
    took("headers")
    record = ImageRecord({"train": dataset})
    took("record")
    sampler = EveryClass(dataset.labels, _BATCH, 0)
    took("sampler")
    sampler(0)
    took("first batch")
    assert len(images.sizes) == len(record.arrays["config.data.train"])
    status = Path("/proc/self/status").read_text() if os.path.exists("/proc/self/status") else ""
    peak = next((int(r.split()[1]) >> 10 for r in status.splitlines() if r[:6] == "VmHWM:"), 0)
    return {"images": len(dataset), "classes": len(dataset.classes), "peak": peak, **seconds}


def _ids(count: int) -> list[str]:
    numbers = np.random.default_rng(1).integers(0, 1 << 63, count, np.uint64)
    return [f"{number:016x}" for number in numbers.tolist()]


if __name__ == "__main__":
    main()
