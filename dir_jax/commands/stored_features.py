"""Descriptors that are there already: `test_dir --load-feats` and `index --load-feats`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dir_jax.commands.distractors import saved_distractors, whitened_distractors
from dir_jax.commands.flags import create_describer, set_up_devices
from dir_jax.data.images import ImageDataset
from dir_jax.describe.describer import queries_of
from dir_jax.describe.feature_files import (
    extracted_paths,
    load_descriptors,
    reasons_of_failures,
    saved_paths,
)
from dir_jax.describe.sharded_files import is_sharded, open_descriptors
from dir_jax.describe.stored_rows import StoredRows, check_same_model
from dir_jax.errors import UserError, shown
from dir_jax.model_recipe import Recipe, model_beside, recipe_beside
from dir_jax.retrieval.blockwise import Rows, finite_rows


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load_features` found.

    Attributes:
      database: (N, D) float32, NaN where an image has none.
      queries: those of a data set's own queries, or None.
      distractors: rows to search besides the database, or None.
      failures: why images have none: of the database, then of the queries.
      how: how they were described, in a line.
      exif: whether the pictures were turned as their EXIF data says.
      device: where to search.
    """

    database: np.ndarray
    queries: np.ndarray | None
    distractors: Rows | None
    failures: list[dict[int, str]]
    how: str
    exif: bool
    device: Any


@dataclasses.dataclass(frozen=True)
class _Files:
    path: str
    arrays: list[np.ndarray]
    failures: list[dict[int, str]]
    recipe: Recipe | None
    model: str | None


def load_features(
    args: argparse.Namespace,
    changes: dict[str, Any],
    dataset: ImageDataset,
    learn_from: ImageDataset | None,
    more: ImageDataset | StoredRows | None,
) -> Loaded:
    """Reads what --load-feats names; with --checkpoint, whitens what is not whitened.

    `changes`, `learn_from` and `more` are of the recipe, --whiten and --distractors.

    Raises:
      UserError: there are no such files, they are of other images or of another model, or flags
        contradict what they are.
    """
    queries = queries_of(dataset)
    try:
        files = _read(args, [dataset] if queries is None else [dataset, queries])
        if more is not None and not isinstance(more, StoredRows):
            more = saved_distractors(args.load_feats, more)
    except UserError as e:
        raise UserError(f"--load-feats: {e}") from e
    made, found = files.recipe, files.arrays
    whitened = made is not None and made.whiten
    if args.whiten and (whitened or not args.checkpoint):
        why = "the features are whitened already" if whitened else "--checkpoint is missing"
        raise UserError(f"--whiten {args.whiten}: {why}")
    describer = None
    if args.checkpoint and made is not None:
        changes = as_made(changes, made, finished=bool(whitened))
    if args.checkpoint and not (whitened and files.model is None):
        describer = create_describer(args, changes, learn_from)
        digest = describer.model_digest(whitened=bool(whitened))
        check_same_model(files.path, files.model, digest, args.checkpoint)
        device, how = describer.devices[0], str(made if whitened else describer)
    else:
        device, how = set_up_devices(args)[0], str(made) if made else "as they are in the files"
        print("Descriptors:", how)
    if describer is not None and not whitened:
        width = describer.descriptor_size
        if found[0].shape[1] != width:
            raise UserError(
                f"--load-feats: {files.path} has descriptors of {found[0].shape[1]} dimensions, "
                f"the model's have {width}; without --checkpoint they are evaluated as they are"
            )
        found = [describer.whiten(x) for x in found]
        distractors = whitened_distractors(more, describer, None)
    else:
        distractors = whitened_distractors(more, None, made)
        if isinstance(more, StoredRows) and files.model is not None:
            check_same_model(more.path, more.model, files.model, files.path)
    exif = bool(args.exif) if made is None else made.exif
    second = found[1] if len(found) > 1 else None
    return Loaded(found[0], second, distractors, files.failures, how, exif, device)


def _read(args: argparse.Namespace, lists: Sequence[ImageDataset]) -> _Files:
    given, skip = args.load_feats, args.on_error == "skip"
    if is_sharded(given):
        opened = open_descriptors(given, [images.names for images in lists])
        parts = [opened] if opened.queries is None else [opened, opened.queries][: len(lists)]
        arrays = [np.array(part.rows) for part in parts]
        failures = [
            reasons_of_failures(given, np.flatnonzero(~finite_rows(x)).tolist(), images.names,
                                part.failures, skip_failures=skip)
            for x, images, part in zip(arrays, lists, parts, strict=True)
        ]  # fmt: skip
        return _Files(given, arrays, failures, opened.recipe, opened.model)
    if os.path.isdir(given):
        paths = saved_paths(os.path.join(given, "feats"), len(lists) > 1)
    else:
        paths = extracted_paths(given, len(lists) > 1)
    if not any(map(os.path.exists, [given, *paths])):
        raise UserError(
            f"there is neither a file nor a folder {shown(given)}; expected the folder of "
            "--save-feats, or the .npy file or the folder of extract_features"
        )
    made = {(recipe_beside(path), model_beside(path)) for path in paths} - {(None, None)}
    if len(made) > 1:
        raise UserError(
            f"{' and '.join(paths)} were not made in one way, as the .recipe.json files beside "
            "them say; describe both again"
        )
    read = [
        load_descriptors(path, images.names, skip_failures=skip)
        for path, images in zip(paths, lists, strict=True)
    ]
    arrays = [x for x, _ in read]
    if len({x.shape[1] for x in arrays}) > 1:
        widths = " and ".join(str(x.shape[1]) for x in arrays)
        raise UserError(f"{' and '.join(paths)} have descriptors of {widths} dimensions")
    recipe, model = made.pop() if made else (None, None)
    return _Files(paths[0], arrays, [failures for _, failures in read], recipe, model)


def as_made(changes: dict[str, Any], made: Recipe, *, finished: bool) -> dict[str, Any]:
    """The changes of a model's recipe that make it describe as features were described.

    Features that are `finished` are whitened or are not to be. Raises UserError where `changes`, of
    the flags, say otherwise.
    """
    names = ["trfs", "exif", "pooling", "gemp"]
    names += ["whiten"] if finished else []
    names += ["whitenp", "whitenv", "whitenm"] if made.whiten else []
    given = {name: changes[name] for name in names if changes[name] is not None}
    asked = made.changed(**given, scales=changes.get("scales"))
    for name in names:
        if getattr(asked, name) != getattr(made, name):
            flag = "multiscale" if name == "trfs" and changes["trfs"] is None else name
            raise UserError(f"--{flag}: --load-feats has features that were described with {made}; "
                            "leave the flag out, or describe the images again")  # fmt: skip
    own = {name: getattr(made, name) for name in names} | {"scales": None}
    if finished and not made.whiten:
        return {**changes, **own, "whiten": ""}
    return {**changes, **own}
