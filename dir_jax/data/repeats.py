"""Lists that name a file twice, or a class in two ways: said aloud, since both spoil results."""

from __future__ import annotations

import collections
import copy
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TypeVar

from dir_jax.data.images import ImageDataset
from dir_jax.data.labelled import LabelledDataset
from dir_jax.data.lists import NamesInFile
from dir_jax.errors import UserError, quoted, shown

log = logging.getLogger(__name__)

_SHOWN = 3


Listed = TypeVar("Listed", ImageDataset, LabelledDataset)


def check_repeats(dataset: Listed, on_duplicate: str) -> Listed:
    """Warns of files that a list has twice, under one label or two, and of labels that look alike.

    Args:
      dataset: images, of a labelled set the queries as well.
      on_duplicate: 'keep' all rows, or 'drop' those of a file that an earlier row has. In a list
        that is too long for memory, repeats are not looked for.

    Returns:
      The data set, or one without the rows that were dropped.

    Raises:
      UserError: `on_duplicate` is something else, or 'drop' for such a long list.
    """
    if on_duplicate not in ("keep", "drop"):
        raise UserError(f"on_duplicate is {quoted(on_duplicate)}; expected 'keep' or 'drop'")
    if isinstance(dataset.names, NamesInFile):
        if on_duplicate == "drop":
            raise UserError(
                "on_duplicate='drop' is not for a list as long as this one, which is not held in "
                "memory; drop its repeats first, as sort -u does"
            )
        return dataset
    if isinstance(dataset, LabelledDataset):
        _warn_of_labels(dataset.classes)
    return _without_repeats(dataset, on_duplicate)


def _without_repeats(dataset: Listed, on_duplicate: str) -> Listed:
    labels = dataset.texts() if isinstance(dataset, LabelledDataset) else [""] * len(dataset)
    queries = dataset.queries if isinstance(dataset, LabelledDataset) else None
    kept_queries = None if queries is None else _without_repeats(queries, on_duplicate)
    paths, rows = list(_same_where_files_are(dataset)), collections.defaultdict(list)
    if len(set(paths)) < len(paths):
        for i, path in enumerate(paths):
            rows[path].append(i)
    repeats = [found for found in rows.values() if len(found) > 1]
    keep = "all rows are kept; on_duplicate='drop' keeps the first of each"
    doing = {"keep": keep, "drop": "the first row of each is kept"}[on_duplicate]
    named: dict[str, list[str]] = {"under two labels": [], "twice": []}
    for found in repeats:
        own = list(dict.fromkeys(labels[i] for i in found))
        name, what = shown(dataset.path(found[0])), ", ".join(map(quoted, own))
        if len(own) > 1:
            named["under two labels"].append(f"{name} ({what})")
        else:
            named["twice"].append(name)
    for how, files in named.items():
        if files:
            some = ", ".join(files[:_SHOWN]) + _more(files)
            log.warning("images listed %s: %d, %s (%s)", how, len(files), some, doing)
    if on_duplicate == "keep" or (not repeats and kept_queries is queries):
        return dataset
    again = {i for found in repeats for i in found[1:]}
    kept = [i for i in range(len(dataset)) if i not in again]
    fewer = copy.copy(dataset)  # with its protocol, and whatever else it has
    fewer.names = [dataset.names[i] for i in kept]
    if isinstance(dataset, LabelledDataset):
        vars(fewer).update(labels=dataset.labels[kept], queries=kept_queries)
    return fewer


def _same_where_files_are(dataset: ImageDataset) -> Iterator[str]:
    """A text for each image, which is the same for two names of one path."""
    if not dataset.root and any(map(os.path.isabs, dataset.names)):
        yield from map(os.path.abspath, dataset.names)
    else:
        for name in dataset.names:  # most need no normalising, which is slow for long lists
            plain = not (name[0] == "." or "/." in name or "//" in name or "\\" in name)
            yield name if plain else os.path.normpath(name)


def _warn_of_labels(classes: Sequence[str]) -> None:
    """Warns of labels that a person would take for one, such as 1 and 01, or Tower and tower."""
    alike: dict[str, list[str]] = {}
    for label in classes:
        alike.setdefault(_looks(label), []).append(label)
    found = [" and ".join(map(quoted, each)) for each in alike.values() if len(each) > 1]
    if found:
        some = "; ".join(found[:_SHOWN]) + _more(found)
        log.warning("labels that look alike, but are different classes: %d, %s", len(found), some)


def _more(found: Sequence[str]) -> str:
    return f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""


def _looks(label: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", label).casefold().replace("_", " ").split())
    return str(int(text)) if text.isdecimal() and len(text) < 100 else text
