"""The feature-pyramid networks: descriptors of the last two stages, side by side."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dir_jax.models.layers import Conv
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.pooling import create_pooling


class PyramidNetwork(RetrievalNetwork):
    """A retrieval network on layer3's and layer4's maps, each with a pooling of its own.

    `<resnet>_fpn_rmac` first adds the coarse map to the fine one, as feature pyramids do (Lin et
    al., CVPR 2017); `resnet101_fpn0_rmac` takes both as they are. Centre bias and dropout are not
    applied.
    """

    def _create_head(self, **options: Any) -> int:
        coarse = self.features
        fine = coarse // 2
        self.adpoolx5 = create_pooling(self.config.pooling, self.config.gemp)
        self.adpoolc4 = create_pooling(self.config.pooling, self.config.gemp)
        self.adds_maps = self.config.arch.endswith("_fpn_rmac")
        if self.adds_maps:
            self.conv1x5 = Conv(coarse, fine, 1, **options)
            self.conv3c4 = Conv(fine, fine, 3, **options)
        return coarse + fine

    def pool(
        self, maps: dict[str, jax.Array], *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """(N, C3 + C4) float32 from the (N, h, w, C) maps 'layer3' and 'layer4'."""
        del dropout_keys
        x4, x5 = maps["layer3"], maps["layer4"]
        if self.adds_maps:
            c5 = nnx.relu(self.conv1x5(_resize_nearest(x5, *x4.shape[1:3])))
            x4 = nnx.relu(self.conv3c4(x4 + c5))
        return jnp.concatenate([self.adpoolc4(x4), self.adpoolx5(x5)], axis=-1)


def _resize_nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """(N, h, w, C) -> (N, height, width, C); row i is row ⌊i · h / height⌋."""
    rows = np.arange(height) * x.shape[1] // height
    columns = np.arange(width) * x.shape[2] // width
    return x[:, rows][:, :, columns]
