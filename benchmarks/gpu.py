"""What a GPU makes of it: extraction, training, search, the AP loss, networks; in eight minutes.

    python -m benchmarks.gpu --json runs/bench/gpu.json

The sides are those of `extraction`, `training_step`, `search`, `ap_loss` and `network`, at sizes
for a GPU, in three number formats: float32 (exact), TF32 and bfloat16. PyTorch runs as the original
has it (one image at a time, cuDNN's search for algorithms on, convolutions in TF32, which is its
default), channels-last under autocast, and by `torch.compile`.

Parts run one after the other, in order of importance, each in a process of its own that has the
whole card. A part that fails (out of memory, no compiler, no PyTorch with CUDA) says so in its
cells, and so does one that the time does not reach; `--only TEXT` measures such parts by
themselves, and `--seconds` gives more time. Compiled programs are kept in the user's cache folder,
so that a second run comes further; its first calls are then shorter.

Without a GPU, or with `--small`, all parts run at small size: a trial of the script, labelled as
one, which `benchmarks.results` does not take for figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ap_loss, extraction, network, search, training_step
from benchmarks.cards import CARDS
from benchmarks.parts import Found, Part, compare, run_part, work
from benchmarks.results import describe_machine, write_figures
from benchmarks.side_by_side import Case, cosine_distance, machine
from dir_jax.runtime.platforms import count_cores

_SECONDS = 470  # of the eight minutes, until the last part ends
_FEW = 8  # queries, of which reading the database is what takes time
_EAGER, _AUTOCAST = "PyTorch eager, one by one", "PyTorch autocast bfloat16"
_COMPILED = "torch.compile bfloat16"
_OURS = {
    "dir_jax bfloat16": ("bfloat16", "highest"),
    "dir_jax float32": ("float32", "highest"),
    "dir_jax TF32": ("float32", "default"),
}
_BFLOAT16 = "dir_jax bfloat16"


@dataclasses.dataclass(frozen=True)
class Target:
    """What a side of a case should reach: at least, or at most, a number of something."""

    case: str
    side: str
    text: str
    value: Callable[[Found], float]  # may raise KeyError: something was not measured
    bound: float
    at_most: bool = False

    def verdict(self, found: Found) -> str:
        """The target, beside what was measured."""
        try:
            value = self.value(found)
        except KeyError:
            return f"{self.text}: not measured"
        met = value <= self.bound if self.at_most else value >= self.bound
        return f"{self.text}: {value:.3g}, {'met' if met else 'not met'}"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the parts are."""

    archs: tuple[str, ...] = ("resnet50_rmac", "resnet101_rmac")
    images: int = 384  # files to describe
    longer: int = 1024
    forward: tuple[int, int, int] = (16, 768, 1024)
    trained: str = "resnet101_rmac"
    side: int = 800
    chunk: int = 16
    batches: tuple[int, int] = (256, 4096)
    losses: tuple[int, int] = (4096, 65536)
    rows: int = 1_000_000
    queries: int = 1000
    ours: tuple[str, ...] = tuple(_OURS)


_SMALL = Sizes(
    ("resnet18_rmac",),
    8,
    96,
    (2, 64, 96),
    "resnet18_rmac",
    64,
    4,
    (8, 16),
    (64, 256),
    1600,
    16,
    ("dir_jax bfloat16", "dir_jax float32"),
)


def sizes_for(memory: float) -> Sizes:
    """Those for a card of which JAX may use so many GB; a chunk takes some 2 GB an image."""
    images = max(1, min(int(memory / 2.5), 32))
    return Sizes(chunk=1 << images.bit_length() - 1)


