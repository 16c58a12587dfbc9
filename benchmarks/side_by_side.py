"""Times two or more ways to do the same work, by turns, each in a process of its own.

A benchmark is a module with `CASES`, and ends in `main(__name__, __doc__, CASES)`. The baseline
is a case's first side. Ratios are taken turn by turn, so that what else the machine does falls on
both; the first call of a side (compilation, first touch of memory) is left out, and shown beside.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
_VERSIONS = ("dir_jax", "jax", "flax", "torch", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Case:
    """One piece of work, and the ways to do it.

    Attributes:
      name: as the table says it.
      sides: name -> a function that prepares, and returns one that does the work once and gives its
        result as an array; the first side is the baseline.
      agree: from the baseline's result and a side's to a number that says how they differ.
      bound: the most that it may be.
      turns: how often the sides take turns.
      calls: timed at each turn.
      work: name and amount of what a call does, for a rate; such as ('images', 100).
      first_call_share: of what the first call takes beyond the others, the share that counts to
        each call: 0.1 where a compilation serves ten times a call's work.
    """

    name: str
    sides: Mapping[str, Callable[[], Callable[[], Any]]]
    agree: Callable[[np.ndarray, np.ndarray], float]
    bound: float
    turns: int = 5
    calls: int = 1
    work: tuple[str, float] | None = None
    first_call_share: float = 0


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """max |a − b|."""
    return float(np.abs(a - b).max())


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 − the smallest cosine between rows of the same number."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    cosine = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(1 - cosine.min())


def main(module: str, doc: str | None, cases: Sequence[Case]) -> None:
    """Measures all cases, or those whose name holds a word of `--only`, and prints a table."""
    if module != "__main__":
        return
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name holds it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, side, folder = args.worker
        _work(next(c for c in cases if c.name == name), side, Path(folder))
        return
    results = []
    for case in cases:
        if args.only in case.name:
            print(f"{case.name} …", file=sys.stderr)
            results.append(_measure(case))
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "cases": results}, indent=1) + "\n")
    if any(side["agrees"] is False for case in results for side in case["sides"].values()):
        raise SystemExit("error: the sides do not agree")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _VERSIONS},
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m {_module()} {' '.join(sys.argv[1:])}".strip(),
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The figures as a Markdown table."""
    rows = [
        "| case | side | seconds (median) | times faster: median (min–max) | first call (s) | "
        "peak memory (MB) | rate | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in results:
        for name, side in case["sides"].items():
            low, middle, high = side["ratio"]
            rate = f"{side['rate']:.3g} {case['work'][0]}/s" if case["work"] else ""
            difference = "" if side["difference"] is None else f"{side['difference']:.1e}"
            rows.append(
                f"| {case['name']} | {name} | {side['median']:.4g} | "
                f"{middle:.2f} ({low:.2f}–{high:.2f}) | {side['first_call']:.3g} | "
                f"{side['megabytes']:.0f} | {rate} | {difference} |"
            )
    return "\n".join(rows)


def _measure(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        workers = {name: _Worker(case, name, folder) for name in case.sides}
        try:
            first = {name: worker.ask("first") for name, worker in workers.items()}
            seconds: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(case.turns):
                for name, worker in workers.items():
                    seconds[name].append(worker.ask("turn"))
            megabytes = {name: worker.ask("memory") for name, worker in workers.items()}
            outputs = {name: np.load(worker.output) for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    for name, turns in seconds.items():
        extra = case.first_call_share * max(first[name] - statistics.median(turns), 0)
        seconds[name] = [turn + extra for turn in turns]
    baseline = next(iter(case.sides))
    sides = {}
    for name in case.sides:
        ratios = [b / s for b, s in zip(seconds[baseline], seconds[name], strict=True)]
        median = statistics.median(seconds[name])
        difference = None
        if name != baseline:
            difference = case.agree(outputs[baseline], outputs[name])
        sides[name] = {
            "seconds": seconds[name],
            "median": median,
            "ratio": [min(ratios), statistics.median(ratios), max(ratios)],
            "first_call": first[name],
            "megabytes": megabytes[name],
            "rate": case.work[1] / median if case.work else None,
            "difference": difference,
            "agrees": None if difference is None else difference <= case.bound,
        }
    return {"name": case.name, "work": case.work, "bound": case.bound, "sides": sides}


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


class _Worker:
    """A side's process, which does one thing each time it is asked."""

    def __init__(self, case: Case, side: str, folder: str):
        self.output = Path(folder) / f"{list(case.sides).index(side)}.npy"
        command = [sys.executable, "-m", _module(), "--worker", case.name, side, folder]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("= "):
                return float(line[2:])
        raise SystemExit("error: a side's process ended; see above")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _work(case: Case, side: str, folder: Path) -> None:
    """In a side's process: does what it is asked on standard input."""
    call = case.sides[side]()
    before = _peak()
    for what in map(str.strip, sys.stdin):
        if what == "memory":
            print(f"= {(_peak() - before) / 1e6}", flush=True)
            continue
        started = time.perf_counter()
        calls = 1 if what == "first" else case.calls
        for _ in range(calls):
            result = call()
        print(f"= {(time.perf_counter() - started) / calls}", flush=True)
        if what == "first":
            np.save(folder / f"{list(case.sides).index(side)}.npy", np.asarray(result))


def _peak() -> int:
    """The highest resident size of this process until now, in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
