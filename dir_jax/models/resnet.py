"""ResNet v1.5 (He et al., CVPR 2016, with a bottleneck's stride on its 3×3): the feature maps.

A variant is a row of `RESNETS`: what its blocks are made of, and how many each stage has.
Attributes are named as in torchvision, `layer1[0].conv1` and so on, so that converting a torch
checkpoint is a renaming.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dir_jax.models import kernels
from dir_jax.models.layers import BatchNorm, Conv, max_pool, normalized
from dir_jax.models.padding import reduced


@dataclasses.dataclass(frozen=True)
class Block:
    """What a residual block is made of.

    Attributes:
      kernel_sizes: of its convolutions, in order.
      strided: which of them takes the block's stride, counted from 1.
      expansion: the features of the last one, in multiples of those of the others.
    """

    kernel_sizes: tuple[int, ...]
    strided: int
    expansion: int


BASIC = Block(kernel_sizes=(3, 3), strided=1, expansion=1)
BOTTLENECK = Block(kernel_sizes=(1, 3, 1), strided=2, expansion=4)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A ResNet: its kind of block, and how many blocks each of the four stages has."""

    block: Block
    depths: tuple[int, int, int, int]

    @property
    def features(self) -> int:
        """Channels of the last feature map."""
        return 512 * self.block.expansion


RESNETS = {
    "resnet18": Variant(BASIC, (2, 2, 2, 2)),
    "resnet50": Variant(BOTTLENECK, (3, 4, 6, 3)),
    "resnet101": Variant(BOTTLENECK, (3, 4, 23, 3)),
    "resnet152": Variant(BOTTLENECK, (3, 8, 36, 3)),
}
"""Name -> variant. Each is the backbone of the networks that `architectures` makes of it."""


class ResidualBlock(nnx.Module):
    """Convolutions `conv1`, `conv2`, … with a BatchNorm after each, and a shortcut around them."""

    def __init__(
        self, features_in: int, width: int, stride: int, block: Block, conv: Callable[..., Conv]
    ):
        """Builds a block whose convolutions have `width` features, the last `expansion` times that.

        `conv` makes a convolution from (features_in, features, kernel_size, stride).
        """
        self.stride = stride
        self.depth = len(block.kernel_sizes)
        features = features_in
        for i, size in enumerate(block.kernel_sizes, start=1):
            previous, features = features, width * (block.expansion if i == self.depth else 1)
            own_stride = stride if i == block.strided else 1
            setattr(self, f"conv{i}", conv(previous, features, size, own_stride))
            setattr(self, f"bn{i}", BatchNorm(features))
        changes_shape = stride > 1 or features_in != features
        self.downsample: nnx.List | None = (
            nnx.List([conv(features_in, features, 1, stride), BatchNorm(features)])
            if changes_shape
            else None
        )

    def __call__(
        self, x: jax.Array, sizes: jax.Array | None = None, *, use_running_average: bool
    ) -> jax.Array:
        """(N, H, W, features_in) -> (N, ceil(H / stride), ceil(W / stride), features).

        `sizes` are those of the images in x, see `dir_jax.models.padding`.
        """
        norm = functools.partial(normalized, use_running_average=use_running_average)
        y = x
        for i in range(1, self.depth + 1):
            conv, bn = getattr(self, f"conv{i}"), getattr(self, f"bn{i}")
            y = norm(conv, bn, nnx.relu(y) if i > 1 else x, sizes)
            sizes = reduced(sizes, conv.stride)
        shortcut = x.astype(jnp.float32)
        if self.downsample is not None:
            conv, bn = self.downsample
            shortcut = norm(conv, bn, x)
        return kernels.add_relu(y, shortcut).astype(x.dtype)


class ResNet(nnx.Module):
    """The backbone: a ResNet without its average pooling and classifier."""

    STAGES = ("layer1", "layer2", "layer3", "layer4")
    PARTS = ("conv1", "bn1", *STAGES)

    def __init__(
        self, variant: Variant, *, dtype: str, precision: str, rng: np.random.Generator | None
    ):
        """Builds a variant, with weights drawn from `rng`; see `Conv` for the rest."""
        conv = functools.partial(Conv, dtype=dtype, precision=precision, rng=rng)
        self.conv1 = conv(3, 64, 7, 2)
        self.bn1 = BatchNorm(64)
        features = 64
        for i, (name, depth) in enumerate(zip(self.STAGES, variant.depths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(ResidualBlock(features, 64 << i, stride, variant.block, conv))
                features = variant.block.expansion * (64 << i)
            setattr(self, name, nnx.List(blocks))

    def __call__(
        self, images: jax.Array, sizes: jax.Array | None = None, *, use_running_average: bool = True
    ) -> dict[str, jax.Array]:
        """Computes the feature maps of images.

        Args:
          images: (N, H, W, 3), normalised.
          sizes: (N, 2) int32, where images have padding; see `dir_jax.models.padding`.
          use_running_average: BatchNorm uses its running statistics; otherwise the batch's.

        Returns:
          The output of every stage, (N, h, w, channels): 'stem' and 'layer1' at a quarter of the
          image's height and width, 'layer2', 'layer3' and 'layer4' at 1/8, 1/16 and 1/32. Sides are
          rounded up at every halving.
        """
        x = nnx.relu(
            normalized(self.conv1, self.bn1, images, sizes, use_running_average=use_running_average)
        )
        x, sizes = max_pool(x, reduced(sizes, 2)).astype(self.conv1.dtype), reduced(sizes, 4)
        maps = {"stem": x}
        for name in self.STAGES:
            for block in getattr(self, name):
                x = block(x, sizes, use_running_average=use_running_average)
                sizes = reduced(sizes, block.stride)
            maps[name] = x
        return maps
