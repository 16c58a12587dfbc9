"""The networks of CNN Image Retrieval in PyTorch, from Radenović et al., TPAMI 2018."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from torch_reference.networks import GeM, create_network


def l2n(x):
    """As there: the length plus 1e-6, instead of at least 1e-12."""
    return x / (x.norm(dim=1, keepdim=True) + 1e-6)


class Pooling(nn.Module):
    """'mac' or 'spoc'."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return x.amax((2, 3)) if self.name == "mac" else x.mean((2, 3))


class ImageRetrievalNet(nn.Module):
    """features, pool, L2, and optionally whiten, L2."""

    def __init__(self, architecture, pooling, *, whiten):
        super().__init__()
        backbone = create_network(f"{architecture}_rmac", without_fc=True)
        self.features = nn.Sequential(
            backbone.conv1,
            backbone.bn1,
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            *(getattr(backbone, f"layer{i}") for i in range(1, 5)),
        )
        self.backbone_maps = backbone.feature_maps
        width = 512 if architecture == "resnet18" else 2048
        self.pool = GeM(2.9) if pooling == "gem" else Pooling(pooling)
        self.fc = None  # the name by which torch_reference.weights looks for a projection
        self.whiten = nn.Linear(width, width) if whiten else None

    def feature_maps(self, x):
        return self.backbone_maps(x)

    def forward(self, x):
        x = l2n(self.pool(self.features(x)))
        return x if self.whiten is None else l2n(self.whiten(x))


def whitened(x, m, p):
    """(N, D) descriptors minus m (D, 1), projected by p (K, D), and normalised."""
    x = p @ (x.T - m)
    return (x / (torch.linalg.vector_norm(x, dim=0, keepdim=True) + 1e-6)).T


def learned_whitening(x, pairs):
    """m (D, 1) and P (D, D) learned from (N, D) descriptors and (n, 2) matching pairs.

    TPAMI 2018, section 3.3: differences within pairs become white, then all are rotated.
    """
    x = x.double()
    queries, positives = x[pairs[:, 0]], x[pairs[:, 1]]
    m = queries.mean(0)
    within = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for difference in queries - positives:
        within += torch.outer(difference, difference) / len(pairs)
    added = 0.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(within + added * torch.eye(len(within)))
        if not failed:
            break
        added = 1e-10 if added == 0 else added * 10
    white = torch.linalg.solve_triangular(factor, (x - m).T, upper=False)
    rotation, _, _ = torch.linalg.svd(white, full_matrices=False)
    unmixing = torch.linalg.solve_triangular(factor, torch.eye(len(within)).double(), upper=False)
    return m[:, None], rotation.T @ unmixing


def read_image(path, mean, std, longest=1024):
    """(1, 3, H, W): the longer side at most `longest` pixels, by Lanczos, and normalised."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def at_scales(network, x, factors, power):
    """(1, D): the power mean of the descriptors of x at several scales, normalised."""
    pooled = 0
    for factor in factors:
        shrunk = x
        if factor != 1:
            shrunk = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        pooled = pooled + network(shrunk) ** power
    pooled = (pooled / len(factors)) ** (1 / power)
    return pooled / pooled.norm(dim=1, keepdim=True)
