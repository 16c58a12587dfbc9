"""Descriptors in files of any size: a .npy file, or the folder of `extract_features --shards`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dir_jax.describe.feature_files import open_npy, read_failed, reasons_of_failures
from dir_jax.describe.sharded_files import ShardedDescriptors, is_sharded, open_descriptors
from dir_jax.errors import UserError, shown
from dir_jax.model_recipe import Recipe, model_beside, recipe_beside
from dir_jax.retrieval.blockwise import finite_rows

_ROWS = 1 << 14  # looked through at once


class StoredRows:
    """The rows of such files, memory-mapped as they are asked for and let go after.

    Attributes:
      path: the file or the folder.
      shape: N, D.
      recipe: how the images were described, where it is known.
      model: a digest of the model that described them, where it is known.
    """

    def __init__(
        self,
        path: str,
        finish: Callable[[np.ndarray], np.ndarray] | None = None,
        width: int | None = None,
    ):
        """`finish` whitens (n, D') rows to `width` dimensions; by default none does.

        Raises:
          UserError: there is nothing of the kind, it is damaged, or holds something else.
        """
        self.path, self._finish = path, finish
        self._shards: ShardedDescriptors | None = None
        if is_sharded(path):
            self._shards = open_descriptors(path)
            self.recipe: Recipe | None = self._shards.recipe
            self.model, stored = self._shards.model, self._shards.rows.shape
        elif os.path.isdir(path):
            raise UserError(f"{shown(path)} is a folder without manifest.json; expected that of "
                            "extract_features --shards, or its .npy file")  # fmt: skip
        else:
            stored, self._layout = open_npy(path)
            self.recipe, self.model = recipe_beside(path), model_beside(path)
        self.shape = stored[0], width or stored[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """(n, D) float32."""
        if self._shards is not None:
            found = self._shards.rows[rows]
            self._shards.rows.let_go()
        else:
            with np.errstate(over="ignore"):  # what is too large becomes infinite
                found = np.asarray(np.memmap(self.path, *self._layout)[rows], np.float32)
        return found if self._finish is None else self._finish(found)

    def failures(self, names: Sequence[str], *, skip_failures: bool = False) -> dict[int, str]:
        """Row -> why it has no descriptor, of a list of images of these names.

        Raises:
          UserError: they are the descriptors of other images; or a row is not finite, nothing says
            why, and `skip_failures` is False.
        """
        if self._shards is not None:
            open_descriptors(self.path, [names])
            known: Mapping[int, str] = self._shards.failures
        else:
            if len(names) != len(self):
                raise UserError(f"{self.path} has {len(self)} rows; the data set has {len(names)} "
                                "images")  # fmt: skip
            failed = Path(f"{self.path}.failed.txt")
            reasons = read_failed(failed) if failed.exists() else {}
            known = {i: reasons[name] for i, name in enumerate(names) if name in reasons}
        bad: list[int] = []
        for start in range(0, len(self), _ROWS):
            bad += (start + np.flatnonzero(~finite_rows(self[start : start + _ROWS]))).tolist()
        return reasons_of_failures(self.path, bad, names, known, skip_failures=skip_failures)


def check_same_model(path: str, model: str | None, digest: str, checkpoint: str) -> None:
    """Raises UserError where it is known that another model described what is in a file.

    Args:
      path: the file or the folder.
      model: a digest of the model that described it, where it is known.
      digest: from `model_digest` of the describer of `checkpoint`.
      checkpoint: what the message calls the model.
    """
    if model not in (None, digest):
        raise UserError(
            f"{shown(path)} has descriptors of another model ({model[:10]}) than {checkpoint} "
            f"({digest[:10]}); give the model that made them, with its --dtype, --precision and "
            "--center-bias"
        )
