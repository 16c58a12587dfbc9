"""Reads the folder that `extract_features --shards` writes, as one array; see `shards`."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from dir_jax.describe.feature_files import read_failed
from dir_jax.describe.npy import map_npy
from dir_jax.describe.padded_shapes import Shape
from dir_jax.errors import UserError, shown
from dir_jax.fields import Rule, check_fields, is_whole
from dir_jax.model_recipe import Recipe, recipe_from_json
from dir_jax.runtime.reading import MOST_ROWS, read_json, read_text

LISTS = ("database", "queries")
MOST_SHARDS = 100_000
_MOST_IMAGES = 1 << 40
_MOST_SHAPES = 1000
_NAMED = 5  # missing shards that a message names

_LIST = {
    "images": Rule(lambda v: is_whole(v, 1, _MOST_IMAGES), "a number of images"),
    "names": Rule(lambda v: isinstance(v, str), "a digest"),
}
_MANIFEST = {
    "shards": Rule(lambda v: is_whole(v, 1, MOST_SHARDS), f"a number from 1 to {MOST_SHARDS}"),
    "width": Rule(lambda v: is_whole(v, 1, 1 << 24), "the length of a descriptor"),
    "lists": Rule(
        lambda v: isinstance(v, dict) and tuple(v) in (LISTS, LISTS[:1]), "database, and queries"
    ),
    "model": Rule(lambda v: isinstance(v, str), "a digest", required=False),
    "shapes": Rule(
        lambda v: isinstance(v, list) and len(v) <= _MOST_SHAPES and all(map(_is_shape, v)),
        "a list of width, height, rows, and whether images fill it",
    ),
}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What OUT/manifest.json says.

    Attributes:
      fields: all of it, JSON values by name.
      shards: how many shards there are.
      width: the length of a descriptor.
      lengths: how many images each list has, by its name.
      shapes: the padded shapes that all shards use.
      recipe: how the images are described.
    """

    fields: dict[str, Any]
    shards: int
    width: int
    lengths: dict[str, int]
    shapes: list[Shape]
    recipe: Recipe


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Reads a folder's manifest. Raises UserError where there is none, or it is damaged."""
    file = Path(folder) / "manifest.json"
    if not file.is_file():
        raise UserError(f"{folder} is not a folder of extract_features --shards: it has no {file}")
    fields = read_json(file)
    check_fields(str(file), fields, _MANIFEST, closed=False)
    for name, each in fields["lists"].items():
        check_fields(f"{file}: {name}", each, _LIST)
    return Manifest(
        fields,
        fields["shards"],
        fields["width"],
        {name: each["images"] for name, each in fields["lists"].items()},
        [Shape(*shape) for shape in fields["shapes"]],
        recipe_from_json(f"{file}: recipe", fields.get("recipe")),
    )


def shard_folder(folder: str | os.PathLike[str], number: int) -> Path:
    """Where the files of a finished shard are."""
    return Path(folder) / f"{number:05}"