def plan(sizes: Sizes, pictures: str) -> tuple[list[Part], list[Target]]:
    """The parts in order of importance, and what they should reach."""
    extractions = {arch: _extraction(arch, sizes, pictures) for arch in sizes.archs}
    forwards = {arch: _forward(arch, sizes) for arch in sizes.archs}
    small = _training(sizes.batches[0], sizes, alone=False)
    large = _training(sizes.batches[1], sizes, alone=True)
    few, many = (_search(sizes.rows, queries) for queries in (_FEW, sizes.queries))
    losses = [_loss(size, alone=size > 4096) for size in sizes.losses]
    first, *others = sizes.archs

    def networks(cases: Mapping[str, Case], arch: str) -> list[Part]:
        peers = [side for side in cases[arch].sides if side.startswith("PyTorch")]
        return [Part(cases[arch], sides, 90) for sides in (sizes.ours, peers, [_COMPILED])]

    parts = [
        *networks(extractions, first),
        Part(small, [_BFLOAT16], 120),
        *(Part(case, [side], 60) for case in (few, many) for side in reversed(list(case.sides))),
        *(Part(case, [side], 60) for case in losses for side in reversed(list(case.sides))),
        Part(large, [_BFLOAT16], 200),
        *networks(forwards, first),
        Part(small, [_AUTOCAST], 60),
        *(part for arch in others for cases in (extractions, forwards)
          for part in networks(cases, arch)),
    ]  # fmt: skip
    targets = []
    for case in extractions.values():
        for peer, bound in ((_EAGER, 3), (_COMPILED, 1)):
            faster = functools.partial(_times_faster, case.name, _BFLOAT16, peer)
            targets.append(Target(case.name, _BFLOAT16, f"≥ {bound} × {peer}", faster, bound))
    for case in (small, large):
        share = functools.partial(_value, case.name, _BFLOAT16, "share")
        targets.append(Target(case.name, _BFLOAT16, "≥ 0.4 of the bfloat16 peak", share, 0.4))
    text = f"≤ 1.05 × the memory of batch {sizes.batches[0]}"

    def growth(found: Found) -> float:
        return _value(large.name, _BFLOAT16, "memory", found) / _value(
            small.name, _BFLOAT16, "memory", found
        )

    targets.append(Target(large.name, _BFLOAT16, text, growth, 1.05, at_most=True))
    share = functools.partial(_value, few.name, "dir_jax float32", "share")
    text = "≥ 0.8 of the memory's bandwidth"
    targets.append(Target(few.name, "dir_jax float32", text, share, 0.8))
    return parts, targets


def _value(case: str, side: str, what: str, found: Found) -> float:
    return found[case, side][what]


def _times_faster(case: str, side: str, peer: str, found: Found) -> float:
    return found[case, peer]["median"] / found[case, side]["median"]


def _extraction(arch: str, sizes: Sizes, pictures: str) -> Case:
    # The padded shapes are those for a list of these images; compilation stands by itself.
    work = extraction.Work(
        arch, sizes.images, sizes.longer, sizes.images, count_cores(), threads=True, folder=pictures
    )
    peers = {_EAGER: "eager", _AUTOCAST: "bfloat16", _COMPILED: "compiled bfloat16"}
    return Case(
        f"extraction, {arch}, {sizes.images} JPEG files",
        {
            **{peer: functools.partial(extraction.torch_side, work, variant)
               for peer, variant in peers.items()},
            **{ours: functools.partial(extraction.our_side, work, *_OURS[ours])
               for ours in sizes.ours},
        },
        cosine_distance,
        0.01,
        work=("images", sizes.images),
        flops=lambda: sum(
            network.forward_flops(arch, height, width)
            for width, height in work.sizes(sizes.images).tolist()
        ),
    )  # fmt: skip


def _forward(arch: str, sizes: Sizes) -> Case:
    side = functools.partial(network.torch_side, arch, sizes.forward)
    return Case(
        f"network, {arch}, {' × '.join(map(str, sizes.forward))}",
        {
            _EAGER: functools.partial(side, "eager", at_once=1),
            "PyTorch float32": functools.partial(side, "exact"),
            _AUTOCAST: functools.partial(side, "bfloat16"),
            _COMPILED: functools.partial(side, "compiled bfloat16"),
            **{ours: functools.partial(network.our_side, arch, sizes.forward, *_OURS[ours])
               for ours in sizes.ours},
        },
        cosine_distance,
        0.01,
        work=("images", sizes.forward[0]),
        flops=lambda: sizes.forward[0] * network.forward_flops(arch, *sizes.forward[1:]),
    )  # fmt: skip


