"""How soon commands answer: `--help` of each, and first and second runs on a few images.

    python -m benchmarks.startup

Seconds are those of the whole process; beside them stands its processor time, user and system,
which depends less on what else the machine does. A second run must find all its programs in the
persistent compilation cache: those that it adds there are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.results import write_figures
from benchmarks.side_by_side import ROOT, machine

COMMANDS = (
    "dir_jax",
    "dir_jax.train",
    "dir_jax.test_dir",
    "dir_jax.extract_features",
    "dir_jax.extract_kapture",
    "dir_jax.data.download",
    "converters.from_torch",
    "converters.to_torch",
)
_HELPS, _SECONDS = 5, 3  # runs of each


class Taken(NamedTuple):
    """What a process took."""

    seconds: float
    processor: float  # seconds, user and system, of all cores


def main() -> None:
    """Measures, and prints two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    args = parser.parse_args()
    helps = {name: [run([name, "--help"]) for _ in range(_HELPS)] for name in COMMANDS}
    rows = ["| command | `--help` (s, median of 5) | processor (s) |", "|---|---|---|"]
    for name, taken in helps.items():
        seconds, processor = medians(taken)
        rows.append(f"| `python -m {name}` | {seconds:.2f} | {processor:.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        again = second_runs(Path(folder))
    rows += ["", "| second run | s, median of 3 | processor (s) | programs compiled: first, then |"]
    rows += ["|---|---|---|---|"]
    for name, found in again.items():
        seconds, processor = medians(found["taken"])
        compiled = ", ".join(map(str, found["compiled"]))
        rows.append(f"| {name} | {seconds:.1f} | {processor:.1f} | {compiled} |")
    table = "\n".join(rows)
    print(table)
    write_figures(args.json, machine(), table, help=helps, second=again)


def medians(taken: list[Taken]) -> Taken:
    """The median of the seconds, and that of the processor's."""
    return Taken(*map(statistics.median, zip(*taken, strict=True)))


def run(arguments: list[str], root: Path = ROOT) -> Taken:
    """What `python -m ARGUMENTS` takes in a checkout."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(seconds, processor)


def second_runs(folder: Path, root: Path = ROOT) -> dict[str, dict[str, list[Any]]]:
    """What commands take in a checkout when they have run before, and what each run compiled."""
    commands, cache = _commands(folder), folder / "xla"
    found: dict[str, dict[str, list[Any]]] = {}
    index = ["--dataset", f"{folder}/pictures", "--output", f"{folder}/index"]
    index += ["--checkpoint", f"{folder}/model", "--compilation-cache", str(cache)]
    run(["dir_jax.index_images", *index], root)
    for name, arguments in commands.items():
        taken, compiled, kept = [], [], len(list(cache.glob("*-cache")))
        for _ in range(1 + _SECONDS):
            taken.append(run([*arguments, "--compilation-cache", str(cache)], root))
            programs = len(list(cache.glob("*-cache")))
            compiled.append(programs - kept)
            kept = programs
        found[name] = {"taken": taken[1:], "compiled": compiled}
    return found


def _commands(folder: Path) -> dict[str, list[str]]:
    """Commands on ten images, an index of them, and a run of the quickstart that is complete."""
    from dir_jax.checkpoint import save_model
    from dir_jax.commands.recipes import load_config
    from dir_jax.models import create_model
    from dir_jax.training.config import config_to_json

    pictures, complete = folder / "pictures", folder / "run"
    for made in (pictures, complete):
        made.mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        pixels = rng.integers(0, 256, (240 + 16 * (i % 3), 320, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.jpg")
        rows.append(f"{i}.jpg {i % 2}\n")
    (folder / "list.txt").write_text("".join(rows))
    save_model(folder / "model", create_model("resnet50_rmac"))
    config = load_config("quickstart")
    (complete / "config.json").write_text(json.dumps(config_to_json(config)))
    (complete / "summary.json").write_text(json.dumps({"steps": config.num_steps}))
    model = ["--checkpoint", f"{folder}/model", "--whiten", ""]
    dataset = ["--dataset", f'ImageListLabels("{folder}/list.txt", "{pictures}")']
    output = ["--output", f"{folder}/features.npy", "--overwrite"]
    return {
        "`test_dir`, ten images": ["dir_jax.test_dir", *model, *dataset],
        "`extract_features`, ten images": ["dir_jax.extract_features", *model, *dataset, *output],
        "`search`, one picture": ["dir_jax.search_index", f"{folder}/index", f"{pictures}/0.jpg"],
        "`train`, the run is complete": [
            "dir_jax.train", "--config", "quickstart", "--workdir", str(complete)
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()
