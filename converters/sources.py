"""What a checkpoint file holds, in one form, whichever of the three toolboxes wrote it.

- DIR: `state_dict`, `model_options`, `preprocess`, `pca`.
- torchvision (and timm): a state dict with an ImageNet classifier.
- cirtorch (CNN Image Retrieval in PyTorch): `state_dict` of `features.N`, `pool`, `whiten`; `meta`.
  Its ImageNet backbones are the features alone, named `0.weight`, `1.weight`, `4.0.conv1.weight`.

A safetensors file is one of these by its names; its metadata may have `model_options` and
`preprocess` as JSON. Names and keys that training wraps around a network are taken off.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters.file_errors import CheckpointFileError, some
from converters.reader import CONTAINERS, PARTS
from converters.whitenings import from_lw, from_pca, numbers
from dir_jax.data.stand_ins import Inert
from dir_jax.description import PREPROCESS_RULES
from dir_jax.errors import shown
from dir_jax.fields import check_fields, is_whole
from dir_jax.models.options import OPTION_RULES
from dir_jax.models.preprocess import Preprocessing
from dir_jax.models.resnet import BOTTLENECK, RESNETS
from dir_jax.retrieval.whitening import Whitening

# What wrapping a network puts before its names.
_WRAPPERS = re.compile(r"((module|_orig_mod|backbone|model)\.)+")
_COUNTERS = ("epoch", "iter", "current_iter")
_OUR_OPTIONS = ("dtype", "precision")  # which `to_torch` adds, beside DIR's own
# Options of the original toolbox that say how a network was made, not what it is.
_IRRELEVANT_OPTIONS = ("pretrained", "scales", "delete_fc")
_CIRTORCH_POOLING = {"mac": "max", "spoc": "avg", "gem": "gem"}
# Children of torchvision's ResNet as numbered in cirtorch's Sequential; 2 and 3 have no weights.
_CIRTORCH_CHILDREN = {"0": "conv1", "1": "bn1", **{str(i + 3): f"layer{i}" for i in range(1, 5)}}


@dataclasses.dataclass
class Source:
    """A checkpoint file's content.

    Attributes:
      kind: 'DIR', 'torchvision', 'cirtorch' or 'cirtorch features'.
      tensors: torch's name -> array of any type and layout, named as in DIR.
      stated: the network's options that the file states.
      inferred: the options that follow from which tensors there are.
      preprocessing: how the network's input is made.
      whitenings: the whitenings by name.
      counters: how long the network was trained, where the file says so.
      skipped: (what, why) of everything that is not taken over.
      extra: the options that `to_torch` adds, which only we have.
    """

    kind: str
    tensors: dict[str, np.ndarray]
    stated: dict[str, Any]
    inferred: dict[str, Any]
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    whitenings: dict[str, Whitening] = dataclasses.field(default_factory=dict)
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def recognise(tree: Any) -> Source:
    """Sorts what `reader.read_file` gave.

    Raises:
      CheckpointFileError: it is none of the three kinds, or a part of it makes no sense.
    """
    if isinstance(tree, Inert):
        raise CheckpointFileError("it holds an object, not weights; save its state_dict instead")
    if not isinstance(tree, dict):
        raise CheckpointFileError(f"it holds a {type(tree).__name__}, not a dict with a state_dict")
    if tree and all(isinstance(value, np.ndarray) for value in tree.values()):
        tree = {"state_dict": tree}
    container = next((key for key in CONTAINERS if isinstance(tree.get(key), dict)), "state_dict")
    if container not in tree:
        raise CheckpointFileError(
            f"it has no state_dict; its keys are {some([str(key) for key in tree]) or 'none'}"
        )
    tensors = _tensors(tree[container])
    tree = tree | _from_metadata(tree.get("safetensors"))
    if any(name.startswith("features.") for name in tensors):
        source = _from_cirtorch(tree, tensors)
    elif "0.weight" in tensors:
        source = _from_features(tensors)
    else:
        source = _from_resnet(tree, tensors)
    for key, value in tree.items():
        value = _plain_number(value)
        if key in _COUNTERS and is_whole(value, 0, 1 << 60):
            source.counters[key] = value
        elif key == "optimizer":
            source.skipped.append((key, "the state of PyTorch's optimiser"))
        elif key not in (container, *PARTS):
            source.skipped.append((shown(key), "not a part of a model"))
    counts = [name for name in source.tensors if name.endswith(".num_batches_tracked")]
    _drop(source, counts, f"{len(counts)} × num_batches_tracked", "nothing reads them")
    return source


def drop_projection(source: Source, why: str) -> None:
    """Leaves out `fc`, if there is one."""
    names = [name for name in ("fc.weight", "fc.bias") if name in source.tensors]
    _drop(source, names, ", ".join(names), why)


def _drop(source: Source, names: Sequence[str], what: str, why: str) -> None:
    for name in names:
        del source.tensors[name]
    source.skipped += [(what, why)] if names else []


def _unwrapped(name: str) -> str:
    """A tensor's name without the prefixes of DataParallel, torch.compile and training scripts."""
    match = _WRAPPERS.match(name)
    return name[match.end() :] if match else name


