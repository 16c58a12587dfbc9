"""How soon commands answer: `--help` of each, and test_dir on ten images, first and second time.

    python -m benchmarks.startup

The second run must find all its programs in the persistent compilation cache: those that it adds
there are counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.results import write_figures
from benchmarks.side_by_side import ROOT, machine

COMMANDS = (
    "dir_jax.train",
    "dir_jax.test_dir",
    "dir_jax.extract_features",
    "dir_jax.extract_kapture",
    "dir_jax.data.download",
    "converters.from_torch",
    "converters.to_torch",
)


def main() -> None:
    """Measures, and prints two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    args = parser.parse_args()
    helps = {
        name: statistics.median(run_seconds([name, "--help"]) for _ in range(5))
        for name in COMMANDS
    }
    rows = ["| command | `--help` (s, median of 5) |", "|---|---|"]
    rows += [f"| `python -m {name}` | {seconds:.2f} |" for name, seconds in helps.items()]
    runs = two_runs()
    rows += ["", "| test_dir on ten images | seconds | programs compiled |", "|---|---|---|"]
    rows += [
        f"| {name} run | {run['seconds']:.1f} | {run['compiled']} |" for name, run in runs.items()
    ]
    table = "\n".join(rows)
    print(table)
    write_figures(args.json, machine(), table, help=helps, test_dir=runs)


def run_seconds(arguments: list[str], root: Path = ROOT) -> float:
    """How long `python -m ARGUMENTS` takes in a checkout."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def two_runs(root: Path = ROOT) -> dict[str, dict[str, float]]:
    """Seconds, and programs compiled, of a first and a second test_dir in a checkout."""
    from dir_jax.checkpoint import save_model
    from dir_jax.models import create_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        rows = []
        for i in range(10):
            pixels = rng.integers(0, 256, (240 + 16 * (i % 3), 320, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.jpg")
            rows.append(f"{i}.jpg {i % 2}\n")
        (folder / "list.txt").write_text("".join(rows))
        save_model(folder / "model", create_model("resnet50_rmac"))
        flags = ["dir_jax.test_dir", "--checkpoint", str(folder / "model"), "--whiten", ""]
        flags += ["--dataset", f'ImageListLabels("{folder}/list.txt", "{folder}")']
        cache = folder / "xla"
        flags += ["--compilation-cache", str(cache)]
        runs, kept = {}, 0
        for run in ("first", "second"):
            seconds = run_seconds(flags, root)
            programs = len(list(cache.glob("*-cache")))
            runs[run] = {"seconds": seconds, "compiled": programs - kept}
            kept = programs
    return runs


if __name__ == "__main__":
    main()
