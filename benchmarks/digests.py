"""What it costs to verify every array of a ResNet-101's checkpoint whenever it is read.

python -m benchmarks.digests
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_figures
from benchmarks.side_by_side import machine
from dir_jax.checkpoint import read_model, save_model
from dir_jax.description import check_digests, describe_model
from dir_jax.model_recipe import Recipe
from dir_jax.models import create_model
from dir_jax.models.preprocess import Preprocessing
from dir_jax.models.variables import split_variables

TRIALS = 5


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    args = parser.parse_args()
    model = create_model("resnet101_rmac", out_dim=2048)
    _, params, stats = split_variables(model)
    arrays: dict[str, Any] = {"params": params, "batch_stats": stats, "whitening": {}}
    arrays = {kind: {k: np.asarray(v) for k, v in tree.items()} for kind, tree in arrays.items()}
    adam = {"optimizer": dict.fromkeys(("mu", "nu"), arrays["params"])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        figures = {}
        for what, items in (("model", {"arrays": arrays}),
                            ("training state", {"arrays": arrays, "train": adam})):  # fmt: skip
            description = describe_model(model, Preprocessing(), items, None, Recipe())
            verify = functools.partial(check_digests, description, items, "it")
            figures[f"digests of a {what}"] = median_seconds(verify)
        figures["save_model"] = median_seconds(lambda: save_model(path, model, overwrite=True))
        figures["read_model, digests included"] = median_seconds(lambda: read_model(path))
    rows = [f"| ResNet-101 | seconds, median of {TRIALS} |", "|---|---|"]
    rows += [f"| {what} | {seconds:.2f} |" for what, seconds in figures.items()]
    table = "\n".join(rows)
    print(table)
    write_figures(args.json, machine(), table, seconds=figures)


def median_seconds(function: Callable[[], object]) -> float:
    """How long a call takes, the median of `TRIALS`."""
    seconds = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