def shard_rows(total: int, number: int, count: int) -> range:
    """The rows of a list of `total` images that are in one of `count` shards."""
    return range(number * total // count, (number + 1) * total // count)


def is_sharded(folder: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that `extract_features --shards` writes."""
    return (Path(folder) / "manifest.json").is_file()


def open_descriptors(
    folder: str | os.PathLike[str], lists: Sequence[Sequence[str]] | None = None
) -> ShardedDescriptors:
    """Opens the descriptors that `extract_features --output FOLDER --shards S` wrote.

    Nothing is read but the manifest: rows are mapped into memory, and names read, as they are used.

    Args:
      folder: the output.
      lists: the names of the images that they must be of, and those of the queries where there are
        others; by default any.

    Raises:
      UserError: it is not such a folder, shards are missing, a file of one is damaged, or they are
        the descriptors of other images.
    """
    manifest = read_manifest(folder)
    missing = [
        number
        for number in range(manifest.shards)
        if any(len(shard_rows(n, number, manifest.shards)) for n in manifest.lengths.values())
        and not shard_folder(folder, number).is_dir()
    ]
    if missing:
        which = ", ".join(map(str, missing[:_NAMED])) + ", …" * (len(missing) > _NAMED)
        raise UserError(
            f"{folder} is not finished: {len(missing)} of {manifest.shards} shards are missing "
            f"({which}); extract_features with the same flags goes on"
        )
    queries = None
    for kind in reversed(manifest.lengths):
        files = _ShardedList(Path(folder), manifest, kind)
        queries = found = ShardedDescriptors(
            MappedRows(files), Names(files), manifest.recipe, queries, manifest.fields.get("model")
        )
    parts = [found, found.queries]
    for kind, names, part in zip(LISTS, lists or (), parts, strict=False):
        if part is None:
            raise UserError(f"{folder} has no descriptors of queries; the data set has queries")
        _check_names(f"{folder} has descriptors of other images: {kind}", part.names, names)
    return found


def _check_names(what: str, there: Names, names: Sequence[str]) -> None:
    if len(there) != len(names):
        raise UserError(f"{what} has {len(there)} rows, the data set {len(names)} images")
    for row, (one, name) in enumerate(zip(there, names, strict=True)):
        if one != name:
            raise UserError(f"{what} row {row} is {shown(one)}, the data set's {shown(name)}")


class _ShardedList:
    """The files of one list."""

    def __init__(self, folder: Path, manifest: Manifest, name: str):
        self.total, self.width = manifest.lengths[name], manifest.width
        self._stem = [shard_folder(folder, i) / name for i in range(manifest.shards)]
        ranges = [shard_rows(self.total, i, manifest.shards) for i in range(manifest.shards)]
        self.starts = [each.start for each in ranges]
        self._maps: dict[int, np.ndarray] = {}
        self._lengths = [len(each) for each in ranges]

    def of(self, row: int) -> int:
        """The shard that has a row."""
        return bisect.bisect_right(self.starts, row) - 1

    def rows(self, shard: int) -> np.ndarray:
        """A memory map of a shard's rows, (n, D) float32."""
        if shard not in self._maps:
            path, shape = f"{self._stem[shard]}.npy", (self._lengths[shard], self.width)
            self._maps[shard] = map_npy(path, shape) if shape[0] else np.zeros(shape, np.float32)
        return self._maps[shard]

    def names(self, shard: int) -> list[str]:
        """What a shard's rows are called."""
        path = f"{self._stem[shard]}.names.txt"
        names = read_text(path, most=MOST_ROWS).split("\n")[:-1] if self._lengths[shard] else []
        if len(names) != self._lengths[shard]:
            raise UserError(
                f"{path} is damaged: it has {len(names)} names, expected {self._lengths[shard]}"
            )
        return names

    def failures(self) -> dict[int, str]:
        """Row -> why it is NaN."""
        found: dict[int, str] = {}
        for shard, start in enumerate(self.starts):
            failed = Path(f"{self._stem[shard]}.failed.txt")
            if failed.exists():
                reasons = read_failed(failed)
                names = enumerate(self.names(shard), start)
                found |= {row: reasons[name] for row, name in names if name in reasons}
        return found


class MappedRows:
    """Rows on disk that look like one (N, D) float32 array: they are read as they are indexed.

    `rows[i]`, `rows[a:b]` and `rows[numbers]` are arrays; so is `np.asarray(rows)`, of all of them.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, files: _ShardedList):
        self._files = files
        self.shape = files.total, files.width

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> np.ndarray:
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            if step != 1:
                return self._gather(np.arange(start, stop, step))
            return self._range(start, max(start, stop))
        if isinstance(which, int | np.integer):
            return self._gather(np.array([which]))[0]
        which = np.asarray(which)
        return self._gather(np.flatnonzero(which) if which.dtype == bool else which)

    def _range(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop − 1, a view of the map where one shard has them all."""
        files, parts = self._files, []
        shard = files.of(start) if start < stop else 0
        while start < stop:
            own = files.rows(shard)
            first = start - files.starts[shard]
            part = own[first : first + stop - start]
            parts.append(part)
            start, shard = start + len(part), shard + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros((0, self.shape[1]), np.float32), *parts])

    def _gather(self, numbers: np.ndarray) -> np.ndarray:
        numbers = numbers.astype(np.int64)
        if ((numbers < -len(self)) | (numbers >= len(self))).any():
            raise IndexError(f"a row is outside of the {len(self)} rows")
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        found = np.empty((*numbers.shape, self.shape[1]), np.float32)
        shards = np.searchsorted(self._files.starts, numbers, "right") - 1
        for shard in np.unique(shards).tolist():
            here = shards == shard
            found[here] = self._files.rows(shard)[numbers[here] - self._files.starts[shard]]
        return found

    def let_go(self) -> None:
        """Lets the system have the memory of the maps back, but of rows that are in use."""
        self._files._maps.clear()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        rows = self._range(0, len(self))
        return rows if dtype is None else rows.astype(dtype, copy=False)


class Names(Sequence[str]):
    """The names of the rows' images, of which one shard's are in memory at a time."""

    def __init__(self, files: _ShardedList):
        self._files = files
        self._read = functools.lru_cache(1)(files.names)

    def __len__(self) -> int:
        return self._files.total

    @overload
    def __getitem__(self, which: int) -> str: ...
    @overload
    def __getitem__(self, which: slice) -> list[str]: ...
    def __getitem__(self, which: int | slice) -> str | list[str]:
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(self)))]
        row = range(len(self))[which]  # as a list takes negative numbers, and refuses others
        shard = self._files.of(row)
        return self._read(shard)[row - self._files.starts[shard]]

    def __iter__(self) -> Iterator[str]:
        for shard in range(len(self._files.starts)):
            yield from self._files.names(shard)


@dataclasses.dataclass(frozen=True)
class ShardedDescriptors:
    """The descriptors of a list of N images in the files of its shards.

    Attributes:
      rows: (N, D) float32 on disk; NaN where an image could not be described.
      names: what the list calls each image.
      recipe: how the images were described.
      queries: those of the data set's queries, where it has some of its own.
      model: a digest of the model that described them.
    """

    rows: MappedRows
    names: Names
    recipe: Recipe
    queries: ShardedDescriptors | None
    model: str | None

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def failures(self) -> dict[int, str]:
        """Row -> why its image could not be described."""
        return self.rows._files.failures()


def _is_shape(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(is_whole(v, 1, 1 << 20) for v in value[:3])
        and isinstance(value[3], bool)
    )
