"""Real photographs under one budget: six losses, and the same losses of PyTorch.

    python -m benchmarks.caltech101 --data /path/to/caltech101 --json runs/bench/caltech101.json

experiments/caltech101.py says where to get the photographs, and what the folder holds. Every run is
that recipe, shortened to `--steps` updates of `--batch` images: the same network from the same
random weights, the same batches of the same augmented images, the same optimiser and schedule, and
so the same images seen; only the loss and its learning rate differ.

1. The rate of each loss is the one of `--rates` with the best mAP on the validation categories of
   the recipe, which are training categories that are left out for this; one seed, and the same
   trials for all. The categories of the test are not looked at.
2. With this rate each loss trains on all training categories, once for each of `--seeds`, and is
   evaluated on those of the test: mAP, recall@1 and MAP@R.
3. The same again in plain PyTorch (`loss.backward()`), at the same rates and from the same weights,
   with the losses of pytorch-metric-learning. Its SmoothAP, FastAP and multi-similarity are defined
   as ours. Its contrastive loss takes all pairs, ours the five nearest negatives; its semi-hard
   triplets are all those within the margin, ours the nearest of each pair.

The file of `--json` keeps every run, and those found in it are not run again.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.results import write_figures
from benchmarks.side_by_side import machine

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "experiments" / "caltech101.py"
LOSSES = {
    "ap": "AP",
    "smooth_ap": "SmoothAP",
    "fast_ap": "FastAP",
    "triplet": "triplet, semi-hard",
    "contrastive": "contrastive",
    "multi_similarity": "multi-similarity",
}
METRICS = ("mAP", "recall@1", "MAP@R")
Runs = dict[str, dict[str, Any]]


def main() -> None:
    """Runs what the file does not have yet, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, type=os.path.abspath,
        help="the folder of train.txt, test.txt and the photographs")  # fmt: skip
    add("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--rates", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3])
    add("--steps", type=int, default=400)
    add("--batch", type=int, default=64)
    add("--json", type=Path, help="keeps the runs; those found in it are not run again")
    args = parser.parse_args()
    if not os.path.exists(f"{args.data}/train.txt"):
        parser.error(f"{args.data} has no train.txt; experiments/caltech101.py says how to make it")
    budget = {"num_steps": args.steps, "batch_size": args.batch, "chunk_size": args.batch}
    runs: Runs = {}
    if args.json and args.json.exists():
        found = json.loads(args.json.read_text())
        if found["budget"] != budget:
            parser.error(f"{args.json} holds runs of another budget: {found['budget']}")
        runs = found["runs"]

    def keep() -> None:
        table = ""
        if all(f"ours/{loss}/{seed}" in runs for loss in args.losses for seed in args.seeds):
            table = make_table(runs, args.losses, args.seeds, budget)
            print(f"\n{table}")
        write_figures(args.json, on, table, budget=budget, runs=runs)

    def once(
        key: str, run: Callable[..., dict[str, Any]], *given: Any, **lists: str
    ) -> dict[str, Any]:
        if key not in runs:
            start = time.perf_counter()
            runs[key] = run(args.data, *given, budget, **lists)
            runs[key]["seconds"] = time.perf_counter() - start
            print(key, json.dumps(runs[key]), flush=True)
            keep()
        return runs[key]

    on = machine()
    with tempfile.TemporaryDirectory() as folder:
        fit, validation = write_split(args.data, Path(folder))
        rates: dict[str, float] = {}
        for loss in args.losses:
            lists = {"train": fit, "eval": validation}
            reached = {
                rate: once(f"validation/{loss}/{rate:g}", run_ours, loss, 0, rate, **lists)
                for rate in args.rates
            }
            rates[loss] = max(reached, key=lambda rate: reached[rate]["after"]["mAP"])
    sides: dict[str, Callable[..., dict[str, Any]]] = {"ours": run_ours, "torch": run_peer}
    for seed in args.seeds:  # seed by seed, so that a table cut short is still fair
        for side, run in sides.items():
            for loss in args.losses:
                if (side, loss) != ("torch", "ap"):  # which has no AP loss of this kind
                    once(f"{side}/{loss}/{seed}", run, loss, seed, rates[loss])
    keep()


def write_split(data: str, folder: Path) -> tuple[str, str]:
    """The lists of the categories to fit and of those to validate on, as data sets."""
    from experiments.caltech101 import VALIDATION

    left_out = VALIDATION.split()
    rows = Path(data, "train.txt").read_text().splitlines(keepends=True)
    kept = {"fit": [], "validation": []}  # type: dict[str, list[str]]
    for row in rows:
        kept["validation" if row.split()[-1] in left_out else "fit"].append(row)
    for name, its in kept.items():
        (folder / f"{name}.txt").write_text("".join(its))
    fit, validation = (f'ImageListLabels("{folder / name}.txt", "{data}")' for name in kept)
    return fit, validation


