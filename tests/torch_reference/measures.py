"""The field's measures by their definitions, one query and one result at a time, in Python."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from sklearn.metrics import average_precision_score


def recall_at_k(rankings: Sequence[Sequence[int]], relevant: Sequence[set[int]], k: int) -> float:
    return sum(bool(set(r[:k]) & y) for r, y in zip(rankings, relevant, strict=True)) / len(
        relevant
    )


def map_at_r(ranking: Sequence[int], relevant: set[int]) -> float:
    total, found = 0.0, 0
    for place, image in enumerate(ranking[: len(relevant)], start=1):
        if image in relevant:
            found += 1
            total += found / place
    return total / len(relevant)


def r_precision(ranking: Sequence[int], relevant: set[int]) -> float:
    return len(set(ranking[: len(relevant)]) & relevant) / len(relevant)


def google_map(
    predictions: Mapping[str, Sequence[Hashable]],
    solution: Mapping[str, Sequence[Hashable]],
    k: int,
) -> float:
    """mAP@k over the queries of the solution; what is predicted twice counts once."""
    total = 0.0
    for query, predicted in predictions.items():
        seen: set[Hashable] = set()
        found, area = 0, 0.0
        for place, image in enumerate(predicted[:k], start=1):
            if image not in seen and image in solution[query]:
                found += 1
                area += found / place
            seen.add(image)
        total += area / min(len(solution[query]), k)
    return total / len(solution)


def google_gap(
    predictions: Mapping[str, tuple[Hashable, float]], solution: Mapping[str, set[Hashable]]
) -> float:
    """μAP over all predictions (landmark, confidence), by image id where confidences are equal."""
    order = sorted(predictions.items(), key=lambda each: (-each[1][1], each[0]))
    found, total = 0, 0.0
    for place, (image, (landmark, _)) in enumerate(order, start=1):
        if landmark in solution[image]:
            found += 1
            total += found / place
    return total / sum(bool(landmarks) for landmarks in solution.values())


def ilias_ap(scores: Sequence[float], relevant: Sequence[bool], positives: int, k: int) -> float:
    """Of results by falling score."""
    scores, relevant = scores[:k], relevant[:k]
    if not any(relevant):
        return 0.0
    return average_precision_score(relevant, scores) * sum(relevant) / min(k, positives)
