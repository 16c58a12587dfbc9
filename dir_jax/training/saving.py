"""What a run saves, besides its model, so that it can be resumed bit for bit.

Batches, augmentation, dropout and the learning rate depend on the seed and the step alone, so only
the loss's class weights, the optimiser's state and the mined triplets have to be saved.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import optax

from dir_jax.checkpoint import check_variables
from dir_jax.data.marks import mark
from dir_jax.errors import UserError, quoted
from dir_jax.models.variables import Variables
from dir_jax.training.mining import MinedTriplets
from dir_jax.training.run_checkpoints import RunCheckpoints
from dir_jax.training.state import TrainState

log = logging.getLogger(__name__)


class Resumed(NamedTuple):
    """What a run starts from."""

    step: int  # the number of updates made
    state: TrainState  # after them
    triplets: MinedTriplets | None = None  # mined last
    rows: list[Any] | None = None  # of `MetricsLog`
    images: Mapping[str, np.ndarray] | None = None  # of `ImageRecord.arrays`
    skipped: np.ndarray | None = None  # (K,) int64, of `Setup`; None if not known
    chunk_size: int | None = None  # of the updates


def saved_with_model(
    loss: Variables,
    optimizer: optax.OptState,
    triplets: MinedTriplets | None,
    rows: Sequence[Mapping[str, Any]],
    images: Mapping[str, np.ndarray],
    skipped: np.ndarray,
    chunk_size: int,
    classes: Sequence[str],
) -> dict[str, Any]:
    """The arrays of a checkpoint that are not the model's, as `restore_newest` reads them."""
    log_ = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    # Orbax writes no array without elements, so the first is one that no image has.
    arrays = {"optimizer": _leaves_by_path(optimizer), "log": log_, "images": images,
              "skipped": np.array([-1, *skipped], np.int64),
              "chunk_size": np.int32(chunk_size)}  # fmt: skip
    if loss:
        arrays |= {"loss": loss, "classes": _digests(classes)}
    return arrays if triplets is None else {**arrays, "triplets": vars(triplets)}


def restore_newest(
    checkpoints: RunCheckpoints, state: TrainState, classes: Sequence[str]
) -> Resumed:
    """Reads the newest checkpoint of a run, whose state before the first update is `state`.

    The vectors that a loss keeps of classes go to those of the same names in `classes`.

    Raises UserError where it cannot be read, or is that of another network or optimiser, or of
    other classes. One that dir_jax 0.1.0 wrote has no log, no record of the images, and no chunk
    size.
    """
    newest = checkpoints.restore_newest()
    if newest is None:
        return Resumed(0, state)
    step, params, stats, train = newest
    what = f"the checkpoint {checkpoints.path(step)}"
    expected = _leaves_by_path(state.optimizer)
    try:
        found = {name: np.asarray(value) for name, value in train["optimizer"].items()}
        triplets = MinedTriplets(**train["triplets"]) if "triplets" in train else None
        own = {name: np.asarray(value) for name, value in train.get("loss", {}).items()}
        rows = json.loads(train["log"].tobytes()) if "log" in train else None
        images = dict(train["images"]) if "images" in train else None
        skipped = (
            np.asarray(train["skipped"], np.int64).reshape(-1)[1:] if "skipped" in train else None
        )
        chunk_size = int(train["chunk_size"]) if "chunk_size" in train else None
        before = None
        if own and "classes" in train:
            before = np.asarray(train["classes"], np.int64).reshape(-1).tolist()
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise UserError(f"{what} does not hold the state of a training run") from e
    if before is not None:
        order = _order_of_classes(before, classes, what)
        own, found = (
            {
                name: x[order] if "class_weights" in name and x.shape[:1] == (len(order),) else x
                for name, x in arrays.items()
            }
            for arrays in (own, found)
        )
    elif own:
        log.warning("%s does not say of which classes its vectors are: not compared", what)
    pairs = (state.params, params), (state.stats, stats), (state.loss, own), (expected, found)
    for ours, theirs in pairs:
        check_variables(ours, theirs, what)
    leaves = [np.asarray(found[name], leaf.dtype) for name, leaf in expected.items()]
    restored = TrainState(
        trained={name: params[name] for name in state.trained},
        fixed={name: params[name] for name in state.fixed},
        stats=stats,
        loss={name: own[name] for name in state.loss},
        optimizer=jax.tree.unflatten(jax.tree.structure(state.optimizer), leaves),
    )
    log.info("resuming after step %d", step)
    return Resumed(step, restored, triplets, rows, images, skipped, chunk_size)


def _digests(classes: Sequence[str]) -> np.ndarray:
    return np.array([mark(name.encode(), "")[0] for name in classes], np.int64)


def _order_of_classes(before: list[int], classes: Sequence[str], what: str) -> list[int]:
    """The row that each class has in a checkpoint, whose classes have the digests `before`."""
    rows = {digest: row for row, digest in enumerate(before)}
    order = [rows.get(digest, -1) for digest in _digests(classes).tolist()]
    if len(order) == len(before) and -1 not in order:
        return order
    new = [name for name, row in zip(classes, order, strict=True) if row < 0]
    some = f", {len(new)} of them new, such as {quoted(new[0])}" if new else ""
    raise UserError(
        f"{what} has a trained vector for each of {len(before)} classes, and config.data.train has "
        f"{len(classes)} classes{some}; put the classes back, or start another run from this one "
        "with --config.model.init and another --workdir"
    )


def check_chunk_size(config: ml_collections.ConfigDict, chunk_size: int, resumed: Resumed) -> None:
    """Raises UserError where a run that trains BatchNorm would go on with other chunks."""
    before = resumed.chunk_size
    if config.batch_norm == "trained" and before not in (None, chunk_size):
        raise UserError(
            f"this run has trained BatchNorm on chunks of {before} images, and on "
            f"{jax.device_count()} devices config.batch_size={config.batch_size} makes chunks of "
            f"{chunk_size}, which would be normalised differently; resume it on "
            f"{config.batch_size // before} devices or fewer, whose share is a multiple of {before}"
        )


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