def _training(count: int, sizes: Sizes, *, alone: bool) -> Case:
    work = training_step.Step(count, sizes.chunk, sizes.side, sizes.trained, distinct=256)
    sides = {_BFLOAT16: functools.partial(training_step.our_side, work, "bfloat16")}
    if not alone:
        sides = {_AUTOCAST: functools.partial(training_step.torch_side, work, "bfloat16"), **sides}
    return Case(
        f"training, {sizes.trained}, {sizes.side} × {sizes.side}, batch {count}, "
        f"chunks of {sizes.chunk}",
        sides,
        # The loss: a gradient of roundings to bfloat16 through all layers has nothing to hold to.
        lambda a, b: float(abs(a[0] - b[0])),
        0.02,
        work=("images", count),
        flops=lambda: work.flops,
    )


def _search(rows: int, queries: int) -> Case:
    width = 2048
    return Case(
        f"top 100 of {rows:,} × {width}, {queries} queries",
        {
            "PyTorch float32": functools.partial(search.torch_resident, rows, queries),
            "dir_jax float32": functools.partial(search.our_resident, rows, queries),
        },
        lambda a, b: float(np.abs(a - b).max()),
        1e-5,
        work=("queries", queries),
        flops=None if queries == _FEW else lambda: 2.0 * queries * rows * width,
        bytes=4.0 * rows * width if queries == _FEW else None,
    )


def _loss(size: int, *, alone: bool) -> Case:
    case = ap_loss.from_descriptors(size, alone=alone)
    sides = {f"{name} float32": side for name, side in case.sides.items()}
    # The scores, and the gradient by queries and by items.
    return dataclasses.replace(case, sides=sides, flops=lambda: 3 * 2.0 * size * size * 2048)


def number_format(side: str, platform: str) -> str:
    """In which a side multiplies, from its name."""
    last = side.split()[-1]
    if last in ("float32", "TF32", "bfloat16"):
        return last
    return "float32" if platform == "cpu" else "TF32"  # PyTorch's default for convolutions


def shares(case: Case, side: str, seconds: float, device: Mapping[str, Any]) -> dict[str, float]:
    """What a side reaches of the data sheet's figures, where the card is known, and of the speed
    that was measured; and 'share', the first of these that there is."""
    found: dict[str, float] = {}
    card = CARDS.get(device["kind"])
    kind = number_format(side, device["platform"])
    if case.bytes is not None:
        if card:
            found["of the data sheet"] = case.bytes / seconds / card.bandwidth / 1e9
        if "gigabytes_a_second" in device:
            found["of the measured"] = case.bytes / seconds / device["gigabytes_a_second"] / 1e9
    elif case.flops is not None:
        if card:
            found["of the data sheet"] = case.flops() / seconds / card.peak(kind) / 1e12
        limit = device["gigaflops"].get(kind, device["gigaflops"]["float32"])
        found["of the measured"] = case.flops() / seconds / limit / 1e9
    if found:
        found["share"] = next(iter(found.values()))
    return found


def table(
    parts: Sequence[Part], targets: Sequence[Target], found: Found, device: Mapping[str, Any]
) -> str:
    """The figures as Markdown: the card, then each side of each case."""
    card, speeds = CARDS.get(device["kind"]), device["gigaflops"]
    rows = [f"| {device['kind']} | data sheet | measured |", "|---|---|---|"]
    for kind, speed in speeds.items():
        sheet = f"{card.peak(kind):.4g}" if card else "not known"
        rows.append(f"| {kind}, TFLOP/s | {sheet} | {speed / 1e3:.3g} |")
    if bandwidth := device.get("gigabytes_a_second"):
        sheet = f"{card.bandwidth:.4g}" if card else "not known"
        rows.append(f"| memory, GB/s | {sheet} | {bandwidth:.4g} |")
    head = ["what", "side", "seconds (median)", "rate", "× the first side", "of the data sheet",
            "of the measured limit", "memory, MB", "first call, s", "difference",
            "target"]  # fmt: skip
    rows += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in dict.fromkeys(part.case.name for part in parts):
        for part in (part for part in parts if part.case.name == case):
            for side in part.sides:
                rows.append(_row(part.case, side, targets, found))
    return "\n".join(rows)