def _from_metadata(metadata: Any) -> dict[str, Any]:
    found = {}
    for key in ("model_options", "preprocess") if isinstance(metadata, dict) else ():
        try:
            found.update({key: json.loads(metadata[key])} if key in metadata else {})
        except (ValueError, RecursionError):
            raise CheckpointFileError(f"its metadata's {key} is not JSON") from None
    return found


def _part(tree: dict[Any, Any], key: str) -> Any:
    return {} if tree.get(key) is None else tree[key]


def _plain_number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_off(value: Any) -> bool:
    """Whether an option's value turns it off. An array has no truth value."""
    value = _plain_number(value)
    return value is None or (isinstance(value, str | int | float) and not value)


def _tensors(state: Any) -> dict[str, np.ndarray]:
    if not isinstance(state, dict) or not state:
        raise CheckpointFileError("its state_dict is not a dict of tensors, or it is empty")
    tensors: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, np.ndarray)):
            raise CheckpointFileError(
                f"{shown(name)} in its state_dict is a {type(value).__name__}, not a tensor"
            )
        if tensors.setdefault(_unwrapped(name), value) is not value:
            raise CheckpointFileError(
                f"its state_dict has {shown(name)} with and without the prefix of a wrapper"
            )
    return tensors


def _from_resnet(tree: dict[Any, Any], tensors: dict[str, np.ndarray]) -> Source:
    """DIR's networks and torchvision's, whose backbones have the same names."""
    stated, skipped = _model_options(tree.get("model_options", {}))
    classifier = tensors.get("fc.weight")
    if "model_options" not in tree and classifier is not None and classifier.shape[0] == 1000:
        source = Source("torchvision", tensors, stated, _infer(tensors), skipped=skipped)
        # The network that torchvision made of this backbone averages over the image.
        source.inferred |= {"pooling": "avg", "without_fc": True}
        del source.inferred["out_dim"]
        drop_projection(source, "the classifier of ImageNet's 1000 categories")
        return source
    source = Source("DIR", tensors, stated, _infer(tensors), skipped=skipped)
    source.whitenings = from_pca(_part(tree, "pca"))
    source.preprocessing = _preprocessing(_part(tree, "preprocess"), "preprocess")
    if isinstance(extra := tree.get("dir_jax"), dict):
        found = {key: extra.get(key) for key in _OUR_OPTIONS}
        source.extra = _checked_options("its dir_jax", found)
    return source


def _from_cirtorch(tree: dict[Any, Any], tensors: dict[str, np.ndarray]) -> Source:
    meta = _part(tree, "meta")
    if not isinstance(meta, dict):
        raise CheckpointFileError(f"its meta is a {type(meta).__name__}, not a dict")
    for key in ("regional", "local_whitening"):
        if not _is_off(meta.get(key)):
            raise CheckpointFileError(f"it is a cirtorch network with {key}: not supported")
    architecture = meta.get("architecture")
    if architecture is not None and _plain(architecture) not in RESNETS:
        raise CheckpointFileError(
            f"it is a cirtorch network on {_plain(architecture)}; supported are "
            f"{', '.join(RESNETS)}"
        )
    renamed = {_from_cirtorch_name(name): tensor for name, tensor in tensors.items()}
    stated: dict[str, Any] = {"without_fc": "fc.weight" not in renamed, "norm_features": False}
    # The pooled vector is normalised in any case; without projection that is the last step.
    stated["norm_features"] = not stated["without_fc"]
    if architecture is not None:
        stated["arch"] = f"{architecture}_rmac"
    if (pooling := meta.get("pooling")) is not None:
        if not isinstance(pooling, str) or pooling not in _CIRTORCH_POOLING:
            raise CheckpointFileError(
                f"it is a cirtorch network with {_plain(pooling)} pooling; supported are "
                f"{', '.join(_CIRTORCH_POOLING)}"
            )
        stated["pooling"] = _CIRTORCH_POOLING[pooling]
    source = Source("cirtorch", renamed, stated, _infer(renamed))
    source.whitenings = from_lw(_part(meta, "Lw"))
    source.preprocessing = _preprocessing(meta, "meta")
    return source


