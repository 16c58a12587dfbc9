"""The three-stage step against the undivided batch, against torch, and on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dir_jax.losses import (
    arcface_loss,
    batch_triplet_loss,
    grouped_triplet_loss,
    listwise_average_precision_loss,
)
from dir_jax.losses.classification import create_class_weights
from dir_jax.models import RetrievalNetwork, create_model
from dir_jax.models.options import ModelConfig
from dir_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize
from dir_jax.models.resnet import BASIC, Variant
from dir_jax.models.variables import merge_variables, split_variables
from dir_jax.runtime.replicas import create_replicas
from dir_jax.training.config import default_config
from dir_jax.training.optimizer import create_optimizer
from dir_jax.training.state import create_state
from dir_jax.training.step import ThreeStageStep
from dir_jax.training.three_stage import (
    Forward,
    back_propagate_chunk,
    describe_chunk,
    differentiate_loss,
    update,
)
from torch_reference.networks import create_network as torch_network
from torch_reference.training import train_steps
from torch_reference.weights import load_state_dict, randomize

NORM = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
AP = functools.partial(listwise_average_precision_loss, num_bins=10, block_size=16)
LOSSES = {
    "ap": AP,
    "triplet": functools.partial(batch_triplet_loss, mining="all", margin=0.5),
    "grouped": functools.partial(grouped_triplet_loss, margin=0.5),
}


def make_batch(size, side=40, classes=4, seed=0, signal=0.4):
    """Images whose classes are visible: a class's own pattern under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % classes
    patterns = rng.integers(0, 256, (classes, side, side, 3))
    noise = rng.integers(0, 256, (size, side, side, 3))
    images = signal * patterns[labels] + (1 - signal) * noise
    return images.astype(np.uint8), labels.astype(np.int32)


@functools.cache
def network(**options):
    """A ResNet with one block a stage: what is tested does not depend on the depth."""
    config = ModelConfig("resnet10_rmac", out_dim=16, **options)
    return RetrievalNetwork(config, Variant(BASIC, (1, 1, 1, 1)), rng=np.random.default_rng(3))


def run_step(
    images,
    labels,
    *,
    devices=1,
    chunk=4,
    parallel="shard_map",
    batch_norm="frozen",
    loss=AP,
    optimizer=None,
    steps=1,
    own=None,
    **options,
):
    """`steps` updates on the same batch; returns (fetched state, list of metrics).

    `own` are the loss's own variables."""
    graphdef, params, stats = split_variables(network(**options))
    optimizer = optimizer or optax.sgd(1.0)
    replicas = create_replicas(parallel, jax.devices()[:devices])
    step = ThreeStageStep(
        Forward(graphdef, **NORM, train_statistics=batch_norm == "trained"),
        loss,
        optimizer,
        replicas,
        batch_size=len(images),
        chunk_size=chunk,
        dropout=bool(options.get("dropout_p")),
    )
    state = create_state(params, stats, optimizer, batch_norm=batch_norm, loss=own)
    state = replicas.replicate(state)
    by_device = images.reshape(devices, step.num_chunks, chunk, *images.shape[1:])
    chunks = [np.concatenate(by_device[:, k]) for k in range(step.num_chunks)]
    history = []
    for i in range(steps):
        state, metrics = step(state, chunks, labels, seed=i)
        history.append({k: float(v) for k, v in replicas.fetch(metrics).items()})
    return replicas.fetch(state), history


def assert_same_update(new, reference, tolerance):
    """Compares two states' parameters, each array by its own scale."""
    for name, expected in reference.params.items():
        scale = max(np.abs(expected).max(), 1e-3)
        assert np.abs(new.params[name] - expected).max() <= tolerance * scale, name


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_class_weights_are_trained_from_the_images_of_all_devices(parallel):
    images, labels = make_batch(16, seed=0)
    own = {"class_weights": create_class_weights(labels.max() + 1, 16, seed=1)}
    how = {"loss": functools.partial(arcface_loss, scale=8.0), "own": own}
    one, (first,) = run_step(images, labels, **how)
    several, (metrics,) = run_step(images, labels, devices=4, parallel=parallel, **how)
    assert metrics["loss"] == pytest.approx(first["loss"], rel=1e-5)
    moved = one.loss["class_weights"] - own["class_weights"]
    scale = np.abs(moved).max()
    assert scale > 1e-3
    found = several.loss["class_weights"] - own["class_weights"]
    np.testing.assert_allclose(found, moved, rtol=0, atol=1e-3 * scale)
    assert_same_update(several, one, 1e-3)


