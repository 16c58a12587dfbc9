"""This checkout against an older commit of it: the same benchmarks, by turns.

    python -m benchmarks.against_commit e8067b9 --json against_commit.json

The commit is checked out into a temporary folder. Each case of `benchmarks.network`,
`training_step` and `ap_loss` that is listed here runs in both, each in a process of its own, and
the ratios are taken turn by turn; both must give the same result. Then come the processor times of
starts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import startup
from benchmarks.results import write_figures
from benchmarks.side_by_side import ROOT, Worker, machine

_SIDE = "dir_jax"
_CASES = (
    ("network", "resnet50_rmac 1 × 768 × 1024"),
    ("network", "resnet50_rmac 8 × 224 × 224"),
    ("network", "resnet101_rmac 1 × 768 × 1024"),
    ("network", "resnet50_rmac 1 × 768 × 1024 bfloat16"),
    ("training_step", "batch 64 in chunks of 8"),
    ("ap_loss", "AP, N = 4096"),
    ("ap_loss", "tie-aware AP, N = 4096"),
    ("ap_loss", "AP from 4096 descriptors"),
)
_TURNS, _STARTS = 5, 3


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    args = parser.parse_args()
    results = []
    with _checkout(args.commit) as old:
        for module, name in _CASES:
            if args.only in f"{module} {name}":
                print(f"{module}: {name} …", file=sys.stderr)
                results.append(_compare(old, module, name))
        if args.only in "startup":
            results += _starts(old)
    table = _table(results, args.commit)
    print(table)
    write_figures(args.json, machine(), table, commit=args.commit, cases=results)


@contextlib.contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkout"
        subprocess.run([*git, "add", "--detach", str(path), commit], check=True)
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", str(path)], check=True)


def _compare(old: Path, module: str, name: str) -> dict[str, Any]:
    cases = importlib.import_module(f"benchmarks.{module}").CASES
    case = next(case for case in cases if case.name == name)
    seconds: dict[Path, list[float]] = {old: [], ROOT: []}
    with contextlib.ExitStack() as stack:
        workers = {}
        try:
            for root in seconds:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                workers[root] = Worker(case, _SIDE, folder, f"benchmarks.{module}", root)
                workers[root].ask("first")
            for _ in range(_TURNS):
                for root, worker in workers.items():
                    seconds[root].append(worker.ask("turn"))
            outputs = [np.load(worker.output) for worker in workers.values()]
        finally:
            for worker in workers.values():
                worker.close()
    difference = case.agree(*outputs)
    if not difference <= case.bound:
        raise SystemExit(f"error: the two do not agree on {name}: {difference}")
    return _row(f"{module}: {name}", seconds[old], seconds[ROOT], difference)


def _starts(old: Path) -> list[dict[str, Any]]:
    """The processor time of `--help`, and of second runs of commands on a few images."""
    rows = []
    for command in startup.COMMANDS:
        print(f"startup: {command} …", file=sys.stderr)
        seconds: dict[Path, list[float]] = {old: [], ROOT: []}
        for _ in range(_STARTS):
            for root, taken in seconds.items():
                taken.append(startup.run([command, "--help"], root).processor)
        rows.append(_row(f"processor: {command} --help", seconds[old], seconds[ROOT]))
    print("startup: second runs …", file=sys.stderr)
    found = {}
    for root in (old, ROOT):
        with tempfile.TemporaryDirectory() as folder:
            found[root] = startup.second_runs(Path(folder), root)
    for name in found[ROOT]:
        before, after = ([t.processor for t in found[root][name]["taken"]] for root in found)
        rows.append(_row(f"processor: second run of {name}", before, after))
    return rows


def _row(
    name: str, before: Sequence[float], after: Sequence[float], difference: float | None = None
) -> dict[str, Any]:
    ratios = [b / a for b, a in zip(before, after, strict=True)]
    return {
        "name": name,
        "before": statistics.median(before),
        "after": statistics.median(after),
        "ratio": [min(ratios), statistics.median(ratios), max(ratios)],
        "difference": difference,
    }


def _table(results: Sequence[dict[str, Any]], commit: str) -> str:
    rows = [f"| case | {commit} (s) | now (s) | times faster: median (min–max) | difference |"]
    rows.append("|---|---|---|---|---|")
    for row in results:
        low, middle, high = row["ratio"]
        difference = "" if row["difference"] is None else f"{row['difference']:.1e}"
        rows.append(
            f"| {row['name']} | {row['before']:.3g} | {row['after']:.3g} | "
            f"{middle:.2f} ({low:.2f}–{high:.2f}) | {difference} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
