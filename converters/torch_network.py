"""The networks in PyTorch, as DIR defines them: what a converted network must compute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dir_jax.models import ModelConfig
from dir_jax.models.resnet import RESNETS


class Residual(nn.Module):
    """A basic block (He et al., CVPR 2016), or a bottleneck with its stride on the 3×3."""

    def __init__(self, features_in: int, width: int, stride: int, expansion: int):
        """Maps `features_in` to `width` · `expansion` channels."""
        super().__init__()
        features = width * expansion
        # (in, out, size, stride) of each convolution
        plan = [(features_in, width, 3, stride), (width, width, 3, 1)]
        if expansion > 1:
            plan = [(features_in, width, 1, 1), (width, width, 3, stride), (width, features, 1, 1)]
        for i, (c_in, c_out, size, step) in enumerate(plan, start=1):
            conv = nn.Conv2d(c_in, c_out, size, step, padding=size // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(c_out))
        self._last = len(plan)
        self.downsample = None
        if stride != 1 or features_in != features:
            self.downsample = nn.Sequential(
                nn.Conv2d(features_in, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, features_in, H, W) -> (N, width · expansion, H / stride, W / stride)."""
        y = x
        for i in range(1, self._last + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = F.relu(y) if i < self._last else y
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class GeM(nn.Module):
    """Generalised-mean pooling (Radenović et al., TPAMI 2018) by the trainable power `p`, (1,)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C)."""
        return x.clamp(min=1e-6).pow(self.p).mean(dim=(-2, -1)).pow(1 / self.p)


class TorchNetwork(nn.Module):
    """A retrieval network whose state dict has the names of the published checkpoints."""

    def __init__(self, config: ModelConfig):
        """Builds what `config` describes, with torch's random weights."""
        super().__init__()
        self.config = config
        backbone, self._head = config.arch.split("_", 1)  # 'rmac', 'fpn_rmac' or 'fpn0_rmac'
        expansion = RESNETS[backbone].block.expansion
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        features = 64
        for i, count in enumerate(RESNETS[backbone].depths):
            blocks = []
            for j in range(count):
                stride = 2 if i and not j else 1
                blocks.append(Residual(features, 64 << i, stride, expansion))
                features = (64 << i) * expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        if self._head == "rmac":
            self.adpool = self._pooling()
        else:
            self.adpoolx5, self.adpoolc4 = self._pooling(), self._pooling()
            if self._head == "fpn_rmac":
                self.conv1x5 = nn.Conv2d(features, features // 2, 1, bias=False)
                self.conv3c4 = nn.Conv2d(features // 2, features // 2, 3, padding=1, bias=False)
            features += features // 2
        if not config.without_fc:
            self.fc = nn.Linear(features, config.out_dim)

    def _pooling(self) -> nn.Module:
        plain = {"max": nn.AdaptiveMaxPool2d, "avg": nn.AdaptiveAvgPool2d}
        if self.config.pooling in plain:
            return nn.Sequential(plain[self.config.pooling](1), nn.Flatten())
        return GeM(self.config.gemp)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W), normalised -> (N, out_dim) of unit norm."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, padding=1)
        stages = [self.get_submodule(f"layer{i}") for i in range(1, 5)]
        x4 = stages[2](stages[1](stages[0](x)))
        x5 = stages[3](x4)
        x = self.adpool(self._centred(x5)) if self._head == "rmac" else self._pyramid(x4, x5)
        if self.config.norm_features:
            x = F.normalize(x)
        return F.normalize(x if self.config.without_fc else self.fc(x))

    def _centred(self, x: torch.Tensor) -> torch.Tensor:
        if not self.config.center_bias:
            return x
        grid = F.pad(torch.full((1, 1, 2, 2), float(self.config.center_bias)), (1, 1, 1, 1))
        return x * F.interpolate(1 + grid, x.shape[-2:], mode="bilinear", align_corners=True)

    def _pyramid(self, x4: torch.Tensor, x5: torch.Tensor) -> torch.Tensor:
        if self._head == "fpn_rmac":
            c5 = F.relu(self.conv1x5(F.interpolate(x5, x4.shape[-2:], mode="nearest")))
            x4 = F.relu(self.conv3c4(x4 + c5))
        return torch.cat((self.adpoolc4(x4), self.adpoolx5(x5)), dim=1)
