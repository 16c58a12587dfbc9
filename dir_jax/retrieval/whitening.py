"""Whitening of descriptors: learned on one set of images, applied to others.

PCA whitening as in Jégou and Chum, Negative Evidences and Co-occurrences in Image Retrieval, ECCV
2012, and Gordo et al., End-to-end Learning of Deep Visual Representations, IJCV 2017; whitening
from matching pairs as in Radenović et al., Fine-tuning CNN Image Retrieval, TPAMI 2018.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError

WHITENING_NAME = re.compile(r"[\w+(][\w +.,()-]{0,99}")
"""What a whitening may be called: its name becomes a part of paths in a checkpoint."""

_ROWS = 4096  # converted to float64 at once


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean_", "components_", "explained_variance_"],
    meta_fields=["whiten"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """A PCA with the fields of `sklearn.decomposition.PCA`; a pytree, for use as a jit argument.

    One that was learned from pairs has the same fields: its rows whiten already.

    Attributes:
      mean_: (D,) float.
      components_: (K, D) float, by falling variance; the rows of a PCA are orthonormal.
      explained_variance_: (K,) float, the variance of the data along each component.
      whiten: whether to divide by a power of the variance after projecting.
    """

    mean_: np.ndarray
    components_: np.ndarray
    explained_variance_: np.ndarray
    whiten: bool = True

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The fields by name as arrays, to be stored."""
        return {f.name: np.asarray(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
          UserError: a field is missing, or the shapes do not fit together.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in arrays]:
            raise UserError(f"the whitening lacks {', '.join(map(repr, missing))}")
        mean, components, variance = (np.asarray(arrays[name]) for name in names[:3])
        shape = components.shape
        fits = len(shape) == 2 and (variance.shape, mean.shape) == (shape[:1], shape[1:])
        if not fits or not components.size:
            raise UserError(
                f"the whitening's shapes do not fit together: mean_ {mean.shape}, components_ "
                f"{components.shape}, explained_variance_ {variance.shape}; expected (D,), (K, D) "
                "and (K,), with D and K of at least 1"
            )
        return cls(mean, components, variance, bool(arrays["whiten"]))


def learn_whitening(
    descriptors: np.ndarray, where: np.ndarray | None = None, *, whiten: bool = True
) -> Whitening:
    """Learns a PCA in float64, with the result of `sklearn.decomposition.PCA(whiten=whiten)`.

    The sign of each component is chosen so that its entry of largest magnitude is positive. Unlike
    scikit-learn's, the result leaves out components along which the data varies by no more than the
    rounding of float32 at the descriptors' length: there are always some where N <= D, and
    whitening would scale them up to the size of the others.

    Args:
      descriptors: (N, D) float, N > 1. Memory besides them is O(D²); they may be rows on disk, as
        those of `dir_jax.open_descriptors` are.
      where: (N,) bool, the rows to learn from; by default all.
      whiten: the result's `Whitening.whiten`.

    Raises:
      UserError: there are fewer than two descriptors, some are not finite, or all are the same.
    """
    mean, variance, components = _principal(descriptors, where)
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return Whitening(mean, components, variance, whiten)


def learn_whitening_from_pairs(
    descriptors: np.ndarray, pairs: np.ndarray, where: np.ndarray | None = None
) -> Whitening:
    """Learns, in float64, the projection that makes the differences of matching pairs white.

    Radenović et al., TPAMI 2018, section 3.3, after Mikolajczyk and Matas, ICCV 2007. With m the
    mean of the pairs' first images and C = Σ (q − p)(q − p)ᵀ / P over the pairs, the projection is
    Dᵀ L⁻¹ (x − m), where L Lᵀ = C, and D are the eigenvectors of L⁻¹ Σ (x − m)(x − m)ᵀ L⁻ᵀ over all
    descriptors, by falling eigenvalue. Where C is singular, as it is with fewer pairs than
    dimensions, 1e-10, 1e-9, … times the identity is added until it is not. As many components are
    kept as a PCA of the descriptors has; their signs are chosen as `learn_whitening` chooses them.

    Args:
      descriptors: (N, D) float, N > 1, as for `learn_whitening`.
      pairs: (P, 2) int, rows of descriptors that match, P > 0.
      where: (N,) bool, the rows to learn from; by default all. Those of pairs are among them.

    Returns:
      A whitening that projects only: `whiten` is False, and the powers of `apply_whitening` do not
      apply.

    Raises:
      UserError: as `learn_whitening`; or there are no pairs, or the images of all are the same.
    """
    pairs = np.asarray(pairs)
    chex.assert_shape(pairs, (None, 2))
    if not len(pairs):
        raise UserError("whitening is learned from matching pairs of images, and there are none")
    kept = len(_principal(descriptors, where)[1])
    mean = np.zeros(descriptors.shape[1])
    within = np.zeros((len(mean), len(mean)))
    for start in range(0, len(pairs), _ROWS):
        q, p = descriptors[pairs[start : start + _ROWS].T].astype(np.float64)
        mean += q.sum(axis=0) / len(pairs)
        within += (q - p).T @ (q - p) / len(pairs)
    if not within.any():
        raise UserError("whitening cannot be learned: the descriptors of each pair are the same")
    inverse = np.linalg.inv(_cholesky(within))
    scatter = inverse @ _scatter(descriptors, where, mean) @ inverse.T
    variance, vectors = np.linalg.eigh((scatter + scatter.T) / 2)
    variance, vectors = variance[::-1][:kept], vectors.T[::-1][:kept]
    components = vectors @ inverse
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(kept), largest])[:, None]
    return Whitening(mean, components, variance / _count(descriptors, where), whiten=False)


