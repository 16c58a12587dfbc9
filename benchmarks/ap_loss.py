"""The AP loss from scores, value and gradient: ours, and a convolutional quantiser in PyTorch.

    python -m benchmarks.ap_loss --json ap_loss.json

The peer is the same formula as the original computes it: bins by a 1×1 convolution, every count of
every score kept for the gradient. Each side runs in a process of its own, by turns, on the same
scores. Memory is the process's highest resident size beyond what it was with its inputs at hand, so
that compiling counts as ours. Times are medians without the first call; what a compilation takes
is shown beside them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("ours", "torch")
_MEGABYTE = 1e6


def main() -> None:
    """Measures both sides, in turns, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[1024, 4096], metavar="N")
    parser.add_argument("--num-bins", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2, help="how often the sides take turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.size[0], args.num_bins)))
        return
    results = [compare(size, args.num_bins, args.rounds) for size in args.size]
    print(
        "| N | ours (s) | PyTorch (s) | times faster | ours (MB) | PyTorch (MB) | "
        "loss, ours − PyTorch | gradient, relative difference |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for r in results:
        print(
            f"| {r['N']} | {r['seconds']['ours']:.3f} | {r['seconds']['torch']:.3f} | "
            f"{r['ratio']:.0f} | {r['megabytes']['ours']:.0f} | {r['megabytes']['torch']:.0f} | "
            f"{r['loss_difference']:.1e} | {r['gradient_difference']:.1e} |"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


def compare(size: int, num_bins: int, rounds: int) -> dict[str, Any]:
    """Both sides on `size` queries and as many items."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.ap_loss", f"--side={side}"]
            command += [f"--size={size}", f"--num-bins={num_bins}"]
            output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
            runs[side].append(json.loads(output))
    seconds = {side: statistics.median(r["seconds"] for r in runs[side]) for side in SIDES}
    ours, theirs = (np.array(runs[side][0]["gradient_sample"]) for side in SIDES)
    return {
        "N": size,
        "num_bins": num_bins,
        "seconds": seconds,
        "ratio": seconds["torch"] / seconds["ours"],
        "first_call_seconds": {s: runs[s][0]["first_call_seconds"] for s in SIDES},
        "megabytes": {s: max(r["megabytes"] for r in runs[s]) for s in SIDES},
        "loss_difference": runs["ours"][0]["loss"] - runs["torch"][0]["loss"],
        "gradient_difference": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
        "runs": [{s: runs[s][i]["seconds"] for s in SIDES} for i in range(rounds)],
    }


def measure(side: str, size: int, num_bins: int) -> dict[str, Any]:
    """One side, in this process."""
    rng = np.random.default_rng(0)
    labels = np.arange(size) % (size // 8)  # eight images a class
    # Made without large temporaries: the peak before must be what is resident before.
    relevance = np.equal.outer(labels, labels).astype(np.float32)
    scores = rng.random((size, size), np.float32)
    scores *= scores
    call = (_ours if side == "ours" else _torch)(scores, relevance, num_bins)
    before = _peak()
    started = time.perf_counter()
    loss, gradient = call()
    first = time.perf_counter() - started
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 2 and len(times) < 20):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return {
        "seconds": statistics.median(times),
        "first_call_seconds": first,
        "megabytes": (_peak() - before) / _MEGABYTE,
        "loss": float(loss),
        "gradient_sample": np.asarray(gradient)[:4].astype(float).ravel().tolist(),
    }


def _peak() -> int:
    """The highest resident size of this process until now, in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _ours(scores: np.ndarray, relevance: np.ndarray, num_bins: int) -> Callable[[], Any]:
    import jax

    from dir_jax.losses import average_precision_loss

    x, y = jax.block_until_ready(jax.device_put((scores, relevance)))
    # The relevance is an argument: as a constant it would be compiled into the program.
    step = jax.jit(jax.value_and_grad(lambda x, y: average_precision_loss(x, y, num_bins=num_bins)))
    return lambda: jax.block_until_ready(step(x, y))


def _torch(scores: np.ndarray, relevance: np.ndarray, num_bins: int) -> Callable[[], Any]:
    import torch

    from tests.torch_reference.losses import average_precision

    x, y = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(relevance)

    def call() -> Any:
        loss = 1 - average_precision(x, y, num_bins=num_bins).mean()
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.detach(), gradient

    return call


if __name__ == "__main__":
    main()
