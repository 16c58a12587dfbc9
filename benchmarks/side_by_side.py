"""Times two or more ways to do the same work, by turns, each in a process of its own.

A benchmark is a module with `CASES`, and ends in `main(__name__, __doc__, CASES)`. The baseline
is a case's first side. Ratios are taken turn by turn, so that what else the machine does falls on
both; the first call of a side (compilation, first touch of memory) is left out, and shown beside.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import resource
import shlex
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

from benchmarks.results import write_figures
from dir_jax.runtime.allocator import ALLOCATOR

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
      turns: how often the sides take turns; 0 where the first call is all there is time for.
      calls: how many a side makes at each turn, where more than one.
      work: name and amount of what a call does, for a rate; such as ('images', 100).
      flops: gives the floating-point operations of a call as the formula has them, whatever a side
        does; the table then has their rate, and its share of the device's matrix products'.
      bytes: that a call has to read of the device's memory, where that is what bounds it.
      first_call_share: of what the first call takes beyond the others, the share that counts to
        each call: 0.1 where a compilation serves ten times a call's work.
      parts: sides that do only a part of the work, whose result is not compared.
      tuned: sides that run with the allocator's settings that our commands give themselves.
      long: measured only with `--long`.
    """

    name: str
    sides: Mapping[str, Callable[[], Callable[[], Any]]]
    agree: Callable[[np.ndarray, np.ndarray], float]
    bound: float
    turns: int = 5
    calls: Mapping[str, int] = dataclasses.field(default_factory=dict)
    work: tuple[str, float] | None = None
    flops: Callable[[], float] | None = None
    bytes: float | None = None
    first_call_share: float = 0
    parts: Sequence[str] = ()
    tuned: Sequence[str] = ("dir_jax",)
    long: bool = False


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """max |a − b|."""
    return float(np.abs(np.subtract(a, b, dtype=np.float64)).max())


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 − the smallest cosine between rows of the same number."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    cosine = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(1 - cosine.min())


def main(
    module: str,
    doc: str | None,
    cases: Sequence[Case],
    conclude: Callable[[Sequence[Mapping[str, Any]]], str] = lambda results: "",
) -> None:
    """Measures all cases, or those whose name holds a word of `--only`, and prints a table.

    Below it stands what `conclude` says of the results.
    """
    if module != "__main__":
        return
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name holds it")
    parser.add_argument("--long", action="store_true", help="also those that take very long")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, side, folder = args.worker
        _work(next(c for c in cases if c.name == name), side, Path(folder))
        return
    on = machine()
    results = []
    for case in cases:
        if args.only in case.name and (args.long or not case.long):
            print(f"{case.name} …", file=sys.stderr)
            results.append(_measure(case))
            report = "\n\n".join(filter(None, [table(results, on), conclude(results)]))
            # After each: a long run cut short has measured something.
            write_figures(args.json, on, report, cases=results)
    print(report if results else f"no case has {args.only!r} in its name")
    if any(side["agrees"] is False for case in results for side in case["sides"].values()):
        raise SystemExit("error: the sides do not agree")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
        model = names[0] if names else model
    command = ["python", "-m", _module(), *sys.argv[1:]]
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        # In a process of its own: this one stays out of the sides' way.
        "device": json.loads(subprocess.check_output([sys.executable, "-m", __name__], cwd=ROOT)),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONS},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join([*_blas_settings(), shlex.join(command)]),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit that is measured, with a + where files differ from it; '' outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _blas_settings() -> list[str]:
    """What the environment tells NumPy's and FAISS's products of matrices, which it may slow."""
    return [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("OPENBLAS_")]


