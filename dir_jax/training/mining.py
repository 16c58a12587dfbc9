"""Hard-negative mining: triplets chosen from the descriptors of a pool of images.

As TL-GeM trains (Gordo et al., IJCV 2017, section 3.3): now and then the pool is described with the
current network, and each anchor's hardest negatives, the images of other classes most similar to
it, are kept; until the next refresh, triplets are drawn from them.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.data.samplers import Sampler
from dir_jax.errors import UserError

_MINE, _DRAW = 1, 2  # separate the random streams of choosing a pool and of drawing triplets


@dataclasses.dataclass(frozen=True)
class MinedTriplets:
    """What a refresh found: for each anchor its candidates, as indices into the data set.

    Attributes:
      anchors: (A,) int64.
      positives: (A, P) int64: images of the anchor's class, itself not among them; rows are padded
        by repeating their entries.
      negatives: (A, K) int64: the hardest images of other classes, hardest first.
    """

    anchors: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def choose_pool(labels: np.ndarray, size: int, seed: int, step: int) -> np.ndarray:
    """Images to describe at the refresh before `step`: (M,) sorted indices; all where size is 0."""
    if not 0 < size < len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng((seed, _MINE, step))
    return np.sort(rng.choice(len(labels), size, replace=False))


def mine_triplets(
    descriptors: np.ndarray,
    labels: np.ndarray,
    pool: np.ndarray,
    *,
    negatives: int,
    positives: str,
    block_size: int = 512,
) -> MinedTriplets:
    """Finds each anchor's hardest negatives and its positives, in blocks on the device.

    Args:
      descriptors: (M, D) float32, unit norm, of the pool's images.
      labels: (M,) int, of the pool's images.
      pool: (M,) the images' indices in the data set.
      negatives: K, how many of the most similar images of other classes to keep.
      positives: 'random' keeps all of the class, 'hardest' the least similar one, 'easiest' the
        most similar one.
      block_size: anchors that are compared with the whole pool at once.

    Raises:
      UserError: the pool has no two images of one class, or only one class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.max() < 2:
        raise UserError(
            f"the mining pool of {len(pool)} images has {len(classes)} classes, "
            f"at most {counts.max()} images each; triplets need two classes and a pair: "
            "raise config.mining.pool_size"
        )
    anchors = np.flatnonzero(np.isin(labels, classes[counts > 1]))
    k = min(negatives, int(len(labels) - counts.max()))
    num_positives = int(counts.max()) - 1
    found_negatives, found_positives = [], []
    compare = _compare(k, num_positives)
    on_device, labels_on_device = jnp.asarray(descriptors), jnp.asarray(labels)
    for start in range(0, len(anchors), block_size):
        block = anchors[start : start + block_size]
        rows = np.pad(block, (0, block_size - len(block)), mode="edge")
        hardest, similar = compare(on_device, labels_on_device, jnp.asarray(rows))
        found_negatives.append(np.asarray(hardest)[: len(block)])
        found_positives.append(np.asarray(similar)[: len(block)])
    similar = np.concatenate(found_positives)  # most similar first, then -1s
    available = counts[np.searchsorted(classes, labels[anchors])] - 1
    if positives == "random":  # wrap around, so that every column holds a positive
        columns = np.arange(num_positives)[None] % available[:, None]
    else:
        columns = (available - 1 if positives == "hardest" else np.zeros_like(available))[:, None]
    return MinedTriplets(
        anchors=pool[anchors],
        positives=pool[np.take_along_axis(similar, columns, axis=1)],
        negatives=pool[np.concatenate(found_negatives)],
    )


@functools.lru_cache(maxsize=8)
def _compare(negatives: int, positives: int):  # type: ignore[no-untyped-def]
    """A program: descriptors, labels, rows -> each row's most similar negatives and positives."""

    @jax.jit
    def compare(
        descriptors: jax.Array, labels: jax.Array, rows: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        scores = jnp.matmul(descriptors[rows], descriptors.T, precision=jax.lax.Precision.HIGHEST)
        same = labels[rows][:, None] == labels[None]
        itself = rows[:, None] == jnp.arange(len(labels))[None]
        _, hardest = jax.lax.top_k(jnp.where(same, -jnp.inf, scores), negatives)
        _, similar = jax.lax.top_k(jnp.where(same & ~itself, scores, -jnp.inf), positives)
        return hardest, similar

    return compare


class MinedSampler(Sampler):
    """Batches of (anchor, positive, negative) rows drawn from mined triplets."""

    def __init__(self, triplets: MinedTriplets, batch_size: int, seed: int):
        """Draws `batch_size` // 3 triplets a step."""
        super().__init__(batch_size)
        self._triplets, self._seed = triplets, seed

    def _batch(self, step: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, _DRAW, step))
        t, count = self._triplets, self.batch_size // 3
        # Without repetition while the anchors last.
        chosen = np.resize(rng.permutation(len(t.anchors)), count)
        positive = rng.integers(t.positives.shape[1], size=count)
        negative = rng.integers(t.negatives.shape[1], size=count)
        rows = [t.anchors[chosen], t.positives[chosen, positive], t.negatives[chosen, negative]]
        return np.stack(rows, axis=1).reshape(-1)
