"""The revisited protocol at the size of R1M: 70 queries, Oxford's images and a million distractors.

    python -m benchmarks.evaluation --json evaluation.json

From scores to AP. The baseline does what the original does: for each query and each level it takes
the junk out, sorts what is left, and walks down the positives. The ground truth is ROxford5k's
where it lies beside the checkout (shared/data/revisitop/gnd_roxford5k.pkl), else one drawn with its
counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.side_by_side import ROOT, Case, largest_difference, main

_DISTRACTORS = 1_000_000
_FILE = ROOT.parent / "shared" / "data" / "revisitop" / "gnd_roxford5k.pkl"
_LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def _scores_and_truth() -> tuple[np.ndarray, list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    if _FILE.is_file():
        from dir_jax.data.pickles import load_pickle

        truth, images = load_pickle(str(_FILE))["gnd"], 4993
    else:
        images, truth = 4993, []
        for _ in range(70):
            easy, hard, junk, _ = np.split(rng.permutation(images), np.cumsum([44, 36, 58]))
            truth.append({"easy": easy, "hard": hard, "junk": junk})
    scores = rng.standard_normal((len(truth), images + _DISTRACTORS), np.float32)
    for row, entry in zip(scores, truth, strict=True):
        row[np.asarray(entry["easy"], int)] += 2
        row[np.asarray(entry["hard"], int)] += 1
        # No positive ties with another image: the original leaves to its sort which comes first.
        values, counts = np.unique(row, return_counts=True)
        for image in np.concatenate([entry["easy"], entry["hard"]]).astype(int):
            if counts[np.searchsorted(values, row[image])] > 1:
                while row[image] in values:
                    row[image] = np.nextafter(row[image], np.float32(9))
    return scores, truth


def _as_the_original() -> Callable[[], Any]:
    scores, truth = _scores_and_truth()

    def average_precision(row: np.ndarray, positive: list[int], junk: list[int]) -> float:
        labels = np.zeros(len(row), np.int8)
        labels[positive], labels[junk] = 1, -1
        kept = labels >= 0
        labels, row = labels[kept], row[kept]
        ranks = np.flatnonzero(labels[np.argsort(row)[::-1]] == 1)
        area = 0.0
        for i, rank in enumerate(ranks.tolist()):
            before = 1.0 if rank == 0 else i / rank
            area += (before + (i + 1) / (rank + 1)) / 2 / len(ranks)
        return area

    def call() -> Any:
        found = np.full((len(_LEVELS), len(truth)), -1.0)
        for q, entry in enumerate(truth):
            for level, grades in enumerate(_LEVELS.values()):
                positive, junk = ([int(i) for g in part for i in entry[g]] for part in grades)
                if positive:
                    found[level, q] = average_precision(scores[q], positive, junk)
        return found

    return call


def _ours() -> Callable[[], Any]:
    from dir_jax.retrieval.protocols import evaluate_revisited
    from dir_jax.retrieval.ranks import Scores

    scores, truth = _scores_and_truth()

    def call() -> Any:
        found = evaluate_revisited(Scores(scores), truth)
        return np.nan_to_num(np.array([found[f"ap-{level}"] for level in _LEVELS]), nan=-1)

    return call


CASES = [
    Case(
        "70 queries × 1,004,993 images",
        {"NumPy, as the original": _as_the_original, "dir_jax": _ours},
        largest_difference,
        1e-12,  # float64, added in another order
        turns=3,
    )
]

main(__name__, __doc__, CASES)
