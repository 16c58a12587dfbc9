"""Pictures without a list: in a folder, in one sub-folder for each class, by a pattern, or alone.

The order is that of the names, so it is the same on every machine. Names that begin with a dot are
hidden, as thumbnails and the copies that macOS leaves are; they are not looked at.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator

from dir_jax.data.images import SUFFIXES, ImageDataset, is_picture
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.lists import check_names
from dir_jax.errors import UserError, quoted, shown


def read_folder(folder: str) -> ImageDataset:
    """All pictures in a folder and in the folders in it.

    Raises:
      UserError: there is no such folder, it cannot be read, or it has no pictures.
    """
    return ImageDataset(_pictures(folder), folder)


def read_class_folders(folder: str) -> LabelledDataset:
    """The pictures in a folder that has one sub-folder for each class, by which it is named.

    Pictures in folders inside a class's folder belong to that class.

    Raises:
      UserError: as `read_folder`, or a picture lies in no sub-folder.
    """
    names = _pictures(folder)
    for name in names:
        if "/" not in name:
            raise UserError(
                f"{shown(os.path.join(folder, name))} has no class: it lies in no sub-folder of "
                f"{shown(folder)}; expected one sub-folder for each class, or give a list of paths "
                "and labels"
            )
    return LabelledDataset(names, [name.split("/")[0] for name in names], folder)


def read_labelled_folder(folder: str) -> LabelledDataset:
    """As `read_class_folders`, but folders inside a class's folder are refused, since a class could
    be either; raises UserError there, too."""
    dataset = read_class_folders(folder)
    for name in dataset.names:
        outer, _, rest = name.partition("/")
        if "/" in rest:
            inner = os.path.dirname(name)
            raise UserError(
                f"{shown(folder)} can be read in two ways: the class of {shown(name)} is "
                f"{quoted(outer)} or {quoted(inner)}; for the first, write "
                f"ImageFolder({quoted(folder)}); for the second, give the folder "
                f"{shown(os.path.join(folder, os.path.dirname(inner)))}"
            )
    return dataset


def read_pattern(pattern: str) -> ImageDataset:
    """The pictures whose paths match a pattern with `*`, `?`, `[…]`, or `**` for any folders.

    Raises:
      UserError: no picture does.
    """
    root = os.path.dirname(re.split(r"[*?[]", pattern, maxsplit=1)[0])
    found = sorted(set(glob.iglob(pattern, recursive=True)))
    names = [os.path.relpath(path, root or os.curdir) for path in found if is_picture(path)]
    if not names:
        what = f" but {len(found)} others, such as {shown(found[0])}" if found else ""
        raise UserError(
            f"{quoted(pattern)} matches no picture{what}; pictures end in {_known()}; ** stands "
            "for any folders"
        )
    return ImageDataset(check_names(_with_slashes(names), root, lambda _: pattern), root)


def read_picture(path: str) -> ImageDataset:
    """One picture."""
    folder, name = os.path.split(path)
    return ImageDataset(check_names([name], folder, lambda _: path), folder)


def _pictures(folder: str) -> list[str]:
    """The names of all pictures in a folder, relative to it, sorted."""
    found = [os.path.relpath(path, folder) for path in _files(folder)]
    names = [name for name in found if is_picture(name)]
    if not names:
        what = f" but {len(found)} other files, such as {shown(found[0])}" if found else ""
        raise UserError(f"the folder {shown(folder)} has no pictures{what}; pictures end in "
                        f"{_known()}; others can be given in a list")  # fmt: skip
    return check_names(sorted(_with_slashes(names)), folder, lambda _: folder)


def _files(folder: str) -> Iterator[str]:
    """The files in a folder and those inside it; links are followed, but not in circles."""

    def refuse(error: OSError) -> None:
        raise UserError(f"the folder {shown(error.filename)} cannot be read: {error.strerror}")

    above: dict[str, frozenset[tuple[int, int]]] = {folder: frozenset()}
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(here)
        own = status.st_dev, status.st_ino
        path = above.pop(here)
        if own in path:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        above |= {os.path.join(here, name): path | {own} for name in folders}
        yield from (os.path.join(here, name) for name in files if not name.startswith("."))


def _with_slashes(names: list[str]) -> list[str]:
    return [name.replace(os.sep, "/") for name in names]


def _known() -> str:
    return f"{', '.join(SUFFIXES[:4])}, …"
