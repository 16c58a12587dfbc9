"""The networks: `create_model(arch, **options)`."""

from __future__ import annotations

import dataclasses

import numpy as np

from dir_jax.errors import UserError
from dir_jax.models.network import ARCHITECTURES, ModelConfig, RetrievalNetwork
from dir_jax.models.pyramid import PyramidNetwork
from dir_jax.models.resnet import DEPTHS

__all__ = ["ARCHITECTURES", "ModelConfig", "RetrievalNetwork", "create_model"]


def create_model(arch: str, *, seed: int = 0, **options: object) -> RetrievalNetwork:
    """A network with random weights.

    Args:
      arch: a key of `ARCHITECTURES`: 'resnet50_rmac', 'resnet101_fpn_rmac', …
      seed: of the weights.
      **options: the fields of `ModelConfig`. `out_dim` is 2048 by default, and for the
        feature-pyramid networks the length of what they pool.

    Raises:
      UserError: an unknown architecture or option, or an option's value that makes no sense.
    """
    known = [field.name for field in dataclasses.fields(ModelConfig) if field.name != "arch"]
    for name in options:
        if name not in known:
            raise UserError(f"there is no model option {name!r}; choose from {', '.join(known)}")
    pyramid = "_fpn" in arch and arch in ARCHITECTURES
    if pyramid:
        options.setdefault("out_dim", 768 * DEPTHS[ARCHITECTURES[arch]][0].expansion)
    config = ModelConfig(arch, **options)  # type: ignore[arg-type]
    network = PyramidNetwork if pyramid else RetrievalNetwork
    return network(config, rng=np.random.default_rng(seed))
