"""Whitenings in the forms that checkpoints keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from converters.file_errors import CheckpointFileError
from converters.torch_pickles import InertPCA
from dir_jax.data.stand_ins import Array, RefusedPickleError, Scalar
from dir_jax.errors import UserError, shown
from dir_jax.retrieval.whitening import WHITENING_NAME, Whitening

_FIELDS = ("mean_", "components_", "explained_variance_")


def numbers(value: Any, what: str) -> np.ndarray:
    """An array of a file as floating-point numbers; bfloat16 becomes float32.

    Raises:
      CheckpointFileError: it is anything else; `what` says where.
    """
    value = _built(value)
    if not isinstance(value, np.ndarray):
        raise CheckpointFileError(f"{what} is a {type(value).__name__}, not an array")
    if value.dtype == ml_dtypes.bfloat16:
        return value.astype(np.float32)
    if value.dtype.kind != "f":
        raise CheckpointFileError(f"{what} is of type {value.dtype}; expected floating point")
    return value


def _built(value: Any) -> Any:
    """An attribute of a PCA, which `reader.read_file` leaves as the file describes it."""
    try:
        if isinstance(value, Array):
            return value.build()[()] if isinstance(value, Scalar) else value.build()
    except RefusedPickleError as e:
        raise CheckpointFileError(str(e)) from None
    return value


def from_pca(pca: Any) -> dict[str, Whitening]:
    """DIR's `pca`: name -> a pickled scikit-learn PCA, or a dict of `means` and `W`."""
    if not isinstance(pca, dict):
        raise CheckpointFileError(f"its pca is a {type(pca).__name__}, not a dict of whitenings")
    found = {}
    for name, value in pca.items():
        what = f"the whitening {shown(name)}"
        _check_name(name)
        if isinstance(value, InertPCA):
            found[name] = _checked(what, value.state if isinstance(value.state, dict) else {})
        elif isinstance(value, dict) and {"means", "W"} <= value.keys():
            found[name] = _from_dict(what, value)
        else:
            raise CheckpointFileError(
                f"{what} is a {type(value).__name__}: neither a PCA nor a dict of means and W"
            )
    return found


def from_lw(lw: Any) -> dict[str, Whitening]:
    """cirtorch's `Lw`: name -> scale ('ss', 'ms') -> `m` (D, 1) and `P` (K, D); 'NAME-ss' here."""
    found = {}
    for name, scales in lw.items() if isinstance(lw, dict) else ():
        entries = {name: scales}
        if isinstance(scales, dict) and "P" not in scales:
            entries = {f"{name}-{scale}": value for scale, value in scales.items()}
        for key, value in entries.items():
            what = f"the whitening {shown(key)}"
            _check_name(key)
            if not (isinstance(value, dict) and {"m", "P"} <= value.keys()):
                raise CheckpointFileError(f"{what} is not a dict of m and P")
            mean, components = (numbers(value[name], what) for name in ("m", "P"))
            found[key] = _projection(what, mean.ravel(), components)
    return found


def to_sklearn(whitening: Whitening) -> Any:
    """The whitening as a fitted scikit-learn PCA. Raises ImportError without scikit-learn."""
    from sklearn.decomposition import PCA

    mean, components, variance = (whitening.to_arrays()[name] for name in _FIELDS)
    pca = PCA(n_components=len(components), whiten=bool(whitening.whiten))
    pca.mean_, pca.components_, pca.explained_variance_ = mean, components, variance
    pca.n_components_, pca.n_features_in_ = components.shape
    pca.explained_variance_ratio_ = variance / variance.sum()  # of the variance that was kept
    pca.noise_variance_ = 0.0
    return pca


def to_dict(whitening: Whitening) -> dict[str, Any]:
    """The whitening as a dict of arrays, and `whiten`, a bool.

    It has `means` and `W`, so that (x − means) W is the projection, divided by √variance where the
    whitening divides at all; and the fields themselves, for other powers and `from_pca`.
    """
    fields = whitening.to_arrays()
    mean, components, variance = (fields[name] for name in _FIELDS)
    if whitening.whiten:
        components = components / np.sqrt(variance)[:, None]
    return {**fields, "means": mean, "W": components.T, "whiten": bool(whitening.whiten)}


def _check_name(name: Any) -> None:
    # It becomes a part of paths in our checkpoint.
    if not (isinstance(name, str) and WHITENING_NAME.fullmatch(name)):
        called = shown(name) if isinstance(name, str) else f"by a {type(name).__name__}"
        raise CheckpointFileError(
            f"a whitening is called {called}; names are of letters, digits, spaces and _+.,()-"
        )


def _from_dict(what: str, value: Mapping[Any, Any]) -> Whitening:
    if value.keys() >= set(_FIELDS):  # one of `to_pca`'s
        return _checked(what, value)
    return _projection(what, numbers(value["means"], what).ravel(), numbers(value["W"], what).T)


def _projection(what: str, mean: np.ndarray, components: np.ndarray) -> Whitening:
    """A whitening whose components are divided by the deviations already."""
    variance = np.ones(components.shape[:1], components.dtype)
    return _checked(
        what, dict(zip(_FIELDS, (mean, components, variance), strict=True), whiten=False)
    )


def _checked(what: str, state: Mapping[Any, Any]) -> Whitening:
    if missing := [name for name in (*_FIELDS, "whiten") if name not in state]:
        raise CheckpointFileError(f"{what} has no {' and no '.join(missing)}")
    whiten = _built(state["whiten"])
    if not isinstance(whiten, bool | int | np.bool_):
        raise CheckpointFileError(f"{what} has a {type(whiten).__name__} for whiten")
    arrays = {name: numbers(state[name], f"{name} of {what}") for name in _FIELDS}
    try:
        return Whitening.from_arrays({**arrays, "whiten": bool(whiten)})
    except UserError as e:
        raise CheckpointFileError(f"{what}: {e}") from e
