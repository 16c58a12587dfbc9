"""A network's variables as flat dictionaries: what is trained, differentiated, saved and compared.

`'layer1.0.conv1.kernel' -> array` is a pytree like any other, and its names are those of torch's
state dicts, but for the last part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from flax import nnx

from dir_jax.models.resnet import ResNet

Variables = dict[str, Any]  # dotted path -> array
_Module = TypeVar("_Module", bound=nnx.Module)


def split_variables(model: _Module) -> tuple[nnx.GraphDef[_Module], Variables, Variables]:
    """Splits a network into its structure, its parameters and its BatchNorm statistics.

    Returns:
      graphdef: the structure, static and hashable; it closes over no array.
      params: dotted path -> float32 array, for every `nnx.Param`.
      stats: dotted path -> float32 array, for every `nnx.BatchStat`.
    """
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(_to_flat, states)
    return graphdef, params, stats


def merge_variables(
    graphdef: nnx.GraphDef[_Module], params: Mapping[str, Any], stats: Mapping[str, Any]
) -> _Module:
    """The inverse of `split_variables`. It can also be used while tracing."""
    return nnx.merge(graphdef, _from_flat(params, nnx.Param), _from_flat(stats, nnx.BatchStat))


def statistics(model: nnx.Module) -> Variables:
    """The BatchNorm statistics that a network holds now, for use after a call that updated them."""
    return _to_flat(nnx.state(model, nnx.BatchStat))


def batch_norm_parameters(params: Mapping[str, Any]) -> set[str]:
    """The paths of BatchNorm's scales and biases; no other layer has a scale."""
    owners = {path.removesuffix(".scale") for path in params if path.endswith(".scale")}
    return {f"{owner}.{leaf}" for owner in owners for leaf in ("scale", "bias")}


# The backbone is one part of a network in Python, but in names on disk, as in torch's state dicts,
# its parts stand beside the others: 'layer1.0.conv1.kernel'. Only these two functions know.
_BACKBONE = "backbone"


def _to_flat(state: nnx.State) -> Variables:
    flat = {
        path[1:] if path[0] == _BACKBONE else path: variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }
    return {".".join(map(str, path)): flat[path] for path in sorted(flat)}


def _from_flat(flat: Mapping[str, Any], kind: type[nnx.Variable]) -> nnx.State:
    def path_of(name: str) -> tuple[str | int, ...]:
        path = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        return (_BACKBONE, *path) if path[0] in ResNet.PARTS else path

    return nnx.from_flat_state([(path_of(name), kind(value)) for name, value in flat.items()])


def count_parameters(params: Mapping[str, Any]) -> int:
    """How many numbers the parameters hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(dict(params)))
