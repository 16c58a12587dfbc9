"""The on-disk format of a model, and of a training run's state.

A checkpoint is a directory:

    model/model.json   architecture and options, preprocessing, whitenings, versions, and a digest
                       of every array, which is checked whenever the arrays are read
    arrays/            parameters, BatchNorm statistics, whitenings (Orbax's; see `array_files`)
    train/             optimiser, step and sampler (Orbax); only in a run's `checkpoints/STEP/`

`read_model` takes such a directory, or a training run's directory, which has one in `model/`.
`dir_jax.loading` also takes the files of other programs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dir_jax.array_files import LARGEST_METADATA, open_arrays, read_arrays
from dir_jax.description import (
    DamagedCheckpointError,
    check_digests,
    describe_model,
    first_line,
    preprocessing_of,
    read_description,
    recipe_of,
)
from dir_jax.errors import UserError, shown
from dir_jax.model_recipe import Recipe, published_recipe
from dir_jax.models import RetrievalNetwork, create_model
from dir_jax.models.preprocess import Preprocessing
from dir_jax.models.variables import Variables, merge_variables, split_variables
from dir_jax.retrieval.whitening import Whitening
from dir_jax.runtime.folders import check_replaceable, left_behind, replacing_folder

if TYPE_CHECKING:
    import orbax.checkpoint as ocp  # which takes long: imported where it writes

log = logging.getLogger(__name__)

_LARGEST_WHITENING = 1 << 28  # elements of an array: 16,384 × 16,384


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model as read from disk."""

    model: RetrievalNetwork
    preprocessing: Preprocessing
    whitenings: dict[str, Whitening]
    recipe: Recipe
    description: dict[str, Any]  # model.json

    def whitening(self, name: str) -> Whitening:
        """The whitening called `name`. Raises UserError if it is not there, or not finite."""
        if name not in self.whitenings:
            there = ", ".join(self.whitenings) or "none"
            raise UserError(f"the checkpoint has no whitening {name!r}; it has {there}")
        found = self.whitenings[name]
        if bad := _not_finite(found.to_arrays()):
            raise UserError(f"{bad[0]} of the whitening {name!r} has values that are not finite")
        if (found.explained_variance_ < 0).any():
            raise UserError(f"explained_variance_ of the whitening {name!r} has values below 0")
        return found


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
    import orbax.checkpoint as ocp

    target = Path(directory).absolute()
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already; choose another directory, or overwrite it")
    if overwrite:
        check_replaceable(target, "model/model.json", "a model")
    _, params, stats = split_variables(model)
    arrays = arrays_of(params, stats, whitenings or {})
    description = describe_model(
        model,
        preprocessing or Preprocessing(),
        {"arrays": arrays},
        notes,
        recipe or published_recipe(whitenings or ()),
    )
    with (
        writing(target),
        replacing_folder(target, overwrite=overwrite) as new,
        ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(multiprocessing_options=alone()),
                **orbax_handlers(),
            ),
            multiprocessing_options=alone(),
        ) as checkpointer,
    ):
        items = ocp.args.Composite(
            model=ocp.args.JsonSave(description), arrays=ocp.args.PyTreeSave(arrays)
        )
        checkpointer.save(new, items)


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
    description = read_description(directory / "model" / "model.json")
    model = create_model(**description["model"] | options, seed=None)
    graphdef, params, stats = split_variables(model)
    what = f"the checkpoint {directory}"
    with reading(what):
        check_files(directory)
        # Before anything is allocated: damaged metadata may claim arrays of any size.
        opened = open_arrays(directory / "arrays")
        check_variables(params, opened["params"], what)
        check_variables(stats, opened["batch_stats"], what)
        _check_whitenings(opened.get("whitening") or {}, what)
        if surplus := opened.keys() - {"params", "batch_stats", "whitening"}:
            raise DamagedCheckpointError(f"{what} has surplus arrays: {shown(min(surplus))}")
        arrays = read_arrays(opened)
        params, stats = arrays["params"], arrays["batch_stats"]
        found = arrays.get("whitening") or {}
        whitenings = {name: Whitening.from_arrays(fields) for name, fields in found.items()}
    check_digests(description, {"arrays": arrays}, what)
    if bad := _not_finite(params | stats):
        raise UserError(
            f"{what} cannot be used: {len(bad)} of its arrays have values that are not finite, "
            f"such as {bad[0]}; convert it again, or use an earlier checkpoint of its run"
        )
    return Checkpoint(
        merge_variables(graphdef, params, stats), preprocessing_of(description), whitenings,
        recipe_of(description), description,
    )  # fmt: skip


