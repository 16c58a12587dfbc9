"""The benchmark for GPUs: what it plans, what it says of failures, and a part at tiny size."""

import json
import sys

import pytest

from benchmarks import gpu, results
from benchmarks.cards import CARDS
from benchmarks.network import forward_flops
from benchmarks.parts import reason, run_part

H100 = {
    "platform": "gpu",
    "kind": "NVIDIA H100 80GB HBM3",
    "gigaflops": {"float32": 5e4, "TF32": 4e5, "bfloat16": 7e5},
    "gigabytes_a_second": 2900,
    "memory": 60,
}
SIZES = gpu.sizes_for(H100["memory"])


@pytest.mark.parametrize("memory", [60, 0])
def test_each_side_is_measured_once_and_each_target_is_of_one(memory):
    sizes = gpu.sizes_for(memory)
    assert sizes.chunk == (16 if memory else 1)
    parts, targets = gpu.plan(sizes, "pictures")
    planned = [(part.case.name, side) for part in parts for side in part.sides]
    everything = {(part.case.name, side) for part in parts for side in part.case.sides}
    assert sorted(planned) == sorted(everything)
    assert {(target.case, target.side) for target in targets} <= everything


def test_targets_are_beside_their_figures():
    parts, targets = gpu.plan(SIZES, "pictures")
    extraction, training = (
        next(part.case for part in parts if part.case.name.startswith(start))
        for start in ("extraction, resnet50", "training")
    )
    found = {(part.case.name, side): {"failed": "out of memory"} for part in parts
             for side in part.sides}  # fmt: skip
    for side, seconds in (("PyTorch eager, one by one", 4.0), ("dir_jax bfloat16", 1.0)):
        found[extraction.name, side] = {"first": 9, "median": seconds, "memory": 5}
    seconds = training.flops() / 0.5e15
    row = {"first": 9, "median": seconds, "memory": 5}
    row |= gpu.shares(training, "dir_jax bfloat16", seconds, H100)
    found[training.name, "dir_jax bfloat16"] = row
    rows = gpu.table(parts, targets, found, H100).splitlines()
    assert "| TF32, TFLOP/s | 495 | 400 |" in rows
    ours = next(row for row in rows if f"| {extraction.name} | dir_jax bfloat16 | 1 |" in row)
    assert "| 384 images/s | 4.00 |" in ours
    assert (
        "≥ 3 × PyTorch eager, one by one: 4, met; ≥ 1 × torch.compile bfloat16: not measured"
        in ours
    )
    trained = next(row for row in rows if f"| {training.name} | dir_jax bfloat16 |" in row)
    assert "| 51% | 71% |" in trained
    assert "≥ 0.4 of the bfloat16 peak: 0.506, met" in trained
    failed = next(row for row in rows if f"| {extraction.name} | dir_jax TF32 |" in row)
    assert "| out of memory |" in failed


def test_an_unknown_card_has_the_share_of_what_was_measured():
    few = next(part.case for part in gpu.plan(SIZES, "")[0] if part.case.bytes)
    device = {**H100, "kind": "NVIDIA X"}
    half = few.bytes / 2900e9 * 2
    assert gpu.shares(few, "dir_jax float32", half, device) == pytest.approx(
        {"of the measured": 0.5, "share": 0.5}
    )
    assert gpu.shares(few, "dir_jax float32", half, H100)["share"] == pytest.approx(1450 / 3350)
    assert CARDS["Tesla T4"].peak("TF32") == CARDS["Tesla T4"].float32


def test_why_there_is_no_figure():
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert reason(missing) == "torch is not installed"
    assert reason(RuntimeError("RESOURCE_EXHAUSTED: Out of memory …")) == "out of memory"
    assert reason(ValueError("a | b\nmore")) == "ValueError: a / b"


def test_a_part_that_hangs_or_ends_keeps_what_it_had_measured():
    line = """print('= {"side": "dir_jax a", "median": 2}', flush=True)"""
    sides = ["dir_jax a", "dir_jax b"]
    hangs = run_part([sys.executable, "-c", f"import time; {line}; time.sleep(99)"], sides, 2)
    assert hangs["dir_jax a"] == {"median": 2}
    assert hangs["dir_jax b"] == {"failed": "not measured: it took more than 2 s"}
    ends = run_part([sys.executable, "-c", f"import os; {line}; os._exit(3)"], sides, 60)
    assert ends["dir_jax a"] == {"median": 2}
    assert ends["dir_jax b"] == {"failed": "the process ended with status 3"}


def test_a_trial_at_small_size_gets_no_place_among_the_figures(tmp_path, monkeypatch, capsys):
    on = {
        "processor": "a CPU",
        "cores": 2,
        "device": {"platform": "cpu", "kind": "cpu", "gigaflops": {"float32": 100}},
        "python": "3.11",
        "versions": {},
        "date": "2026-01-02",
        "command": "python -m benchmarks.gpu",
    }
    monkeypatch.setattr(gpu, "machine", lambda: on)
    file, page = tmp_path / "gpu.json", tmp_path / "RESULTS.md"
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", ", 8 queries", "--json", str(file)])
    gpu.main()
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("A trial at small size, on a CPU")
    ours = next(row for row in rows if "| dir_jax float32 |" in row).split("|")
    assert float(ours[3]) > 0  # seconds
    assert float(ours[10]) < 1e-5  # from PyTorch's
    page.write_text("<!-- gpu -->\nnot measured\n<!-- end of gpu -->\n")
    monkeypatch.setattr(results, "RESULTS", page)
    results.main([str(file)])
    assert page.read_text() == "<!-- gpu -->\nnot measured\n<!-- end of gpu -->\n"
    assert "left out" in capsys.readouterr().err
    assert json.loads(file.read_text())["trial"]


@pytest.mark.parametrize("arch", ["resnet18_rmac", "resnet50_rmac"])
def test_operations_of_a_network_are_those_that_pytorch_counts(arch):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from tests.torch_reference.networks import create_network

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        create_network(arch).eval()(torch.empty(1, 3, 97, 130))
    assert forward_flops(arch, 97, 130) == counter.get_total_flops()
