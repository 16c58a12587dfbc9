"""A checkpoint's `model.json`: what it says of a model, and the digests that show damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dir_jax.errors import UserError, shown
from dir_jax.fields import Rule, check_fields, is_number, is_whole
from dir_jax.model_recipe import Recipe, published_recipe, recipe_from_json
from dir_jax.models import RetrievalNetwork
from dir_jax.models.options import OPTION_RULES
from dir_jax.models.preprocess import Preprocessing
from dir_jax.runtime.reading import read_json

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_LARGEST_FILE = 8 << 20  # bytes; of a ResNet-152's training state it has 0.2 MB
_LARGEST_MEAN = 1e6  # of an image in [0, 1], or in [0, 255]
_VERSIONED = ("dir_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
_ITSELF = "model.json"  # its own key among the digests


def _are_three(values: Any, low: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(is_number(value, low, _LARGEST_MEAN) for value in values)
    )


_OBJECT = Rule(lambda v: isinstance(v, dict), "an object")
_RULES = {
    "format_version": Rule(lambda v: is_whole(v, 0, 1 << 31), "a whole number"),
    "model": _OBJECT,
    "preprocess": _OBJECT,
    "whitening": Rule(
        lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v),
        "a list of names",
    ),
    "digests": Rule(
        lambda v: isinstance(v, dict) and all(isinstance(digest, str) for digest in v.values()),
        "an object of digests",
        required=False,
    ),
}
PREPROCESS_RULES = {
    "mean": Rule(lambda v: _are_three(v, -_LARGEST_MEAN), "three numbers below a million"),
    "std": Rule(lambda v: _are_three(v, 1e-30), "three numbers above 0 and below a million"),
}


class DamagedCheckpointError(UserError):
    """A checkpoint is incomplete, or is not what was written."""


def describe_model(
    model: RetrievalNetwork,
    preprocessing: Preprocessing,
    items: Mapping[str, Any],
    notes: Mapping[str, Any] | None,
    recipe: Recipe,
) -> dict[str, Any]:
    """What `model.json` says of a model that is kept as the trees of arrays `items`."""
    description = {
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(model.config),
        "preprocess": dataclasses.asdict(preprocessing),
        "whitening": list(items["arrays"]["whitening"]),
        "recipe": recipe.to_json(),
        "versions": {name: metadata.version(name) for name in _VERSIONED},
        **(notes or {}),
    }
    digests = {_ITSELF: _digest_of(description), **_digests(items)}
    return {**description, "digests": digests}


def notes_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """What `describe_model` was given as notes."""
    own = (*_RULES, "recipe", "versions")
    return {name: value for name, value in description.items() if name not in own}


def read_description(file: Path) -> dict[str, Any]:
    """Reads a model's `model.json`, and checks the type and range of each field.

    Raises:
      DamagedCheckpointError: it does not describe a model.
      UserError: it is of another version of the format.
    """
    try:
        description = read_json(file, most=_LARGEST_FILE)
        check_fields("it", description, _RULES, closed=False)
        if (version := description["format_version"]) == FORMAT_VERSION:
            check_fields("its model", description["model"], OPTION_RULES)
            check_fields("its preprocess", description["preprocess"], PREPROCESS_RULES)
            recipe_of(description)
            digests = description.get("digests")
            if digests is not None and digests.get(_ITSELF) != _digest_of(description):
                raise UserError("it is not what was written; save the model again")
    except (UserError, RecursionError) as e:
        why = first_line(e).replace(f"{file} ", "it ", 1)
        raise DamagedCheckpointError(f"{file} does not describe a model: {why}") from e
    if version != FORMAT_VERSION:
        raise UserError(f"{file} has format version {version}; this dir_jax reads {FORMAT_VERSION}")
    return description


def preprocessing_of(description: Mapping[str, Any]) -> Preprocessing:
    """How the network's input is made."""
    return Preprocessing(**{name: tuple(x) for name, x in description["preprocess"].items()})


def recipe_of(description: Mapping[str, Any]) -> Recipe:
    """How images are described with the model; a model that says nothing is used as published."""
    if "recipe" in description:
        return recipe_from_json("its recipe", description["recipe"])
    return published_recipe(description["whitening"])


def check_digests(description: Mapping[str, Any], items: Mapping[str, Any], what: str) -> None:
    """Raises DamagedCheckpointError unless all arrays are those that were written.

    A checkpoint without digests, of dir_jax 0.1.0, is read with a warning.
    """
    expected = description.get("digests")
    if expected is None:
        log.warning("%s has no digests, so damage to it cannot be noticed", what)
        return
    found = _digests(items)
    read = tuple(f"[{name!r}]" for name in items)  # a model is read without its training state
    names = {*found, *(name for name in expected if name.startswith(read))}
    if wrong := sorted(name for name in names if expected.get(name) != found.get(name)):
        raise DamagedCheckpointError(
            f"{what} is damaged: {len(wrong)} of its arrays are not what was written, such as "
            f"{shown(wrong[0])}"
        )


def _digest_of(description: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in description.items() if name != "digests"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digests(items: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of every array's type, shape and bytes, by its place in the checkpoint."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(items)):
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(f"{array.dtype} {np.shape(leaf)} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        found[jax.tree_util.keystr(path)] = digest.hexdigest()
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
