"""Reads the arrays that Orbax writes, with TensorStore alone: Orbax takes longer to import.

Orbax's `PyTreeCheckpointHandler` keeps a tree of arrays in a folder, each as a Zarr array in one
OCDBT store, under its keys joined by dots; the file `_METADATA` lists their keys. The formats are
described at https://orbax.readthedocs.io and https://google.github.io/tensorstore.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from dir_jax.description import DamagedCheckpointError
from dir_jax.errors import UserError
from dir_jax.runtime.reading import read_json

LARGEST_METADATA = 64 << 20  # bytes


def open_arrays(folder: Path) -> dict[str, Any]:
    """The arrays of a folder, open but not read: nested dictionaries of `tensorstore.TensorStore`.

    Each has a `shape` and a `dtype`. Raises DamagedCheckpointError without the list of keys, and
    whatever else comes of files that Orbax did not write, or that are damaged.
    """
    try:
        listing = read_json(folder / "_METADATA", most=LARGEST_METADATA)
    except UserError as e:
        raise DamagedCheckpointError(str(e)) from e
    context = tensorstore.Context()
    tree: dict[str, Any] = {}
    for entry in listing["tree_metadata"].values():
        *parents, name = (key["key"] for key in entry["key_metadata"])
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        if entry["value_metadata"]["value_type"] == "Dict":  # one without entries
            branch[name] = {}
            continue
        files = {"driver": "file", "path": f"{folder}/"}
        path = ".".join([*parents, name]) + "/"
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": files, "path": path},
        }
        branch[name] = tensorstore.open(spec, read=True, open=True, context=context)
    return _map(lambda future: future.result(), tree)


def read_arrays(opened: Mapping[str, Any]) -> dict[str, Any]:
    """What `open_arrays` has opened, as nested dictionaries of NumPy arrays."""
    reads = _map(lambda store: store.read(), opened)
    return _map(lambda future: np.asarray(future.result()), reads)


def _map(change: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _map(change, value) if isinstance(value, dict) else change(value)
        for name, value in tree.items()
    }
