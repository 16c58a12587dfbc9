"""The losses in PyTorch: bins by a 1×1 convolution, every count kept, as the original does."""

import torch
import torch.nn.functional as F


class Quantizer(torch.nn.Module):
    """Soft assignment to Q bins, from the highest scores down: (N, M) -> (N, Q, M)."""

    def __init__(self, num_bins, vmin=0.0, vmax=1.0):
        super().__init__()
        rate = (num_bins - 1) / (vmax - vmin)
        q = torch.arange(num_bins, dtype=torch.float32)
        # Each bin is the lower of a rising and a falling line, and the convolution computes both:
        # rate · (x − b_q) + 1 and 1 − rate · (x − b_q), with centres b_q = vmax − q / rate.
        weight = torch.cat([torch.full((num_bins,), rate), torch.full((num_bins,), -rate)])
        bias = torch.cat([q + 1 - rate * vmax, rate * vmax - q + 1])
        # The first bin never falls (scores above it are still in it), the last one never rises.
        weight[num_bins], bias[num_bins] = 0, 1
        weight[num_bins - 1], bias[num_bins - 1] = 0, 1
        self.conv = torch.nn.Conv1d(1, 2 * num_bins, kernel_size=1)
        self.conv.weight = torch.nn.Parameter(weight[:, None, None], requires_grad=False)
        self.conv.bias = torch.nn.Parameter(bias, requires_grad=False)
        self.num_bins = num_bins

    def forward(self, scores):
        lines = self.conv(scores[:, None])
        return torch.min(lines[:, : self.num_bins], lines[:, self.num_bins :]).clamp(min=0)


def _counts(scores, relevance, num_bins, vmin, vmax):
    weights = Quantizer(num_bins, vmin, vmax).to(scores)(scores)
    return weights.sum(dim=-1), (weights * relevance[:, None]).sum(dim=-1)


def average_precision(scores, relevance, *, num_bins=25, vmin=0.0, vmax=1.0):
    """(N,) quantised average precision; NaN for a query without positives."""
    count, positives = _counts(scores, relevance, num_bins, vmin, vmax)
    precision = positives.cumsum(dim=-1) / (1e-16 + count.cumsum(dim=-1))
    recall = positives / positives.sum(dim=-1, keepdim=True)
    return (precision * recall).sum(dim=-1)


def tie_aware_average_precision(
    scores, relevance, *, num_bins=25, vmin=0.0, vmax=1.0, simplified=False
):
    """(N,) average precision in expectation over the order within a bin."""
    count, positives = _counts(scores, relevance, num_bins, vmin, vmax)
    total, total_positives = count.cumsum(dim=-1), positives.cumsum(dim=-1)
    before, before_positives = F.pad(total, (1, 0))[:, :-1], F.pad(total_positives, (1, 0))[:, :-1]
    if simplified:
        terms = positives * (before_positives + total_positives + 1) / (before + total + 1)
    else:
        ratio = (positives - 1).clamp(min=0) / ((count - 1).clamp(min=0) + 1e-8)
        logarithm = torch.log((total + 1) / (before + 1))
        inner = count * ratio + (before_positives + 1 - ratio * (before + 1)) * logarithm
        terms = positives * inner / (count + 1e-8)
    return terms.sum(dim=-1) / relevance.sum(dim=-1)


def _mean(function, scores, relevance, query_weights, options):
    # Rows without positives are taken out first: their NaN would spread through the gradient.
    valid = relevance.sum(dim=-1) > 0
    values = function(scores[valid], relevance[valid], **options)
    if query_weights is not None:
        values = values * query_weights[valid]
    return 1 - values.mean()


def average_precision_loss(scores, relevance, *, query_weights=None, **options):
    """1 − mean(w · AP) over the queries with positives."""
    return _mean(average_precision, scores, relevance, query_weights, options)


def tie_aware_average_precision_loss(scores, relevance, *, query_weights=None, **options):
    """The same with the tie-aware average precision."""
    return _mean(tie_aware_average_precision, scores, relevance, query_weights, options)


def by_distance(scores):
    """What the `_dist` variants are applied to."""
    return 1 - torch.sqrt(2.001 - 2 * scores)


def batch_triplet_loss(descriptors, labels, *, mining, margin, log_exp=False):
    """Triplets within a batch, by loops over anchors and positives."""
    squares = (descriptors**2).sum(dim=1)
    squared = squares[:, None] + squares - 2 * descriptors @ descriptors.T
    distances = squared.clamp(min=1e-12).sqrt()

    def penalty(near, far):
        return F.softplus(near - far) if log_exp else (near - far + margin).clamp(min=0)

    losses = []
    for a in range(len(labels)):
        same = labels == labels[a]
        far = distances[a][~same]
        same[a] = False
        near = distances[a][same]
        if not len(near) or not len(far):
            continue
        if mining == "hardest":
            losses.append(penalty(near.max(), far.min()))
        elif mining == "semihard":
            for d in near:
                farther = far[far > d]
                losses.append(penalty(d, farther.min() if len(farther) else far.max()))
        else:
            losses += [penalty(d, far) for d in near]
    losses = torch.cat([x.reshape(-1) for x in losses])
    return losses[losses > 0].mean() if mining == "all" else losses.mean()