def test_what_a_step_tells_of_its_numbers():
    """The mean cosine of all pairs; and an update by infinity, which leaves NaN."""
    images, labels = make_batch(16, seed=0)
    _, (first, second) = run_step(images, labels, devices=2, optimizer=optax.sgd(np.inf), steps=2)
    x = np.asarray(jax.jit(network())(normalize(images, **NORM)))
    expected = (x @ x.T)[np.triu_indices(16, 1)].mean()
    assert first["mean_similarity"] == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(first["loss"])
    assert not first["finite"]
    assert np.isnan(second["loss"])


def undivided(images, labels, *, batch_norm="frozen", loss=AP):
    """The textbook step: one differentiable function of the whole batch."""
    graphdef, params, stats = split_variables(network())

    def value(p):
        model = merge_variables(graphdef, p, stats)
        return loss(
            model(normalize(images, **NORM), use_running_average=batch_norm != "trained"), labels
        )

    return jax.jit(jax.value_and_grad(value))(params)


def gradient_error(loss, seed):
    """The largest difference of an entry, by its array's largest; the losses must be equal."""
    images, labels = make_batch(24, seed=seed)
    value, gradient = undivided(images, labels, loss=loss)
    _, before, _ = split_variables(network())
    state, (metrics,) = run_step(images, labels, loss=loss, batch_norm="frozen_statistics")
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["finite"]
    errors = []
    for key, expected in gradient.items():
        moved = np.asarray(before[key]) - state.params[key]  # rate 1: the gradient
        # That subtraction rounds at the parameter's own size.
        rounding = 2e-7 * np.abs(before[key]).max()
        errors.append((np.abs(moved - expected).max() - rounding) / np.abs(expected).max())
    return max(errors)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_undivided_batch(name):
    """1e-5 is usual. Where one of 10^6 activations is within rounding of a ReLU's kink, chunks of
    another size may take its other side, and the gradient differs by that image's share; so
    another batch is tried. What is wrong is wrong for all of them."""
    assert any(gradient_error(LOSSES[name], seed) <= 1e-4 for seed in (1, 2, 3))


def test_the_stages_are_functions_that_work_alone():
    """Figure 2 by hand, in chunks of one size: without replicas, programs or places in a batch."""
    images, labels = make_batch(12)
    graphdef, params, stats = split_variables(network())
    optimizer, forward = optax.sgd(0.5), Forward(graphdef, **NORM)
    state = create_state(params, stats, optimizer, batch_norm="frozen")
    chunks = np.split(images, 3)
    describe = jax.jit(functools.partial(describe_chunk, forward))
    back_propagate = jax.jit(functools.partial(back_propagate_chunk, forward))

    descriptors = jnp.concatenate([describe(state, chunk) for chunk in chunks])
    loss, (cotangents, _) = differentiate_loss(AP, descriptors, labels)
    shares = [
        back_propagate(state, *chunk)[0]
        for chunk in zip(chunks, jnp.split(cotangents, 3), strict=True)
    ]
    gradient = jax.tree.map(lambda *parts: sum(parts), *shares)
    new = update(optimizer, state, gradient, state.stats)

    stepped, (metrics,) = run_step(images, labels, optimizer=optimizer)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    # The commands' compiler options move roundings, and ReLUs within one of their kinks.
    assert_same_update(stepped, new, 1e-3)
    assert new.stats is state.stats
    assert new.fixed is state.fixed


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_a_batch_of_one_chunk_goes_through_the_network_once(parallel):
    """It gives what the stages give; 1e-3 for the kinks, as in `test_pmap_equals_shard_map`."""
    images, labels = make_batch(16)
    by_stages, (m1,) = run_step(images, labels, chunk=4, devices=2, parallel=parallel)
    at_once, (m2,) = run_step(images, labels, chunk=8, devices=2, parallel=parallel)
    assert m1 == pytest.approx(m2, rel=1e-3)
    assert_same_update(at_once, by_stages, 1e-3)


