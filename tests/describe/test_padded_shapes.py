"""A few padded shapes for many sizes: little padding, every image once, always the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.extraction import oxford_sizes
from dir_jax.describe.extractor import room_of
from dir_jax.describe.padded_shapes import (
    MAX_CANVASES,
    Room,
    choose_canvases,
    choose_shapes,
    plan_batches,
)

ROOM = Room(1 << 20)


def plan(sizes, room=ROOM, **options):
    return plan_batches(sizes, choose_shapes([sizes], room), room, **options)


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
    batches = plan(sizes)
    assert len({(batch.canvas, batch.rows) for batch in batches}) <= 12
    assert waste(sizes, batches) <= 0.15


def test_one_size_is_one_exact_shape():
    batches = plan(np.full((100, 2), (333, 217)))
    assert {batch.canvas for batch in batches} == {(333, 217)}
    assert all(batch.exact for batch in batches)
    mixed = plan(np.array([(333, 217), (332, 217)]))
    assert not any(batch.exact for batch in mixed)


def test_few_images_are_not_worth_many_programs():
    assert len(choose_canvases(oxford_sizes(10))) == 1
    assert len(choose_canvases(oxford_sizes(5000))) == MAX_CANVASES


def test_an_accelerator_pads_rather_than_compiles_for_a_list_that_takes_it_seconds():
    room, sizes = room_of("gpu"), oxford_sizes(1000)
    assert room.program > room_of("cpu").program
    assert len(choose_shapes([sizes], room)) == 1
    assert len(choose_shapes([sizes], room, share=1e-3)) == MAX_CANVASES  # of a million images


def test_a_part_gets_the_programs_of_the_whole():
    """Whatever the part, and the number of devices: what describes an image is one program."""

    def programs(sizes, devices=1):
        found = [None] * len(sizes)
        for batch in plan_batches(sizes, shapes, ROOM, devices=devices):
            for place in batch.places:
                found[place] = batch.canvas, batch.rows // devices, batch.exact
        return found

    sizes = np.concatenate([oxford_sizes(300), [(1024, 768)] * 9, [(5000, 31), (31, 5000)]])
    shapes = choose_shapes([sizes[:300]], ROOM)  # so that there is none for the last
    whole = programs(sizes)
    assert whole[-2:] == [((5120, 32), 6, False), ((32, 5120), 6, False)]
    for part in (slice(0, 1), slice(7, 40), slice(290, None)):
        assert programs(sizes[part]) == whole[part] == programs(sizes[part], devices=8)


def test_a_shape_that_its_images_fill_takes_others_by_another_program():
    shapes = choose_shapes([np.full((100, 2), (640, 480))], ROOM)
    batches = plan_batches(np.array([(640, 480), (640, 479)]), shapes, ROOM)
    assert [(b.canvas, b.exact) for b in batches] == [((640, 480), True), ((640, 480), False)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), max_size=60),
    st.integers(1, 1 << 22),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 64),
)
def test_every_image_once_and_inside(sizes, pixels, devices, max_rows):
    sizes = np.array(sizes, int).reshape(-1, 2)
    room = Room(pixels, max_rows)
    batches = plan(sizes, room, devices=devices)
    places = [place for batch in batches for place in batch.places.tolist()]
    assert sorted(places) == list(range(len(sizes)))
    assert len({batch.canvas for batch in batches}) <= MAX_CANVASES
    for batch in batches:
        assert 1 <= len(batch.places) <= batch.rows
        assert batch.rows % devices == 0
        assert batch.rows <= max_rows * devices
        assert (sizes[batch.places] <= batch.canvas).all()
        assert batch.exact <= (sizes[batch.places] == batch.canvas).all()
    again = plan(sizes, room, devices=devices)
    assert [b.places.tolist() for b in again] == [b.places.tolist() for b in batches]
