"""The losses that the field compares with: against PyTorch, over replicas, in little memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, PartitionSpec

from dir_jax.losses import (
    arcface_loss,
    contrastive_loss,
    cosface_loss,
    fast_ap_loss,
    grouped_contrastive_loss,
    multi_similarity_loss,
    recall_at_k_surrogate_loss,
    smooth_ap_loss,
)
from torch_reference import metric_losses as oracle

BATCH, WIDTH, CLASSES = 48, 16, 11
# Ours with its options, and the oracle with the same.
BATCH_LOSSES = {
    "smooth_ap": (smooth_ap_loss, oracle.smooth_ap_loss, {"temperature": 0.05}),
    "recall_at_k": (
        recall_at_k_surrogate_loss,
        oracle.recall_at_k_loss,
        {"recall_k": (1, 2, 4, 8), "temperature": 0.05, "rank_temperature": 1.0},
    ),
    "fast_ap": (fast_ap_loss, oracle.fast_ap_loss, {"num_bins": 10}),
    "contrastive": (contrastive_loss, oracle.contrastive_loss, {"margin": 0.9, "negatives": 5}),
    "multi_similarity": (
        multi_similarity_loss,
        oracle.multi_similarity_loss,
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1},
    ),
}
CLASS_LOSSES = {"arcface": (arcface_loss, True, 0.5), "cosface": (cosface_loss, False, 0.35)}


def make_batch(spread=1.0):
    """Unit vectors that gather by class, of classes of many sizes, one of them of one image."""
    rng = np.random.default_rng(0)
    labels = rng.choice(6, BATCH, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05]).astype(np.int32)
    labels[0] = CLASSES - 1
    x = rng.standard_normal((CLASSES, WIDTH))[labels] + spread * rng.standard_normal((BATCH, WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def check(found, expected, gradients):
    """Within 2e-6 of a float64 oracle: of values, and of gradients by their largest entry."""
    value, ours = found
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=2e-6, abs=2e-6)
    for by_ours, theirs in zip(ours, gradients, strict=True):
        scale = float(theirs.grad.abs().max())
        assert scale > 0
        np.testing.assert_allclose(by_ours, theirs.grad.numpy(), rtol=0, atol=2e-6 * max(scale, 1))


@pytest.mark.parametrize("block_size", [7, 1000])
@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_equals_torch(name, block_size):
    ours, theirs, options = BATCH_LOSSES[name]
    x, labels = make_batch()
    value, gradient = jax.value_and_grad(ours)(x, labels, block_size=block_size, **options)
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    check((value, [gradient]), theirs(t, torch.tensor(labels), **options), [t])


@pytest.mark.parametrize("block_size", [7, 1000])
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_losses_equal_torch(name, block_size):
    ours, arc, margin = CLASS_LOSSES[name]
    x, labels = make_batch()
    weights = np.random.default_rng(1).standard_normal((CLASSES, WIDTH)).astype(np.float32)
    weights[labels[3]] = -x[3]  # an angle beyond π − m
    loss = functools.partial(ours, margin=margin, scale=16.0, block_size=block_size)
    value, gradients = jax.value_and_grad(loss, argnums=(0, 2))(x, labels, weights)
    t, w = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, weights))
    y = torch.tensor(labels, dtype=torch.int64)
    check((value, gradients), oracle.class_loss(t, y, w, margin, 16.0, arc=arc), [t, w])


def test_equals_pytorch_metric_learning():
    """Four classes of four: their Smooth-AP takes the number of classes for that of their images.

    They normalise descriptors, which ours are given as unit vectors.
    """
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    x = make_batch()[0][:16].astype(np.float64)
    labels = np.arange(16) // 4
    weights = np.random.default_rng(1).standard_normal((4, WIDTH))

    def compare(ours, theirs, **options):
        value, gradient = jax.value_and_grad(
            lambda v: ours(
                v / jnp.linalg.norm(v, axis=1, keepdims=True), labels.astype(np.int32), **options
            )
        )(x.astype(np.float32))
        t = torch.tensor(x, requires_grad=True)
        check((value, [gradient]), theirs(t, torch.tensor(labels)), [t])

    compare(smooth_ap_loss, losses.SmoothAPLoss(temperature=0.05), temperature=0.05)
    compare(fast_ap_loss, losses.FastAPLoss(num_bins=10))
    miner, theirs = miners.MultiSimilarityMiner(0.1), losses.MultiSimilarityLoss(2, 50, 0.5)
    compare(multi_similarity_loss, lambda t, y: theirs(t, y, miner(t, y)))
    for ours, kind, margin in (
        (arcface_loss, losses.ArcFaceLoss, np.degrees(0.5)),
        (cosface_loss, losses.CosFaceLoss, 0.35),
    ):
        theirs_ = kind(num_classes=4, embedding_size=WIDTH, margin=margin, scale=16).double()
        theirs_.W.data = torch.tensor(weights.T)
        compare(ours, theirs_, class_weights=weights.astype(np.float32), scale=16.0)


@pytest.mark.parametrize("name", [*BATCH_LOSSES, *CLASS_LOSSES])
def test_eight_replicas_equal_one(name):
    """The same value on each, the exact gradient by its own rows, and shares of the weights'."""
    x, labels = make_batch()
    weights = np.random.default_rng(1).standard_normal((CLASSES, WIDTH)).astype(np.float32)
    if name in CLASS_LOSSES:
        loss, argnums = CLASS_LOSSES[name][0], (0, 2)
    else:
        loss, argnums = (lambda x, y, w, **k: BATCH_LOSSES[name][0](x, y, **k)), (0,)
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums))(x, labels, weights)

    def of_replica(x, y, w):
        value, gradients = jax.value_and_grad(functools.partial(loss, axis_name="data"), argnums)(
            x, y, w
        )
        return value[None], gradients[0], [jax.lax.psum(g, "data") for g in gradients[1:]]

    rows, whole = PartitionSpec("data"), PartitionSpec()
    found, by_rows, by_weights = jax.jit(
        jax.shard_map(
            of_replica,
            mesh=Mesh(np.array(jax.devices()[:8]), ("data",)),
            in_specs=(rows, rows, whole),
            out_specs=(rows, rows, whole),
            check_vma=False,
        )
    )(x, labels, weights)
    np.testing.assert_allclose(found, np.full(8, value), rtol=2e-6)
    for ours, expected in zip((by_rows, *by_weights), gradients, strict=True):
        scale = np.abs(expected).max()
        assert scale > 0
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("name", [*BATCH_LOSSES, *CLASS_LOSSES])
def test_memory_grows_with_the_batch_not_its_square(name):
    """XLA's own figures: four times the batch at the same block takes four times the memory."""

    def temporaries(batch):
        x = jax.ShapeDtypeStruct((batch, 16), jnp.float32)
        more = (jax.ShapeDtypeStruct((1000, 16), jnp.float32),) if name in CLASS_LOSSES else ()
        loss = (CLASS_LOSSES | BATCH_LOSSES)[name][0]
        labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
        function = jax.value_and_grad(functools.partial(loss, block_size=64))
        compiled = jax.jit(function).lower(x, labels, *more).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(4096), temporaries(16384)
    assert large < 5 * small
    assert large < 16384 * 16384 * 4 / 10


def test_contrastive_triplets_by_hand():
    """Distances: to the positive 0.6, to the negative 0.5 and 2."""
    x = jnp.array([[0.0], [0.6], [0.5], [0.0], [0.6], [2.0]])
    found = grouped_contrastive_loss(x, jnp.zeros(6, jnp.int32), margin=0.9)
    assert float(found) == pytest.approx((0.36 / 2 + 0.16 / 2 + 0.36 / 2) / 2)
    with pytest.raises(ValueError, match="not whole triplets"):
        grouped_contrastive_loss(x[:5], jnp.zeros(5, jnp.int32))


@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_a_batch_without_positives_has_no_gradient(name):
    loss = BATCH_LOSSES[name][0]
    x, _ = make_batch()
    value, gradient = jax.value_and_grad(loss)(x, np.arange(BATCH, dtype=np.int32))
    assert float(value) == {
        "contrastive": 0.0,
        "multi_similarity": 0.0,
        "smooth_ap": float(value),
    }.get(name, 1.0)
    if name != "smooth_ap":  # where each query ranks itself
        assert not np.any(gradient)
    assert np.isfinite(gradient).all()
