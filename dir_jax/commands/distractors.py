"""What `test_dir --distractors` names: more images to search, or their descriptors."""

from __future__ import annotations

import os

from dir_jax.data.datasets import create_dataset
from dir_jax.data.images import ImageDataset
from dir_jax.describe.describer import Describer
from dir_jax.describe.feature_files import saved_paths
from dir_jax.describe.sharded_files import is_sharded
from dir_jax.describe.stored_rows import StoredRows, check_same_model
from dir_jax.errors import UserError
from dir_jax.model_recipe import Recipe


def find_distractors(what: str | None, db_root: str | None) -> ImageDataset | StoredRows | None:
    """The images that --distractors names, or the descriptors of files, as they are in them.

    Raises UserError where there are none.
    """
    if what is None:
        return None
    try:
        if what.endswith(".npy") or is_sharded(what):
            return StoredRows(what)
        return create_dataset(what, db_root=db_root)
    except UserError as e:
        raise UserError(f"--distractors: {e}") from e


def whitened_distractors(
    stored: StoredRows | None, describer: Describer | None, base: Recipe | None
) -> StoredRows | None:
    """Distractors from a file, whitened by the describer unless their recipe says that they are.

    The database is whitened by the describer. Without one, both are searched as they are, and the
    database was made as `base` says. Raises UserError where the two do not go together.
    """
    if stored is None:
        return None
    made = stored.recipe
    print("Distractors:", made or f"as they are in {stored.path}")
    base = base if describer is None else describer.recipe
    is_finished = describer is None or (made is not None and made.whiten)
    if is_finished and made is not None and base is not None:
        _refuse_another_whitening(stored.path, made, base)
    if describer is not None:
        digest = describer.model_digest(whitened=bool(is_finished))
        check_same_model(stored.path, stored.model, digest, "the database's")
    if is_finished:
        return stored
    assert describer is not None
    if stored.shape[1] != describer.descriptor_size:
        raise UserError(
            f"--distractors: {stored.path} has descriptors of {stored.shape[1]} dimensions, the "
            f"model's have {describer.descriptor_size} before whitening"
        )
    return StoredRows(stored.path, describer.whiten, describer.finished_size)


def _refuse_another_whitening(path: str, made: Recipe, base: Recipe) -> None:
    """Raises UserError unless distractors were whitened as the database was."""
    if (made.whiten or "") != (base.whiten or ""):
        raise UserError(
            f"--distractors: {path} has the whitening {made.whiten or ''!r}, the "
            f"database {base.whiten or ''!r}; describe both in one way"
        )
    for name in ("whitenp", "whitenv", "whitenm") if made.whiten else ():
        there, here = getattr(made, name), getattr(base, name)
        if there != here:
            raise UserError(
                f"--distractors: {path} was whitened with --{name} {there}, the database with "
                f"{here}; describe both in one way"
            )


def saved_distractors(folder: str, listed: ImageDataset) -> StoredRows:
    """What --save-feats wrote of the images of --distractors; UserError where it did not."""
    if not os.path.isdir(folder):
        raise UserError("--distractors needs the .npy file of their descriptors here")
    path = saved_paths(os.path.join(folder, "feats"), False, True)[-1]
    stored = StoredRows(path)
    if len(stored) != len(listed):
        raise UserError(f"{path} has {len(stored)} rows; --distractors lists {len(listed)} images")
    return stored
