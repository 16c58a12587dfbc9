"""Each transform against Pillow called directly, its random draws, and its bounds of sizes."""

import inspect
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from dir_jax.data import transforms
from dir_jax.data.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    Identity,
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
    parse_transforms,
)
from dir_jax.data.transforms import appearance as adjust
from dir_jax.errors import UserError

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
GREY = (127, 127, 127)


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def coordinates(width, height):
    """A picture whose red is x and whose green is y."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def apply(transform, image, seed=0):
    before = image.tobytes()
    result = transform(image, np.random.default_rng(seed))
    assert image.tobytes() == before  # the input is left as it is
    assert result.mode == "RGB"
    return result


def sizes_of(transform, image, count):
    return np.array([apply(transform, image, seed).size for seed in range(count)])


def assert_same(a, b):
    assert a.size == b.size
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class TestAgainstPillow:
    @pytest.mark.parametrize(
        ("text", "size", "expected"),
        [
            ("Scale(50)", (75, 101), (50, 67)),  # 67.33
            ("Scale(50)", (101, 75), (67, 50)),
            ("Scale(50)", (40, 45), (50, 56)),  # 56.25
            ("Scale(50)", (40, 40), (50, 50)),
            ("Scale(6)", (4, 7), (6, 11)),  # 10.5: halves go up
            ("Scale(50, largest=True)", (75, 101), (37, 50)),
            ("Scale(50, largest=True)", (20, 10), (50, 25)),
            ("Scale(50, largest=True)", (1, 1000), (1, 50)),  # a sliver keeps one pixel
            ("Scale(0.5)", (75, 101), (38, 51)),
            ("Scale(1.5)", (75, 101), (113, 152)),
            ("Scale((30, 90))", (75, 101), (30, 90)),
            ("Scale([30, 90])", (20, 15), (30, 90)),
            ("Scale(50, can_upscale=False)", (75, 101), (50, 67)),
            ("Scale(50, can_downscale=False)", (40, 45), (50, 56)),
        ],
    )
    def test_scale(self, text, size, expected):
        image = picture(*size)
        assert_same(apply(parse_transforms(text), image), image.resize(expected, BILINEAR))

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("Scale(50)", (50, 70)),
            ("Scale(50, can_upscale=False)", (40, 45)),
            ("Scale(50, can_downscale=False)", (75, 101)),
            ("Scale(1.0)", (75, 101)),
            ("Scale(0.5, can_downscale=False)", (75, 101)),
            ("Scale(2.0, can_upscale=False)", (75, 101)),
            ("Scale((30, 90))", (30, 200)),  # the shorter side is what counts
            ("Scale((30, 90), can_downscale=False)", (40, 50)),
            ("Scale(990, largest=True)", (10, 1000)),  # 9.9 rounds to the 10 it has
            ("RandomScale(50, 60)", (50, 70)),
            ("RandomScale(50, 60, can_downscale=False)", (60, 70)),
        ],
    )
    def test_scale_leaves_image_as_it_is(self, text, size):
        image = picture(*size)
        assert_same(apply(parse_transforms(text), image), image)

    def test_scale_interpolation(self):
        image = picture(75, 101)
        for text in ("BICUBIC", "Image.BICUBIC", "3"):
            out = apply(parse_transforms(f"Scale(50, {text})"), image)
            assert_same(out, image.resize((50, 67), BICUBIC))

    @pytest.mark.parametrize(
        ("size", "expected", "corner"),
        [
            ((75, 41), (75, 60), (0, 9)),
            ((41, 75), (60, 75), (9, 0)),
            ((45, 41), (45, 60), (0, 9)),  # only the shorter side
            ((41, 41), (41, 60), (0, 9)),  # of a square: the height
            ((75, 60), (75, 60), (0, 0)),
            ((75, 90), (75, 90), (0, 0)),
        ],
    )
    def test_pad(self, size, expected, corner):
        image = picture(*size)
        for text, color in (("Pad(60)", GREY), ("Pad(60, (0, 0.5, 1))", (0, 127, 255))):
            canvas = Image.new("RGB", expected, color)
            canvas.paste(image, corner)
            assert_same(apply(parse_transforms(text), image), canvas)

    @pytest.mark.parametrize(
        ("text", "size", "side", "corner"),
        [
            ("PadSquare()", (75, 42), 75, (0, 16)),
            ("PadSquare()", (42, 75), 75, (16, 0)),
            ("PadSquare(80)", (75, 42), 80, (2, 19)),
            ("PadSquare(50)", (75, 42), 50, (-13, 4)),  # floor(-12.5): cut
            ("PadSquare(42)", (42, 42), 42, (0, 0)),
        ],
    )
    def test_pad_square(self, text, size, side, corner):
        image = picture(*size)
        canvas = Image.new("RGB", (side, side), GREY)
        canvas.paste(image, corner)
        assert_same(apply(parse_transforms(text), image), canvas)

    @pytest.mark.parametrize(
        ("text", "size", "box"),
        [
            ("CenterCrop(40)", (60, 50), (10, 5, 50, 45)),
            ("CenterCrop(40)", (41, 43), (1, 2, 41, 42)),  # halves go right and down
            ("CenterCrop((20, 40))", (60, 50), (10, 15, 50, 35)),  # (height, width)
            ("CenterCrop(40)", (40, 40), (0, 0, 40, 40)),
        ],
    )
    def test_center_crop(self, text, size, box):
        image = picture(*size)
        assert_same(apply(parse_transforms(text), image), image.crop(box))

    def test_crops_with_padding(self):
        image = picture(30, 20)
        for padding in (10, (1, 2, 30, 40)):
            padded = ImageOps.expand(image, padding, 0)
            out = apply(CenterCrop((38, 36), padding), image)
            assert_same(out, apply(CenterCrop((38, 36)), padded))
            for seed in range(20):
                out = apply(RandomCrop(32, padding), image, seed)
                assert_same(out, apply(RandomCrop(32), padded, seed))

    def test_rotation(self):
        image = picture(60, 40)
        for seed, method in itertools.product(range(5), (BILINEAR, BICUBIC)):
            angle = np.random.default_rng(seed).uniform(-30, 30)
            out = apply(RandomRotation(30, method), image, seed)
            assert_same(out, image.rotate(angle, resample=method))

    def test_identity(self):
        image = picture(3, 2)
        for text in ("", None, "Identity()", "Identity(), Identity()"):
            assert parse_transforms(text)(image, np.random.default_rng(0)) is image

    def test_chain(self):
        image = picture(60, 40)
        expected = image.resize((45, 30), BILINEAR).crop((8, 0, 38, 30))
        assert_same(apply(parse_transforms("Scale(30), CenterCrop(30)"), image), expected)


class TestRandomScale:
    def test_drawn_side(self):
        """Its logarithm is uniform: the quartiles are 20 · 8^(i/4)."""
        image = picture(400, 300)
        sizes = sizes_of(RandomScale(20, 160), image, 1000)
        shorter = sizes.min(axis=1)
        assert shorter.min() == 20
        assert shorter.max() == 160
        counts = np.histogram(np.log(shorter), bins=np.log(20 * 8 ** np.linspace(0, 1, 5)))[0]
        # 250 each, with a standard deviation of 14, and 20's own half bin.
        assert np.all(np.abs(counts - 250) < 55)
        np.testing.assert_array_equal(sizes[:, 0], (0.5 + shorter * 400 / 300).astype(int))

    @pytest.mark.parametrize("size", [(200, 100), (100, 200)])
    def test_aspect_ratio(self, size):
        sizes = sizes_of(RandomScale(60, 90, ar=1.5), picture(*size), 500)
        assert sizes.min() >= 60
        change = sizes[:, 0] / sizes[:, 1] / (size[0] / size[1])
        assert 1 / 1.53 < change.min() < 1 / 1.45  # rounding of 60 pixels moves it by 1 percent
        assert 1.45 < change.max() < 1.53
        assert abs(np.log(change).mean()) < 0.05  # as often wider as higher

    def test_other_side_reaches_the_minimum(self):
        for size in ((100, 100), (110, 100), (100, 110)):
            sizes = sizes_of(RandomScale(60, 90, ar=(2, 2.0)), picture(*size), 50)
            assert sizes.min() >= 60

    def test_largest(self):
        sizes = sizes_of(RandomScale(30, 60, ar=3, largest=True), picture(100, 90), 300)
        assert sizes.max() == 60
        sizes = sizes_of(RandomScale(30, 60, largest=True), picture(100, 50), 300)
        assert sizes[:, 0].min() == 30
        assert sizes[:, 0].max() == 60
        np.testing.assert_array_equal(sizes[:, 1], (sizes[:, 0] + 1) // 2)

    def test_never_upscales_by_default(self):
        sizes = sizes_of(RandomScale(40, 160), picture(100, 80), 200)
        assert sizes[:, 1].min() < 45
        assert (sizes == (100, 80)).all(axis=1).mean() == pytest.approx(0.5, abs=0.15)
        assert sizes_of(RandomScale(40, 160, can_upscale=True), picture(100, 80), 200).max() > 180

    def test_pixels(self):
        image = picture(100, 80)
        for seed in range(5):
            out = apply(RandomScale(30, 60, ar=1.3, interpolation=BICUBIC), image, seed)
            assert_same(out, image.resize(out.size, BICUBIC))


class TestRandomCrop:
    def test_all_places_are_equally_likely(self):
        image = coordinates(13, 12)
        corners = [apply(RandomCrop((10, 8)), image, s).getpixel((0, 0))[:2] for s in range(1800)]
        places, counts = np.unique(corners, axis=0, return_counts=True)
        assert places.tolist() == [[x, y] for x in range(6) for y in range(3)]
        assert np.all(np.abs(counts - 100) < 45)  # a standard deviation is 9.7

    def test_pixels(self):
        image = coordinates(40, 30)
        for seed in range(5):
            out = apply(RandomCrop(20), image, seed)
            x, y, _ = out.getpixel((0, 0))
            assert_same(out, image.crop((x, y, x + 20, y + 20)))

    @pytest.mark.parametrize("cls", [RandomCrop, CenterCrop])
    def test_too_small(self, cls):
        crop = cls(40)
        for size in ((39, 50), (50, 39)):
            with pytest.raises(
                UserError, match=rf"^{cls.__name__}\(40\): an image of %dx%d" % size
            ):
                crop(picture(*size), np.random.default_rng(0))
            with pytest.raises(
                UserError, match=rf"^{cls.__name__}\(40\): an image of %dx%d" % size
            ):
                crop.output_size(size, size)
        with pytest.raises(UserError, match=r"as small as 39x30 here, smaller than .* 40x40; put"):
            parse_transforms(f"Identity(), {crop}").output_size((39, 30), (50, 60))
        assert crop.output_size((40, 40), (50, 60)) == ((40, 40), (40, 40))

    def test_too_small_even_with_padding(self):
        crop = RandomCrop((40, 30), padding=5)
        with pytest.raises(UserError, match=r"20x29 .* crop of 30x40 even when padded to 30x39"):
            crop(picture(20, 29), np.random.default_rng(0))
        assert apply(crop, picture(20, 30)).size == (30, 40)


def test_border():
    image = picture(5, 4)
    drawn = set()
    for seed in range(200):
        out = apply(RandomBorder(1, 3, (255, 0, 0)), image, seed)
        bw, bh = (out.width - 5) // 2, (out.height - 4) // 2
        assert_same(out, ImageOps.expand(image, (bw, bh, bw, bh), (255, 0, 0)))
        drawn.add((bw, bh))
    assert drawn == set(itertools.product((1, 2, 3), repeat=2))


def test_flip():
    image = picture(6, 5)
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    results = [apply(RandomFlip(), image, seed).tobytes() for seed in range(400)]
    assert set(results) == {image.tobytes(), flipped.tobytes()}
    assert results.count(flipped.tobytes()) == pytest.approx(200, abs=40)  # 4 deviations of 10


def test_rotation_draws():
    angles = []
    bar = Image.new("RGB", (101, 101))
    bar.paste((255, 255, 255), (50, 50, 101, 51))  # from the centre to the right
    for seed in range(200):
        ring = np.asarray(apply(RandomRotation(40), bar, seed))[:, 90, 0]  # 40 right of the centre
        angles.append(np.degrees(np.arctan2(50 - np.average(np.arange(101), weights=ring), 40)))
    assert -41 < min(angles) < -36
    assert 36 < max(angles) < 41
    assert abs(np.mean(angles)) < 7  # a standard deviation is 23 / sqrt(200) = 1.6


class TestRandomTilting:
    def test_left_side_comes_nearer(self):
        """The left side shows the middle of what it did, the right side all; by one homography."""
        w, h, magnitude = 200, 160, 0.4
        image = coordinates(w, h)
        moves = []
        for seed in range(60):
            out = np.asarray(apply(RandomTilting(magnitude, "left"), image, seed)).astype(float)
            column, centres = out[:, 0, 1], np.arange(h) + 0.5
            # At the left edge, the output's [-move, h + move] is the input's [0, h].
            zoom = h / np.polyfit(centres, column, 1)[0]
            moves.append((zoom - h) / 2)
            # Vertical lines stay vertical: x' is a fraction of x, and the rows agree.
            assert np.ptp(out[:, 1:-1, 0], axis=0).max() <= 1
            # The right edge stays. It is half a pixel from the last column, which grows by < 1 %.
            np.testing.assert_allclose(out[5:-5, -1, 1], centres[5:-5] - 0.5, atol=1.5)
            assert out[0, 0, 0] <= 1
            assert out[0, -1, 0] >= w - 2
        assert min(moves) > 0
        # The first column lies half a pixel inside, where the move is a little smaller.
        assert 70 < max(moves) < 80.5

    def test_homography_is_exact(self):
        """Against the same map by hand: for a left tilt, x' = x h / (x h + (w - x)(h + 2 m)) w."""
        w, h = 120, 100
        image = picture(20, 20).resize((w, h), BICUBIC)
        transform = RandomTilting(1 / 120, "left")  # the move can only be 1
        # With r = h + 2: the denominator is r w + x (h - r), all over r w.
        r = h + 2.0
        g = (h - r) / (r * w)
        # y' = (y + 1 - x / w) h / (r - 2 x / w), with r - 2 x / w = r (1 + g x): over r, then.
        data = (h / r, 0, 0, -h / (w * r), h / r, h / r, g, 0)
        expected = image.transform((w, h), Image.Transform.PERSPECTIVE, data, BICUBIC)
        difference = np.asarray(expected).astype(int) - np.asarray(apply(transform, image))
        assert np.abs(difference).max() <= 1  # the coefficients differ by rounding

    @pytest.mark.parametrize(
        ("direction", "undo"),
        [
            ("right", Image.Transpose.FLIP_LEFT_RIGHT),
            ("up", Image.Transpose.TRANSPOSE),
            ("down", Image.Transpose.TRANSVERSE),
        ],
    )
    def test_other_directions_are_mirrored(self, direction, undo):
        image = picture(15, 12).resize((150, 120), BICUBIC)
        for seed in range(5):
            out = apply(RandomTilting(0.5, direction), image, seed)
            left = apply(RandomTilting(0.5, "left"), image.transpose(undo), seed).transpose(undo)
            difference = np.asarray(out).astype(int) - np.asarray(left)
            assert np.abs(difference).max() <= 2  # the filter rounds

    def test_directions(self):
        image = picture(60, 50)
        draw = {
            seed: {d: apply(RandomTilting(0.3, d), image, seed).tobytes() for d in self.SIDES}
            for seed in range(60)
        }
        for text, allowed in (
            ("all", self.SIDES),
            ("left,right", ("left", "right")),
            ("UP-Down-right", ("up", "down", "right")),
        ):
            found = set()
            for seed, by_side in draw.items():
                out = apply(RandomTilting(0.3, text), image, seed).tobytes()
                found |= {side for side, pixels in by_side.items() if pixels == out}
            assert found == set(allowed)

    SIDES = ("left", "right", "up", "down")

    def test_no_tilt(self):
        image = picture(6, 5)
        assert_same(apply(RandomTilting(0), image), image)


