"""Properties of all transforms: their bounds of sizes hold, and their texts come back."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dir_jax.data.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    Identity,
    Normalize,
    Pad,
    PadSquare,
    RandomBorder,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomRotation,
    RandomScale,
    RandomTilting,
    Scale,
    ToTensor,
    parse_transforms,
)
from dir_jax.errors import UserError

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


COLORS = st.tuples(*[st.integers(0, 255)] * 3)
FILTERS = st.sampled_from(list(Image.Resampling))
SIDES = st.integers(1, 70)


def _ranges(low, high):
    return st.lists(st.integers(low, high), min_size=2, max_size=2).map(sorted)


@st.composite
def scales(draw):
    size = draw(SIDES | st.floats(0.05, 3) | st.tuples(SIDES, SIDES))
    options = {name: draw(st.booleans()) for name in ("largest", "can_upscale", "can_downscale")}
    return Scale(size, draw(FILTERS), **options)


@st.composite
def random_scales(draw):
    low, high = draw(_ranges(1, 70))
    ar = draw(
        st.just(1)
        | st.floats(0.21, 4.75)
        | st.lists(st.floats(0.21, 4.9), min_size=2, max_size=2).map(sorted).map(tuple)
    )
    options = {name: draw(st.booleans()) for name in ("largest", "can_upscale", "can_downscale")}
    return RandomScale(low, high, ar, interpolation=draw(FILTERS), **options)


CROP_ARGUMENTS = (
    SIDES | st.tuples(SIDES, SIDES),
    st.integers(0, 9) | st.tuples(*[st.integers(0, 9)] * 4),
)
AMOUNTS = st.floats(0, 2)
RESIZING = st.one_of(
    scales(),
    random_scales(),
    st.builds(Pad, SIDES, COLORS),
    st.builds(PadSquare, st.none() | SIDES, COLORS),
    _ranges(0, 9).map(lambda r: RandomBorder(*r)),
    st.builds(CenterCrop, *CROP_ARGUMENTS),
    st.builds(RandomCrop, *CROP_ARGUMENTS),
)
OTHERS = st.one_of(
    st.builds(Identity),
    st.builds(ToTensor),
    st.builds(Normalize),
    st.builds(RandomRotation, st.floats(0, 180), st.sampled_from([BILINEAR, BICUBIC])),
    st.builds(RandomFlip),
    st.builds(RandomTilting, st.floats(0, 1), st.sampled_from(["all", "left", "up, Down"])),
    st.builds(ColorJitter, AMOUNTS, AMOUNTS, AMOUNTS, st.floats(0, 0.5)),
    st.builds(RandomErasing, st.floats(0, 1)),
)


class TestOutputSize:
    @settings(max_examples=1500, deadline=None)
    @given(RESIZING | OTHERS, _ranges(1, 90), _ranges(1, 90), st.data())
    def test_holds(self, transform, widths, heights, data):
        """Whatever the image within the bounds and the draw, the result is within the new ones."""
        smallest, largest = (widths[0], heights[0]), (widths[1], heights[1])
        size = data.draw(st.tuples(st.integers(*widths), st.integers(*heights)))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        try:
            (w0, h0), (w1, h1) = transform.output_size(smallest, largest)
        except UserError:
            # Each bound is some image's, so there is one that is too small.
            assert isinstance(transform, RandomCrop)
            with pytest.raises(UserError):
                transform(Image.new("RGB", smallest), rng)
            return
        w, h = transform(Image.new("RGB", size), rng).size
        assert w0 <= w <= w1
        assert h0 <= h <= h1

    @settings(max_examples=300, deadline=None)
    @given(
        st.one_of(scales(), st.builds(Pad, SIDES, COLORS), st.builds(PadSquare, st.none() | SIDES)),
        st.tuples(st.integers(1, 90), st.integers(1, 90)),
    )
    def test_exact_for_one_size(self, transform, size):
        out = transform(Image.new("RGB", size), np.random.default_rng(0)).size
        assert transform.output_size(size, size) == (out, out)

    @pytest.mark.parametrize(
        ("text", "smallest", "largest", "expected"),
        [
            ("", (3, 4), (5, 6), ((3, 4), (5, 6))),
            ("Scale(50)", (40, 30), (60, 90), ((50, 50), (100, 113))),
            ("Scale(50, can_upscale=False)", (40, 30), (60, 90), ((40, 30), (60, 90))),
            ("Scale(50, can_downscale=False)", (40, 60), (60, 90), ((50, 60), (60, 113))),
            ("Scale(50, can_downscale=False)", (60, 70), (80, 90), ((60, 70), (80, 90))),
            ("Scale((60, 50))", (40, 30), (49, 49), ((60, 50), (60, 50))),
            ("Scale((60, 50))", (40, 30), (80, 50), ((50, 50), (80, 50))),  # 50 x 50 stays
            ("Scale(0.5)", (40, 30), (80, 51), ((20, 15), (40, 26))),
            ("Scale(2.0, can_upscale=False)", (40, 30), (80, 51), ((40, 30), (80, 51))),
            ("Pad(50)", (60, 30), (80, 40), ((60, 50), (80, 50))),
            ("Pad(50)", (30, 30), (80, 80), ((30, 31), (80, 80))),  # 30 x 30 gets 30 x 50
            ("PadSquare()", (30, 40), (80, 50), ((40, 40), (80, 80))),
            ("RandomScale(96, 120)", (104, 104), (104, 104), ((96, 96), (120, 120))),
            ("RandomScale(96, 120)", (96, 96), (96, 96), ((96, 96), (96, 96))),
            ("RandomScale(20, 40)", (80, 60), (160, 120), ((20, 20), (107, 60))),
            ("RandomScale(20, 40)", (120, 40), (120, 40), ((60, 20), (120, 40))),
            ("RandomBorder(1, 3)", (5, 6), (7, 8), ((7, 8), (13, 14))),
            # What the experiments use
            (
                "Scale(920, can_downscale=False), RandomScale(920, 1100), RandomRotation(10), "
                "ColorJitter(0.2, 0.2, 0.2, 0.05), RandomCrop(800)",
                (100, 50),
                (4000, 5000),
                ((800, 800), (800, 800)),
            ),
            (
                "Scale((104, 104)), RandomScale(96, 120), RandomCrop(96)",
                (30, 20),
                (300, 400),
                ((96, 96), (96, 96)),
            ),
        ],
    )
    def test_is_close(self, text, smallest, largest, expected):
        assert parse_transforms(text).output_size(smallest, largest) == expected

    def test_crop_of_what_may_become_too_small(self):
        chain = parse_transforms("RandomScale(20, 40), RandomCrop(30)")
        with pytest.raises(UserError, match=r"RandomCrop\(30\): images can be as small as 20x20"):
            chain.output_size((50, 50), (80, 80))


def test_crop_too_small():
    crop = RandomCrop(40)
    for w, h in ((39, 50), (50, 39)):
        with pytest.raises(UserError, match=rf"^RandomCrop\(40\): an image of {w}x{h}"):
            crop(Image.new("RGB", (w, h)), np.random.default_rng(0))
        with pytest.raises(UserError, match=rf"^RandomCrop\(40\): an image of {w}x{h}"):
            crop.output_size((w, h), (w, h))
    with pytest.raises(UserError, match=r"as small as 39x30 here, smaller than .* 40x40; put"):
        parse_transforms(f"Identity(), {crop}").output_size((39, 30), (50, 60))
    assert crop.output_size((40, 40), (50, 60)) == ((40, 40), (40, 40))


def test_crop_too_small_even_with_padding():
    crop = RandomCrop((40, 30), padding=5)
    with pytest.raises(UserError, match=r"20x29 .* crop of 30x40 even when padded to 30x39"):
        crop(Image.new("RGB", (20, 29)), np.random.default_rng(0))
    assert crop(Image.new("RGB", (20, 30)), np.random.default_rng(0)).size == (30, 40)


@settings(max_examples=300)
@given(st.lists(RESIZING | OTHERS, max_size=4))
def test_text_and_pickle_round_trip(chain):
    chain = Compose(tuple(t for t in chain if not isinstance(t, ToTensor | Normalize)))
    again = parse_transforms(repr(chain))
    assert again == chain
    assert repr(again) == repr(chain)
    assert pickle.loads(pickle.dumps(chain)) == chain
    assert hash(again) == hash(chain)
