"""The on-disk format of a model, and of a training run's state.

A checkpoint is a directory:

    model/model.json   architecture and options, preprocessing, whitenings, versions, and a digest
                       of every array, which is checked whenever the arrays are read
    arrays/            parameters, BatchNorm statistics, whitenings (Orbax)
    train/             optimiser, step and sampler (Orbax); only in a run's `checkpoints/STEP/`

`read_model` takes such a directory, or a training run's directory, which has one in `model/`.
`dir_jax.loading` also takes the files of other programs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dir_jax.errors import UserError, shown
from dir_jax.model_recipe import Recipe, published_recipe, read_recipe
from dir_jax.models import RetrievalNetwork, create_model
from dir_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dir_jax.models.variables import Variables, merge_variables, split_variables
from dir_jax.retrieval.whitening import Whitening

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_LARGEST_MEAN = 1e6  # of an image in [0, 1], or in [0, 255]
_LARGEST_WHITENING = 1 << 28  # elements of an array: 16,384 × 16,384
_VERSIONED = ("dir_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


class DamagedCheckpointError(UserError):
    """A checkpoint is incomplete, or is not what was written."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an RGB image in [0, 1] becomes a network's input: minus `mean`, over `std`."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as read from disk."""

    model: RetrievalNetwork
    preprocessing: Preprocessing
    whitenings: dict[str, Whitening]
    recipe: Recipe
    description: dict[str, Any]  # model.json

    def whitening(self, name: str) -> Whitening:
        """The whitening called `name`. Raises UserError, with the names there are, if it is not."""
        if name not in self.whitenings:
            there = ", ".join(self.whitenings) or "none"
            raise UserError(f"the checkpoint has no whitening {name!r}; it has {there}")
        return self.whitenings[name]


def save_model(
    directory: str | os.PathLike[str],
    model: RetrievalNetwork,
    *,
    preprocessing: Preprocessing | None = None,
    whitenings: Mapping[str, Whitening] | None = None,
    recipe: Recipe | None = None,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a model as a checkpoint directory, whole or not at all.

    Args:
      directory: the directory to make; its parents are made too.
      model: the network.
      preprocessing: how the network's input is made; ImageNet's mean and deviation by default.
      whitenings: name -> a whitening to keep with the model.
      recipe: how images are described with it; by default as the published models are evaluated.
      notes: JSON values to add to model.json (step, metrics, origin).
      overwrite: whether an existing directory is replaced; otherwise it is refused.

    Raises:
      UserError: `directory` exists and `overwrite` is False, or it cannot be written.
    """
    target = Path(directory).absolute()
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already; choose another directory, or overwrite it")
    _, params, stats = split_variables(model)
    whitenings = dict(whitenings or {})
    arrays = arrays_of(params, stats, whitenings)
    description = describe_model(
        model,
        preprocessing or Preprocessing(),
        list(whitenings),
        {"arrays": arrays},
        notes,
        recipe or published_recipe(whitenings),
    )
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            with ocp.Checkpointer(
                ocp.CompositeCheckpointHandler(**orbax_handlers())
            ) as checkpointer:
                checkpointer.save(
                    scratch / "new",
                    ocp.args.Composite(
                        model=ocp.args.JsonSave(description),
                        arrays=ocp.args.PyTreeSave(arrays),
                    ),
                )
            if target.exists():
                target.rename(scratch / "old")
            (scratch / "new").rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def read_model(path: str | os.PathLike[str], **options: Any) -> Checkpoint:
    """Reads a model from a checkpoint directory or from a training run's directory.

    Args:
      path: the directory.
      **options: options of `ModelConfig` that replace the model's own, such as dtype='bfloat16'.

    Raises:
      UserError: there is no checkpoint, it is incomplete, or its arrays are not those of the
        network that its model.json, or an option, describes.
    """
    directory = find_checkpoint(path)
    description = read_description(directory)
    model = create_model(**description["model"] | options)
    graphdef, params, stats = split_variables(model)
    what = f"the checkpoint {directory}"
    try:
        # Before anything is allocated: damaged metadata may claim arrays of any size. From the
        # handler, as the checkpointer warns of a file that Orbax does not write here.
        shapes = ocp.PyTreeCheckpointHandler().metadata(directory / "arrays").tree
        check_variables(params, shapes["params"], what)
        check_variables(stats, shapes["batch_stats"], what)
        _check_whitenings(shapes.get("whitening") or {}, what)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            arrays = checkpointer.restore(directory / "arrays")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{what} cannot be read: {first_line(e)}") from e
    check_digests(description, {"arrays": arrays}, what)
    whitenings = {
        name: Whitening.from_arrays(fields)
        for name, fields in (arrays.get("whitening") or {}).items()
    }
    return Checkpoint(
        model=merge_variables(graphdef, arrays["params"], arrays["batch_stats"]),
        preprocessing=_read_preprocessing(description),
        whitenings=whitenings,
        recipe=read_recipe(description.get("recipe"), whitenings),
        description=description,
    )


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint directory that `path` means: itself, a run's `model/`, or its newest step.

    Raises:
      UserError: there is none.
    """
    root = Path(path).absolute()
    if not root.exists():
        raise UserError(f"there is no checkpoint {root}")
    if not root.is_dir():
        raise UserError(f"{root} is a file; expected the directory of a checkpoint")
    steps = [p for p in (root / "checkpoints").glob("[0-9]*") if p.name.isdigit()]
    newest = sorted(steps, key=lambda p: int(p.name), reverse=True)
    for candidate in (root, root / "model", *newest):
        if (candidate / "model" / "model.json").is_file() and (candidate / "arrays").is_dir():
            return candidate
    raise UserError(
        f"{root} is not a checkpoint: it holds neither model/model.json with arrays/, nor a "
        "training run's model/ or checkpoints/"
    )


def _check_whitenings(whitenings: Mapping[str, Any], what: str) -> None:
    for name, fields in whitenings.items():
        for field, array in fields.items():
            if math.prod(array.shape) > _LARGEST_WHITENING:
                raise UserError(
                    f"{what}: {field} of the whitening {shown(name)} has shape {array.shape}, "
                    "which is larger than any whitening"
                )


def read_description(directory: Path) -> dict[str, Any]:
    """Reads and checks a checkpoint's model.json."""
    file = directory / "model" / "model.json"
    try:
        description = json.loads(file.read_text())
        version = description["format_version"]
        if not all(isinstance(x, str | int | float | None) for x in description["model"].values()):
            raise ValueError("an option of the model is neither text nor a number")
        _ = description["model"]["arch"], _read_preprocessing(description)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        why = first_line(e)
        raise DamagedCheckpointError(f"{file} does not describe a model: {why}") from e
    if version != FORMAT_VERSION:
        raise UserError(f"{file} has format version {version}; this dir_jax reads {FORMAT_VERSION}")
    return description


