"""Sides of cases one after the other, each part in a process of its own and in bounded time.

`side_by_side` has sides take turns, for a machine that does other things too; here each has the
whole machine, or the whole memory of its card, and one that fails leaves the others alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side_by_side import ROOT, Case, device_peak, peak
from dir_jax.runtime.allocator import ALLOCATOR
from dir_jax.runtime.files import cache_folder

_ENOUGH, _TURNS = 2.0, 20  # a side is called until it has taken so many seconds, or so often

Found = dict[tuple[str, str], dict[str, Any]]  # (case, side) -> what was measured of it


@dataclasses.dataclass(frozen=True)
class Part:
    """Sides of a case that one process measures, one after the other, in at most some seconds."""

    case: Case
    sides: Sequence[str]
    seconds: float


def measure(case: Case, side: str, file: Path) -> dict[str, float]:
    """In a process that does nothing else: a side's first call, its median, and the memory that it
    takes, in MB; what it gives is saved."""
    before = peak()
    call = case.sides[side]()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    result = call()
    first = time.perf_counter() - started
    seconds: list[float] = []
    while len(seconds) < _TURNS and sum(seconds) < _ENOUGH:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    np.save(file, np.asarray(result))
    memory = device_peak() or (peak() - before) / 1e6
    return {"first": first, "median": statistics.median(seconds), "memory": memory}


def work(part: Part, folder: Path, *, small: bool) -> None:
    """In a part's process: measures its sides, and prints what it finds as it goes."""
    for number, side in enumerate(part.sides):
        try:
            if not small and not side.startswith("dir_jax"):
                _check_torch()
            row: dict[str, Any] = dict(measure(part.case, side, folder / _file(part.case, side)))
            if number and side.startswith("dir_jax"):
                del row["memory"]  # JAX's highest is that of all sides until now
        except Exception as e:
            row = {"failed": reason(e)}
        print(f"= {json.dumps({'side': side, **row})}", flush=True)
        gc.collect()


def _check_torch() -> None:
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"this PyTorch ({torch.__version__}) has no GPU")


def _file(case: Case, side: str) -> str:
    return re.sub(r"\W+", "_", f"{case.name} {side}") + ".npy"


def reason(error: Exception) -> str:
    """Why a side has no figure, in the few words of a cell."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    if re.search("RESOURCE_EXHAUSTED|OutOfMemory|out of memory", text):
        return "out of memory"
    return text.splitlines()[0][:90].replace("|", "/")


def run_part(command: Sequence[str], sides: Sequence[str], seconds: float) -> dict[str, Any]:
    """Runs a part's process for at most some seconds: side -> what it measured, or 'failed'."""
    found: dict[str, Any] = {}
    settings = {"TQDM_DISABLE": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if (cache := cache_folder("xla")) is not None:
        settings["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    if all(side.startswith("dir_jax") for side in sides):
        settings["GLIBC_TUNABLES"] = ALLOCATOR  # as our commands give themselves
    else:
        settings["JAX_PLATFORMS"] = "cpu"  # should it be imported: the card is PyTorch's
    environment = {**os.environ, **settings}
    # A session of its own, so that what it starts (a loader's workers) ends with it.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    started = time.monotonic()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("= "):
                row = json.loads(line[2:])
                found[row.pop("side")] = row
        status = process.wait()
    finally:
        timer.cancel()
        end()
    why = f"the process ended with status {status}"
    if time.monotonic() - started >= seconds:
        why = f"not measured: it took more than {seconds:.0f} s"
    return {side: found.get(side, {"failed": why}) for side in sides}


def compare(parts: Sequence[Part], found: Found, folder: Path) -> None:
    """Adds how far each side's result is from that of its case's first side."""
    for (name, side), row in found.items():
        case = next(part.case for part in parts if part.case.name == name)
        first = next(iter(case.sides))
        files = [folder / _file(case, each) for each in (first, side)]
        if side != first and all(file.exists() for file in files):
            row["difference"] = case.agree(*map(np.load, files))
            row["agrees"] = row["difference"] <= case.bound