def make_table(
    runs: Runs, losses: Sequence[str], seeds: Sequence[int], budget: Mapping[str, int]
) -> str:
    """Mean over the seeds, and the smallest and largest, of what each loss reached."""

    def cells(side: str, loss: str, when: str) -> str:
        values = {m: [100 * runs[f"{side}/{loss}/{s}"][when][m] for s in seeds] for m in METRICS}
        return " | ".join(
            f"{statistics.mean(v):.1f} ({min(v):.1f}–{max(v):.1f})" for v in values.values()
        )

    images = budget["num_steps"] * budget["batch_size"]
    lines = [
        f"{budget['num_steps']} steps of {budget['batch_size']} images, {images:,} in all; seeds "
        f"{', '.join(map(str, seeds))}. Per cent: mean (smallest–largest). The rate is the one "
        "with the best mAP on the validation categories, which stands beside it.",
        "",
        f"| loss | of | rate (mAP at each in validation) | {' | '.join(METRICS)} | seconds |",
        "|---|---|---|---|---|---|---|",
        f"| none: random weights | | | {cells('ours', losses[0], 'before')} | |",
    ]
    for loss in losses:
        trials = {
            float(key.rpartition("/")[2]): 100 * run["after"]["mAP"]
            for key, run in runs.items()
            if key.startswith(f"validation/{loss}/")
        }
        best = max(trials, key=trials.__getitem__)
        rate = f"{best:g} ({', '.join(f'{r:g}: {v:.1f}' for r, v in sorted(trials.items()))})"
        for side, of in (("ours", "dir_jax"), ("torch", "PyTorch")):
            if all(f"{side}/{loss}/{seed}" in runs for seed in seeds):
                seconds = statistics.median(runs[f"{side}/{loss}/{s}"]["seconds"] for s in seeds)
                lines.append(
                    f"| {LOSSES[loss]} | {of} | {rate if side == 'ours' else 'the same'} | "
                    f"{cells(side, loss, 'after')} | {seconds:.0f} |"
                )
    return "\n".join(lines)


def run_ours(
    data: str,
    loss: str,
    seed: int,
    rate: float,
    budget: Mapping[str, int],
    **lists: str,
) -> dict[str, Any]:
    """The training command itself; its own summary."""
    with tempfile.TemporaryDirectory() as folder:
        keys = {"data.root": data, "loss.name": loss, "seed": seed, "whitening.name": "",
                "optimizer.learning_rate": rate, "eval.every": 0, **budget,
                **{f"data.{name}": value for name, value in lists.items()}}  # fmt: skip
        flags = [f"--config={RECIPE}", f"--workdir={folder}/run"]
        flags += [f"--config.{key}={value}" for key, value in keys.items()]
        command = [sys.executable, "-m", "dir_jax.train", *flags]
        subprocess.run(command, cwd=ROOT, check=True)
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        return {when: {m: summary[when][m] for m in METRICS} for when in ("before", "after")}


def run_peer(
    data: str, loss: str, seed: int, rate: float, budget: Mapping[str, int]
) -> dict[str, Any]:
    """The same recipe in PyTorch with a loss of pytorch-metric-learning."""
    import torch

    from benchmarks.torch_peer import load_network, torch_images
    from dir_jax.data.loader import BatchLoader
    from dir_jax.data.samplers import Listed
    from dir_jax.evaluation import evaluate_descriptors
    from dir_jax.training.optimizer import create_schedule
    from dir_jax.training.setup import create_network, create_setup
    from experiments.caltech101 import get_config

    config = get_config()
    config.update(budget)
    config.seed, config.data.root, config.loss.name = seed, data, loss
    config.optimizer.learning_rate = rate
    setup = create_setup(config)
    assert setup.sampler is not None
    held_out = setup.held_out.labelled
    assert held_out is not None
    network = load_network(create_network(config))
    labels = setup.dataset.labels
    criterion = create_peer(config.loss)

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
        return {name: metrics[name] for name in METRICS}

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


def create_peer(options: Any) -> Callable[[Any, Any], Any]:
    """pytorch-metric-learning's loss with the options of `config.loss`."""
    from pytorch_metric_learning import losses, miners

    if options.name == "smooth_ap":
        return losses.SmoothAPLoss(temperature=options.temperature)
    if options.name == "fast_ap":
        return losses.FastAPLoss(num_bins=options.num_bins)
    if options.name == "contrastive":
        return losses.ContrastiveLoss(pos_margin=0, neg_margin=options.contrastive_margin)
    if options.name == "triplet":
        miner: Any = miners.TripletMarginMiner(options.margin, "semihard")
        loss: Any = losses.TripletMarginLoss(options.margin)
    else:
        miner = miners.MultiSimilarityMiner(options.epsilon)
        loss = losses.MultiSimilarityLoss(options.alpha, options.beta, options.base)
    return lambda descriptors, labels: loss(descriptors, labels, miner(descriptors, labels))


if __name__ == "__main__":
    main()
