"""Makes an index and changes it; a process that is killed leaves it as before or as after."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.marks import mark
from dir_jax.describe.describer import Describer
from dir_jax.describe.descriptors import Descriptors
from dir_jax.errors import UserError, did_you_mean, shown
from dir_jax.model_recipe import Recipe
from dir_jax.runtime.files import check_name, take_lock
from dir_jax.runtime.folders import check_replaceable, replacing_folder
from dir_jax.runtime.progress import progress_bar
from dir_jax.search.engines import check_engine, engine_of
from dir_jax.search.index import small_copy
from dir_jax.search.store import COLUMNS, Change, Contents, read_contents, rows_as_bytes


@dataclasses.dataclass(frozen=True)
class NewImages:
    """Images that an index is to have.

    Attributes:
      names: of N images, relative to the index's root, or absolute.
      marks: (N, 2) int64, the size of each file in bytes and its time of change in ns; −1 for none.
      blocks: makes an iterator over their descriptors: (n, D) float32, one block after the other.
      copy: gives the small JPEG copy of one of them, if the index is to have copies.
    """

    names: Sequence[str]
    marks: np.ndarray
    blocks: Callable[[], Iterable[np.ndarray]]
    copy: Callable[[int], bytes] | None = None

    @classmethod
    def of(cls, described: Descriptors, marks: np.ndarray) -> NewImages:
        """Described images, those that have no descriptor left out; `marks` from `marks_of`."""
        images = described.dataset
        good = np.array([i for i in range(len(images)) if i not in described.failures], np.int64)

        def blocks() -> Iterator[np.ndarray]:
            for first, rows in described.blocks():
                yield rows[np.isin(np.arange(first, first + len(rows)), good)]

        def copy(i: int) -> bytes:
            return small_copy(images.view(int(good[i])))

        return cls([images.names[i] for i in good], marks[good], blocks, copy)


def images_of(dataset: ImageDataset, root: str) -> ImageDataset:
    """The image files of a data set, each once, named as in an index of the folder `root`.

    Raises as `names_in` does.
    """
    return ImageDataset(list(dict.fromkeys(names_in(root, dataset))), root)


def names_in(root: str, dataset: ImageDataset) -> list[str]:
    """What an index of the folder `root` calls each of N image files, which may repeat.

    A name is the path relative to `root`, or absolute outside it.

    Raises:
      UserError: the images are not files, or a name cannot be kept in a file of text.
    """
    if type(dataset)._file is not ImageDataset._file:
        raise UserError(f"an index is of image files; the {dataset} are none")
    prefix = os.path.join(root, "")
    paths = (os.path.abspath(dataset.path(i)) for i in range(len(dataset)))
    names = [path.removeprefix(prefix) for path in paths]
    for name in names:
        check_name(name)
    return names


def marks_of(images: ImageDataset) -> np.ndarray:
    """(N, 2) int64: size in bytes and time of change in ns of each file, −1 where there is none."""
    marks = [mark(b"", images.path(i))[1:] for i in range(len(images))]
    return np.array(marks, np.int64).reshape(-1, 2)


def create_index(
    path: str | os.PathLike[str],
    new: NewImages,
    *,
    root: str,
    model: dict[str, Any],
    recipe: Recipe,
    engine: str = "exact",
    thumbnails: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes a new index, whole or not at all.

    Args:
      path: the folder to make.
      new: its images.
      root: the folder of the images.
      model: from `describe_model_of`.
      recipe: how the images were described.
      engine: what finds descriptors; see `dir_jax.search.engines`.
      thumbnails: also keeps small copies of the images.
      overwrite: replaces the index that is there.

    Raises:
      UserError: the engine cannot be used, or the index cannot be written.
    """
    path = Path(path)
    check_engine(engine)
    if overwrite:
        check_replaceable(path, "index.json", "an index")
    about = {"change": 0, "count": 0, "size": 0, "next_id": 0, "root": root, "model": model,
             "recipe": recipe.to_json(), "engine": {"name": engine}, "files": {}}  # fmt: skip
    with contextlib.ExitStack() as after:
        if overwrite and (path / "index.json").exists():
            with contextlib.suppress(UserError):  # what cannot be read has nothing to drop
                after.callback(engine_of(read_contents(path)).drop)
        try:
            with replacing_folder(path, overwrite=overwrite) as folder:
                folder.mkdir()
                empty = np.empty(0, np.int64)
                _apply(Change(folder, about), None, empty, new, thumbnails=thumbnails)
        except BaseException as e:
            after.pop_all()
            if isinstance(e, FileExistsError):
                why = "exists already; --overwrite replaces it, --add adds to it"
                raise UserError(f"{shown(path)} {why}") from e
            if isinstance(e, OSError):
                raise UserError(f"cannot write the index {path}: {e.strerror or e}") from e
            raise


@contextlib.contextmanager
def changing(path: str | os.PathLike[str]) -> Iterator[Contents]:
    """Locks an index against other processes that would change it, and reads it.

    Raises:
      UserError: it cannot be read, or another process is changing it.
    """
    read_contents(path)  # before a lock is written into a folder that is no index
    lock = take_lock(Path(path, "lock"), f"the index {path} is being changed by another process")
    try:
        yield read_contents(path)
    finally:
        lock.release()


