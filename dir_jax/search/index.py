"""An index of described images, and what can be asked of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dir_jax.data.given import as_images
from dir_jax.data.images import ImageDataset
from dir_jax.data.transforms.views import View
from dir_jax.describe.describer import Describer
from dir_jax.errors import UserError, shown
from dir_jax.loading import load_model
from dir_jax.model_recipe import recipe_from_json
from dir_jax.report.thumbnails import small_jpeg
from dir_jax.retrieval.expansion import add_neighbours, check_expansion
from dir_jax.search.engines import engine_of
from dir_jax.search.exact import exact_search
from dir_jax.search.store import read_contents

_THUMBNAIL_SIDE = 256  # pixels, the longer side


@dataclasses.dataclass(frozen=True)
class Results:
    """What a search found, the best first.

    Attributes:
      names: for each query, the names of k images.
      scores: (Q, k) float32, the dot products.
      rows: (Q, k) int64, the images' rows in the index; −1, a score of NaN and the name '' where an
        approximate engine found fewer than k.
    """

    names: list[list[str]]
    scores: np.ndarray
    rows: np.ndarray


class Index:
    """An index as it was when it was opened; `dir_jax.open_index` opens one.

    Attributes:
      path: its folder.
      names: of its N images, relative to `root`, or absolute.
      root: the folder of the images.
      images: the images' files.
      descriptors: (N, D) float32 of unit norm, a memory map.
      recipe: how they were described.
      engine: the text of what finds them, such as 'exact'.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        devices: Sequence[jax.Device] | None = None,
        threads: int = 0,
    ):
        """Opens an index; `checkpoint` is where its model is now, if it was moved.

        Raises:
          UserError: there is none, it is damaged, or its engine cannot be used.
        """
        self._devices, self._threads = list(devices) if devices else jax.devices()[:1], threads
        self._checkpoint = checkpoint
        self._describer: Describer | None = None
        self._contents = contents = read_contents(path)
        self.path, self.names = Path(path), contents.names
        self.root: str = contents.about["root"]
        self.descriptors = contents.descriptors
        self.recipe = recipe_from_json(f"{path}: its recipe", contents.about["recipe"])
        self.images = ImageDataset(self.names, self.root).with_exif(self.recipe.exif)
        self._rows: dict[str, int] | None = None
        self._engine = engine_of(contents)
        self.engine = str(self._engine)
        with jax.default_device(self._devices[0]):
            self._engine.open()

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        count, size = self.descriptors.shape
        return f"<dir_jax.Index {self.path}, {count} images, {size} dimensions, {self._engine}>"

    def row(self, name: str) -> int | None:
        """The row of the image of a name, or None."""
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self.names)}
        return self._rows.get(name)

    def image_path(self, row: int) -> str:
        """The path of an image."""
        return self.images.path(row)

    def view(self, row: int) -> View:
        """The picture of an image. Raises UserError where it is missing or damaged."""
        return self.images.view(row)

    def thumbnail(self, row: int) -> bytes:
        """A small JPEG copy of an image: the one that the index has, or else made of the file.

        Raises:
          UserError: the image is missing or damaged.
        """
        return self.stored_thumbnail(row) or small_copy(self.view(row))

    def stored_thumbnail(self, row: int) -> bytes | None:
        """The small JPEG copy of an image that the index has, or None."""
        return self._contents.thumbnail(row)

    def search(
        self,
        queries: Any,
        k: int = 20,
        *,
        box: Sequence[float] | Sequence[Sequence[float]] | None = None,
        aqe: tuple[int, float] | None = None,
    ) -> Results:
        """Finds the images that are most similar to each query.

        Args:
          queries: a path, a Pillow image or an (H, W, 3) uint8 array of RGB, or several in a list;
            or (Q, D) float descriptors, or one of (D,), of unit norm and of the index's model.
          k: how many to find; of an index of fewer images, all.
          box: left, top, right and bottom in pixels of the part of the picture that is the query;
            one for each where there are several pictures.
          aqe: the number of neighbours and alpha of query expansion.

        Raises:
          UserError: an image cannot be used, a box is not inside its picture, an argument is not
            valid, or the model is not the one that made the index.
        """
        if k < 1:
            raise UserError(f"cannot find {k} images; expected a number above 0")
        if aqe is not None:
            check_expansion(*aqe, len(self))
        x = self.describe(queries, box=box)
        with jax.default_device(self._devices[0]):
            if aqe is not None and aqe[0]:
                scores, rows = self._engine.search(x, aqe[0])
                near = self.descriptors[rows.ravel()]
                places = np.arange(near.shape[0]).reshape(rows.shape)
                x = add_neighbours(x, near, scores, places, aqe[1])
            scores, rows = self._engine.search(x, min(k, len(self)))
        return self._results(scores, rows)

    def _results(self, scores: np.ndarray, rows: np.ndarray) -> Results:
        names = [[self.names[row] if row >= 0 else "" for row in each] for each in rows.tolist()]
        return Results(names, scores, rows)

    def forget_pages(self) -> None:
        """Lets the system have the memory back that reading `descriptors` has taken."""
        self._contents.forget_pages()

    def search_among(self, queries: np.ndarray, k: int, rows: np.ndarray | None) -> Results:
        """As `search` of (Q, D) descriptors, exactly among some rows (rising numbers) if given."""
        if rows is None:
            return self.search(queries, k)
        with jax.default_device(self._devices[0]):
            return self._results(*exact_search(self._contents, self._checked(queries), k, rows))

    def describe(self, queries: Any, *, box: Any = None) -> np.ndarray:
        """The (Q, D) descriptors of queries, as `search` takes them."""
        if isinstance(queries, np.ndarray) and queries.dtype != np.uint8:
            if box is not None:
                raise UserError("a box is of a picture; the queries are descriptors")
            return self._checked(queries)
        images = as_images(queries, box)
        return self.describer().describe([("queries", images)]).lists[0].array()

    def _checked(self, x: np.ndarray) -> np.ndarray:
        found = np.ascontiguousarray(np.atleast_2d(x), np.float32)
        if found.ndim != 2 or not len(found) or found.shape[1] != self.descriptors.shape[1]:
            raise UserError(f"the queries are of shape {x.shape}; the index has descriptors of "
                            f"{self.descriptors.shape[1]} dimensions")  # fmt: skip
        if not np.isfinite(found).all():
            raise UserError("the queries have values that are not finite (NaN or infinite)")
        return found

    def describer(self, *, skip_failures: bool = False) -> Describer:
        """Describes images as those of the index were.

        Raises:
          UserError: the model cannot be read, or is not the one that made the index.
        """
        if self._describer is None or skip_failures:
            made_by = self._contents.about["model"]
            path = os.fspath(self._checkpoint or made_by["path"])
            try:
                model = load_model(path, **made_by["options"])
            except UserError as e:
                if self._checkpoint is not None:
                    raise
                raise UserError(f"the model that made the index {shown(self.path)}: {e}; if it is "
                                "elsewhere now, give it by --checkpoint") from e  # fmt: skip
            describer = Describer(model, self.recipe, devices=self._devices,
                                  threads=self._threads, skip_failures=skip_failures)  # fmt: skip
            check_same_model(self.path, made_by, describe_model_of(describer, path, {}))
            self._describer = describer
        return self._describer


def small_copy(view: View) -> bytes:
    """A picture as a JPEG file of at most 256 pixels on its longer side."""
    return small_jpeg(view.small(4 * _THUMBNAIL_SIDE), _THUMBNAIL_SIDE)


def describe_model_of(
    describer: Describer, path: str | os.PathLike[str], options: dict[str, Any]
) -> dict[str, Any]:
    """What index.json says of a model: where it is, and a digest of all that makes descriptors."""
    path = os.path.abspath(path) if os.path.exists(path) else os.fspath(path)
    digest = describer.model_digest()
    return {"path": path, "arch": describer.arch, "digest": digest, "options": options}


def check_same_model(index: Path, made_by: dict[str, Any], model: dict[str, Any]) -> None:
    """Raises UserError, naming both, unless a model is the one that made an index."""
    if model["digest"] == made_by["digest"]:
        return
    a, b = (f"{shown(m['path'])} ({m['arch']}, {m['digest'][:10]})" for m in (made_by, model))
    if model["path"] == made_by["path"]:
        raise UserError(
            f"the model {b} has changed since the index {index} was made by {a}; build the index "
            "again, or give the model that made it by --checkpoint"
        )
    raise UserError(f"the index {index} was made by the model {a}, not by {b}")