@pytest.mark.parametrize("chunk", [4, 8])
def test_chunks_that_lack_are_an_error(chunk):
    graphdef, params, stats = split_variables(network())
    optimizer, replicas = optax.sgd(1.0), create_replicas("shard_map", jax.devices()[:1])
    forward = Forward(graphdef, **NORM)
    step = ThreeStageStep(forward, AP, optimizer, replicas, batch_size=8, chunk_size=chunk)
    state = replicas.replicate(create_state(params, stats, optimizer, batch_norm="frozen"))
    images, labels = make_batch(8)
    with pytest.raises(ValueError, match=f"got {8 // chunk - 1} chunks of {8 // chunk}"):
        step(state, np.split(images, 8 // chunk)[1:], labels)


def test_trained_batch_norm_in_one_chunk_is_that_of_the_undivided_batch():
    images, labels = make_batch(12)
    value, gradient = undivided(images, labels, batch_norm="trained")
    state, (metrics,) = run_step(images, labels, chunk=12, batch_norm="trained")
    _, before, stats = split_variables(network())
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["finite"]
    kernel = "layer4.0.conv2.kernel"
    moved = np.asarray(before[kernel]) - state.params[kernel]
    np.testing.assert_allclose(
        moved, gradient[kernel], rtol=0, atol=1e-4 * np.abs(gradient[kernel]).max()
    )
    assert any(np.abs(state.stats[k] - stats[k]).max() > 1e-3 for k in stats)


def test_frozen_batch_norm_does_not_move():
    images, labels = make_batch(8)
    _, params, stats = split_variables(network())
    for mode, moves in (("frozen", False), ("frozen_statistics", True)):
        state, _ = run_step(images, labels, batch_norm=mode)
        changed = np.abs(state.params["layer1.0.bn1.scale"] - params["layer1.0.bn1.scale"]).max()
        assert (changed > 0) == moves
        assert all(np.array_equal(state.stats[k], stats[k]) for k in stats)


@pytest.mark.parametrize("batch_norm", ["frozen", "trained"])
@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_eight_devices_equal_one(parallel, batch_norm):
    """The same chunks on one device and on eight; sums are taken in another order, hence 2e-5."""
    images, labels = make_batch(48)
    one, (m1,) = run_step(
        images, labels, devices=1, chunk=3, parallel=parallel, batch_norm=batch_norm
    )
    eight, (m8,) = run_step(
        images, labels, devices=8, chunk=3, parallel=parallel, batch_norm=batch_norm
    )
    assert m8["loss"] == pytest.approx(m1["loss"], rel=1e-5)
    assert m8["gradient_norm"] == pytest.approx(m1["gradient_norm"], rel=1e-4)
    assert_same_update(eight, one, 2e-5)
    for name, expected in one.stats.items():
        np.testing.assert_allclose(eight.stats[name], expected, rtol=1e-5, atol=1e-6)


def test_pmap_equals_shard_map():
    """Their convolutions may be compiled by other means: of 10^6 activations a few fall on the
    other side of a ReLU's kink, hence 1e-3 of the largest change."""
    images, labels = make_batch(16)
    mesh, (m1,) = run_step(images, labels, parallel="shard_map")
    pmap, (m2,) = run_step(images, labels, parallel="pmap")
    assert m2["loss"] == pytest.approx(m1["loss"], rel=1e-5)
    assert m2["gradient_norm"] == pytest.approx(m1["gradient_norm"], rel=1e-3)
    assert_same_update(pmap, mesh, 1e-3)


def test_dropout_does_not_depend_on_the_devices_or_the_chunks():
    images, labels = make_batch(16)
    options = {"dropout_p": 0.3}
    one, (m1,) = run_step(images, labels, chunk=8, **options)
    two, (m2,) = run_step(images, labels, devices=2, chunk=4, **options)
    plain, (m0,) = run_step(images, labels, chunk=8)
    assert m1["loss"] == pytest.approx(m2["loss"], rel=1e-5)
    assert abs(m0["loss"] - m1["loss"]) > 1e-4
    assert_same_update(two, one, 2e-5)
    assert np.abs(one.params["fc.kernel"] - plain.params["fc.kernel"]).max() > 1e-5


def test_memory_does_not_depend_on_the_batch_size():
    """XLA's own figures for 16 and 128 images: only the descriptors and their scores grow."""
    graphdef, params, stats = split_variables(network())
    replicas = create_replicas("shard_map", jax.devices()[:1])
    optimizer = optax.sgd(1.0)
    found = {}
    for batch in (16, 128):
        step = ThreeStageStep(
            Forward(graphdef, **NORM), AP, optimizer, replicas, batch_size=batch, chunk_size=4
        )
        state = replicas.replicate(create_state(params, stats, optimizer, batch_norm="frozen"))
        found[batch] = step.memory_analysis(state, 64, 64)
    descriptors = (128 - 16) * 16 * 4
    for program in ("describe", "back-propagate"):
        small, large = found[16][program], found[128][program]
        assert large.temp_size_in_bytes <= small.temp_size_in_bytes + descriptors
        assert large.argument_size_in_bytes - small.argument_size_in_bytes == descriptors
        assert large.temp_size_in_bytes > 100 * descriptors  # the figures are of activations
    peak = found[16]["back-propagate"].temp_size_in_bytes
    assert found[128]["loss"].temp_size_in_bytes < peak / 10


@pytest.mark.parametrize(
    ("arch", "optimizer", "rate"),
    [
        ("resnet18_rmac", "sgd", 1e-3),
        ("resnet18_rmac", "adam", 1e-5),
        ("resnet50_rmac", "sgd", 1e-4),
        ("resnet50_rmac", "adam", 2e-6),
    ],
)
def test_five_steps_equal_torch(arch, optimizer, rate):
    """Same weights, images, loss and optimiser: the bounds are those of the project's issue.

    The rates lower the loss by a tenth or a third. At ten times these it is near 0 after five
    steps, and the roundings of each step are amplified by the next.

    Where rounding moves an activation across ReLU's kink, small gradients change, which Adam makes
    as large as the others. That depends on the weights: cosines are 0.9999 to 0.99999. A mistake
    would show with all weights, so the bound is to be met with some.
    """
    cosines = []
    for seed in (3, 1, 2):
        cosines.append(five_steps(arch, optimizer, rate, seed))
        if cosines[-1] >= 0.9999:
            return
    raise AssertionError(f"cosines {cosines} of the updates; expected one of 0.9999")


def five_steps(arch, optimizer, rate, seed):
    """Checks losses and, for SGD, parameters; returns the cosine of the two total updates."""
    images, labels = make_batch(24, side=64, classes=8, signal=0.25)
    oracle = torch_network(arch, out_dim=32)
    randomize(oracle, seed)
    model = create_model(arch, out_dim=32)
    load_state_dict(model, oracle.state_dict())
    graphdef, params, stats = split_variables(model)

    config = default_config().optimizer
    config.update({"name": optimizer, "weight_decay": 1e-4, "schedule": "linear"})
    config.learning_rate = rate
    expected_losses, expected = train_steps(
        oracle,
        normalize(images, **NORM),
        labels,
        optimizer=optimizer,
        learning_rate=config.learning_rate,
        weight_decay=1e-4,
        momentum=0.9,
        num_steps=5,
        num_bins=10,
    )
    tx = create_optimizer(config, num_steps=5)
    replicas = create_replicas("shard_map", jax.devices()[:1])
    forward = Forward(graphdef, **NORM)
    step = ThreeStageStep(forward, AP, tx, replicas, batch_size=24, chunk_size=4)
    state = replicas.replicate(create_state(params, stats, tx, batch_norm="frozen"))
    losses = []
    for _ in range(5):
        state, metrics = step(state, [images[i : i + 4] for i in range(0, 24, 4)], labels)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    assert losses[-1] < 0.97 * losses[0]

    reference = create_model(arch, out_dim=32)
    load_state_dict(reference, expected)
    _, after_torch, _ = split_variables(reference)
    after = replicas.fetch(state).params
    if optimizer == "sgd":
        worst = max(float(jnp.abs(after[k] - after_torch[k]).max()) for k in after)
        assert worst <= 1e-5
    ours = np.concatenate([(after[k] - params[k]).ravel() for k in sorted(after)])
    theirs = np.concatenate([(after_torch[k] - params[k]).ravel() for k in sorted(after)])
    return ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
