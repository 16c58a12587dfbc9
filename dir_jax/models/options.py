"""A network's options, and what each may be."""

from __future__ import annotations

import dataclasses

from dir_jax.fields import Rule, check_fields, is_number, is_whole
from dir_jax.models.pooling import POOLINGS, pooling_kind

OPTION_RULES = {
    "arch": Rule(lambda v: isinstance(v, str), "the name of an architecture"),
    "out_dim": Rule(lambda v: is_whole(v, 1, 1 << 16), "a whole number from 1 to 65,536"),
    "norm_features": Rule(lambda v: isinstance(v, bool), "True or False"),
    "pooling": Rule(
        lambda v: isinstance(v, str) and pooling_kind(v) is not None,
        f"one of {', '.join(map(repr, POOLINGS))}",
    ),
    "gemp": Rule(lambda v: is_number(v, 0) and v > 0, "a number above 0 and below 1e38"),
    "center_bias": Rule(lambda v: is_number(v, 0), "a number from 0 to 1e38"),
    "dropout_p": Rule(lambda v: v is None or is_number(v, 0, 1), "a number in [0, 1), or none"),
    "without_fc": Rule(lambda v: isinstance(v, bool), "True or False"),
    "dtype": Rule(lambda v: v in ("float32", "bfloat16"), "'float32' or 'bfloat16'"),
    "precision": Rule(
        lambda v: v in ("default", "high", "highest"), "'default', 'high' or 'highest'"
    ),
}
"""Option -> what it may be."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A network's architecture and options: what a checkpoint's `model.json` holds of it.

    Attributes:
      arch: a key of `architectures.ARCHITECTURES`.
      out_dim: the length of a descriptor.
      norm_features: whether the pooled features are L2-normalised before the projection.
      pooling: 'gem' or any name that starts with it, 'max' (MAC), or 'avg' (SPoC).
      gemp: the power that GeM starts from.
      center_bias: how much more the image's centre weighs; 0 turns it off.
      dropout_p: the probability of dropping a feature while training; None turns it off.
      without_fc: whether to leave out the projection; the descriptor is then the pooled vector.
      dtype: of the convolutions and their maps. Everything else, parameters included, is float32.
      precision: of float32 products on accelerators: 'highest' is exact, 'default' may be TF32.
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
        """Raises UserError for an option's value that no network has."""
        check_fields("the model's options", vars(self), OPTION_RULES)
