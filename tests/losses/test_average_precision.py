"""AP from scores, value and gradient, against torch, float64 NumPy and plain autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dir_jax import losses
from torch_reference import losses as oracle
from torch_reference import numpy_losses

BINS = 10
FORMS = {
    "plain": (losses.average_precision, oracle.average_precision, {}),
    "tie-aware": (losses.tie_aware_average_precision, oracle.tie_aware_average_precision, {}),
    "simplified": (
        losses.tie_aware_average_precision,
        oracle.tie_aware_average_precision,
        {"simplified": True},
    ),
}


def off_centres(scores, num_bins=BINS):
    """Moves scores away from bin centres, where the derivative jumps and anyone may choose."""
    place = scores * (num_bins - 1)
    near = np.abs(place - np.round(place)) < 0.02
    return np.where(near, scores + 0.04 / (num_bins - 1), scores).astype("f")


def make_case(name, queries=6, items=40):
    rng = np.random.default_rng(sum(map(ord, name)))
    scores = rng.uniform(0.01, 0.99, (queries, items))
    relevance = rng.uniform(size=scores.shape) < 0.3
    relevance[:, 0] = True
    if name == "tied":  # few distinct scores, so that many share a bin and a place in it
        scores = rng.choice([0.13, 0.38, 0.61, 0.97], scores.shape)
    elif name == "saturated":
        scores = rng.uniform(-1.5, 2.5, scores.shape)
    elif name == "no positives":
        relevance[::2] = False
    elif name == "single positive":
        relevance[:] = False
        relevance[:, 3] = True
    elif name == "all positives":
        relevance[:] = True
    return off_centres(scores), relevance.astype("f")


CASES = ["random", "tied", "saturated", "no positives", "single positive", "all positives"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_torch(form, case):
    """float32 on both sides, sums of 40 terms in another order: 1e-5 of the largest derivative."""
    ours, theirs, options = FORMS[form]
    scores, relevance = make_case(case)
    valid = relevance.any(axis=1)
    weights = np.linspace(0.5, 1.5, len(scores)).astype("f")

    ap = ours(scores, relevance, num_bins=BINS, **options)
    gradient = jax.grad(lambda s: jnp.sum(weights * ours(s, relevance, num_bins=BINS, **options)))(
        scores
    )

    x = torch.tensor(scores, requires_grad=True)
    expected = theirs(x[valid], torch.tensor(relevance[valid]), num_bins=BINS, **options)
    (torch.tensor(weights[valid]) * expected).sum().backward()

    np.testing.assert_allclose(ap[valid], expected.detach().numpy(), rtol=0, atol=2e-6)
    assert np.isfinite(ap).all()
    assert (np.asarray(ap)[~valid] == 0).all()
    # Where all are positives the derivative is 0: differences of terms of some num_bins / items.
    tolerance = 1e-5 * max(float(x.grad.abs().max()), BINS / scores.shape[1])
    np.testing.assert_allclose(gradient, x.grad, rtol=0, atol=tolerance)
    assert (np.asarray(gradient)[~valid] == 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["random", "tied", "saturated"])
def test_value_and_gradient_equal_float64(form, case):
    """Against the definition in float64 and its numeric differences."""
    ours, _, options = FORMS[form]
    scores, relevance = make_case(case, queries=2, items=15)
    name = "average_precision" if form == "plain" else "tie_aware_average_precision"
    definition = functools.partial(
        getattr(numpy_losses, name), relevance=relevance, num_bins=BINS, **options
    )
    np.testing.assert_allclose(
        ours(scores, relevance, num_bins=BINS, **options), definition(scores), rtol=0, atol=2e-6
    )
    expected = numpy_losses.numeric_gradient(lambda s: definition(s).sum(), scores)
    gradient = jax.grad(lambda s: ours(s, relevance, num_bins=BINS, **options).sum())(scores)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def plain_average_precision(scores, relevance, num_bins, vmin, vmax):
    """The formula with every weight kept, for autodiff to differentiate."""
    centres = jnp.linspace(vmax, vmin, num_bins)
    width = (vmax - vmin) / (num_bins - 1)
    x = jnp.clip(scores, vmin, vmax)[..., None]
    weights = jnp.maximum(0, 1 - jnp.abs(x - centres) / width)
    count, positives = weights.sum(axis=1), (weights * relevance[..., None]).sum(axis=1)
    precision = jnp.cumsum(positives, axis=1) / (1e-16 + jnp.cumsum(count, axis=1))
    return (precision * positives).sum(axis=1) / positives.sum(axis=1)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), (0.25, 0.75)])
def test_custom_derivative_equals_plain_autodiff(limits):
    scores, relevance = make_case("random")
    vmin, vmax = limits
    scores = off_centres((scores - vmin) / (vmax - vmin)) * (vmax - vmin) + vmin
    options = {"num_bins": BINS, "vmin": vmin, "vmax": vmax}
    expected = jax.grad(lambda s: plain_average_precision(s, relevance, **options).sum())(scores)
    found = jax.grad(lambda s: losses.average_precision(s, relevance, **options).sum())(scores)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Places among nine bins, so that counts are sums of quarters, exact in float32 as in float64. The
# first two cases have counts of exactly 1, where the tie-aware form's clamps have their kinks: the
# derivative there is torch's, all of it, where `jnp.maximum` would pass on a half.
CLAMPED = {
    "a count of 1": ([0.25, 0.75, 2.25, 2.75, 4.5, 4.5, 6.5], [1, 0, 1, 1, 1, 0, 1]),
    "a relevant count of 1": ([0.25, 0.75, 0.5, 2.5, 2.5, 2.5, 7.5], [1, 1, 0, 1, 1, 0, 0]),
    "saturated": ([-3, 0.5, 0.5, 9, 9, 7.5, 4.25, 3.75], [1, 1, 0, 0, 1, 1, 0, 1]),
    "all tied": ([3.5] * 6, [1, 1, 0, 0, 0, 0]),
    "tied at both ends": ([-1, -1, -2, 9, 9, 10, 4.5], [1, 0, 1, 1, 0, 0, 1]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CLAMPED)
def test_ties_and_saturation_equal_torch_in_float64(form, case):
    places, relevance = (np.array([row], np.float64) for row in CLAMPED[case])
    _check_in_float64(1 - places / 8, relevance, *FORMS[form], by_distance=False)


# The same by distance, which rounds: so without the kinks, and it does not saturate above.
DISTANCES = {
    "saturated": ([0.25, 0.25, 0.75, 9, 9, 7.5, 4.25, 3.75], [1, 1, 0, 0, 1, 1, 0, 1]),
    "all tied": ([3.5] * 6, [1, 1, 1, 0, 0, 0]),
    "tied at both ends": ([0.2, 0.2, 0.2, 9, 9, 10, 4.5], [1, 0, 1, 1, 1, 0, 1]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", DISTANCES)
def test_ties_and_saturation_by_distance_equal_torch_in_float64(form, case):
    places, relevance = (np.array([row], np.float64) for row in DISTANCES[case])
    scores = (2.001 - (places / 8) ** 2) / 2  # whose distance is at that place
    ours, theirs, options = FORMS[form]
    ours = getattr(losses, f"{ours.__name__}_dist")
    _check_in_float64(scores, relevance, ours, theirs, options, by_distance=True)


def _check_in_float64(scores, relevance, ours, theirs, options, *, by_distance):
    x = torch.tensor(scores, requires_grad=True)
    y = oracle.by_distance(x) if by_distance else x
    expected = theirs(y, torch.tensor(relevance), num_bins=9, **options)
    expected.backward()
    value, gradient = jax.value_and_grad(lambda s: ours(s, relevance, num_bins=9, **options).sum())(
        scores.astype("f")
    )
    assert float(value) == pytest.approx(expected.item(), abs=2e-6)
    largest = float(x.grad.abs().max())
    # What cancels in the last case leaves three digits fewer.
    np.testing.assert_allclose(gradient, x.grad, rtol=2e-4, atol=1e-6 * largest)


def test_derivative_on_a_bin_centre_is_the_one_towards_lower_scores():
    relevance = np.array([[1, 0, 1, 0]], "f")
    scores = np.array([[0.5, 0.25, 0.1, 0.6]], "f")  # 5 bins: two on centres

    def gradient(s):
        return jax.grad(lambda x: losses.average_precision(x, relevance, num_bins=5).sum())(s)

    below = gradient(scores - np.array([[1e-4, 1e-4, 0, 0]], "f"))
    np.testing.assert_allclose(gradient(scores), below, rtol=0, atol=2e-3 * np.abs(below).max())


@pytest.mark.parametrize("tie_aware", [False, True])
@pytest.mark.parametrize("dist", [False, True])
def test_losses_equal_torch(tie_aware, dist):
    """Scalars, with query weights, a query without positives, and the `_dist` variants."""
    scores, relevance = make_case("no positives")
    weights = np.linspace(0.2, 2, len(scores)).astype("f")
    name = ("tie_aware_" if tie_aware else "") + "average_precision"
    ours = getattr(losses, f"{name}_dist_loss" if dist else f"{name}_loss")
    theirs = getattr(oracle, f"{name}_loss")
    options = {"num_bins": BINS}
    value, (by_scores, by_weights) = jax.value_and_grad(
        lambda s, w: ours(s, relevance, query_weights=w, **options), argnums=(0, 1)
    )(scores, weights)
    x = torch.tensor(scores, requires_grad=True)
    w = torch.tensor(weights, requires_grad=True)
    y = oracle.by_distance(x) if dist else x
    expected = theirs(y, torch.tensor(relevance), query_weights=w, **options)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), abs=2e-6)
    atol = 2e-5 * float(x.grad.abs().max())
    np.testing.assert_allclose(by_scores, x.grad, rtol=0, atol=atol)
    np.testing.assert_allclose(by_weights, w.grad, rtol=1e-5, atol=1e-7)
    function = getattr(losses, f"{name}_dist" if dist else name)
    values = np.asarray(function(scores, relevance, **options))
    valid = relevance.any(axis=1)
    assert float(value) == pytest.approx(1 - np.mean((weights * values)[valid]), abs=1e-6)


def test_no_query_with_positives():
    scores = np.full((3, 4), 0.5, "f")
    value, gradient = jax.value_and_grad(losses.average_precision_loss)(scores, np.zeros((3, 4)))
    assert float(value) == 1
    assert not np.asarray(gradient).any()


def test_blocks_do_not_matter():
    """Rows are counted in blocks; sizes around a block's, one that none divides, and one row."""
    rng = np.random.default_rng(0)
    for queries, items in ((1, 70_000), (17, 9000), (37, 5000)):
        scores = rng.uniform(size=(queries, items)).astype("f")
        relevance = (rng.uniform(size=scores.shape) < 0.01).astype("f")
        expected = numpy_losses.average_precision(scores, relevance, 20)
        found = losses.average_precision(scores, relevance, num_bins=20)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_transformations():
    scores, relevance = make_case("random")
    function = functools.partial(losses.average_precision_loss, num_bins=BINS)
    value, gradient = jax.value_and_grad(function)(scores, relevance)
    compiled = jax.jit(jax.value_and_grad(function))(scores, relevance)
    np.testing.assert_allclose(compiled[1], gradient, rtol=1e-5, atol=1e-9)
    many = jax.vmap(jax.value_and_grad(function))(
        jnp.stack([scores, scores[::-1]]), jnp.stack([relevance, relevance[::-1]])
    )
    np.testing.assert_allclose(many[0], [value, value], rtol=1e-6)
    np.testing.assert_allclose(many[1], jnp.stack([gradient, gradient[::-1]]), rtol=1e-5, atol=1e-9)
    for kind in (bool, np.int32):
        assert float(function(scores, relevance.astype(kind))) == pytest.approx(float(value))