def pairs_of_classes(labels: np.ndarray) -> np.ndarray:
    """Matching pairs of labelled images: each image with the next one of its class, in a circle.

    So every image of a class that has several is the first of one pair and the second of another,
    and large classes count by their images, not by their square.

    Args:
      labels: (N,) int, the class of each image.

    Returns:
      (P, 2) int64, numbers of images.

    >>> pairs_of_classes(np.array([5, 7, 5, 5, 8])).tolist()
    [[0, 2], [2, 3], [3, 0]]
    """
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    following = np.roll(order, -1)
    following[starts + counts - 1] = order[starts]
    pairs = np.stack([order, following], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _principal(
    descriptors: np.ndarray, where: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean (D,), and the variances (K,) and directions (K, D) along which descriptors vary.

    Raises:
      UserError: as `learn_whitening`.
    """
    chex.assert_rank(descriptors, 2)
    num = _count(descriptors, where)
    if num < 2:
        raise UserError(f"whitening is learned from two descriptors or more, not from {num}")
    mean = sum(rows.sum(axis=0) for _, rows in _blocks(descriptors, where)) / num
    if not np.isfinite(mean).all():
        bad = [
            row
            for start, rows in _blocks(descriptors, where)
            for row in (start + np.flatnonzero(~np.isfinite(rows).all(axis=1))).tolist()
        ]
        raise UserError(
            f"whitening cannot be learned: {len(bad)} of {num} descriptors are not finite, the "
            f"first of image number {bad[0]}"
        )
    covariance = _scatter(descriptors, where, mean) / (num - 1)
    variance, components = np.linalg.eigh(covariance)
    variance, components = variance[::-1], components.T[::-1]
    squared_length = np.trace(covariance) * (num - 1) / num + mean @ mean
    kept = variance > np.finfo(np.float32).eps ** 2 * squared_length
    if not kept.any():
        raise UserError(
            f"whitening cannot be learned: all {num} descriptors are the same; the network gives "
            "every image one descriptor"
        )
    return mean, variance[kept], components[kept]


def _count(descriptors: np.ndarray, where: np.ndarray | None) -> int:
    return len(descriptors) if where is None else int(where.sum())


def _blocks(descriptors: np.ndarray, where: np.ndarray | None) -> Iterator[tuple[int, np.ndarray]]:
    """The chosen rows in float64, block by block, with the number of each block's first row."""
    for start in range(0, len(descriptors), _ROWS):
        rows = descriptors[start : start + _ROWS].astype(np.float64)
        yield start, rows if where is None else rows[where[start : start + _ROWS]]


def _scatter(descriptors: np.ndarray, where: np.ndarray | None, mean: np.ndarray) -> np.ndarray:
    """Σ (x − mean)(x − mean)ᵀ over the rows, (D, D) float64."""
    total = np.zeros((len(mean), len(mean)))
    for _, rows in _blocks(descriptors, where):
        rows -= mean
        total += rows.T @ rows
    return total


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    added = 0.0
    while True:
        try:
            return np.linalg.cholesky(matrix + added * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            added = 10 * added or 1e-10


def check_divisor(whitening: Whitening, *, power: float, dims: int | None, m: float) -> None:
    """Raises UserError if `apply_whitening` with these options would divide by 0 or infinity."""
    if not whitening.whiten:
        return
    with np.errstate(all="ignore"):
        variance = np.asarray(whitening.explained_variance_[:dims], np.float32)
        divisor = m * variance ** np.float32(power)
    if bad := int((~(np.isfinite(divisor) & (divisor > 0))).sum()):
        raise UserError(
            f"whitening cannot divide by {bad} of its {len(variance)} variances to the power "
            f"{power:g}, times {m:g}: they are 0, negative or too large; keep fewer dimensions "
            "(--whitenv), or choose another power (--whitenp)"
        )


def apply_whitening(
    x: jax.typing.ArrayLike,
    whitening: Whitening,
    *,
    power: float = 0.25,
    dims: int | None = None,
    m: float = 1.0,
) -> jax.Array:
    """Projects descriptors on the components, divides by m · variance^power, and normalises.

    L2((x − mean_) · components_[:dims]ᵀ / (m · explained_variance_[:dims]^power)), without the
    division where `whitening.whiten` is False. Works under jit, with `whitening` an argument.

    Args:
      x: (..., D) float.
      whitening: a whitening with D inputs and K components.
      power: the power of the variance. 0.5 whitens fully; less keeps some of the difference in
        variance (0.25 in Revaud et al., ICCV 2019), 0 only projects.
      dims: how many components to keep; all of them by default.
      m: a constant factor of the divisor, as `--whitenm` sets it; normalising cancels it again.

    Returns:
      (..., dims) float32, of unit norm (x / max(‖x‖, 1e-12)).

    Raises:
      UserError: dims is not in 1 .. K, or x does not have D columns.
    """
    num_components, width = whitening.components_.shape
    dims = num_components if dims is None else dims
    if not 1 <= dims <= num_components:
        raise UserError(f"cannot keep {dims} dimensions of a whitening with {num_components}")
    x = jnp.asarray(x, jnp.float32)
    if x.shape[-1] != width:
        raise UserError(
            f"the whitening is for descriptors of {width} dimensions, but these have {x.shape[-1]}"
        )
    mean = jnp.asarray(whitening.mean_, jnp.float32)
    components = jnp.asarray(whitening.components_[:dims], jnp.float32)
    x = jnp.matmul(x - mean, components.T, precision=jax.lax.Precision.HIGHEST)
    if whitening.whiten:
        variance = jnp.asarray(whitening.explained_variance_[:dims], jnp.float32)
        x = x / (m * variance**power)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
