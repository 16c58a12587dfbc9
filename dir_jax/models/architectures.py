"""The table of architectures, and `create_model`, which builds what a row of it describes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from dir_jax.errors import UserError, did_you_mean, shown
from dir_jax.models.network import RetrievalNetwork
from dir_jax.models.options import ModelConfig
from dir_jax.models.pyramid import PyramidNetwork, UnmergedPyramidNetwork
from dir_jax.models.resnet import RESNETS


class Architecture(NamedTuple):
    """A backbone and the network around it."""

    backbone: str
    """A key of `resnet.RESNETS`."""
    network: type[RetrievalNetwork]


ARCHITECTURES = {
    **{f"{name}_rmac": Architecture(name, RetrievalNetwork) for name in RESNETS},
    **{f"{name}_fpn_rmac": Architecture(name, PyramidNetwork) for name in RESNETS},
    "resnet101_fpn0_rmac": Architecture("resnet101", UnmergedPyramidNetwork),
}
"""Name -> architecture."""


def create_model(arch: str, *, seed: int | None = 0, **options: Any) -> RetrievalNetwork:
    """Builds a network with random weights.

    Args:
      arch: a key of `ARCHITECTURES`: 'resnet50_rmac', 'resnet101_fpn_rmac', …
      seed: of the weights; None for kernels that are only shapes, for `split_variables` to compare
        with and `merge_variables` to replace.
      **options: the fields of `ModelConfig`. By default `out_dim` is 2048, and for the
        feature-pyramid networks the length of what they pool.

    Returns:
      The network, a Flax NNX module.

    Raises:
      UserError: an unknown architecture or option, or an option's value that makes no sense.
    """
    known = [field.name for field in dataclasses.fields(ModelConfig) if field.name != "arch"]
    for name in options:
        if name not in known:
            raise UserError(f"there is no model option {name!r}; choose from {', '.join(known)}")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise UserError(
            f"there is no architecture {shown(repr(arch))}; choose from {', '.join(ARCHITECTURES)}"
            f"{did_you_mean(str(arch), ARCHITECTURES)}"
        )
    backbone, network = ARCHITECTURES[arch]
    variant = RESNETS[backbone]
    config = ModelConfig(arch, **{"out_dim": network.default_out_dim(variant), **options})
    rng = None if seed is None else np.random.default_rng(seed)
    return network(config, variant, rng=rng)
