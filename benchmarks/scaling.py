"""A training step in one process and in two, and what it says to the other.

    python -m benchmarks.scaling --json runs/bench/scaling.json

ResNet-18, the AP loss, BatchNorm frozen, 32 images of 96 × 96 in chunks of 8; each process has one
core and one device, and both sizes train the same batch. The share of communication is the time of
the step's collectives alone, on arrays of the same sizes, over the time of the step.

On paper, `communication` and `expected_efficiency` count what a step of AP-GeM sends. Let B be the
images of a batch on n devices, D the length of a descriptor, and P the trained parameters:

    stage 1, each chunk   nothing
    stage 2, once         all-gather of the descriptors, and reduce-scatter of their gradient:
                          2 · (n − 1)/n · 4BD bytes a device
    stage 3, each chunk   nothing
    update, once          all-reduce of the gradient: 2 · (n − 1)/n · 4P bytes a device

None of it depends on the number of chunks, and its bytes hardly grow with n. The hops of rings do:
an all-gather and a reduce-scatter take n − 1, one after the other, an all-reduce twice as many,
together 4 · (n − 1); trees, which NCCL takes for small arrays, would need fewer. The computation
does not overlap with it, and shrinks as 1/n: of F operations an image and forward pass, a device
computes 4FB/n, one pass in stage 1 and three in stage 3. (The loss itself computes some 6B²D/n,
thousands of times less.) So the efficiency is 1 / (1 + communication / computation).
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_figures
from benchmarks.side_by_side import machine

_BATCH, _CHUNK, _SIDE, _ROUNDS = 32, 8, 96, 5
# AP-GeM (arXiv 1906.07589): ResNet-101 at 800 × 800, its convolutions, projection and GeM's power.
_AP_GEM = {"batch": 4096, "width": 2048, "parameters": 46_700_000, "flops": 199e9}
_LINK = 25e9  # bytes a second and device: one port of 200 Gbit/s for each GPU
_HOP = 5e-6  # seconds for a message without content
_SPEEDS = {"float32": 30e12, "bfloat16": 200e12}  # operations a second that an H100 sustains here


def communication(devices: int, batch: int, width: int, parameters: int) -> tuple[float, float]:
    """Bytes that a device sends in one step: of descriptors (stage 2), and of gradients."""
    share = (devices - 1) / devices
    return 2 * share * 4 * batch * width, 2 * share * 4 * parameters


def expected_efficiency(
    devices: int, speed: float, *, batch: int, width: int, parameters: int, flops: float
) -> tuple[float, float, float]:
    """The seconds of computing and of sending in one step, and the share that is computing."""
    computing = 4 * flops * batch / devices / speed
    sending = sum(communication(devices, batch, width, parameters)) / _LINK
    sending += 4 * (devices - 1) * _HOP
    return computing, sending, computing / (computing + sending)


def paper_table() -> str:
    """The model of AP-GeM's step on 8, 64 and 512 devices, in Markdown."""
    rows = [
        "| devices | images each | descriptors, MB | gradients, MB | number format | computing, s "
        "| sending, s | efficiency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sizes = {key: int(_AP_GEM[key]) for key in ("batch", "width", "parameters")}
    for devices in (8, 64, 512):
        sent = [x / 1e6 for x in communication(devices, **sizes)]
        for name, speed in _SPEEDS.items():
            computing, sending, share = expected_efficiency(
                devices, speed, flops=_AP_GEM["flops"], **sizes
            )
            rows.append(
                f"| {devices} | {sizes['batch'] // devices} | {sent[0]:.0f} | {sent[1]:.0f} "
                f"| {name} | {computing:.3g} | {sending:.2g} | {share:.1%} |"
            )
    return "\n".join(rows)


def _measure(process: int, count: int, address: str) -> None:
    """One process: prints the median seconds of a step, and of its collectives alone."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[process]})
    from dir_jax.runtime.compiler import set_up_jax
    from dir_jax.runtime.processes import start_processes

    if count > 1:
        start_processes("on", address, count, process)
    set_up_jax("", asynchronous=False)
    import jax
    import optax

    from dir_jax.losses import listwise_average_precision_loss
    from dir_jax.models import create_model
    from dir_jax.models.variables import split_variables
    from dir_jax.runtime.replicas import AXIS, PARTIAL, REPLICATED, ROWS, MeshReplicas
    from dir_jax.training.state import create_state
    from dir_jax.training.step import ThreeStageStep
    from dir_jax.training.three_stage import Forward

    graphdef, params, stats = split_variables(create_model("resnet18_rmac"))
    optimizer, replicas = optax.adam(1e-4), MeshReplicas()
    step = ThreeStageStep(
        Forward(graphdef, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        listwise_average_precision_loss, optimizer, replicas, batch_size=_BATCH, chunk_size=_CHUNK,
    )  # fmt: skip
    state = replicas.replicate(create_state(params, stats, optimizer, batch_norm="frozen"))
    rng = np.random.default_rng(process)
    rows = _BATCH // count
    images = rng.integers(0, 256, (rows // _CHUNK, _CHUNK, _SIDE, _SIDE, 3), np.uint8)
    labels = np.arange(rows, dtype=np.int32) // 4
    descriptors = replicas.put_rows(np.ones((rows, 2048), np.float32))
    gradient = state.trained

    def collectives(descriptors: Any, gradient: Any) -> Any:
        every = jax.lax.all_gather(descriptors, AXIS, tiled=True)
        scattered = jax.lax.psum_scatter(every, AXIS, tiled=True)
        total = jax.lax.psum(gradient, AXIS)
        return scattered, jax.tree.map(lambda x: x.ravel()[:1], total)

    alone = replicas.wrap(collectives, (ROWS, REPLICATED), (ROWS, PARTIAL))
    times: dict[str, list[float]] = {"step": [], "collectives": []}
    for _ in range(_ROUNDS + 1):  # the first compiles
        for name, call in (
            ("step", lambda: step(state, images, labels)),
            ("collectives", lambda: alone(descriptors, gradient)),
        ):
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - started)
    print("seconds", *(statistics.median(values[1:]) for values in times.values()), flush=True)


def _run(count: int) -> tuple[float, float]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.scaling", "--address", address]
    processes = [
        subprocess.Popen(
            [*command, "--process", str(i), "--count", str(count)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process failed; see above")
    lines = [line for line in outputs[0].splitlines() if line.startswith("seconds ")]
    step, collectives = map(float, lines[0].split()[1:])
    return step, collectives


def main() -> None:
    """Measures one process and two, and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the figures are written")
    for name, kind in (("--process", int), ("--count", int), ("--address", str)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.count:
        _measure(args.process, args.count, args.address)
        return
    found = {count: _run(count) for count in (1, 2)}
    table = "| processes | images/s | times one process | communication |\n|---|---|---|---|\n"
    for count, (step, collectives) in found.items():
        share = f"{collectives / step:.1%}" if count > 1 else "—"
        speed = f"{_BATCH / step:.1f} | {found[1][0] / step:.2f}"
        table += f"| {count} | {speed} | {share} |\n"
    table += f"\nAP-GeM's step on paper, as the script's docstring counts it:\n\n{paper_table()}"
    print(table)
    write_figures(args.json, machine(), table, seconds=found)


if __name__ == "__main__":
    main()