def change_index(
    before: Contents,
    *,
    remove: Iterable[int] = (),
    new: NewImages | None = None,
    engine: str | None = None,
) -> None:
    """Removes rows from an index and adds images after the others, in one step.

    Args:
      before: the index, from `changing`, which still locks it.
      remove: the rows to remove.
      new: the images to add.
      engine: another engine from now on.

    Raises:
      UserError: it would have no image, the engine cannot be used, or it cannot be written.
    """
    about = before.about
    if engine is not None:
        check_engine(engine)
        about = {**about, "engine": {"name": engine}}
    keep = np.delete(np.arange(len(before)), list(remove))
    new = NewImages([], np.empty((0, 2), np.int64), lambda: ()) if new is None else new
    thumbnails = "thumbnails" in about["files"]
    _apply(Change(before.folder, about), before, keep, new, thumbnails=thumbnails)


def add_images(
    before: Contents, dataset: ImageDataset, describer: Describer, partial: str
) -> tuple[int, int, int]:
    """Describes and adds the images of a data set that an index, from `changing`, does not have.

    Those whose files have changed since are described again.

    Args:
      before: the index.
      dataset: the images.
      describer: describes as the index's images were.
      partial: the folder from which the same call resumes after it was killed.

    Returns:
      How many were added, how many of them in place of another file, and how many were left out
      because they cannot be used.

    Raises:
      UserError: an image cannot be used and is not to be left out, or the index not be written.
    """
    images = images_of(dataset, before.about["root"])
    marks, rows = marks_of(images), {name: row for row, name in enumerate(before.names)}
    own = [rows.get(name) for name in images.names]
    todo = [i for i, row in enumerate(own)
            if row is None or (before.images[row, 1:3] != marks[i]).any()]  # fmt: skip
    if not todo:
        return 0, 0, 0
    images = ImageDataset([images.names[i] for i in todo], images.root)
    described = describer.describe([("new", images)], partial, images_may_change=True)
    new = NewImages.of(described.lists[0], marks[todo])
    replaced = [rows[name] for name in new.names if name in rows]
    change_index(before, remove=replaced, new=new)
    described.delete_partial()
    return len(new.names), len(replaced), len(todo) - len(new.names)


def remove_images(before: Contents, names: Iterable[str]) -> int:
    """Removes the images of these names from an index, from `changing`; returns how many.

    Raises:
      UserError: the index has no image of a name, would have none at all, or cannot be written.
    """
    rows = {name: row for row, name in enumerate(before.names)}
    names = set(names)
    if missing := sorted(names - rows.keys()):
        raise UserError(f"the index {before.folder} has no image {shown(missing[0])}"
                        f"{did_you_mean(missing[0], before.names)}")  # fmt: skip
    change_index(before, remove=[rows[name] for name in names])
    return len(names)


def _apply(
    change: Change, before: Contents | None, keep: np.ndarray, new: NewImages, *, thumbnails: bool
) -> None:
    """Keeps some rows of what there was, adds others, and has the engine follow."""
    about, count = change.about, len(new.names)
    if not len(keep) + count:
        raise UserError(f"the index {change.folder} would have no image; it is left as it is")
    append = before is not None and len(keep) == len(before)
    images = np.zeros((count, len(COLUMNS)), np.int64)
    images[:, 0] = about["next_id"] + np.arange(count)
    images[:, 1:3] = new.marks
    about["count"], about["next_id"] = len(keep) + count, about["next_id"] + count
    names = "".join(f"{name}\n" for name in new.names)

    def descriptors() -> Iterator[bytes]:
        for rows in new.blocks():
            if about["size"] not in (0, rows.shape[1]):
                raise UserError(f"the new descriptors have {rows.shape[1]} dimensions; the index's "
                                f"have {about['size']}")  # fmt: skip
            about["size"] = rows.shape[1]
            yield from rows_as_bytes(rows)

    def write(kind: str, old: np.ndarray | list[bytes], added: Iterable[bytes]) -> None:
        if before is not None and not append:
            kept = rows_as_bytes(old, keep) if isinstance(old, np.ndarray) else old
            change.write(kind, itertools.chain(kept, added), append=False)
        else:
            change.write(kind, added, append=True)

    with change:
        write("descriptors", before.descriptors if before else [], descriptors())
        if thumbnails and new.copy is not None:
            change.write("thumbnails", _copies(new, images, about["files"]), append=True)
        write("images", before.images if before else [], rows_as_bytes(images))
        kept = "".join(f"{before.names[i]}\n" for i in keep.tolist()) if before else ""
        write("names", [kept.encode()], [names.encode()])
        about["files"].pop("engine", None)
        kind, argument = check_engine(about["engine"]["name"])
        engine = kind(argument, change.contents())
        previous = engine_of(before) if before is not None else None
        engine.build(previous, lambda write: change.adopt("engine", write))
        about["engine"] = {"name": str(engine), **engine.settings}
        change.commit()
    engine.committed()
    if previous is not None and str(previous) != str(engine):
        previous.drop()


def _copies(new: NewImages, images: np.ndarray, files: dict[str, Any]) -> Iterator[bytes]:
    """The small copies of new images; says in `images` where each is."""
    assert new.copy is not None
    start = files.get("thumbnails", {"bytes": 0})["bytes"]
    with progress_bar("thumbnails", len(images), "img", shown=True, delay=1) as bar:
        for i, image in enumerate(images):
            with contextlib.suppress(UserError):  # it was readable when it was described
                data = new.copy(i)
                image[3:] = start, len(data)
                start += len(data)
                yield data
            bar.update()
