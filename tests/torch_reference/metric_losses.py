"""The field's batch losses in PyTorch, written from the papers: one query at a time, in float64."""

import math

import torch
import torch.nn.functional as F


def _queries(x, labels):
    """Scores of each query, and which of the items are of its class, and itself."""
    for q in range(len(x)):
        itself = torch.arange(len(x)) == q
        yield x @ x[q], labels == labels[q], itself


def smooth_ap_loss(x, labels, temperature):
    precisions = []
    for scores, same, _ in _queries(x, labels):
        total = 0
        for j in torch.nonzero(same).flatten():
            before = torch.sigmoid((scores - scores[j]) / temperature)
            others = torch.arange(len(x)) != j
            total = total + (1 + before[same & others].sum()) / (1 + before[others].sum())
        precisions.append(total / same.sum())
    return 1 - torch.stack(precisions).mean()


def recall_at_k_loss(x, labels, recall_k, temperature, rank_temperature):
    recalls = []
    for scores, same, itself in _queries(x, labels):
        positives = torch.nonzero(same & ~itself).flatten()
        ranks = [
            1 + torch.sigmoid((scores - scores[j]) / temperature)[
                ~itself & (torch.arange(len(x)) != j)
            ].sum()
            for j in positives
        ]  # fmt: skip
        if not ranks:
            continue
        for k in recall_k:
            near = torch.sigmoid((k - torch.stack(ranks)) / rank_temperature).sum()
            recalls.append(near.clamp(max=k) / min(k, len(ranks)))
    return 1 - torch.stack(recalls).mean()


def fast_ap_loss(x, labels, num_bins):
    precisions = []
    centres = torch.linspace(0, 4, num_bins + 1, dtype=x.dtype)
    for scores, same, itself in _queries(x, labels):
        squares = 2 - 2 * scores
        weights = (1 - (squares - centres[:, None]).abs() * num_bins / 4).clamp(min=0)
        positive, every = weights[:, same & ~itself].sum(1), weights[:, ~itself].sum(1)
        if not (same & ~itself).any():
            continue
        product, total = positive * positive.cumsum(0), every.cumsum(0)
        held = total > 0
        precisions.append((product[held] / total[held]).sum() / positive.sum())
    return 1 - torch.stack(precisions).mean()


def contrastive_loss(x, labels, margin, negatives):
    losses = []
    for scores, same, itself in _queries(x, labels):
        if not (same & ~itself).any():
            continue
        squares = 2 - 2 * scores
        near = squares[~same].sort().values[:negatives].sqrt()
        losses.append(
            squares[same & ~itself].mean() / 2 + ((margin - near).clamp(min=0) ** 2).sum() / 2
        )
    return torch.stack(losses).mean()


def multi_similarity_loss(x, labels, alpha, beta, base, epsilon):
    losses = []
    for scores, same, itself in _queries(x, labels):
        positive, negative = scores[same & ~itself], scores[~same]
        loss = 0 * scores.sum()
        if len(positive) and len(negative):
            kept = positive[positive - epsilon < negative.max()]
            loss = loss + torch.log(1 + torch.exp(-alpha * (kept - base)).sum()) / alpha
            kept = negative[negative + epsilon > positive.min()]
            loss = loss + torch.log(1 + torch.exp(beta * (kept - base)).sum()) / beta
        losses.append(loss)
    return torch.stack(losses).mean()


def class_loss(x, labels, weights, margin, scale, *, arc):
    cosines = x @ F.normalize(weights, dim=1).T
    rows = torch.arange(len(x))
    own = cosines[rows, labels]
    if arc:
        angle = torch.acos(own)
        beyond = own - margin * math.sin(margin)
        own = torch.where(angle + margin <= math.pi, torch.cos(angle + margin), beyond)
    else:
        own = own - margin
    logits = cosines.clone()
    logits[rows, labels] = own
    return F.cross_entropy(scale * logits, labels)