class TestColorJitter:
    FACTORS = (0.0, 0.3, 0.77, 1.0, 1.3, 1.9, 5.0)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("factor", FACTORS)
    def test_adjustments_are_pillows(self, factor, seed):
        image = ImageEnhance.Brightness(picture(30, 20, seed)).enhance(0.4 + 0.3 * seed)
        for ours, theirs in (
            (adjust.adjust_brightness, ImageEnhance.Brightness),
            (adjust.adjust_contrast, ImageEnhance.Contrast),
            (adjust.adjust_saturation, ImageEnhance.Color),
        ):
            assert_same(ours(image, factor), theirs(image).enhance(factor))

    @pytest.mark.parametrize(
        ("shift", "steps"), [(0.1, 25), (-0.1, -25), (0.5, 127), (-0.5, -127), (0.001, 0)]
    )
    def test_hue(self, shift, steps):
        image = picture(30, 20)
        hsv = np.array(image.convert("HSV")).astype(int)
        hsv[..., 0] = (hsv[..., 0] + steps) % 256
        expected = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
        assert_same(adjust.adjust_hue(image, shift), expected)

    def test_every_order_of_the_four(self):
        image = picture(8, 8)
        jitter = ColorJitter(0.4, 0.3, 0.5, 0.2)
        orders = set()
        for seed in range(200):
            rng = np.random.default_rng(seed)
            steps = [
                (adjust.adjust_brightness, rng.uniform(0.6, 1.4)),
                (adjust.adjust_contrast, rng.uniform(0.7, 1.3)),
                (adjust.adjust_saturation, rng.uniform(0.5, 1.5)),
                (adjust.adjust_hue, rng.uniform(-0.2, 0.2)),
            ]
            out = apply(jitter, image, seed).tobytes()
            for order in itertools.permutations(range(4)):
                candidate = image
                for i in order:
                    candidate = steps[i][0](candidate, steps[i][1])
                if candidate.tobytes() == out:
                    orders.add(order)
                    break
            else:
                pytest.fail("no order of the four steps gives this image")
        assert len(orders) == 24

    def test_range_of_factors(self):
        image = Image.new("RGB", (1, 1), (100, 100, 100))
        for amount, low, high in ((0.4, 60, 140), (2.0, 0, 255)):
            values = [apply(ColorJitter(amount), image, s).getpixel((0, 0))[0] for s in range(400)]
            assert low <= min(values) <= low + 2
            assert high - 2 <= max(values) <= high
        # [0, 3] · 100, cut at 255: 15 % of them.
        assert values.count(255) / 400 == pytest.approx(0.15, abs=0.07)

    def test_nothing_to_do(self):
        image = picture(6, 5)
        assert_same(apply(ColorJitter(), image), image)


