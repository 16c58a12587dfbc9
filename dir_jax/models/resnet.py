"""ResNet v1.5 (He et al., CVPR 2016; the stride on a bottleneck's 3×3): an image's feature maps.

Attributes are called as in torchvision, `layer1[0].conv1` and so on, so that converting a torch
checkpoint is a renaming. A variant is a row of `DEPTHS`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dir_jax.models.layers import BatchNorm, Conv, max_pool, normalized
from dir_jax.models.padding import reduced


class BasicBlock(nnx.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        *,
        dtype: str,
        precision: str,
        rng: np.random.Generator,
    ):
        """Maps `features_in` to `width` channels."""
        options: dict[str, Any] = {"dtype": dtype, "precision": precision, "rng": rng}
        self.stride = stride
        self.conv1 = Conv(features_in, width, 3, stride, **options)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, **options)
        self.bn2 = BatchNorm(width)
        self.downsample = _shortcut(features_in, width, stride, **options)

    def __call__(
        self, x: jax.Array, sizes: jax.Array | None = None, *, use_running_average: bool
    ) -> jax.Array:
        """(N, H, W, features_in) -> (N, ceil(H / stride), ceil(W / stride), width)."""
        statistics: dict[str, Any] = {"use_running_average": use_running_average}
        y = nnx.relu(normalized(self.conv1, self.bn1, x, sizes, **statistics))
        y = normalized(self.conv2, self.bn2, y, reduced(sizes, self.stride), **statistics)
        y = _rectified_sum(y, _apply_shortcut(self.downsample, x, **statistics))
        return y.astype(x.dtype)


class Bottleneck(nnx.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut."""

    expansion = 4

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        *,
        dtype: str,
        precision: str,
        rng: np.random.Generator,
    ):
        """Maps `features_in` to 4 · `width` channels."""
        options: dict[str, Any] = {"dtype": dtype, "precision": precision, "rng": rng}
        features = self.expansion * width
        self.stride = stride
        self.conv1 = Conv(features_in, width, 1, **options)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride, **options)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, features, 1, **options)
        self.bn3 = BatchNorm(features)
        self.downsample = _shortcut(features_in, features, stride, **options)

    def __call__(
        self, x: jax.Array, sizes: jax.Array | None = None, *, use_running_average: bool
    ) -> jax.Array:
        """(N, H, W, features_in) -> (N, ceil(H / stride), ceil(W / stride), 4 · width)."""
        statistics: dict[str, Any] = {"use_running_average": use_running_average}
        y = nnx.relu(normalized(self.conv1, self.bn1, x, **statistics))
        y = nnx.relu(normalized(self.conv2, self.bn2, y, sizes, **statistics))
        y = normalized(self.conv3, self.bn3, y, **statistics)
        y = _rectified_sum(y, _apply_shortcut(self.downsample, x, **statistics))
        return y.astype(x.dtype)


# Name -> block, and how many of them each of the four stages has.
DEPTHS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nnx.Module):
    """The backbone, without torchvision's average pooling and classifier."""

    def __init__(self, name: str, *, dtype: str, precision: str, rng: np.random.Generator):
        """Builds the variant `name` of `DEPTHS`."""
        options: dict[str, Any] = {"dtype": dtype, "precision": precision, "rng": rng}
        block, counts = DEPTHS[name]
        self.conv1 = Conv(3, 64, 7, 2, **options)
        self.bn1 = BatchNorm(64)
        features = 64
        for i, count in enumerate(counts):
            blocks = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(features, 64 << i, stride, **options))
                features = block.expansion * (64 << i)
            setattr(self, f"layer{i + 1}", nnx.List(blocks))
        self.features = features

    def feature_maps(
        self,
        images: jax.Array,
        sizes: jax.Array | None = None,
        *,
        use_running_average: bool = True,
    ) -> dict[str, jax.Array]:
        """Every stage's output.

        Args:
          images: (N, H, W, 3), normalised.
          sizes: (N, 2) int32, where images have padding; see `dir_jax.models.padding`.
          use_running_average: BatchNorm uses its running statistics; else the batch's.

        Returns:
          'stem' at a quarter of the image's height and width and 'layer1' … 'layer4' at 1/4, 1/8,
          1/16, 1/32, each rounded up at every halving: (N, h, w, channels).
        """
        statistics: dict[str, Any] = {"use_running_average": use_running_average}
        x = nnx.relu(normalized(self.conv1, self.bn1, images, sizes, **statistics))
        x, sizes = max_pool(x, reduced(sizes, 2)).astype(self.conv1.dtype), reduced(sizes, 4)
        maps = {"stem": x}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            for block in getattr(self, name):
                x, sizes = block(x, sizes, **statistics), reduced(sizes, block.stride)
            maps[name] = x
        return maps


@jax.custom_vjp
def _rectified_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """relu(x + y) of finite maps.

    Written so that it ends in a sum of two maps, and as matrices, as the next product takes it:
    XLA's CPU compiler computes a map that is read twice (by the next block, and by its shortcut)
    once if it has two operands, but a function of one again for each reader, and with it all sums
    of the stage so far. −y + y is 0.
    """
    shape, width = x.shape, x.shape[-1]
    x, y = x.reshape(-1, width), y.reshape(-1, width)
    return (jnp.where(x <= -y, -y, x) + y).reshape(shape)


def _rectified_sum_forward(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _rectified_sum(x, y), x <= -y


def _rectified_sum_backward(is_zero: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
    # One map for both; derived from the sum above they would be two, equal but not seen to be.
    cotangent = jnp.where(is_zero, 0, cotangent)
    return cotangent, cotangent


_rectified_sum.defvjp(_rectified_sum_forward, _rectified_sum_backward)


def _shortcut(features_in: int, features: int, stride: int, **options: Any) -> nnx.List | None:
    """The projection of a block that changes its input's shape; torch's `downsample`."""
    if stride == 1 and features_in == features:
        return None
    return nnx.List([Conv(features_in, features, 1, stride, **options), BatchNorm(features)])


def _apply_shortcut(
    downsample: nnx.List | None, x: jax.Array, *, use_running_average: bool
) -> jax.Array:
    """Float32, as what it is added to."""
    if downsample is None:
        return x.astype(jnp.float32)
    conv, norm = downsample
    return normalized(conv, norm, x, use_running_average=use_running_average)