def table(results: Sequence[Mapping[str, Any]], on: Mapping[str, Any]) -> str:
    """The figures as a Markdown table."""
    accelerated = on["device"]["platform"] != "cpu"
    head = ["case", "side", "seconds (median)", "times faster: median (min–max)", "first call (s)"]
    head += ["peak memory (MB)", *(["on the device (MB)"] if accelerated else [])]
    head += ["rate", "GFLOP/s (of the device's float32 matrix products)", "difference"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in results:
        for name, side in case["sides"].items():
            low, middle, high = side["ratio"]
            flops = ""
            if case["flops"]:
                speed = case["flops"] / side["median"] / 1e9
                flops = f"{speed:.0f} ({speed / on['device']['gigaflops']['float32']:.0%})"
            row = [case["name"], name, f"{side['median']:.4g}"]
            row += [f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{side['first_call']:.3g}"]
            row += [f"{side['megabytes']:.0f}"]
            row += [f"{side['device_megabytes']:.0f}"] if accelerated else []
            row += [f"{side['rate']:.3g} {case['work'][0]}/s" if case["work"] else "", flops]
            row += ["" if side["difference"] is None else f"{side['difference']:.1e}"]
            rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def _measure(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        workers = {name: Worker(case, name, folder) for name in case.sides}
        try:
            first = {name: worker.ask("first") for name, worker in workers.items()}
            seconds: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(case.turns):
                for name, worker in workers.items():
                    seconds[name].append(worker.ask("turn"))
            memory = {name: worker.ask("memory") for name, worker in workers.items()}
            on_device = {name: worker.ask("device memory") for name, worker in workers.items()}
            outputs = {name: np.load(worker.output) for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    if not case.turns:
        seconds = {name: [first[name]] for name in workers}
    for name, turns in seconds.items():
        extra = case.first_call_share * max(first[name] - statistics.median(turns), 0)
        seconds[name] = [turn + extra for turn in turns]
    baseline = next(iter(case.sides))
    sides = {}
    for name in case.sides:
        ratios = [b / s for b, s in zip(seconds[baseline], seconds[name], strict=True)]
        median = statistics.median(seconds[name])
        difference = None
        if name != baseline and name not in case.parts:
            difference = case.agree(outputs[baseline], outputs[name])
        sides[name] = {
            "seconds": seconds[name],
            "median": median,
            "ratio": [min(ratios), statistics.median(ratios), max(ratios)],
            "first_call": first[name],
            "megabytes": memory[name],
            "device_megabytes": on_device[name],
            "rate": case.work[1] / median if case.work else None,
            "difference": difference,
            "agrees": None if difference is None else difference <= case.bound,
        }
    return {
        "name": case.name,
        "work": case.work,
        "flops": case.flops() if case.flops else None,
        "bound": case.bound,
        "sides": sides,
    }


def _device() -> dict[str, Any]:
    """JAX's device, and how many billion operations a second its matrix products reach; of an
    accelerator also the gigabytes a second of a copy, and those of memory that JAX may use."""
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    found: dict[str, Any] = {"platform": device.platform, "kind": device.device_kind}
    accelerated = device.platform != "cpu"
    # Of an accelerator, products that take milliseconds, and several sent at once: starting one
    # takes a tenth of a millisecond.
    size, calls = (8192, 8) if accelerated else (4096, 1)

    def seconds(function: Any, x: Any) -> float:
        def run() -> float:
            started = time.perf_counter()
            jax.block_until_ready([function(x) for _ in range(calls)])
            return (time.perf_counter() - started) / calls

        run()
        return min(run() for _ in range(5))

    kinds = {"float32": "highest", "TF32": "default", "bfloat16": "default"}
    if not accelerated:
        del kinds["TF32"]
    found["gigaflops"] = {}
    for kind, precision in kinds.items():
        dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
        x = jax.random.normal(jax.random.key(0), (size, size), dtype)
        options: Any = {"precision": precision, "preferred_element_type": jnp.float32}
        product = jax.jit(functools.partial(jnp.dot, **options))
        taken = seconds(lambda x, product=product: product(x, x), x)
        found["gigaflops"][kind] = 2 * size**3 / taken / 1e9
    if accelerated:
        x = jnp.zeros(1 << 27, jnp.float32)
        taken = seconds(jax.jit(lambda x: x + 1), x)
        found["gigabytes_a_second"] = 2 * x.nbytes / taken / 1e9  # read, and written
        found["memory"] = (device.memory_stats() or {}).get("bytes_limit", 0) / 1e9
    return found


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


class Worker:
    """The process of one side of a case, which does one thing each time it is asked."""

    def __init__(
        self, case: Case, side: str, folder: str, module: str | None = None, root: Path = ROOT
    ):
        """Starts the process.

        Args:
          case: the case, which the process looks up by its name.
          side: the name of one of its sides.
          folder: where the process leaves the result of its first call.
          module: the benchmark, by default the one that is running.
          root: the checkout whose code runs.
        """
        self.output = Path(folder) / f"{list(case.sides).index(side)}.npy"
        command = [sys.executable, "-m", module or _module(), "--worker", case.name, side, folder]
        tuned = {"GLIBC_TUNABLES": ALLOCATOR} if side in case.tuned else {}
        # The sides share an accelerator, of whose memory JAX would take three quarters at once.
        tuned["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        self._process = subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "TQDM_DISABLE": "1", **tuned},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str) -> float:
        """Has the process do `what` ('first', 'turn', 'memory', …), and returns its figure."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("= "):
                return float(line[2:])
        raise SystemExit("error: a side's process ended; see above")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _work(case: Case, side: str, folder: Path) -> None:
    """In a side's process: does what it is asked on standard input."""
    call = case.sides[side]()
    before = peak()
    answers = {"memory": lambda: (peak() - before) / 1e6, "device memory": device_peak}
    for what in map(str.strip, sys.stdin):
        if what in answers:
            print(f"= {answers[what]()}", flush=True)
            continue
        started = time.perf_counter()
        calls = 1 if what == "first" else case.calls.get(side, 1)
        for _ in range(calls):
            result = call()
        print(f"= {(time.perf_counter() - started) / calls}", flush=True)
        if what == "first":
            np.save(folder / f"{list(case.sides).index(side)}.npy", np.asarray(result))


def peak() -> int:
    """The highest resident size of this process until now, in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def device_peak() -> float:
    """The most memory that this process had of an accelerator, in MB; 0 without one."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    statistics = jax.devices()[0].memory_stats() if jax is not None else None
    return statistics["peak_bytes_in_use"] / 1e6 if statistics else 0


if __name__ == "__main__":
    print(json.dumps(_device()))