def test_memory_is_not_expanded_by_the_bins():
    """XLA's own figure: besides inputs and gradient, less than one N × M array for 20 bins."""
    shape = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    function = jax.value_and_grad(functools.partial(losses.average_precision_loss, num_bins=20))
    analysis = jax.jit(function).lower(shape, shape).compile().memory_analysis()
    expanded = 1024 * 1024 * 4 * 20
    assert analysis.output_size_in_bytes >= 1024 * 1024 * 4  # the gradient: figures are real
    # One block of 65,536 scores by 20 bins, whatever N is, and a few megabytes of buffers.
    assert analysis.temp_size_in_bytes < expanded / 4


def test_bad_input():
    scores, relevance = make_case("random")
    with pytest.raises(
        ValueError, match=r"the same shape for all, found scores \(.*, relevance \("
    ):
        losses.average_precision(scores, relevance[:, :-1])
    with pytest.raises(ValueError, match="two dimensions"):
        losses.average_precision(scores[0], relevance[0])
    with pytest.raises(TypeError, match="floating"):
        losses.average_precision(relevance.astype(int), relevance)
    for options in ({"num_bins": 1}, {"vmin": 1.0}, {"vmax": float("inf")}):
        with pytest.raises(ValueError, match="two bins"):
            losses.average_precision(scores, relevance, **options)
