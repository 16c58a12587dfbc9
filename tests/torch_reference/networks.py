"""The networks in PyTorch, with torchvision's parameter names: what ours must compute.

Written from the papers: He et al., CVPR 2016 (ResNet; v1.5 puts a bottleneck's stride on its 3×3),
and Radenović et al., TPAMI 2018 (GeM).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A residual block: BasicBlock (3×3, 3×3), or Bottleneck (1×1, 3×3, 1×1)."""

    def __init__(self, features_in, width, stride, *, bottleneck):
        super().__init__()
        features = 4 * width if bottleneck else width
        shapes = (
            [(features_in, width, 1, 1), (width, width, 3, stride), (width, features, 1, 1)]
            if bottleneck
            else [(features_in, width, 3, stride), (width, width, 3, 1)]
        )
        self.depth = len(shapes)
        for i, (c_in, c_out, size, step) in enumerate(shapes, 1):
            conv = nn.Conv2d(c_in, c_out, size, step, padding=size // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(c_out))
        self.downsample = None
        if stride > 1 or features_in != features:
            self.downsample = nn.Sequential(
                nn.Conv2d(features_in, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = torch.relu(y)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class GeM(nn.Module):
    """Generalised mean over the places of a feature map."""

    def __init__(self, p):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), float(p)))

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


class Network(nn.Module):
    """Backbone, pooling, projection and L2: (N, 3, H, W) -> (N, D)."""

    def __init__(
        self,
        bottleneck,
        counts,
        *,
        out_dim=2048,
        norm_features=False,
        pooling="gem",
        gemp=3,
        center_bias=0,
        dropout_p=None,
        without_fc=False,
    ):
        super().__init__()
        self.norm_features, self.center_bias, self.pooling = norm_features, center_bias, pooling
        self.dropout = nn.Dropout(dropout_p) if dropout_p else nn.Identity()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        features = 64
        for i, count in enumerate(counts):
            width, blocks = 64 * 2**i, []
            for j in range(count):
                stride = 2 if i and not j else 1
                blocks.append(Block(features, width, stride, bottleneck=bottleneck))
                features = 4 * width if bottleneck else width
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        if pooling.startswith("gem"):
            self.adpool = GeM(gemp)
        self.fc = None if without_fc else nn.Linear(features, out_dim)

    def feature_maps(self, x):
        """'stem', 'layer1', …, 'layer4', each (N, C, h, w)."""
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        maps = {"stem": x}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = maps[name] = getattr(self, name)(x)
        return maps

    def forward(self, x):
        x = self.dropout(self.feature_maps(x)["layer4"])
        if self.center_bias > 0:
            grid = torch.ones(1, 1, 4, 4)
            grid[:, :, 1:3, 1:3] += self.center_bias
            x = x * F.interpolate(grid, x.shape[2:], mode="bilinear", align_corners=True)
        if self.pooling == "max":
            x = x.amax((2, 3))
        elif self.pooling == "avg":
            x = x.mean((2, 3))
        else:
            x = self.adpool(x)
        if self.norm_features:
            x = F.normalize(x)
        return F.normalize(x if self.fc is None else self.fc(x))


class PyramidNetwork(Network):
    """On the last two feature maps; `merge` adds the coarse one to the fine one first."""

    def __init__(self, bottleneck, counts, *, merge, out_dim=None, gemp=3, **options):
        super().__init__(bottleneck, counts, out_dim=1, gemp=gemp, **options)
        expansion = 4 if bottleneck else 1
        if self.pooling.startswith("gem"):
            del self.adpool
            self.adpoolx5, self.adpoolc4 = GeM(gemp), GeM(gemp)
        self.merge = merge
        if merge:
            self.conv1x5 = nn.Conv2d(512 * expansion, 256 * expansion, 1, bias=False)
            self.conv3c4 = nn.Conv2d(256 * expansion, 256 * expansion, 3, padding=1, bias=False)
        if self.fc is not None:
            self.fc = nn.Linear(768 * expansion, out_dim or 768 * expansion)

    def _pool(self, x, gem):
        if self.pooling == "max":
            return x.amax((2, 3))
        return x.mean((2, 3)) if self.pooling == "avg" else getattr(self, gem)(x)

    def forward(self, x):
        maps = self.feature_maps(x)
        x4, x5 = maps["layer3"], maps["layer4"]
        if self.merge:
            c5 = torch.relu(self.conv1x5(F.interpolate(x5, x4.shape[2:], mode="nearest")))
            x4 = torch.relu(self.conv3c4(x4 + c5))
        x = torch.cat([self._pool(x4, "adpoolc4"), self._pool(x5, "adpoolx5")], dim=1)
        if self.norm_features:
            x = F.normalize(x)
        return F.normalize(x if self.fc is None else self.fc(x))


def create_network(arch, **options):
    """`arch` and options as in `dir_jax.models.create_model`; in evaluation mode."""
    backbone, head = arch.split("_", 1)
    bottleneck, counts = {
        "resnet18": (False, (2, 2, 2, 2)),
        "resnet50": (True, (3, 4, 6, 3)),
        "resnet101": (True, (3, 4, 23, 3)),
        "resnet152": (True, (3, 8, 36, 3)),
    }[backbone]
    if head == "rmac":
        return Network(bottleneck, counts, **options).eval()
    merge = {"fpn_rmac": True, "fpn0_rmac": False}[head]
    return PyramidNetwork(bottleneck, counts, merge=merge, **options).eval()
