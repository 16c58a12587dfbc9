"""Each convolution of ResNet-50 by itself: how near it comes to the machine's matrix products.

    python -m benchmarks.layers --json layers.json

Ours as the network runs it, and PyTorch's channels-last, at 1 × 768 × 1024 or `--size`, both with
the allocator's settings that our commands give themselves. Beside them
the billions of operations a second that a square matrix product reaches on the same machine, by
JAX's and by PyTorch's own libraries: what a convolution can hope for.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_figures
from benchmarks.side_by_side import ROOT, machine
from dir_jax.runtime.allocator import ALLOCATOR

SIDES = ("dir_jax", "PyTorch")
# Channels in and out, kernel, stride, by what the input is reduced, how often the network has it.
LAYERS = [
    (3, 64, 7, 2, 1, 1),
    (64, 64, 1, 1, 4, 1),
    (64, 64, 3, 1, 4, 3),
    (64, 256, 1, 1, 4, 4),
    (256, 64, 1, 1, 4, 2),
    (256, 128, 1, 1, 4, 1),
    (128, 128, 3, 2, 4, 1),
    (256, 512, 1, 2, 4, 1),
    (128, 512, 1, 1, 8, 4),
    (512, 128, 1, 1, 8, 3),
    (128, 128, 3, 1, 8, 3),
    (512, 256, 1, 1, 8, 1),
    (256, 256, 3, 2, 8, 1),
    (512, 1024, 1, 2, 8, 1),
    (256, 1024, 1, 1, 16, 6),
    (1024, 256, 1, 1, 16, 5),
    (256, 256, 3, 1, 16, 5),
    (1024, 512, 1, 1, 16, 1),
    (512, 512, 3, 2, 16, 1),
    (1024, 2048, 1, 2, 16, 1),
    (512, 2048, 1, 1, 32, 3),
    (2048, 512, 1, 1, 32, 2),
    (512, 512, 3, 1, 32, 2),
]
_PRODUCT = 4096


def main() -> None:
    """Measures both sides by turns, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--size", type=int, nargs=3, default=(1, 768, 1024), metavar=("N", "H", "W")
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(_measure(args.side, tuple(args.size), args.dtype)))
        return
    turns: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    flags = ["--size", *map(str, args.size), "--dtype", args.dtype]
    for _ in range(args.turns):
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.layers", "--side", side, *flags]
            # The same for both: how long new memory takes is not what is asked here.
            environment = {**os.environ, "GLIBC_TUNABLES": ALLOCATOR}
            output = subprocess.check_output(command, cwd=ROOT, env=environment)
            turns[side].append(json.loads(output))
    seconds = {side: np.median(rows, axis=0) for side, rows in turns.items()}
    flops = [2 * _PRODUCT**3, *(_flops(layer, tuple(args.size)) for layer in LAYERS)]
    names = [f"product of {_PRODUCT} × {_PRODUCT}", *(_name(layer) for layer in LAYERS)]
    counts = [0, *(layer[5] for layer in LAYERS)]
    rows = [f"| GFLOP/s, {args.dtype} | times in the network | dir_jax | PyTorch | GFLOP |"]
    rows.append("|---" * 5 + "|")
    for i, name in enumerate(names):
        speeds = [f"{flops[i] / seconds[side][i] / 1e9:.0f}" for side in SIDES]
        rows.append(f"| {name} | {counts[i] or ''} | {' | '.join(speeds)} | {flops[i] / 1e9:.2f} |")
    total = {side: float(np.dot(counts, seconds[side])) for side in SIDES}
    whole = float(np.dot(counts, flops))
    speeds = [f"{whole / total[side] / 1e9:.0f} ({total[side]:.3f} s)" for side in SIDES]
    rows.append(f"| all convolutions | {sum(counts)} | {' | '.join(speeds)} | {whole / 1e9:.1f} |")
    table = "\n".join(rows)
    print(table)
    measured = {name: {s: seconds[s][i] for s in SIDES} for i, name in enumerate(names)}
    operations = dict(zip(names, flops, strict=True))
    write_figures(args.json, machine(), table, seconds=measured, flops=operations)


def _name(layer: tuple[int, ...]) -> str:
    c, d, kernel, stride, reduced, _ = layer
    return f"{kernel}×{kernel}{'/2' * (stride == 2)}, {c} → {d} channels, at 1/{reduced}"


def _flops(layer: tuple[int, ...], size: tuple[int, ...]) -> float:
    c, d, kernel, stride, reduced, _ = layer
    places = size[0] * math.prod(-(-s // (reduced * stride)) for s in size[1:])
    return 2 * places * c * d * kernel * kernel


def _measure(side: str, size: tuple[int, ...], dtype: str) -> list[float]:
    """Median seconds of the matrix product and of each layer."""
    create = _ours if side == "dir_jax" else _torch
    return [_time(create(layer, size, dtype)) for layer in (None, *LAYERS)]


def _time(call: Callable[[], Any]) -> float:
    call()
    seconds: list[float] = []
    while len(seconds) < 5 or (sum(seconds) < 0.3 and len(seconds) < 50):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _input(layer: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    shape = (size[0], *(-(-s // layer[4]) for s in size[1:]), layer[0])
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _ours(layer: tuple[int, ...] | None, size: tuple[int, ...], dtype: str) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from dir_jax.models.layers import Conv
    from dir_jax.runtime.compiler import compiler_options

    if layer is None:
        a = jnp.ones((_PRODUCT, _PRODUCT), dtype)
        product = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
        return lambda: jax.block_until_ready(product(a))
    c, d, kernel, stride, *_ = layer
    rng = np.random.default_rng(1)
    conv = Conv(c, d, kernel, stride, dtype=dtype, precision="highest", rng=rng)
    graphdef, state = nnx.split(conv)
    x = jnp.asarray(_input(layer, size), dtype)
    run = jax.jit(
        lambda state, x: nnx.merge(graphdef, state)(x),
        compiler_options=compiler_options(jax.default_backend()),
    )
    return lambda: jax.block_until_ready(run(state, x))


def _torch(layer: tuple[int, ...] | None, size: tuple[int, ...], dtype: str) -> Callable[[], Any]:
    import torch

    kind = getattr(torch, dtype)
    if layer is None:
        a = torch.ones(_PRODUCT, _PRODUCT, dtype=kind)
        return lambda: a @ a
    c, d, kernel, stride, *_ = layer
    conv: Any = torch.nn.Conv2d(c, d, kernel, stride, kernel // 2, bias=False)
    conv = conv.to(kind, memory_format=torch.channels_last)
    x = torch.from_numpy(_input(layer, size)).permute(0, 3, 1, 2).to(kind)
    x = x.contiguous(memory_format=torch.channels_last)

    def call() -> Any:
        with torch.no_grad():
            return conv(x)

    return call


if __name__ == "__main__":
    main()
