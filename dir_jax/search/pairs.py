"""Pairs of images that may show the same place, as hloc matches them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import replacing
from dir_jax.runtime.progress import progress_bar
from dir_jax.search.building import names_in
from dir_jax.search.index import Index

_QUERIES = 4096  # searched for at once


def write_pairs(
    output: str | os.PathLike[str],
    index: Index,
    queries: ImageDataset | None = None,
    *,
    top: int,
    min_score: float | None = None,
    query_prefix: Sequence[str] = (),
    database_prefix: Sequence[str] = (),
    partial: str | None = None,
) -> int:
    """Writes each query and the images most similar to it: `QUERY IMAGE` rows, the best first.

    No image is paired with itself, which is told by its name. Memory does not grow with the number
    of queries, nor with that of images, apart from their names.

    Args:
      output: the file to write, whole or not at all.
      index: the database.
      queries: images, of which those in the index are not described again; by default all of it.
      top: the most pairs of a query.
      min_score: the least score of a pair.
      query_prefix, database_prefix: what the names of queries, and of images that they are paired
        with, begin with, as hloc's flags say.
      partial: a folder from which the description of queries resumes.

    Returns:
      The number of pairs.

    Raises:
      UserError: nothing has such a prefix, a name has white space, which the format cannot hold, an
        image cannot be used, or the file cannot be written.
    """
    if top < 1:
        raise UserError(f"--top is {top}; expected 1 or more")
    names = index.names if queries is None else queries.names
    chosen = _chosen(names, query_prefix, "query")
    among = _chosen(index.names, database_prefix, "database")
    for name in (*(names[i] for i in chosen), *(index.names[i] for i in among)):
        if re.search(r"\s", name):
            raise UserError(f"the image {quoted(name)} cannot be in a list of pairs: its name has "
                            "white space, which separates the two of a pair")  # fmt: skip
    rows = None if len(among) == len(index) else among
    written = 0
    with (
        replacing(output) as scratch,
        scratch.open("w", encoding="utf-8") as file,
        progress_bar("pairs", len(chosen), "img", shown=True, delay=1) as bar,
    ):
        for some, own, x in _descriptors(index, queries, chosen, partial):
            found = index.search_among(x, min(top + 1, len(among)), rows)
            good = (found.rows >= 0) & (found.rows != own[:, None])
            good &= found.scores >= (-np.inf if min_score is None else min_score)
            for name, others, kept in zip(some, found.names, good, strict=True):
                pairs = [f"{name} {others[i]}\n" for i in np.flatnonzero(kept) if others[i] != name]
                file.writelines(pairs[:top])
                written += len(pairs[:top])
            bar.update(len(some))
    return written


def _chosen(names: Sequence[str], prefixes: Sequence[str], what: str) -> np.ndarray:
    """(n,) the numbers of the names that begin with one of the prefixes; of all, without any."""
    start = tuple(prefixes) or ("",)
    found = np.array([i for i, name in enumerate(names) if name.startswith(start)], np.int64)
    if not len(found):
        prefix = shown(", ".join(prefixes))
        raise UserError(f"no name of a {what} image begins with {prefix}")
    return found


def _descriptors(
    index: Index, queries: ImageDataset | None, chosen: np.ndarray, partial: str | None
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Yields names, (n,) rows in the index or −1, and (n, D) descriptors of a part of the queries.

    Those that the index has come first.
    """
    names = index.names if queries is None else queries.names
    rows = chosen
    if queries is not None:
        inside = names_in(index.root, queries)
        found = [index.row(name) for name in inside]
        rows = np.array([-1 if row is None else row for row in found], np.int64)[chosen]
    known = rows >= 0
    for start in range(0, int(known.sum()), _QUERIES):
        part = np.flatnonzero(known)[start : start + _QUERIES]
        yield [names[i] for i in chosen[part]], rows[part], index.descriptors[rows[part]]
    if queries is None or known.all():
        return
    unknown = [names[i] for i in chosen[~known]]
    images = ImageDataset(unknown, queries.root)
    described = index.describer().describe([("queries", images)], partial, images_may_change=True)
    for first, x in described.lists[0].blocks():
        yield unknown[first : first + len(x)], np.full(len(x), -1), x
    described.delete_partial()