class TestRandomErasing:
    def test_rectangle(self):
        image = Image.new("RGB", (80, 60))
        widths, heights, lefts, rights = [], [], [], []
        for seed in range(300):
            changed = np.asarray(apply(RandomErasing(0.5), image, seed)).any(axis=2)
            rows, columns = np.nonzero(changed.any(axis=1))[0], np.nonzero(changed.any(axis=0))[0]
            widths.append(np.ptp(columns) + 1)
            heights.append(np.ptp(rows) + 1)
            lefts.append(columns[0])
            rights.append(columns[-1])
            # Noise: one pixel in 2^24 is black by itself.
            assert changed.sum() >= widths[-1] * heights[-1] - 2
        assert (min(widths), max(widths)) == (20, 40)
        assert (min(heights), max(heights)) == (15, 30)
        assert (min(lefts), max(rights)) == (0, 79)

    def test_noise_is_uniform(self):
        image = Image.new("RGB", (200, 200))
        out = np.asarray(apply(RandomErasing(1), image))
        noise = out[out.any(axis=2)]
        assert noise.mean() == pytest.approx(127.5, abs=2)
        assert noise.min() == 0
        assert noise.max() == 255

    def test_nothing_to_erase(self):
        for area, size in ((0, (9, 9)), (0.1, (9, 50)), (1, (1, 1))):
            image = picture(*size)
            out = apply(RandomErasing(area), image, 1)
            assert out.size == size
            if area < 1:
                assert_same(out, image)


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
            assert isinstance(transform, RandomCrop | CenterCrop)
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
        out = apply(transform, Image.new("RGB", size)).size
        assert transform.output_size(size, size) == (out, out)

    @pytest.mark.parametrize(
        ("text", "smallest", "largest", "expected"),
        [
            ("", (3, 4), (5, 6), ((3, 4), (5, 6))),
            ("Scale(50)", (40, 30), (60, 90), ((50, 50), (100, 150))),
            ("Scale(50, can_upscale=False)", (40, 30), (60, 90), ((40, 30), (60, 90))),
            ("Scale(50, can_downscale=False)", (40, 60), (60, 90), ((50, 60), (60, 112))),
            ("Scale(50, can_downscale=False)", (60, 70), (80, 90), ((60, 70), (80, 90))),
            ("Scale((60, 50))", (40, 30), (49, 49), ((60, 50), (60, 50))),
            ("Scale((60, 50))", (40, 30), (80, 50), ((50, 50), (80, 50))),  # 50 x 50 stays
            ("Scale(0.5)", (40, 30), (80, 51), ((20, 15), (40, 26))),
            ("Scale(2.0, can_upscale=False)", (40, 30), (80, 51), ((40, 30), (80, 51))),
            ("Pad(50)", (60, 30), (80, 40), ((60, 50), (80, 50))),
            ("Pad(50)", (30, 30), (80, 80), ((30, 30), (80, 80))),
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


class TestText:
    @settings(max_examples=300)
    @given(st.lists(RESIZING | OTHERS, max_size=4))
    def test_round_trip(self, chain):
        chain = Compose(tuple(chain))
        again = parse_transforms(repr(chain))
        assert again == chain
        assert repr(again) == repr(chain)
        assert pickle.loads(pickle.dumps(chain)) == chain
        assert hash(again) == hash(chain)

    def test_repr_leaves_defaults_out(self):
        text = "Scale(size=1050, interpolation=BICUBIC, largest=False), Pad(800, (127, 127, 127))"
        assert repr(parse_transforms(text)) == "Scale(1050, interpolation=BICUBIC), Pad(800)"
        assert repr(parse_transforms("PadSquare(9), ColorJitter(0, 0.5)")) == (
            "PadSquare(size=9), ColorJitter(contrast=0.5)"
        )

    @pytest.mark.parametrize(
        ("name", "signature"),
        [
            ("Identity", ""),
            ("Scale", "size interpolation=2 largest=False can_upscale=True can_downscale=True"),
            ("Pad", "size color=(127, 127, 127)"),
            ("PadSquare", "size=None color=(127, 127, 127)"),
            ("CenterCrop", "size padding=0"),
            (
                "RandomScale",
                "min_size max_size ar=1 can_upscale=False can_downscale=True interpolation=2 "
                "largest=False",
            ),
            ("RandomCrop", "size padding=0"),
            ("RandomRotation", "degrees interpolation=2"),
            ("RandomFlip", ""),
            ("RandomTilting", "magnitude directions=all"),
            ("ColorJitter", "brightness=0 contrast=0 saturation=0 hue=0"),
            ("RandomErasing", "area"),
            ("RandomBorder", "min_size max_size color=(127, 127, 127)"),
        ],
    )
    def test_arguments_are_the_originals(self, name, signature):
        parameters = inspect.signature(getattr(transforms, name)).parameters.values()
        shown = (p.name if p.default is p.empty else f"{p.name}={p.default!s}" for p in parameters)
        assert " ".join(shown) == signature
        with pytest.raises(UserError, match=f"known: .*{name}"):
            parse_transforms("Unknown()")

    @pytest.mark.parametrize(
        ("text", "words", "caret"),
        [
            ("Pad(8), Skale(3)", "Skale; did you mean Scale?", 8),
            ("Identity", "usage: Identity()", 0),
            ("Scale(3, interpolation=BLINEAR)", "did you mean BILINEAR?", 23),
            ("Scale(3, interpolation=7.5)", "should be one of NEAREST, BOX, BILINEAR", 0),
            ("Scale(3, 2, 1, 1, 1, 1)", "usage: Scale(size, interpolation=BILINEAR", 0),
            ("Pad(8), Scale(0)", "size=0 should be an integer from 1", 8),
            ("Scale(True)", "size=True should be an integer", 0),
            ("Scale('3')", "size='3' should be an integer", 0),
            ("Scale(1000000)", "size=1000000 should be an integer from 1 to 65535", 0),
            ("Scale(4.5)", "size=4.5, a float, multiplies the sides", 0),
            ("Scale((1, 2, 3))", "a pair (width, height)", 0),
            ("Scale((1, 2.5))", "size=2.5 should be an integer", 0),
            ("Pad(3, (1, 2))", "color=(1, 2) should be three", 0),
            ("Pad(3, (1, 2, 300))", "color=(1, 2, 300) should be three", 0),
            ("PadSquare(0)", "size=0", 0),
            ("CenterCrop(0)", "size=0", 0),
            ("RandomCrop((1, 2, 3))", "a pair (height, width)", 0),
            ("RandomCrop(3, -1)", "padding=-1", 0),
            ("RandomCrop(3, (1, 2))", "(left, top, right, bottom)", 0),
            ("RandomScale(0, 3)", "min_size=0", 0),
            ("RandomScale(5, 3)", "max_size=3 should be an integer from 5", 0),
            ("RandomScale(3, 5, ar=5)", "ar=5 should be in", 0),
            ("RandomScale(3, 5, ar=(2, 1))", "a pair low <= high", 0),
            ("RandomScale(3, 5, ar=('a', 1))", "ar='a' should be a number", 0),
            ("RandomRotation(-1)", "degrees=-1 should be a number from 0 to 180", 0),
            ("RandomRotation(1, LANCZOS)", "should be one of NEAREST, BILINEAR, BICUBIC", 0),
            ("RandomTilting(2)", "magnitude=2", 0),
            ("RandomTilting(0.5, 'left, lift')", "'lift' is none of left, right, up, down", 0),
            ("RandomTilting(0.5, '')", "should name a side", 0),
            ("ColorJitter(-0.1)", "brightness=-0.1", 0),
            ("ColorJitter(1e400)", "brightness=inf should be a number from 0", 0),
            ("ColorJitter(hue=0.6)", "hue=0.6 should be a number from 0 to 0.5", 0),
            ("RandomErasing(1.1)", "area=1.1", 0),
            ("RandomBorder(4, 3)", "max_size=3", 0),
        ],
    )
    def test_refused(self, text, words, caret):
        with pytest.raises(UserError) as caught:
            parse_transforms(text)
        lines = str(caught.value).split("\n")
        assert words in str(caught.value)
        assert lines[1] == f"  {text}"
        assert lines[2] == "  " + " " * caret + "^"

    def test_nothing_is_evaluated(self, tmp_path):
        witness = tmp_path / "witness"
        with pytest.raises(UserError, match="found __import__"):
            parse_transforms(f"Pad(8), __import__('os').system('touch {witness}')")
        assert not witness.exists()


@pytest.mark.parametrize(
    "text",
    [
        "RandomScale(30, 60, ar=1.2), RandomRotation(10), RandomTilting(0.3), RandomCrop(20)",
        "RandomFlip(), ColorJitter(0.3, 0.3, 0.3, 0.1), RandomErasing(0.4), RandomBorder(0, 9)",
    ],
)
def test_determined_by_the_generator(text):
    chain, image = parse_transforms(text), picture(90, 80)
    np.random.seed(0)  # noqa: NPY002  it must make no difference
    first = [apply(chain, image, seed).tobytes() for seed in range(20)]
    np.random.seed(1)  # noqa: NPY002
    assert [apply(chain, image, seed).tobytes() for seed in range(20)] == first
    assert len(set(first)) == 20
