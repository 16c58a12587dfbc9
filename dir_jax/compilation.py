"""How XLA is to compile a network's programs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

# Of what XLA's CPU compiler gives to its library YNNPACK by default (single products and
# convolutions, and what can be fused with them), only single products: its convolutions are up to
# twice as slow as XLA's own, and ResNet-50 takes a fifth less time.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """For `jax.jit(compiler_options=…)` of programs that run on `platform`; None for none.

    The option is an experimental one of XLA's: where it is not known, there is none.
    """
    if platform != "cpu":
        return None
    try:
        jax.jit(jnp.negative, compiler_options=_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return _CPU