def _read_preprocessing(description: dict[str, Any]) -> Preprocessing:
    """Raises ValueError, TypeError or AttributeError if it is not mean and std of three numbers."""
    fields = {name: tuple(x) for name, x in description["preprocess"].items()}
    for numbers in fields.values():
        if len(numbers) != 3 or not all(isinstance(x, int | float) for x in numbers):
            raise ValueError("its preprocess is not a mean and a std of three numbers each")
        if not all(abs(x) < _LARGEST_MEAN for x in numbers):
            raise ValueError("its preprocess has a number that no image has")
    return Preprocessing(**fields)


def check_variables(expected: Mapping[str, Any], found: Mapping[str, Any], source: str) -> None:
    """Raises UserError if two sets of arrays differ in names or shapes."""
    for names, word in (
        (expected.keys() - found.keys(), "lacks"),
        (found.keys() - expected.keys(), "has surplus"),
    ):
        if names:
            some = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
            raise UserError(f"{source} {word} {len(names)} arrays: {some}")
    for name, array in expected.items():
        if tuple(found[name].shape) != tuple(array.shape):
            raise UserError(
                f"{source}: {name} has shape {tuple(found[name].shape)}, "
                f"the network expects {tuple(array.shape)}"
            )


@contextlib.contextmanager
def writing(target: os.PathLike[str]) -> Iterator[None]:
    """Turns the system's reasons against a write into a UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write the checkpoint {target}: {e.strerror or e}") from e
    except ValueError as e:  # how Orbax's storage reports the same
        code = re.search(r"os_error_code='(\d+)'", str(e))
        if code is None:
            raise
        raise UserError(f"cannot write the checkpoint {target}: {os.strerror(int(code[1]))}") from e


def orbax_handlers() -> dict[str, Any]:
    return {
        "model": ocp.JsonCheckpointHandler(filename="model.json"),
        "arrays": ocp.PyTreeCheckpointHandler(),
    }


def describe_model(
    model: RetrievalNetwork,
    preprocessing: Preprocessing,
    whitenings: list[str],
    items: Mapping[str, Any],
    notes: Mapping[str, Any] | None,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(model.config),
        "preprocess": dataclasses.asdict(preprocessing),
        "whitening": whitenings,
        "recipe": None if recipe is None else dataclasses.asdict(recipe),
        "versions": {name: metadata.version(name) for name in _VERSIONED},
        "digests": _digests(items),
        **(notes or {}),
    }


def arrays_of(
    params: Variables, stats: Variables, whitenings: Mapping[str, Whitening]
) -> dict[str, Any]:
    tree = {
        "params": params,
        "batch_stats": stats,
        "whitening": {name: w.to_arrays() for name, w in whitenings.items()},
    }
    return to_host(tree)


def _digests(items: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of every array's type, shape and bytes, by its place in the checkpoint."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(items)):
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(f"{array.dtype} {np.shape(leaf)} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        found[jax.tree_util.keystr(path)] = digest.hexdigest()
    return found


def check_digests(description: Mapping[str, Any], items: Mapping[str, Any], what: str) -> None:
    """Raises UserError unless all arrays are those that were written.

    A checkpoint without digests, of dir_jax 0.1.0, is read with a warning.
    """
    expected = description.get("digests")
    if expected is None:
        log.warning("%s has no digests, so damage to its arrays cannot be noticed", what)
        return
    found = _digests(items)
    if not isinstance(expected, dict):
        expected = {}
    read = tuple(f"[{name!r}]" for name in items)  # a model is read without its training state
    names = {*found, *(name for name in expected if name.startswith(read))}
    if wrong := sorted(name for name in names if expected.get(name) != found.get(name)):
        raise DamagedCheckpointError(
            f"{what} is damaged: {len(wrong)} of its arrays are not what was written, such as "
            f"{shown(wrong[0])}"
        )


def to_host(tree: Any) -> Any:
    # Copies: the trainer donates its buffers to the next step while this one is being written.
    return jax.tree.map(lambda x: np.array(jax.device_get(x)), tree)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
