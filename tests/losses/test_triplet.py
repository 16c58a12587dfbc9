"""Triplet losses against torch's own, and batch mining against loops."""

import jax
import numpy as np
import pytest
import torch

from dir_jax.losses import (
    batch_triplet_loss,
    grouped_triplet_loss,
    triplet_log_exp_loss,
    triplet_margin_loss,
)
from torch_reference import losses as oracle


def make_triplets(count=20, width=8):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3, count, width)).astype("f")
    rows[1] = rows[0] + 0.4 * rows[1]  # positives are nearer, so that some triplets have no loss
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(("p", "margin"), [(2, 1.0), (2, 0.1), (1, 0.5), (3, 0.3)])
def test_margin_loss_equals_torch(p, margin, swap):
    rows = make_triplets()
    value, gradient = jax.value_and_grad(
        lambda r: triplet_margin_loss(*r, margin=margin, p=p, swap=swap)
    )(rows)
    x = torch.tensor(rows, requires_grad=True)
    expected = torch.nn.functional.triplet_margin_loss(*x, margin=margin, p=p, swap=swap)
    expected.backward()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=0, atol=1e-5 * float(x.grad.abs().max()))


@pytest.mark.parametrize("swap", [False, True])
def test_a_margin_met_exactly_has_the_gradient_of_torch(swap):
    """Distances in whole numbers: the loss is exactly 0, and torch passes its derivative on."""
    rows = np.array([[[0, 0]], [[3, 0]], [[0, 4]]], "f")
    options = {"margin": 1.0, "eps": 0.0, "swap": swap}
    value, gradient = jax.value_and_grad(lambda r: triplet_margin_loss(*r, **options))(rows)
    x = torch.tensor(rows.astype(np.float64), requires_grad=True)
    expected = torch.nn.functional.triplet_margin_loss(*x, **options)
    expected.backward()
    assert float(value) == float(expected) == 0
    np.testing.assert_allclose(gradient, x.grad, rtol=0, atol=1e-6)
    assert np.abs(gradient).max() == pytest.approx(1)


def test_log_exp_loss_equals_torch():
    rows = make_triplets()
    value, gradient = jax.value_and_grad(lambda r: triplet_log_exp_loss(*r))(rows)
    x = torch.tensor(rows, requires_grad=True)
    near, far = torch.pairwise_distance(x[0], x[1]), torch.pairwise_distance(x[0], x[2])
    expected = torch.log(1 + torch.exp(near - far)).mean()
    expected.backward()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad, rtol=0, atol=1e-5 * float(x.grad.abs().max()))


def test_default_margin_and_identical_rows():
    rows = np.ones((3, 2, 4), "f")
    value, gradient = jax.value_and_grad(lambda r: triplet_margin_loss(*r))(rows)
    assert float(value) == pytest.approx(1.0)
    assert np.isfinite(gradient).all()


def test_grouped_rows_are_anchor_positive_negative():
    rows = make_triplets()
    flat = rows.transpose(1, 0, 2).reshape(-1, rows.shape[2])
    labels = np.zeros(len(flat), np.int32)
    assert float(grouped_triplet_loss(flat, labels, margin=0.3)) == pytest.approx(
        float(triplet_margin_loss(*rows, margin=0.3)), rel=1e-6
    )
    assert float(grouped_triplet_loss(flat, labels, log_exp=True)) == pytest.approx(
        float(triplet_log_exp_loss(*rows)), rel=1e-6
    )
    with pytest.raises(ValueError, match="whole triplets"):
        grouped_triplet_loss(flat[:-1], labels[:-1])


def make_batch():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 30).astype(np.int32)
    labels[:2] = [8, 9]  # classes of one: anchors without a positive
    centres = rng.standard_normal((10, 6))
    x = centres[labels] + 0.8 * rng.standard_normal((30, 6))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("f"), labels


@pytest.mark.parametrize("mining", ["hardest", "semihard", "all"])
@pytest.mark.parametrize("log_exp", [False, True])
def test_batch_mining_equals_loops(mining, log_exp):
    x, labels = make_batch()
    value, gradient = jax.value_and_grad(batch_triplet_loss)(
        x, labels, mining=mining, margin=0.3, log_exp=log_exp
    )
    t = torch.tensor(x, requires_grad=True)
    expected = oracle.batch_triplet_loss(
        t, torch.tensor(labels), mining=mining, margin=0.3, log_exp=log_exp
    )
    expected.backward()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    # Distances come from dot products: an error of 1e-7 in the square, larger in a short root.
    np.testing.assert_allclose(gradient, t.grad, rtol=0, atol=1e-4 * float(t.grad.abs().max()))


@pytest.mark.parametrize("mining", ["hardest", "semihard", "all"])
def test_ties_within_a_batch_equal_torch_in_float64(mining):
    """Equal distances and margins met exactly, on a line of whole numbers."""
    x = np.array([[0], [1], [3], [5], [10]], "f")
    labels = np.array([0, 0, 0, 1, 1], np.int32)
    if mining != "semihard":  # where torch would share the gradient of equal negatives
        x[1] = x[2]
    value, gradient = jax.value_and_grad(batch_triplet_loss)(x, labels, mining=mining, margin=2.0)
    t = torch.tensor(x.astype(np.float64), requires_grad=True)
    expected = oracle.batch_triplet_loss(t, torch.tensor(labels), mining=mining, margin=2.0)
    expected.backward()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, t.grad, rtol=0, atol=1e-4 * float(t.grad.abs().max()))


def test_batches_without_triplets():
    x, _ = make_batch()
    for labels in (np.zeros(30, np.int32), np.arange(30, dtype=np.int32)):
        for mining in ("hardest", "semihard", "all"):
            value, gradient = jax.value_and_grad(batch_triplet_loss)(x, labels, mining=mining)
            assert float(value) == 0
            assert not np.asarray(gradient).any()


def test_unknown_mining():
    with pytest.raises(ValueError, match="semihard"):
        batch_triplet_loss(*make_batch(), mining="easy")
