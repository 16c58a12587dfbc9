"""The loss of descriptors: equal to the loss of their scores, in blocks and over replicas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, PartitionSpec

from dir_jax.losses import (
    batch_triplet_loss,
    grouped_triplet_loss,
    listwise_average_precision_loss,
)
from torch_reference import losses as oracle

BATCH, WIDTH = 48, 16


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    x = np.abs(rng.standard_normal((BATCH, WIDTH))).astype("f")
    labels = rng.choice(6, BATCH, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05]).astype(np.int32)
    labels[0] = 17  # a class of one
    return x / np.linalg.norm(x, axis=1, keepdims=True), labels


@pytest.mark.parametrize("class_weighted", [False, True])
@pytest.mark.parametrize("tie_aware", [False, True])
def test_equals_torch(class_weighted, tie_aware):
    x, labels = make_batch()
    value, gradient = jax.value_and_grad(listwise_average_precision_loss)(
        x, labels, num_bins=10, class_weighted=class_weighted, tie_aware=tie_aware
    )
    t = torch.tensor(x, requires_grad=True)
    relevance = torch.tensor(np.equal.outer(labels, labels).astype("f"))
    weights = None
    if class_weighted:
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weights = torch.tensor((len(labels) / len(counts) / counts[inverse]).astype("f"))
        assert float(weights.mean()) == pytest.approx(1)
    loss = oracle.tie_aware_average_precision_loss if tie_aware else oracle.average_precision_loss
    # An image's product with itself is 1 and constant; see the loss.
    itself = torch.eye(len(labels))
    scores = (t @ t.T) * (1 - itself) + itself
    expected = loss(scores, relevance, num_bins=10, query_weights=weights)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), abs=2e-6)
    # The tie-aware form divides by counts of single items, which magnifies their rounding.
    tolerance = (1e-4 if tie_aware else 2e-5) * float(t.grad.abs().max())
    np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("block_size", [1, 7, 16, 48, 1000])
def test_block_size_does_not_matter(block_size):
    x, labels = make_batch()
    expected = jax.value_and_grad(listwise_average_precision_loss)(x, labels, block_size=24)
    found = jax.value_and_grad(listwise_average_precision_loss)(x, labels, block_size=block_size)
    assert float(found[0]) == pytest.approx(float(expected[0]), abs=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-5 * np.abs(expected[1]).max())


BATCH_LOSSES = {
    "ap": functools.partial(listwise_average_precision_loss, num_bins=10, block_size=5),
    "ap weighted": functools.partial(
        listwise_average_precision_loss, class_weighted=True, block_size=4
    ),
    "ap tie-aware": functools.partial(listwise_average_precision_loss, tie_aware=True),
    "hardest": functools.partial(batch_triplet_loss, mining="hardest"),
    "semihard": functools.partial(batch_triplet_loss, mining="semihard"),
    "all": functools.partial(batch_triplet_loss, mining="all"),
    "all log-exp": functools.partial(batch_triplet_loss, mining="all", log_exp=True),
    "grouped": grouped_triplet_loss,
}


@pytest.mark.parametrize("how", ["pmap", "shard_map", "shard_map unchecked"])
@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_eight_replicas_equal_one(name, how):
    """The same value on every replica, and the exact gradient by its own rows."""
    loss = BATCH_LOSSES[name]
    x, labels = make_batch()
    value, gradient = jax.jit(jax.value_and_grad(loss))(x, labels)
    per_replica = jax.value_and_grad(functools.partial(loss, axis_name="data"))
    if how == "pmap":
        values, by_rows = jax.pmap(per_replica, axis_name="data")(
            x.reshape(8, -1, WIDTH), labels.reshape(8, -1)
        )
    else:
        rows = PartitionSpec("data")
        values, by_rows = jax.jit(
            jax.shard_map(
                lambda a, b: jax.tree.map(jnp.atleast_1d, per_replica(a, b)),
                mesh=Mesh(np.array(jax.devices()[:8]), ("data",)),
                in_specs=(rows, rows),
                out_specs=(PartitionSpec(), rows),
                check_vma=how == "shard_map",
            )
        )(x, labels)
    np.testing.assert_allclose(values, np.full(len(values), value), rtol=2e-6)
    scale = np.abs(gradient).max()
    assert scale > 0
    np.testing.assert_allclose(by_rows.reshape(BATCH, -1), gradient, rtol=0, atol=2e-6 * scale)


def test_memory_grows_with_the_batch_not_its_square():
    """XLA's own figures: four times the batch at the same block takes four times the memory."""

    def temporaries(batch, block_size):
        x = jax.ShapeDtypeStruct((batch, 32), jnp.float32)
        labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
        function = functools.partial(listwise_average_precision_loss, block_size=block_size)
        compiled = jax.jit(jax.value_and_grad(function)).lower(x, labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporaries(4096, 64), temporaries(16384, 64)
    assert large < 5 * small
    assert large < 16384 * 16384 * 4 / 10


def test_bad_input():
    x, labels = make_batch()
    shapes = rf"\({len(x)}, {x.shape[1]}\) and labels of shape \({len(x) - 1},\)"
    with pytest.raises(ValueError, match=shapes):
        listwise_average_precision_loss(x, labels[:-1])
    with pytest.raises(TypeError, match="float32"):
        listwise_average_precision_loss(x.astype(jnp.bfloat16), labels)
    with pytest.raises(TypeError, match="integer"):
        listwise_average_precision_loss(x, labels.astype("f"))
