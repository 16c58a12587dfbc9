"""A network's variables as flat dictionaries: what is trained, differentiated, saved and compared.

`'layer1.0.conv1.kernel' -> array` is a pytree like any other, and reads like torch's state dicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from flax import nnx

Variables = dict[str, Any]  # dotted path -> array
_Module = TypeVar("_Module", bound=nnx.Module)


def split_variables(model: _Module) -> tuple[nnx.GraphDef[_Module], Variables, Variables]:
    """Splits a network into its structure, its parameters and its BatchNorm statistics.

    Returns:
      graphdef: static and hashable; closes over nothing.
      params: dotted path -> float32 array, of every `nnx.Param`.
      stats: dotted path -> float32 array, of every `nnx.BatchStat`.
    """
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(_to_flat, states)
    return graphdef, params, stats


def merge_variables(
    graphdef: nnx.GraphDef[_Module], params: Mapping[str, Any], stats: Mapping[str, Any]
) -> _Module:
    """The inverse of `split_variables`; also usable while tracing."""
    return nnx.merge(graphdef, _from_flat(params, nnx.Param), _from_flat(stats, nnx.BatchStat))


def statistics(model: nnx.Module) -> Variables:
    """The BatchNorm statistics that a network holds now (after a call that updated them)."""
    return _to_flat(nnx.state(model, nnx.BatchStat))


def batch_norm_parameters(params: Mapping[str, Any]) -> set[str]:
    """The paths of BatchNorm's scales and biases; no other layer has a scale."""
    owners = {path.removesuffix(".scale") for path in params if path.endswith(".scale")}
    return {f"{owner}.{leaf}" for owner in owners for leaf in ("scale", "bias")}


def _to_flat(state: nnx.State) -> Variables:
    return {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }


def _from_flat(flat: Mapping[str, Any], kind: type[nnx.Variable]) -> nnx.State:
    def path_of(name: str) -> tuple[str | int, ...]:
        return tuple(int(part) if part.isdigit() else part for part in name.split("."))

    return nnx.from_flat_state([(path_of(name), kind(value)) for name, value in flat.items()])


def count_parameters(params: Mapping[str, Any]) -> int:
    """How many numbers the parameters hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(dict(params)))
