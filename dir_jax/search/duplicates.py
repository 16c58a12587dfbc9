"""Groups of images that are nearly the same."""

from __future__ import annotations

import jax
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dir_jax.errors import UserError
from dir_jax.retrieval.blockwise import dot_products
from dir_jax.runtime.progress import progress_bar
from dir_jax.search.index import Index

_ROWS = 2048  # compared with as many others at once
_ROUNDING = 1e-6  # of scores, which of equal images are not quite 1
_MOST_LINKS = 1 << 22  # kept before they are reduced to those that matter


def find_duplicates(index: Index, min_score: float) -> list[list[tuple[int, float]]]:
    """Groups the images of an index that are linked by scores of at least `min_score`.

    Every pair is compared, exactly. Two images of a group may be less alike, if others link them.
    Memory is O(N), whatever the groups.

    Returns:
      The groups, the largest first: (row, score with the group's first image), by rising row.

    Raises:
      UserError: `min_score` is not in (−1, 1].
    """
    if not -1 < min_score <= 1:
        raise UserError(f"--min-score is {min_score}; expected a number above -1, at most 1")
    x, count = index.descriptors, len(index)
    size = min(_ROWS, count)
    starts = range(0, count, size)
    blocks = len(starts) * (len(starts) + 1) // 2
    links: list[np.ndarray] = [np.empty((2, 0), np.int64)]
    with progress_bar("compare", blocks, "block", shown=True, delay=1) as bar:
        for first in starts:
            rows = _block(x, first, size)
            for second in range(first, count, size):
                near = np.array(_near(rows, _block(x, second, size), min_score - _ROUNDING))
                near = near[: count - first, : count - second]
                a, b = np.nonzero(np.triu(near, 1) if first == second else near)
                if len(a):
                    links.append(_forest(np.stack([a + first, b + second])))
                bar.update()
            index.forget_pages()
            if sum(each.shape[1] for each in links) > _MOST_LINKS:
                links = [_forest(np.concatenate(links, axis=1))]
    roots, members = _forest(np.concatenate(links, axis=1))
    groups = []
    for root in np.unique(roots).tolist():
        rows = np.array([root, *members[roots == root]])
        groups.append(list(zip(rows.tolist(), (x[rows] @ x[root]).tolist(), strict=True)))
    return sorted(groups, key=len, reverse=True)


def _block(x: np.ndarray, start: int, size: int) -> np.ndarray:
    """`size` rows from `start` on, of which those after the last are zero."""
    rows = x[start : start + size]
    return np.pad(rows, ((0, size - len(rows)), (0, 0)))


@jax.jit
def _near(rows: jax.Array, others: jax.Array, min_score: float) -> jax.Array:
    return dot_products(rows, others) >= min_score


def _forest(links: np.ndarray) -> np.ndarray:
    """(2, m) links from the lowest row of each group to each of its others, from (2, n) any."""
    nodes, ends = np.unique(links, return_inverse=True)
    if not len(nodes):
        return links
    a, b = ends.reshape(2, -1)
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(nodes), len(nodes)))
    labels = connected_components(graph, directed=False)[1]
    roots = nodes[np.unique(labels, return_index=True)[1][labels]]
    return np.stack([roots, nodes])[:, roots != nodes]
