"""A network's options, and what each may be."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

from dir_jax.errors import UserError
from dir_jax.models.pooling import POOLINGS, pooling_kind


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
        lambda v: isinstance(v, str) and pooling_kind(v) is not None,
        f"one of {', '.join(map(repr, POOLINGS))}",
    ),
    "gemp": (lambda v: _is_number(v, 0) and v > 0, "a number above 0"),
    "center_bias": (lambda v: _is_number(v, 0), "a number of at least 0"),
    "dropout_p": (lambda v: v is None or _is_number(v, 0, 1), "None or a number in [0, 1)"),
    "without_fc": (lambda v: isinstance(v, bool), "True or False"),
    "dtype": (lambda v: v in ("float32", "bfloat16"), "'float32' or 'bfloat16'"),
    "precision": (lambda v: v in ("default", "high", "highest"), "'default', 'high' or 'highest'"),
}


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
        for name, (is_valid, expected) in _OPTIONS.items():
            value = getattr(self, name)
            if not is_valid(value):
                raise UserError(f"the model's {name} is {value!r}; it must be {expected}")
