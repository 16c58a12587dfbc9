"""Extraction and evaluation as the original does them: one image at a time, then plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from torch_reference.retrieval import oxford_measures

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def open_image(path, box: Sequence[float] | None = None) -> Image.Image:
    """An image as RGB; a query's, cropped to its box, each corner rounded."""
    image = Image.open(path).convert("RGB")
    return image if box is None else image.crop(tuple(round(float(x)) for x in box))


def scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    """What Scale(factor) does, by Pillow."""

    def transform(image):
        size = tuple(int(0.5 + factor * side) for side in image.size)
        return image.resize(size, Image.Resampling.BILINEAR)

    return transform


@torch.no_grad()
def describe(network, images: Sequence[Image.Image], scales=(lambda image: image,)) -> np.ndarray:
    """(N, D) float64 from each image alone, its scales pooled with p = 3 and normalised."""
    rows = []
    for image in images:
        found = []
        for scale in scales:
            pixels = torch.from_numpy(np.array(scale(image))).permute(2, 0, 1).float() / 255
            mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (MEAN, STD))
            found.append(network(((pixels - mean) / std)[None])[0].numpy().astype(np.float64))
        rows.append(found[0] if len(found) == 1 else _signed_mean(np.array(found)))
    return normalized(np.array(rows))


def _signed_mean(x: np.ndarray) -> np.ndarray:
    def power(x, p):
        return np.sign(x) * np.maximum(np.abs(x), 1e-6) ** p

    return power(np.mean(power(x, 3), axis=0), 1 / 3)


def normalized(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def expand(
    queries: np.ndarray, database: np.ndarray, k: int, alpha: float, exclude_self: bool = False
) -> np.ndarray:
    """αQE, one query at a time; ADBA where queries are the database and leave themselves out."""
    rows = []
    for i, query in enumerate(queries.astype(np.float64)):
        near = [(float(query @ row), j) for j, row in enumerate(database.astype(np.float64))]
        near = [(s, j) for s, j in near if not (exclude_self and j == i) and np.isfinite(s)]
        near = sorted(near, key=lambda each: (-each[0], each[1]))[:k]
        total = query.copy()
        for similarity, j in near:
            base = similarity if float(alpha).is_integer() else max(similarity, 0)
            total += base**alpha * database[j].astype(np.float64)
        rows.append(total / np.linalg.norm(total))
    return np.array(rows)


def labelled_map(descriptors: np.ndarray, labels: Sequence[str]) -> float:
    """Mean AP of every image as a query of the others."""
    aps = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        relevant = [labels[j] == label for j in others]
        if any(relevant):
            aps.append(average_precision_score(relevant, descriptors[others] @ descriptors[i]))
    return float(np.mean(aps))


def revisited_maps(
    queries: np.ndarray, database: np.ndarray, truth: Sequence[Mapping[str, Sequence[int]]]
) -> dict[str, float]:
    """mAP of the revisited protocol's three levels."""
    levels = {
        "easy": (("easy",), ("junk", "hard")),
        "medium": (("easy", "hard"), ("junk",)),
        "hard": (("hard",), ("junk", "easy")),
    }
    found = {}
    for level, grades in levels.items():
        aps = []
        for query, entry in zip(queries, truth, strict=True):
            positive, junk = ({int(i) for g in names for i in entry[g]} for names in grades)
            if positive:
                ranking = np.argsort(-(database @ query), kind="stable").tolist()
                aps.append(oxford_measures(ranking, positive, junk)[0])
        found[f"mAP-{level}"] = float(np.mean(aps))
    return found
