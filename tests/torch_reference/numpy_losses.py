"""Average precision in float64 NumPy, by the definitions and with every weight kept."""

import numpy as np


def assignment(scores, num_bins, vmin=0.0, vmax=1.0):
    """(N, M) scores -> (N, M, Q) weights."""
    centres = np.linspace(vmax, vmin, num_bins)
    width = (vmax - vmin) / (num_bins - 1)
    x = np.asarray(scores, np.float64)[..., None]
    weights = np.maximum(0, 1 - np.abs(x - centres) / width)
    weights[..., 0][x[..., 0] > vmax] = 1
    weights[..., -1][x[..., 0] < vmin] = 1
    return weights


def average_precision(scores, relevance, num_bins, vmin=0.0, vmax=1.0):
    """(N,); NaN without positives."""
    weights = assignment(scores, num_bins, vmin, vmax)
    count = weights.sum(axis=1)
    positives = (weights * np.asarray(relevance, np.float64)[..., None]).sum(axis=1)
    precision = np.cumsum(positives, axis=1) / (1e-16 + np.cumsum(count, axis=1))
    with np.errstate(invalid="ignore"):
        return (precision * positives).sum(axis=1) / positives.sum(axis=1)


def tie_aware_average_precision(
    scores, relevance, num_bins, vmin=0.0, vmax=1.0, *, simplified=False
):
    """(N,); NaN without positives. A loop over queries and bins, term by term."""
    weights = assignment(scores, num_bins, vmin, vmax)
    relevance = np.asarray(relevance, np.float64)
    values = []
    for w, y in zip(weights, relevance, strict=True):
        total, before, before_positive = 0.0, 0.0, 0.0
        for q in range(num_bins):
            c, c_plus = w[:, q].sum(), w[:, q] @ y
            after, after_positive = before + c, before_positive + c_plus
            if simplified:
                total += c_plus * (before_positive + after_positive + 1) / (before + after + 1)
            else:
                ratio = max(c_plus - 1, 0) / (max(c - 1, 0) + 1e-8)
                rest = before_positive + 1 - ratio * (before + 1)
                log = np.log((after + 1) / (before + 1))
                total += c_plus * (c * ratio + rest * log) / (c + 1e-8)
            before, before_positive = after, after_positive
        values.append(total / y.sum() if y.sum() else np.nan)
    return np.array(values)


def numeric_gradient(function, x, step=1e-6):
    """Central differences in float64."""
    x = np.asarray(x, np.float64)
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        moved = x.copy()
        moved[i] = x[i] + step
        above = function(moved)
        moved[i] = x[i] - step
        gradient[i] = (above - function(moved)) / (2 * step)
    return gradient