def _from_features(tensors: dict[str, np.ndarray]) -> Source:
    """cirtorch's ImageNet backbones, which have no head: like torchvision's without classifier."""
    renamed = {_from_cirtorch_name(f"features.{name}"): x for name, x in tensors.items()}
    inferred = _infer(renamed) | {"pooling": "avg", "without_fc": True}
    return Source("cirtorch features", renamed, {}, inferred)


def _from_cirtorch_name(name: str) -> str:
    if match := re.fullmatch(r"features\.(\d+)\.(.+)", name):
        child, rest = match.groups()
        return f"{_CIRTORCH_CHILDREN.get(child, f'features.{child}')}.{rest}"
    return re.sub(r"^whiten\.", "fc.", re.sub(r"^pool\.p$", "adpool.p", name))


def _model_options(options: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    if not isinstance(options, dict):
        raise CheckpointFileError(f"its model_options are a {type(options).__name__}, not a dict")
    stated, skipped = {}, []
    for key, value in options.items():
        if key in OPTION_RULES.keys() - _OUR_OPTIONS:
            stated[key] = value
        elif key in _IRRELEVANT_OPTIONS or _is_off(value):
            skipped.append((f"model_options.{shown(key)}", "does not change the network"))
        else:
            raise CheckpointFileError(
                f"its model_options have {shown(key)}, which no supported network has"
            )
    return _checked_options("its model_options", stated), skipped


def _checked_options(what: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options with the values that they may have; DIR writes some flags as 0 and 1."""
    rules = {key: OPTION_RULES[key] for key in options}
    options = {key: _plain_number(value) for key, value in options.items()}
    for key, value in options.items():
        if rules[key].allows(True) and type(value) is int and value in (0, 1):
            options[key] = bool(value)
    check_fields(what, options, rules)
    return options


def _infer(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The options that follow from which tensors there are."""
    blocks = [re.match(r"layer([1-4])\.(\d{1,3})\.", name) for name in tensors]
    counts = tuple(
        1 + max((int(b[2]) for b in blocks if b and b[1] == str(layer)), default=-1)
        for layer in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in tensors
    inferred: dict[str, Any] = {}
    for backbone, variant in RESNETS.items():
        if variant.depths == counts and (variant.block == BOTTLENECK) == bottleneck:
            head = "fpn0_rmac" if "adpoolx5.p" in tensors else "rmac"
            head = "fpn_rmac" if "conv1x5.weight" in tensors else head
            inferred["arch"] = f"{backbone}_{head}"
    if "adpool.p" in tensors or "adpoolx5.p" in tensors:
        inferred["pooling"] = "gem"
    if "fc.weight" in tensors:
        inferred["out_dim"] = (tensors["fc.weight"].shape or (0,))[0]
    return inferred


def _preprocessing(values: Any, what: str) -> Preprocessing:
    if not isinstance(values, dict):
        raise CheckpointFileError(f"its {what} is a {type(values).__name__}, not a dict")
    found = {
        key: _as_list(values[key], f"{what}'s {key}")
        for key in PREPROCESS_RULES
        if values.get(key) is not None
    }
    check_fields(f"its {what}", found, {key: PREPROCESS_RULES[key] for key in found})
    fields: dict[str, Any] = {key: tuple(map(float, value)) for key, value in found.items()}
    return Preprocessing(**fields)


def _as_list(value: Any, what: str) -> Any:
    if isinstance(value, np.ndarray):
        return numbers(value, what).ravel().tolist()
    return list(map(_plain_number, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> str:
    return shown(value) if isinstance(value, str) else f"a {type(value).__name__}"
