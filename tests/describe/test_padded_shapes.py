"""A few padded shapes for many sizes: little padding, every image once, always the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.extraction import oxford_sizes
from dir_jax.describe.padded_shapes import MAX_CANVASES, choose_canvases, plan_batches


def waste(sizes, batches):
    """The share of padding among all pixels."""
    paid = sum(batch.canvas[0] * batch.canvas[1] * batch.rows for batch in batches)
    return 1 - sizes.prod(axis=1).sum() / paid


def every_aspect_ratio(count):
    shorter = np.random.default_rng(0).integers(300, 1025, count)
    sizes = np.stack([np.full(count, 1024), shorter], axis=1)
    sizes[::2] = sizes[::2, ::-1]
    return sizes


@pytest.mark.parametrize("mixture", [oxford_sizes, every_aspect_ratio])
def test_a_mixture_like_oxford5k(mixture):
    """The issue's bounds: at most 12 shapes, and 15 % of padding."""
    sizes = mixture(5000)
    assert len(np.unique(sizes, axis=0)) >= 300
    batches = plan_batches(sizes, pixels=1 << 20)
    assert len({(batch.canvas, batch.rows) for batch in batches}) <= 12
    assert waste(sizes, batches) <= 0.15


def test_one_size_is_one_exact_shape():
    batches = plan_batches(np.full((100, 2), (333, 217)), pixels=1 << 20)
    assert {batch.canvas for batch in batches} == {(333, 217)}
    assert all(batch.exact for batch in batches)
    mixed = plan_batches(np.array([(333, 217), (332, 217)]), pixels=1 << 20)
    assert not any(batch.exact for batch in mixed)


def test_few_images_are_not_worth_many_programs():
    assert len(choose_canvases(oxford_sizes(10))) == 1
    assert len(choose_canvases(oxford_sizes(5000))) == MAX_CANVASES


def test_given_canvases_are_used():
    canvases = choose_canvases(oxford_sizes(1000))
    batches = plan_batches(oxford_sizes(50, seed=1), pixels=1 << 20, canvases=canvases)
    assert {batch.canvas for batch in batches} <= {(w, h) for w, h in canvases.tolist()}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), max_size=60),
    st.integers(1, 1 << 22),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 64),
)
def test_every_image_once_and_inside(sizes, pixels, multiple, max_rows):
    sizes = np.array(sizes, int).reshape(-1, 2)
    batches = plan_batches(sizes, pixels=pixels, multiple=multiple, max_rows=max_rows)
    places = [place for batch in batches for place in batch.places.tolist()]
    assert sorted(places) == list(range(len(sizes)))
    assert len({batch.canvas for batch in batches}) <= MAX_CANVASES
    for batch in batches:
        assert 1 <= len(batch.places) <= batch.rows
        assert batch.rows % multiple == 0
        assert batch.rows <= -(-max_rows // multiple) * multiple
        assert (sizes[batch.places] <= batch.canvas).all()
        assert batch.exact <= (sizes[batch.places] == batch.canvas).all()
    again = plan_batches(sizes, pixels=pixels, multiple=multiple, max_rows=max_rows)
    assert [b.places.tolist() for b in again] == [b.places.tolist() for b in batches]
