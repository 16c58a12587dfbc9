"""Random transforms: what is drawn, how it is distributed, and what is done with it."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from dir_jax.data.transforms import (
    ColorJitter,
    RandomBorder,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomRotation,
    RandomScale,
    RandomTilting,
    parse_transforms,
)
from dir_jax.data.transforms import appearance as adjust
from tests.data.pictures import apply, assert_same, picture

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def coordinates(width, height):
    """A picture whose red is x and whose green is y."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels)


def sizes_of(transform, image, count):
    return np.array([apply(transform, image, seed).size for seed in range(count)])


class TestRandomScale:
    def test_drawn_side(self):
        """Its logarithm is uniform: the quartiles are 20 · 8^(i/4)."""
        image = picture(400, 300)
        sizes = sizes_of(RandomScale(20, 160), image, 1000)
        shorter = sizes.min(axis=1)
        assert shorter.min() == 20
        assert 158 <= shorter.max() <= 160  # 160 has half a bin, too
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
        ring = np.asarray(apply(RandomRotation(40), bar, seed))[:, 80, 0]  # 30 right of the centre
        angles.append(np.degrees(np.arctan2(50 - np.average(np.arange(101), weights=ring), 30)))
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
