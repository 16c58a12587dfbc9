"""PCA whitening of descriptors: learned on one set of images, applied to others.

As in Jégou and Chum, Negative Evidences and Co-occurrences in Image Retrieval, ECCV 2012, and
Gordo et al., End-to-end Learning of Deep Visual Representations, IJCV 2017.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dir_jax.errors import UserError

_ROWS = 4096  # converted to float64 at once


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean_", "components_", "explained_variance_"],
    meta_fields=["whiten"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """A PCA with the fields of `sklearn.decomposition.PCA`; a pytree, for use as a jit argument.

    Attributes:
      mean_: (D,) float.
      components_: (K, D) float, orthonormal rows, by falling variance.
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


def learn_whitening(descriptors: np.ndarray, *, whiten: bool = True) -> Whitening:
    """Learns a PCA in float64, with the result of `sklearn.decomposition.PCA(whiten=whiten)`.

    The sign of each component is chosen so that its entry of largest magnitude is positive. Unlike
    scikit-learn's, the result leaves out components along which the data varies by no more than the
    rounding of float32 at the descriptors' length: there are always some where N <= D, and
    whitening would scale them up to the size of the others.

    Args:
      descriptors: (N, D) float, N > 1. Memory besides them is O(D²).
      whiten: the result's `Whitening.whiten`.

    Raises:
      UserError: there are fewer than two descriptors, some are not finite, or all are the same.
    """
    descriptors = np.asarray(descriptors)
    chex.assert_rank(descriptors, 2)
    num, width = descriptors.shape
    if num < 2:
        raise UserError(f"whitening is learned from two descriptors or more, not from {num}")
    mean = descriptors.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        bad = np.flatnonzero(~np.isfinite(descriptors).all(axis=1))
        raise UserError(
            f"whitening cannot be learned: {len(bad)} of {num} descriptors are not finite, the "
            f"first of image number {bad[0]}"
        )
    covariance = np.zeros((width, width))
    for start in range(0, num, _ROWS):
        centred = descriptors[start : start + _ROWS].astype(np.float64) - mean
        covariance += centred.T @ centred
    covariance /= num - 1
    variance, components = np.linalg.eigh(covariance)
    variance, components = variance[::-1], components.T[::-1]
    squared_length = np.trace(covariance) * (num - 1) / num + mean @ mean
    kept = variance > np.finfo(np.float32).eps ** 2 * squared_length
    if not kept.any():
        raise UserError(
            f"whitening cannot be learned: all {num} descriptors are the same; the network gives "
            "every image one descriptor"
        )
    variance, components = variance[kept], components[kept]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
    return Whitening(mean, components, variance, whiten)


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
