"""The feature-pyramid networks, which pool the backbone's last two feature maps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dir_jax.models.layers import Conv
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.padding import reduced
from dir_jax.models.pooling import create_pooling
from dir_jax.models.resnet import Variant


class PyramidNetwork(RetrievalNetwork):
    """A retrieval network on the maps 'layer3' and 'layer4', each with a pooling of its own.

    The coarse map is first added to the fine one, as in feature pyramids (Lin et al., CVPR 2017).
    Centre bias and dropout are not applied.
    """

    merges_maps = True

    @classmethod
    def default_out_dim(cls, backbone: Variant) -> int:
        """The length of what is pooled."""
        return backbone.features + backbone.features // 2

    def _create_pooling(self, features: int, **options: Any) -> int:
        coarse, fine = features, features // 2
        self.adpoolx5 = create_pooling(self.config.pooling, self.config.gemp)
        self.adpoolc4 = create_pooling(self.config.pooling, self.config.gemp)
        if self.merges_maps:
            self.conv1x5 = Conv(coarse, fine, 1, **options)
            self.conv3c4 = Conv(fine, fine, 3, **options)
        return coarse + fine

    def pool(
        self,
        maps: dict[str, jax.Array],
        sizes: jax.Array | None = None,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Pools the (N, h, w, C) maps 'layer3' and 'layer4' to (N, C3 + C4) float32."""
        del dropout_keys
        x4, x5 = maps["layer3"], maps["layer4"]
        sizes4, sizes5 = reduced(sizes, 16), reduced(sizes, 32)
        if self.merges_maps:
            c5 = _resize_nearest(x5, x4.shape[1:3], sizes5, sizes4)
            x4 = nnx.relu(self.conv3c4(x4 + nnx.relu(self.conv1x5(c5)), sizes4))
        return jnp.concatenate([self.adpoolc4(x4, sizes4), self.adpoolx5(x5, sizes5)], axis=-1)


class UnmergedPyramidNetwork(PyramidNetwork):
    """The pyramid network that pools both maps as they are ('fpn0')."""

    merges_maps = False


def _resize_nearest(
    x: jax.Array, shape: tuple[int, ...], sizes: jax.Array | None, new_sizes: jax.Array | None
) -> jax.Array:
    """(N, h, w, C) -> (N, *shape, C), where row i is row ⌊i · h / new h⌋ of an image's own part."""
    if sizes is None or new_sizes is None:
        sizes, new_sizes = jnp.array([x.shape[1:3]]), jnp.array([shape])
    for axis, length in enumerate(shape, start=1):
        old, new = sizes[:, axis - 1 : axis], new_sizes[:, axis - 1 : axis]
        source = jnp.minimum(jnp.arange(length) * old // new, x.shape[axis] - 1)
        source = jnp.expand_dims(source, [d for d in (1, 2, 3) if d != axis])
        x = jnp.take_along_axis(x, source, axis)
    return x
