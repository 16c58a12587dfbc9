"""Hard-negative mining: triplets chosen from the descriptors of a pool of images.

This is how TL-GeM is trained (Gordo et al., IJCV 2017, section 3.3). From time to time the current
network describes the pool, and for each anchor its hardest negatives are kept, which are the most
similar images of other classes. Triplets are drawn from these until the pool is described again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from dir_jax.data.samplers import Sampler
from dir_jax.errors import UserError

# Separate the random streams of choosing a pool, of drawing triplets, and of choosing pairs.
_MINE, _DRAW, _PAIRS = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class MinedTriplets:
    """The candidates of each anchor, as int64 numbers of images of the data set.

    The positives are images of the anchor's class without itself; rows with fewer repeat them. Of
    matching pairs, which a data set lists, the anchor has the other image of its pair. The
    negatives are the hardest images of other classes, the hardest first.
    """

    anchors: np.ndarray  # (A,)
    positives: np.ndarray  # (A, P)
    negatives: np.ndarray  # (A, K)


def choose_pool(numbers: np.ndarray, size: int, seed: int, step: int) -> np.ndarray:
    """(M,) int: `size` random of the (N,) `numbers` of images, sorted, or all of them if it is 0.

    They depend on the seed and the step.
    """
    if not 0 < size < len(numbers):
        return numbers
    rng = np.random.default_rng((seed, _MINE, step))
    return np.sort(rng.choice(numbers, size, replace=False))


def mine_triplets(
    descriptors: np.ndarray, labels: np.ndarray, pool: np.ndarray,
    *, negatives: int, positives: str, block_size: int = 512,
) -> MinedTriplets:  # fmt: skip
    """Finds the hardest negatives and the positives of each anchor, in blocks on the device.

    Several processes divide the blocks between them; all of them get the same triplets.

    Args:
      descriptors: (M, D) float32 of norm 1, of the pool's images.
      labels: (M,) int, their classes.
      pool: (M,) int, their numbers in the data set.
      negatives: K, how many of the hardest negatives to keep.
      positives: which images of the anchor's class to keep: 'random' for all, 'hardest' for the
        least similar one, 'easiest' for the most similar one.
      block_size: how many anchors are compared with the whole pool at once.

    Raises:
      UserError: the pool has only one class, or no two images of the same class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.max() < 2:
        raise UserError(
            f"the {len(pool)} images to mine from have {len(classes)} classes with at most "
            f"{counts.max(initial=0)} images each; triplets need two classes, and two images of "
            "one: raise config.mining.pool_size"
        )
    anchors = np.flatnonzero(np.isin(labels, classes[counts > 1]))
    k = min(negatives, int(len(labels) - counts.max()))
    num_positives = int(counts.max()) - 1
    on_device = jnp.asarray(descriptors), jnp.asarray(labels)
    hardest, similar = _in_blocks(
        lambda rows: _most_similar(*on_device, jnp.asarray(rows), k, num_positives),
        anchors, block_size,
    )  # fmt: skip
    available = counts[np.searchsorted(classes, labels[anchors])] - 1
    if positives == "random":  # all; shorter rows start again, so that all columns are filled
        columns = np.arange(num_positives)[None] % available[:, None]
    else:
        columns = (available - 1 if positives == "hardest" else np.zeros_like(available))[:, None]
    return MinedTriplets(
        anchors=pool[anchors],
        positives=pool[np.take_along_axis(similar, columns, axis=1)],
        negatives=pool[hardest],
    )


def choose_pairs(pairs: np.ndarray, count: int, seed: int, step: int) -> np.ndarray:
    """(A, 2) int: `count` random rows of a data set's matching pairs, or all if it is 0."""
    if not 0 < count < len(pairs):
        return pairs
    rng = np.random.default_rng((seed, _PAIRS, step))
    return pairs[rng.choice(len(pairs), count, replace=False)]


