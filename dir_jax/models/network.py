"""The retrieval network: a ResNet, pooling, a projection and L2 normalisation; one vector an image.

Gordo et al., IJCV 2017; Revaud et al., ICCV 2019.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError
from dir_jax.models.layers import Linear, dropout
from dir_jax.models.padding import reduced
from dir_jax.models.pooling import center_bias_map, create_pooling
from dir_jax.models.resnet import DEPTHS, ResNet

ARCHITECTURES = {
    **{f"{backbone}_rmac": backbone for backbone in DEPTHS},
    **{f"{backbone}_fpn_rmac": backbone for backbone in DEPTHS},
    "resnet101_fpn0_rmac": "resnet101",
}
"""Name -> backbone. Those with 'fpn' are `pyramid.PyramidNetwork`s."""


def _is_number(value: object, low: float, below: float = math.inf) -> bool:
    return isinstance(value, numbers.Real) and low <= float(value) < below


# Option -> what it may be, as a test and in words.
_OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "out_dim": (
        lambda v: isinstance(v, numbers.Integral) and 0 < int(v) <= 1 << 16,
        "a whole number from 1 to 65,536",
    ),
    "norm_features": (lambda v: isinstance(v, bool), "True or False"),
    "pooling": (
        lambda v: v in ("max", "avg") or (isinstance(v, str) and v.startswith("gem")),
        "'gem', 'max' or 'avg'",
    ),
    "gemp": (lambda v: _is_number(v, 0) and v > 0, "a number above 0"),
    "center_bias": (lambda v: _is_number(v, 0), "a number of at least 0"),
    "dropout_p": (lambda v: v is None or _is_number(v, 0, 1), "None or a number in [0, 1)"),
    "without_fc": (lambda v: isinstance(v, bool), "True or False"),
    "dtype": (lambda v: v in ("float32", "bfloat16"), "'float32' or 'bfloat16'"),
    "precision": (
        lambda v: v in ("default", "high", "highest"),
        "'default', 'high' or 'highest'",
    ),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A network's architecture and options; what `model.json` keeps of it.

    Attributes:
      arch: a key of `ARCHITECTURES`.
      out_dim: the descriptor's length.
      norm_features: L2-normalise the pooled features before the projection.
      pooling: 'gem' or any name that starts with it, 'max' (MAC), or 'avg'.
      gemp: the power that GeM starts from.
      center_bias: how much more the image's centre weighs; 0 is off.
      dropout_p: probability of dropping a feature while training; None is off.
      without_fc: no projection; the descriptor is the pooled vector.
      dtype: of the convolutions and their maps; the rest, and parameters, are float32.
      precision: of float32 products on accelerators; 'highest' is exact, 'default' may be TF32.
    """

    arch: str
    out_dim: int = 2048
    norm_features: bool = False
    pooling: str = "gem"
    gemp: float = 3
    center_bias: float = 0
    dropout_p: float | None = None
    without_fc: bool = False
    dtype: str = "float32"
    precision: str = "highest"

    def __post_init__(self) -> None:
        """Raises UserError for a value that no network has."""
        if self.arch not in ARCHITECTURES:
            near = difflib.get_close_matches(self.arch, ARCHITECTURES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"there is no architecture {self.arch!r}; choose from "
                f"{', '.join(ARCHITECTURES)}{hint}"
            )
        for name, (is_valid, expected) in _OPTIONS.items():
            value = getattr(self, name)
            if not is_valid(value):
                raise UserError(f"the model's {name} is {value!r}; it must be {expected}")


class RetrievalNetwork(ResNet):
    """An image's descriptor: a unit vector, compared by dot product."""

    def __init__(self, config: ModelConfig, *, rng: np.random.Generator):
        """Weights drawn from `rng`; see `create_model`."""
        options: dict[str, Any] = {"dtype": config.dtype, "precision": config.precision, "rng": rng}
        super().__init__(ARCHITECTURES[config.arch], **options)
        self.config = config
        self.features = self._create_head(**options)
        if not config.without_fc:
            self.fc = Linear(self.features, config.out_dim, precision=config.precision, rng=rng)

    def _create_head(self, **options: Any) -> int:
        """Makes what comes before the projection; returns the pooled vector's length."""
        del options
        self.adpool = create_pooling(self.config.pooling, self.config.gemp)
        return self.features

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
          sizes: (N, 2) int32, height and width of each image where they are of several sizes: each
            is at the top left of its H × W, and gets the descriptor that it would get alone. Only
            with `use_running_average`, as the batch's statistics would include the padding.
          use_running_average: BatchNorm uses its running statistics. Otherwise it uses the
            batch's, and updates them.
          dropout_keys: (N,) PRNG keys, one an image, so that a mask does not depend on what else
            is in the batch; None drops nothing.

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

    def describe_maps(
        self,
        maps: dict[str, jax.Array],
        sizes: jax.Array | None = None,
        *,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """From the feature maps of images of `sizes` to the descriptor, (N, out_dim) float32."""
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
        """(N, C) float32 from the (N, h, w, C) map 'layer4'."""
        x, config, sizes = maps["layer4"], self.config, reduced(sizes, 32)
        if config.dropout_p and dropout_keys is not None:
            x = dropout(x, dropout_keys, config.dropout_p)
        if config.center_bias:
            weights = center_bias_map(config.center_bias, x.shape[1], x.shape[2], sizes)
            x = x * weights.astype(x.dtype)
        return self.adpool(x, sizes)


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / max(‖x‖, 1e-12) along the last axis; its gradient is finite at 0, too."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The floor is on the square, where the root's gradient is still finite.
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