def _not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    # NaN is the smallest value and the largest; and no array of a mask is made.
    return [
        name
        for name, array in arrays.items()
        if array.size and not np.isfinite([array.min(), array.max()]).all()
    ]


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint directory that `path` means: itself, a run's `model/`, or its newest step.

    Raises:
      UserError: there is none.
    """
    root = _whole(Path(path).absolute())
    if not root.exists():
        raise UserError(f"there is no checkpoint {root}")
    if not root.is_dir():
        raise UserError(f"{root} is a file; expected the directory of a checkpoint")
    steps = [p for p in (root / "checkpoints").glob("[0-9]*") if p.name.isdigit()]
    newest = sorted(steps, key=lambda p: int(p.name), reverse=True)
    for candidate in (root, _whole(root / "model"), *newest):
        if (candidate / "model" / "model.json").is_file() and (candidate / "arrays").is_dir():
            return candidate
    raise UserError(
        f"{root} is not a checkpoint: it holds neither model/model.json with arrays/, nor a "
        "training run's model/ or checkpoints/"
    )


def _whole(directory: Path) -> Path:
    """The directory, or what it was if the process that was replacing it was killed."""
    if (old := left_behind(directory)) is None:
        return directory
    log.warning("reading %s: the program that was to replace %s was killed", old, directory)
    return old


def _check_whitenings(whitenings: Mapping[str, Any], what: str) -> None:
    for name, fields in whitenings.items():
        for field, array in fields.items():
            if math.prod(array.shape) > _LARGEST_WHITENING:
                raise UserError(
                    f"{what}: {field} of the whitening {shown(name)} has shape {array.shape}, "
                    "which is larger than any whitening"
                )


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


def check_files(folder: Path, pattern: str = "**/*") -> None:
    """Raises DamagedCheckpointError if a file is one that Orbax and TensorStore must not open.

    They wait for a pipe, and read a device, or a file of any size, whole.
    """
    for path in folder.glob(pattern):
        status = path.stat()
        if stat.S_ISDIR(status.st_mode) and not path.is_symlink():
            continue
        if not stat.S_ISREG(status.st_mode):
            raise DamagedCheckpointError(f"{path} is not a regular file")
        if status.st_size > LARGEST_METADATA and path.parent.name != "d":  # where the arrays are
            raise DamagedCheckpointError(f"{path} has {status.st_size:,} bytes; it should be small")


@contextlib.contextmanager
def writing(target: os.PathLike[str]) -> Iterator[None]:
    """Turns the system's reasons against a write into a UserError."""
    try:
        with _quiet():
            yield
    except OSError as e:
        raise UserError(f"cannot write the checkpoint {target}: {e.strerror or e}") from e
    except ValueError as e:  # how Orbax's storage reports the same
        code = re.search(r"os_error_code='(\d+)'", str(e))
        if code is None:
            raise
        raise UserError(f"cannot write the checkpoint {target}: {os.strerror(int(code[1]))}") from e


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore raise on damaged files into a DamagedCheckpointError."""
    try:
        with _quiet():
            yield
    except UserError:
        raise
    except Exception as e:
        raise DamagedCheckpointError(f"{what} cannot be read: {shown(first_line(e))}") from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax and TensorStore from printing tracebacks of errors that they also raise.

    What is said of the other reads and writes that were under way comes later, as they fail or are
    forgotten, so these two filters stay.
    """
    absl, hook = logging.getLogger("absl"), sys.unraisablehook
    level = absl.level
    absl.setLevel(logging.CRITICAL)

    def without_closed_loops(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    if hook.__module__ != __name__:
        sys.unraisablehook = without_closed_loops
    logging.getLogger("asyncio").addFilter(_is_of_others)
    try:
        yield
    finally:
        absl.setLevel(level)


def _is_of_others(record: logging.LogRecord) -> bool:
    return not re.search("tensorstore|OCDBT", record.getMessage())


def alone() -> ocp.options.MultiprocessingOptions:
    """Orbax's options for what one process writes without waiting for the others."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own,
        active_processes={own} if jax.process_count() > 1 else None,
        barrier_sync_key_prefix=f"process_{own}",
    )


def array_handler() -> ocp.PyTreeCheckpointHandler:
    """Orbax's writer of a tree of arrays, which `array_files` reads."""
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler(multiprocessing_options=alone())


def orbax_handlers() -> dict[str, Any]:
    """Orbax's writers of the parts of a model."""
    import orbax.checkpoint as ocp

    return {
        "model": ocp.JsonCheckpointHandler("model.json", multiprocessing_options=alone()),
        "arrays": array_handler(),
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


def to_host(tree: Any) -> Any:
    # Copies: the trainer donates its buffers to the next step while this one is being written.
    return jax.tree.map(lambda x: np.array(jax.device_get(x)), tree)