def _row(case: Case, side: str, targets: Sequence[Target], found: Found) -> str:
    row, first = found[case.name, side], next(iter(case.sides))
    verdicts = [target.verdict(found) for target in targets
                if (target.case, target.side) == (case.name, side)]  # fmt: skip
    cells = [row.get("failed", "")] + [""] * 7
    if "median" in row:
        rate = f"{case.work[1] / row['median']:.3g} {case.work[0]}/s" if case.work else ""
        faster = ""
        if "median" in found.get((case.name, first), {}) and len(case.sides) > 1:
            faster = f"{_times_faster(case.name, side, first, found):.2f}"
        cells = [f"{row['median']:.4g}", rate, faster]
        for share in ("of the data sheet", "of the measured"):
            cells.append(f"{row[share]:.0%}" if share in row else "")
        cells.append(f"{row['memory']:.0f}" if "memory" in row else "")
        cells.append(f"{row['first']:.3g}")
        cells.append(f"{row['difference']:.1e}" if "difference" in row else "")
    return f"| {' | '.join([case.name, side, *cells, '; '.join(verdicts)])} |"


def main() -> None:
    """Measures all parts, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name holds it")
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help="when to end (default: 470)"
    )
    parser.add_argument("--small", action="store_true", help="a trial at small size, anywhere")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.add_argument(
        "--worker", nargs=3, metavar=("PART", "FOLDER", "GB"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.worker:
        number, folder, memory = args.worker
        sizes = _SMALL if args.small else sizes_for(float(memory))
        work(plan(sizes, folder)[0][int(number)], Path(folder), small=args.small)
        return
    end = time.monotonic() + args.seconds
    on = machine()
    device = on["device"]
    small = args.small or device["platform"] == "cpu"
    sizes = _SMALL if small else sizes_for(device["memory"])
    found = Found()
    with tempfile.TemporaryDirectory(prefix="dir_jax_gpu_") as folder:
        parts, targets = plan(sizes, folder)
        chosen = [part for part in parts if args.only in part.case.name]
        if not chosen:
            raise SystemExit(f"error: no case has {args.only!r} in its name")
        pictures = extraction.Work(images=sizes.images, longer=sizes.longer)
        extraction.write_images(Path(folder), pictures)
        for part in chosen:
            print(f"{part.case.name}: {', '.join(part.sides)} …", file=sys.stderr)
            seconds = min(part.seconds, end - time.monotonic())
            rows: dict[str, Any] = {
                side: {"failed": "not measured: no time was left"} for side in part.sides
            }
            if seconds > 5:
                command = [sys.executable, "-m", "benchmarks.gpu", "--worker"]
                command += [str(parts.index(part)), folder, str(device.get("memory", 0))]
                rows = run_part(command + ["--small"] * small, part.sides, seconds)
            for side, row in rows.items():
                if "median" in row:
                    row |= shares(part.case, side, row["median"], device)
                found[part.case.name, side] = row
        compare(chosen, found, Path(folder))
    report = table(chosen, () if small else targets, found, device)
    if small:
        report = f"A trial at small size, on {describe_machine(on)}: no figures.\n\n{report}"
    measured = [{"case": case, "side": side, **row} for (case, side), row in found.items()]
    write_figures(args.json, on, report, trial=small, sides=measured)
    print(report)
    if any(row.get("agrees") is False for row in found.values()):
        raise SystemExit("error: the sides do not agree")
    if any("failed" in row and side.startswith("dir_jax") for (_, side), row in found.items()):
        raise SystemExit("error: parts of ours were not measured; see the table")


if __name__ == "__main__":
    main()
