"""PCA whitening against scikit-learn and a float64 oracle; that from pairs against PyTorch's."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from dir_jax.errors import UserError
from dir_jax.retrieval.whitening import (
    Whitening,
    apply_whitening,
    check_divisor,
    learn_whitening,
    learn_whitening_from_pairs,
    pairs_of_classes,
)
from torch_reference import cirtorch
from torch_reference import retrieval as reference


def descriptors(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit float32 rows with a mean and a falling spectrum, as networks give them."""
    rng = np.random.default_rng(seed)
    mixed = (
        rng.standard_normal((n, d))
        * np.geomspace(1, 0.05, d)
        @ np.linalg.qr(rng.standard_normal((d, d)))[0]
        + 0.3
    )
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("n", "d"), [(500, 32), (5000, 48), (33, 32), (20, 32), (2, 8)])
def test_equals_scikit_learn(n: int, d: int) -> None:
    """More rows than a block, hardly more than dimensions, and fewer."""
    x = descriptors(n, d)
    mine = learn_whitening(x)
    theirs = PCA(whiten=True, svd_solver="full").fit(x.astype(np.float64))
    num_components = min(d, n - 1)
    assert mine.components_.shape == (num_components, d)
    assert mine.components_.dtype == np.float64
    np.testing.assert_allclose(mine.mean_, theirs.mean_, atol=1e-15)
    # The eigenvalues of the covariance are exact to 1e-16 of the largest, which is some 1e-2.
    np.testing.assert_allclose(
        mine.explained_variance_, theirs.explained_variance_[:num_components], atol=1e-16
    )
    # Signs as well. A direction's error is that over the distance to the next variance.
    np.testing.assert_allclose(
        mine.components_, theirs.components_[:num_components], atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("whiten", [True, False])
def test_applied_equals_scikit_learn(whiten: bool) -> None:
    x, new = descriptors(400, 24), descriptors(50, 24, seed=1)
    theirs = PCA(whiten=whiten).fit(x.astype(np.float64)).transform(new)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    mine = apply_whitening(new, learn_whitening(x, whiten=whiten), power=0.5)
    np.testing.assert_allclose(mine, theirs, atol=1e-6)  # float32: x - mean, then a dot product


@pytest.mark.parametrize("power", [0.25, 0.5, 0.0])
@pytest.mark.parametrize(("dims", "m"), [(24, 1.0), (7, 0.3), (1, 2.0)])
def test_applied_equals_the_oracle(power: float, dims: int, m: float) -> None:
    w = learn_whitening(descriptors(400, 24))
    new = descriptors(50, 24, seed=1)
    expected = reference.whiten(
        new, w.mean_, w.components_, w.explained_variance_, power=power, dims=dims, m=m
    )
    mine = apply_whitening(new, w, power=power, dims=dims, m=m)
    assert mine.shape == (50, dims)
    np.testing.assert_allclose(mine, expected, atol=1e-6)


def test_whitened_data_is_white() -> None:
    x = descriptors(2000, 16)
    w = learn_whitening(x)
    projected = (x - w.mean_) @ w.components_.T / w.explained_variance_**0.5
    np.testing.assert_allclose(np.cov(projected.T), np.eye(16), atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(apply_whitening(x, w), axis=1), 1, atol=1e-6)


def test_directions_of_rounding_noise_are_left_out() -> None:
    """Descriptors in a 5-dimensional subspace, but for what float32 rounds."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 5)) @ rng.standard_normal((5, 20))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    assert learn_whitening(x).components_.shape == (5, 20)


def test_under_jit_and_vmap() -> None:
    w, x = learn_whitening(descriptors(100, 8)), descriptors(10, 8, seed=1)
    expected = apply_whitening(x, w, dims=4, power=0.25)
    jitted = jax.jit(apply_whitening, static_argnames="dims")(x, w, dims=4, power=0.25)
    np.testing.assert_allclose(jitted, expected, atol=1e-6)
    one_by_one = jax.vmap(lambda row: apply_whitening(row, w, dims=4, power=0.25))(x)
    np.testing.assert_allclose(one_by_one, expected, atol=1e-6)


def test_arrays_and_back() -> None:
    for whiten in (True, False):
        w = learn_whitening(descriptors(100, 8), whiten=whiten)
        again = Whitening.from_arrays(w.to_arrays())
        assert again.whiten is whiten
        for name in ("mean_", "components_", "explained_variance_"):
            np.testing.assert_array_equal(getattr(again, name), getattr(w, name))


def test_arrays_that_are_no_whitening() -> None:
    arrays = learn_whitening(descriptors(100, 8)).to_arrays()
    with pytest.raises(UserError, match="lacks 'mean_', 'whiten'"):
        Whitening.from_arrays({k: v for k, v in arrays.items() if k not in ("mean_", "whiten")})
    with pytest.raises(UserError, match=r"mean_ \(7,\)"):
        Whitening.from_arrays({**arrays, "mean_": arrays["mean_"][:7]})


def test_is_deterministic() -> None:
    x = descriptors(100, 8)
    for name, array in learn_whitening(x).to_arrays().items():
        np.testing.assert_array_equal(array, learn_whitening(x).to_arrays()[name])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((1, 4)), "not from 1"),
        (np.ones((9, 4)), "all 9 descriptors are the same"),
        (np.full((9, 4), 0.1, np.float32), "all 9 descriptors are the same"),
        (np.zeros((9, 4)), "all 9 descriptors are the same"),
        (np.diag([1.0, 1, np.nan, 1]), "1 of 4 descriptors are not finite, the first .* number 2"),
    ],
)
def test_cannot_be_learned(x: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learn_whitening(x)


@pytest.mark.parametrize("dims", [0, 9])
def test_dimensions_that_are_not_there(dims: int) -> None:
    x = descriptors(100, 8)
    with pytest.raises(UserError, match=f"cannot keep {dims} dimensions of a whitening with 8"):
        apply_whitening(x, learn_whitening(x), dims=dims)


@pytest.mark.parametrize(
    ("variance", "options"),
    [
        (0, {"power": 0.5}),
        (1e-60, {"power": 0.5}),  # 0 in float32
        (-1, {"power": 0.5}),
        (9, {"power": 100}),
        (9, {"power": float("nan")}),
        (9, {"power": 0.5, "m": 0}),
    ],
)
def test_variances_that_cannot_be_divided_by(variance: float, options: dict[str, float]) -> None:
    whitening = learn_whitening(descriptors(100, 8))
    whitening.explained_variance_[5] = variance
    options = {"m": 1.0} | options
    with pytest.raises(UserError, match="cannot divide by"):
        check_divisor(whitening, dims=None, **options)
    if options["m"] and variance < 9:
        check_divisor(whitening, dims=5, **options)
    check_divisor(dataclasses.replace(whitening, whiten=False), dims=None, **options)


def test_descriptors_of_another_width() -> None:
    with pytest.raises(UserError, match="of 8 dimensions, but these have 5"):
        apply_whitening(np.ones((3, 5)), learn_whitening(descriptors(100, 8)))


@pytest.mark.parametrize(("n", "d", "count"), [(300, 16, 5000), (60, 12, 25), (40, 12, 5)])
def test_from_pairs_equals_the_oracle(n: int, d: int, count: int) -> None:
    """More pairs than a block, a few, and fewer than dimensions, which need the diagonal."""
    x, rng = descriptors(n, d), np.random.default_rng(1)
    pairs = rng.integers(0, n, (count, 2))
    mine = learn_whitening_from_pairs(x, pairs)
    m, p = cirtorch.learned_whitening(torch.from_numpy(x), torch.from_numpy(pairs))
    assert mine.components_.shape == (d, d)
    # A sign of a row changes nothing of a distance; ours are as those of a PCA.
    p *= torch.sign((p * torch.from_numpy(mine.components_)).sum(1, keepdim=True))
    np.testing.assert_allclose(mine.mean_, m[:, 0], atol=1e-12)
    np.testing.assert_allclose(mine.components_, p, atol=1e-6 * float(p.abs().max()))
    new = descriptors(50, d, seed=2)
    for dims in (d, d // 2):
        theirs = cirtorch.whitened(torch.from_numpy(new).double(), m, p[:dims])
        mine_ = apply_whitening(new, mine, power=0.25, dims=dims)
        np.testing.assert_allclose(mine_, theirs, atol=1e-5)


def test_pairs_are_white_after_it() -> None:
    x = descriptors(400, 10)
    pairs = np.random.default_rng(3).integers(0, 400, (900, 2))
    w = learn_whitening_from_pairs(x, pairs)
    difference = (x[pairs[:, 0]] - x[pairs[:, 1]]) @ w.components_.T
    np.testing.assert_allclose(difference.T @ difference / 900, np.eye(10), atol=1e-5)


def test_fewer_images_than_dimensions_give_as_many_components_as_a_pca() -> None:
    x = descriptors(8, 20)
    w = learn_whitening_from_pairs(x, pairs_of_classes(np.arange(8) % 3))
    assert w.components_.shape == learn_whitening(x).components_.shape == (7, 20)
    assert np.isfinite(w.components_).all()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(np.zeros((0, 2), int), "there are none"), (np.ones((3, 2), int), "each pair are the same")],
)
def test_pairs_that_teach_nothing(pairs: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learn_whitening_from_pairs(descriptors(50, 4), pairs)
