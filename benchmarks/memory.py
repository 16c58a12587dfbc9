"""The memory of a training run, as the system shows it, for a small and a large batch.

    python -m benchmarks.memory --json memory.json

Each run is `python -m dir_jax.train` of the quickstart's recipe at 96 × 96 pixels, with two worker
processes, over the same number of images, without evaluation. Its peak is the largest sum of what
its processes have resident, looked at ten times a second; pages that they share count to each of
them. The programs are compiled by a run before, which is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import write_figures
from benchmarks.side_by_side import ROOT, machine

_BATCHES, _IMAGES = (64, 512), 512
_SIDE, _CHUNK = 96, 64  # a chunk is large enough to be copied to the device while the host goes on


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--runs", type=int, default=3, help="of each batch (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw = ["experiments.synthetic_landmarks", "--output", str(folder / "drawn")]
        _start([*draw, "--train-landmarks", "64", "--test-landmarks", "1", "--views", "8"]).wait()
        for batch in _BATCHES:
            _train(folder, batch)
        runs = {batch: [_train(folder, batch) for _ in range(args.runs)] for batch in _BATCHES}
    rows = ["| batch | peak of each run (MB) | median | seconds, median |", "|---|---|---|---|"]
    for batch, found in runs.items():
        peaks = [run["megabytes"] for run in found]
        seconds = statistics.median(run["seconds"] for run in found)
        each = ", ".join(f"{peak:.0f}" for peak in peaks)
        rows.append(f"| {batch} | {each} | {statistics.median(peaks):.0f} | {seconds:.0f} |")
    small, large = (statistics.median(run["megabytes"] for run in x) for x in runs.values())
    rows += ["", f"The large batch takes {large / small:.2f} times the memory of the small one."]
    table = "\n".join(rows)
    print(table)
    write_figures(args.json, machine(), table, runs=runs)


def _train(folder: Path, batch: int) -> dict[str, float]:
    """The peak and the time of one run."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        config = {
            "batch_size": batch,
            "chunk_size": _CHUNK,
            "num_steps": _IMAGES // batch,
            "data.root": folder / "drawn",
            "data.transform": f"RandomCrop({_SIDE}, 8)",
            "data.num_workers": 2,
            "data.eval": "",
            "data.eval_oxford": "",
            "whitening.name": "",
        }
        flags = [f"--config.{key}={value}" for key, value in config.items()]
        cache = ["--compilation-cache", str(folder / "xla")]
        started, peak = time.perf_counter(), 0
        command = ["dir_jax.train", "--config", "quickstart", "--workdir", workdir, *cache, *flags]
        process = _start(command)
        while process.poll() is None:
            peak = max(peak, sum(map(_resident, _tree(process.pid))))
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"error: training ended with exit code {process.returncode}")
        return {"megabytes": peak / 1e6, "seconds": time.perf_counter() - started}


def _start(arguments: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    return subprocess.Popen([sys.executable, "-m", *arguments], env=environment, cwd=ROOT)


def _tree(process: int) -> list[int]:
    """A process and all that it started."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    tree = [process]
    for member in tree:
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def _resident(process: int) -> int:
    """The bytes that a process has resident; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    main()
