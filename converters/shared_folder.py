"""A model as a folder that others can read: safetensors with torch's names, and model.json.

model.safetensors       the network's arrays, named and laid out as in torchvision and DIR; the
                        metadata has DIR's `model_options` and `preprocess` as JSON
whitening.safetensors   the whitenings' arrays, `NAME/FIELD`; only where there are whitenings
model.json              as in a checkpoint, with the digests of all arrays
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from converters.naming import from_torch_layout, to_torch_layout, torch_name
from converters.reader import read_file
from dir_jax.checkpoint import Checkpoint, arrays_of, check_variables
from dir_jax.description import (
    DamagedCheckpointError,
    check_digests,
    preprocessing_of,
    read_description,
    recipe_of,
)
from dir_jax.errors import UserError, shown
from dir_jax.models import create_model
from dir_jax.models.variables import merge_variables, split_variables
from dir_jax.retrieval.whitening import Whitening

WEIGHTS, WHITENINGS, DESCRIPTION = "model.safetensors", "whitening.safetensors", "model.json"
FILES = (WEIGHTS, WHITENINGS, DESCRIPTION)
_OURS = ("dtype", "precision")  # options that only we have


def write_shared(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the files of a model into a folder that exists."""
    _, params, stats = split_variables(checkpoint.model)
    tensors = {}
    for name, value in (params | stats).items():
        tensors[torch_name(name)] = to_torch_layout(name, np.array(value, np.float32))
        if name.endswith(".var"):  # torch's BatchNorm has a counter, too, and asks for it
            tensors[f"{name.removesuffix('var')}num_batches_tracked"] = np.zeros((), np.int64)
    description = checkpoint.description
    options = {k: v for k, v in description["model"].items() if k not in _OURS}
    metadata = {
        "format": "pt",  # which other programs look for
        "model_options": json.dumps(options),
        "preprocess": json.dumps(description["preprocess"]),
    }
    save_file(tensors, folder / WEIGHTS, metadata)
    if checkpoint.whitenings:
        fields = {
            f"{name}/{field}": np.ascontiguousarray(array)
            for name, whitening in checkpoint.whitenings.items()
            for field, array in whitening.to_arrays().items()
        }
        save_file(fields, folder / WHITENINGS)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")


def read_shared(folder: str | os.PathLike[str], **options: Any) -> Checkpoint:
    """Reads what `write_shared` wrote; `options` as in `dir_jax.loading.load_model`.

    Raises:
      UserError: a file is missing or damaged, or they do not belong together.
    """
    folder = Path(folder)
    description = read_description(folder / DESCRIPTION)
    what = f"the model {folder}"
    graphdef, *expected = split_variables(create_model(**description["model"] | options, seed=None))
    tensors = read_file(folder / WEIGHTS)["state_dict"]
    params, stats = ({name: _array(tensors, name, what) for name in part} for part in expected)
    for ours, theirs in zip(expected, (params, stats), strict=True):
        check_variables(ours, theirs, what)
    whitenings = _read_whitenings(folder) if description["whitening"] else {}
    check_digests(description, {"arrays": arrays_of(params, stats, whitenings)}, what)
    return Checkpoint(
        merge_variables(graphdef, params, stats), preprocessing_of(description), whitenings,
        recipe_of(description), description,
    )  # fmt: skip


def _array(tensors: Mapping[str, np.ndarray], name: str, what: str) -> np.ndarray:
    """Our array `name`, from torch's tensors."""
    array = tensors.get(torch_name(name))
    if (
        array is None
        or array.dtype != np.float32
        or (name.endswith(".kernel") and array.ndim not in (2, 4))
    ):
        found = "is missing" if array is None else f"is {array.dtype}, of shape {array.shape}"
        raise DamagedCheckpointError(f"{what}: {torch_name(name)} {found}")
    return from_torch_layout(name, array)


def _read_whitenings(folder: Path) -> dict[str, Whitening]:
    fields: dict[str, dict[str, Any]] = {}
    for key, array in read_file(folder / WHITENINGS)["state_dict"].items():
        name, _, field = key.rpartition("/")
        fields.setdefault(name, {})[field] = array
    try:
        return {name: Whitening.from_arrays(arrays) for name, arrays in fields.items()}
    except (UserError, ValueError) as e:  # `whiten` of several values has no truth
        raise DamagedCheckpointError(f"{folder / WHITENINGS}: {shown(e)}") from e
