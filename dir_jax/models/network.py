"""The retrieval network: from images to one unit vector each.

A backbone's feature maps are pooled to one vector, projected and L2-normalised: Gordo et al., IJCV
2017, section 3, with max-pooling; Revaud et al., ICCV 2019, section 3.1, with GeM.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import numpy as np
from flax import nnx

from dir_jax.models.layers import Linear, dropout, l2_normalize
from dir_jax.models.options import ModelConfig
from dir_jax.models.padding import reduced
from dir_jax.models.pooling import center_bias_map, create_pooling
from dir_jax.models.resnet import ResNet, Variant


class RetrievalNetwork(nnx.Module):
    """Describes an image by a unit vector; descriptors are compared by dot product."""

    def __init__(self, config: ModelConfig, backbone: Variant, *, rng: np.random.Generator | None):
        """Draws the weights from `rng`; use `create_model`, which looks up the backbone."""
        options: dict[str, Any] = {"dtype": config.dtype, "precision": config.precision, "rng": rng}
        self.config = config
        self.backbone = ResNet(backbone, **options)
        self.features = self._create_pooling(backbone.features, **options)
        if not config.without_fc:
            self.fc = Linear(self.features, config.out_dim, precision=config.precision, rng=rng)

    @classmethod
    def default_out_dim(cls, backbone: Variant) -> int:
        """The length of a descriptor where no option says otherwise."""
        del backbone
        return 2048

    def _create_pooling(self, features: int, **options: Any) -> int:
        """Makes what pools a map of so many channels; returns the pooled vector's length."""
        del options
        self.adpool = create_pooling(self.config.pooling, self.config.gemp)
        return features

    @property
    def descriptor_size(self) -> int:
        """The length of a descriptor."""
        return self.features if self.config.without_fc else self.config.out_dim

    def __call__(
        self,
        images: jax.Array,
        sizes: jax.Array | None = None,
        *,
        use_running_average: bool = True,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Describes images.

        Args:
          images: (N, H, W, 3) float32, normalised; see `preprocess.normalize`.
          sizes: (N, 2) int32, the height and width of each image where they differ. Each image is
            at the top left of its H × W, and gets the descriptor that it would get alone. This
            needs `use_running_average`, since the batch's statistics would include the padding.
          use_running_average: BatchNorm uses its running statistics. Otherwise it uses the
            batch's, and updates the running ones.
          dropout_keys: (N,) PRNG keys, one for each image, so that its mask does not depend on the
            rest of the batch. None drops nothing.

        Returns:
          (N, out_dim) float32 of unit norm.
        """
        chex.assert_rank(images, 4)
        chex.assert_axis_dimension(images, 3, 3)
        chex.assert_type(images, float)  # whole numbers would be pixels, not yet normalised
        if sizes is not None:
            chex.assert_shape(sizes, (len(images), 2))
            chex.assert_type(sizes, int)
            chex.assert_equal(use_running_average, True)
        maps = self.feature_maps(images, sizes, use_running_average=use_running_average)
        return self.describe_maps(maps, sizes, dropout_keys=dropout_keys)

    def feature_maps(
        self, images: jax.Array, sizes: jax.Array | None = None, *, use_running_average: bool = True
    ) -> dict[str, jax.Array]:
        """The backbone's maps of images, by the names of its stages; see `ResNet`."""
        return self.backbone(images, sizes, use_running_average=use_running_average)

    def describe_maps(
        self,
        maps: dict[str, jax.Array],
        sizes: jax.Array | None = None,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """From the feature maps of images of `sizes` to their descriptors, (N, out_dim) float32."""
        x = self.pool(maps, sizes, dropout_keys=dropout_keys)
        if self.config.norm_features:
            x = l2_normalize(x)
        if not self.config.without_fc:
            x = self.fc(x)
        return l2_normalize(x)

    def pool(
        self,
        maps: dict[str, jax.Array],
        sizes: jax.Array | None = None,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Pools the (N, h, w, C) map 'layer4' to (N, C) float32."""
        x, config, sizes = maps["layer4"], self.config, reduced(sizes, 32)
        if config.dropout_p and dropout_keys is not None:
            x = dropout(x, dropout_keys, config.dropout_p)
        if config.center_bias:
            weights = center_bias_map(config.center_bias, x.shape[1], x.shape[2], sizes)
            x = x * weights.astype(x.dtype)
        return self.adpool(x, sizes)
