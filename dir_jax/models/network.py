"""The retrieval network: a ResNet, pooling, a projection and L2 normalisation; one vector an image.

Gordo et al., IJCV 2017; Revaud et al., ICCV 2019.
"""

from __future__ import annotations

import dataclasses
import difflib

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError
from dir_jax.models.layers import Linear
from dir_jax.models.pooling import center_bias_map, create_pooling
from dir_jax.models.resnet import DEPTHS, ResNet

ARCHITECTURES = {f"{backbone}_rmac": backbone for backbone in DEPTHS}
_DTYPES = ("float32", "bfloat16")
_PRECISIONS = ("default", "high", "highest")


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
      dtype: of the convolutions and the projection; parameters are float32.
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
        """Raises UserError for what no network has."""
        if self.arch not in ARCHITECTURES:
            near = difflib.get_close_matches(self.arch, ARCHITECTURES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"there is no architecture {self.arch!r}; choose from "
                f"{', '.join(ARCHITECTURES)}{hint}"
            )
        if not (self.pooling in ("max", "avg") or self.pooling.startswith("gem")):
            raise UserError(f"there is no pooling {self.pooling!r}; choose from gem, max, avg")
        for name, choices in (("dtype", _DTYPES), ("precision", _PRECISIONS)):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"the model's {name} is {getattr(self, name)!r}; "
                    f"choose from {', '.join(choices)}"
                )
        if self.out_dim < 1:
            raise UserError(f"the model's out_dim is {self.out_dim}; it must be at least 1")
        if self.gemp <= 0:
            raise UserError(f"the model's gemp is {self.gemp}; it must be positive")
        if self.dropout_p is not None and not 0 <= self.dropout_p < 1:
            raise UserError(f"the model's dropout_p is {self.dropout_p}; it must be in [0, 1)")


class RetrievalNetwork(ResNet):
    """An image's descriptor: a unit vector, compared by dot product."""

    def __init__(self, config: ModelConfig, *, rng: np.random.Generator):
        """Weights drawn from `rng`; see `create_model`."""
        options = {"dtype": config.dtype, "precision": config.precision, "rng": rng}
        super().__init__(ARCHITECTURES[config.arch], **options)
        self.config = config
        self.adpool = create_pooling(config.pooling, config.gemp)
        if not config.without_fc:
            self.fc = Linear(self.features, config.out_dim, **options)

    def __call__(
        self,
        images: jax.Array,
        *,
        use_running_average: bool = True,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Describes images.

        Args:
          images: (N, H, W, 3) float32, normalised; see `preprocess.normalize`.
          use_running_average: BatchNorm uses its running statistics. Otherwise it uses the
            batch's, and updates them.
          dropout_keys: (N,) PRNG keys, one an image, so that a mask does not depend on what else
            is in the batch; None drops nothing.

        Returns:
          (N, out_dim) float32 of unit norm.
        """
        chex.assert_rank(images, 4)
        chex.assert_axis_dimension(images, 3, 3)
        maps = self.feature_maps(images, use_running_average=use_running_average)
        return self.describe_features(maps["layer4"], dropout_keys=dropout_keys)

    def describe_features(
        self, x: jax.Array, *, dropout_keys: jax.Array | None = None
    ) -> jax.Array:
        """From the last feature map, (N, h, w, C), to the descriptor, (N, out_dim) float32."""
        config = self.config
        if config.dropout_p and dropout_keys is not None:
            chex.assert_shape(dropout_keys, x.shape[:1])
            keep = jax.vmap(
                lambda key: jax.random.bernoulli(key, 1 - config.dropout_p, x.shape[1:])
            )
            x = jnp.where(keep(dropout_keys), x / (1 - config.dropout_p), 0)
        if config.center_bias:
            x = x * center_bias_map(config.center_bias, *x.shape[1:3]).astype(x.dtype)
        x = self.adpool(x)
        if config.norm_features:
            x = l2_normalize(x)
        if not config.without_fc:
            x = self.fc(x).astype(jnp.float32)
        return l2_normalize(x)


def l2_normalize(x: jax.Array) -> jax.Array:
    """x / max(‖x‖, 1e-12) along the last axis; its gradient is finite at 0, too."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The floor is on the square, where the root's gradient is still finite.
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
