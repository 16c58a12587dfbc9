"""Real photographs, a fixed budget: our AP and triplet losses, and a PyTorch peer.

    python -m benchmarks.caltech101 --data /path/to/caltech101 --seeds 0 1 2 --json caltech101.json

experiments/caltech101.py says where to get the photographs, and what the folder holds. Every run is
that recipe: the same network from the same random weights, the same batches of the same augmented
images, the same optimiser and number of images seen; only the loss differs. The peers are
pytorch-metric-learning's SmoothAP and FastAP in plain PyTorch (the batch undivided,
`loss.backward()`). Evaluation is ours for all: mAP and recall@1 on other categories.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "experiments" / "caltech101.py"
OURS = ("ap", "triplet")
PEERS = ("smooth-ap", "fast-ap")


def main() -> None:
    """Runs what is asked for and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", required=True, type=os.path.abspath,
        help="the folder of train.txt, test.txt and the photographs",
    )  # fmt: skip
    parser.add_argument(
        "--losses", nargs="+", choices=OURS + PEERS, default=["ap", "triplet", "smooth-ap"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--json", type=Path, help="keeps the results; runs found in it are not run again"
    )
    args = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    if args.json and args.json.exists():
        results = json.loads(args.json.read_text())
    for seed in args.seeds:  # seed by seed, so that a table cut short is still fair
        for loss in args.losses:
            key = f"{loss}/{seed}"
            if key not in results:
                run = run_ours if loss in OURS else run_peer
                started = time.perf_counter()
                results[key] = run(args.data, loss, seed, args.steps)
                results[key]["seconds"] = time.perf_counter() - started
                print(key, json.dumps(results[key]), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(results, indent=2) + "\n")
    print_table(results, args.losses, args.seeds)


def print_table(results: dict[str, dict[str, Any]], losses: list[str], seeds: list[int]) -> None:
    """Mean over the seeds, and the smallest and largest."""

    def cell(loss: str, when: str, metric: str) -> str:
        values = [100 * results[f"{loss}/{seed}"][when][metric] for seed in seeds]
        return f"{statistics.mean(values):.1f} ({min(values):.1f}–{max(values):.1f})"

    print("\n| loss | mAP before | mAP after | recall@1 before | recall@1 after | seconds |")
    print("|---|---|---|---|---|---|")
    for loss in losses:
        cells = [cell(loss, w, m) for m in ("mAP", "recall@1") for w in ("before", "after")]
        seconds = statistics.median(results[f"{loss}/{seed}"]["seconds"] for seed in seeds)
        print(f"| {loss} | {' | '.join(cells)} | {seconds:.0f} |")


def run_ours(data: str, loss: str, seed: int, steps: int | None) -> dict[str, Any]:
    """The training command itself; its own summary."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "dir_jax.train", f"--config={RECIPE}", f"--workdir={folder}/run",
            f"--config.data.root={data}", f"--config.loss.name={loss}", f"--config.seed={seed}",
            "--config.whitening.name=",
        ]  # fmt: skip
        if steps is not None:
            command.append(f"--config.num_steps={steps}")
        subprocess.run(command, cwd=ROOT, check=True)
        return json.loads((Path(folder) / "run" / "summary.json").read_text())


def run_peer(data: str, loss: str, seed: int, steps: int | None) -> dict[str, Any]:
    """The same recipe in PyTorch with a loss of pytorch-metric-learning."""
    import torch
    from pytorch_metric_learning import losses

    from benchmarks.torch_peer import load_network, torch_images
    from dir_jax.data.loader import BatchLoader
    from dir_jax.data.samplers import Listed
    from dir_jax.evaluation import evaluate_descriptors
    from dir_jax.training.optimizer import create_schedule
    from dir_jax.training.setup import create_network, create_setup
    from experiments.caltech101 import get_config

    config = get_config()
    config.seed, config.data.root = seed, data
    if steps is not None:
        config.num_steps = steps
    setup = create_setup(config)
    assert setup.sampler is not None
    held_out = setup.held_out.labelled
    assert held_out is not None
    network = load_network(create_network(config))
    labels = setup.dataset.labels
    criterion = losses.SmoothAPLoss() if loss == "smooth-ap" else losses.FastAPLoss(num_bins=20)

    def evaluate() -> dict[str, float]:
        network.eval()
        size, batch = len(held_out), config.eval.batch_size
        order = np.resize(np.arange(size), -(-size // batch) * batch)
        with torch.inference_mode(), BatchLoader(
            held_out, setup.held_out.transform, Listed(order, batch), seed=0,
            rows=np.arange(batch), unit=batch, start_step=0, stop_step=len(order) // batch,
            num_workers=0, prefetch=4,
        ) as loader:  # fmt: skip
            found = torch.cat([network(torch_images(x, setup.preprocessing)) for x in loader])
        metrics = evaluate_descriptors(held_out, found.numpy()[:size]).metrics
        return {name: metrics[name] for name in ("mAP", "recall@1")}

    summary: dict[str, Any] = {"before": evaluate()}
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
    )  # fmt: skip
    schedule = create_schedule(config.optimizer, config.num_steps)
    with BatchLoader(
        setup.dataset, setup.transform, setup.sampler, seed=seed,
        rows=np.arange(config.batch_size), unit=config.batch_size, start_step=0,
        stop_step=config.num_steps, num_workers=0, prefetch=2,
    ) as loader:  # fmt: skip
        network.train()
        for step, images in enumerate(tqdm(loader, desc=loss, total=config.num_steps)):
            for group in optimizer.param_groups:
                group["lr"] = float(schedule(step))
            targets = labels[setup.sampler(step)]
            order = np.argsort(targets, kind="stable")  # SmoothAP wants its classes side by side
            descriptors = network(torch_images(images[order], setup.preprocessing))
            optimizer.zero_grad()
            criterion(descriptors, torch.from_numpy(targets[order])).backward()
            optimizer.step()
    summary["after"] = evaluate()
    return summary


if __name__ == "__main__":
    main()