def mine_of_pairs(
    queries: np.ndarray, pool_descriptors: np.ndarray, labels: np.ndarray, pairs: np.ndarray,
    pool: np.ndarray, *, negatives: int, block_size: int = 512,
) -> MinedTriplets:  # fmt: skip
    """Finds the hardest negatives of the first image of each matching pair, on the device.

    As Radenović et al. mine (TPAMI 2018, section 3.2): from each class (cluster) other than the
    query's its image that is most similar to the query, and of these the most similar ones.
    Several processes divide the work as in `mine_triplets`.

    Args:
      queries: (A, D) float32 of norm 1, descriptors of the pairs' first images.
      pool_descriptors: (M, D) float32 of norm 1, of the pool's images.
      labels: (N,) int, the classes of all images of the data set.
      pairs: (A, 2) int, numbers of matching images in the data set.
      pool: (M,) int, the numbers of the images that negatives are taken from.
      negatives: K, how many of the hardest negatives to keep, fewer where there are fewer classes.
      block_size: how many queries are compared with the whole pool at once.

    Raises:
      UserError: the pool has only one class, or there are no pairs.
    """
    if not len(pairs):
        raise UserError("no matching pair is left to mine from: of each, an image cannot be read")
    classes, classes_of_pool = np.unique(labels[pool], return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"the {len(pool)} images to mine negatives from are of one class; raise "
            "config.mining.pool_size"
        )
    own = np.searchsorted(classes, labels[pairs[:, 0]])
    own = np.where(classes[np.minimum(own, len(classes) - 1)] == labels[pairs[:, 0]], own, -1)
    k, on_device = (
        min(negatives, len(classes) - 1),
        jax.device_put((pool_descriptors, classes_of_pool)),
    )
    (hardest,) = _in_blocks(
        lambda rows: (_hardest_of_classes(queries[rows], own[rows], *on_device, len(classes), k),),
        np.arange(len(pairs)), block_size,
    )  # fmt: skip
    return MinedTriplets(anchors=pairs[:, 0], positives=pairs[:, 1:], negatives=pool[hardest])


def _in_blocks(
    compute: Callable[[np.ndarray], tuple[jax.Array, ...]], rows: np.ndarray, block_size: int
) -> list[np.ndarray]:
    """What `compute` gives for the (N,) `rows`, (N, …) each, in blocks that processes divide."""
    processes = jax.process_count()
    padded = np.pad(rows, (0, -len(rows) % (block_size * processes)), mode="edge")
    blocks = [
        jax.device_get(compute(block))
        for block in padded.reshape(processes, -1, block_size)[jax.process_index()]
    ]
    own = tuple(np.concatenate(x) for x in zip(*blocks, strict=True))
    return [x[: len(rows)] for x in multihost_utils.process_allgather(own, tiled=True)]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _hardest_of_classes(
    queries: jax.Array, own: jax.Array, pool: jax.Array, labels: jax.Array, classes: int, k: int
) -> jax.Array:
    """(B, k), the best image in the pool of each of the k best classes that are not a query's."""
    scores = jnp.matmul(pool, queries.T, precision=jax.lax.Precision.HIGHEST)  # (M, B)
    best = jax.ops.segment_max(scores, labels, classes)
    places = jnp.where(scores == best[labels], jnp.arange(len(pool))[:, None], len(pool))
    first = jax.ops.segment_min(places, labels, classes)
    best = jnp.where(own == jnp.arange(classes)[:, None], -jnp.inf, best)
    _, chosen = jax.lax.top_k(best.T, k)
    return jnp.take_along_axis(first.T, chosen, axis=1)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _most_similar(
    descriptors: jax.Array, labels: jax.Array, rows: jax.Array, negatives: int, positives: int
) -> tuple[jax.Array, jax.Array]:
    """The most similar negatives and positives of some rows, the most similar first."""
    scores = jnp.matmul(descriptors[rows], descriptors.T, precision=jax.lax.Precision.HIGHEST)
    same = labels[rows][:, None] == labels[None]
    itself = rows[:, None] == jnp.arange(len(labels))[None]
    _, hardest = jax.lax.top_k(jnp.where(same, -jnp.inf, scores), negatives)
    _, similar = jax.lax.top_k(jnp.where(same & ~itself, scores, -jnp.inf), positives)
    return hardest, similar


class MinedSampler(Sampler):
    """Batches of triplets, each in three successive rows: anchor, positive, negative."""

    def __init__(self, triplets: MinedTriplets, batch_size: int, seed: int):
        super().__init__(batch_size)
        self._triplets, self._seed = triplets, seed

    def _batch(self, step: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, _DRAW, step))
        t, count = self._triplets, self.batch_size // 3
        # An anchor is repeated only if the batch has more triplets than there are anchors.
        chosen = np.resize(rng.permutation(len(t.anchors)), count)
        positive = rng.integers(t.positives.shape[1], size=count)
        negative = rng.integers(t.negatives.shape[1], size=count)
        rows = [t.anchors[chosen], t.positives[chosen, positive], t.negatives[chosen, negative]]
        return np.stack(rows, axis=1).reshape(-1)
