"""The networks: `create_model(arch, **options)`."""

from __future__ import annotations

import dataclasses

import numpy as np

from dir_jax.errors import UserError
from dir_jax.models.network import ARCHITECTURES, ModelConfig, RetrievalNetwork

__all__ = ["ARCHITECTURES", "ModelConfig", "RetrievalNetwork", "create_model"]


def create_model(arch: str, *, seed: int = 0, **options: object) -> RetrievalNetwork:
    """A network with random weights.

    Args:
      arch: 'resnet18_rmac', 'resnet50_rmac', 'resnet101_rmac' or 'resnet152_rmac'.
      seed: of the weights.
      **options: the fields of `ModelConfig`.

    Raises:
      UserError: an unknown architecture or option, or an option's value that makes no sense.
    """
    known = [field.name for field in dataclasses.fields(ModelConfig) if field.name != "arch"]
    for name in options:
        if name not in known:
            raise UserError(f"there is no model option {name!r}; choose from {', '.join(known)}")
    config = ModelConfig(arch, **options)  # type: ignore[arg-type]
    return RetrievalNetwork(config, rng=np.random.default_rng(seed))
