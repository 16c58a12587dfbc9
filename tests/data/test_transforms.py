"""Deterministic transforms against Pillow called directly, and the texts that make them."""

import inspect
import itertools

import numpy as np
import pytest
from PIL import Image, ImageOps

from dir_jax.data import transforms
from dir_jax.data.transforms import CenterCrop, RandomCrop, RandomRotation, parse_transforms
from dir_jax.errors import UserError
from tests.data.pictures import apply, assert_same, picture

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
GREY = (127, 127, 127)


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
            # Larger than the image: int(0.5 + difference / 2), as the original has it.
            ("CenterCrop(45)", (40, 50), (-2, 3, 43, 48)),
            ("CenterCrop((60, 36))", (40, 50), (2, -4, 38, 56)),
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

    @pytest.mark.parametrize(
        "crop",
        [
            "RandomCrop(17)",
            "RandomCrop((9, 30))",
            "CenterCrop(21)",
            "RandomCrop(70, padding=20)",
            "RandomCrop(8), RandomCrop(3)",
        ],
    )
    @pytest.mark.parametrize("rotation", ["RandomRotation(30)", "RandomRotation(180, BICUBIC)",
                                          "RandomRotation(5, NEAREST), RandomRotation(40)",
                                          "RandomRotation(0)"])  # fmt: skip
    def test_the_part_that_a_crop_keeps(self, rotation, crop):
        """Only that part is rotated; the pixels are those of the whole, rotated and cropped."""
        image = picture(60, 40)
        for seed in range(20):
            expected, rng = image, np.random.default_rng(seed)
            for transform in parse_transforms(f"{rotation}, {crop}").transforms:
                expected = transform(expected, rng)
            assert_same(apply(parse_transforms(f"{rotation}, {crop}"), image, seed), expected)

    @pytest.mark.parametrize("after", ["RandomCrop(17)", "RandomRotation(20), CenterCrop(21)"])
    @pytest.mark.parametrize("size", [(60, 40), (400, 300)], ids=str)
    @pytest.mark.parametrize("method", ["BILINEAR", "LANCZOS", "NEAREST", "BOX"])
    def test_the_part_of_a_random_scale(self, size, after, method):
        """Only what is kept is resampled: bounds in single precision cost some pixels a level, and
        rotating these rounds once more."""
        image = picture(*size)
        chain = f"RandomScale(30, 80, 1.3, can_upscale=True, interpolation={method}), {after}"
        for seed in range(20):
            expected, rng = image, np.random.default_rng(seed)
            for transform in parse_transforms(chain).transforms:
                expected = transform(expected, rng)
            found = np.asarray(apply(parse_transforms(chain), image, seed), int)
            difference = np.abs(found - np.asarray(expected, int))
            assert difference.max() <= (2 if "Rotation" in after else 1)  # of a picture of noise


class TestText:
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
            ("Scale((1, 2, 3))", "should be a number or (width, height)", 0),
            ("Scale((1, 2.5))", "size=2.5 should be an integer", 0),
            ("Pad(3, (1, 2))", "color=(1, 2) should be three", 0),
            ("Pad(3, (1, 2, 300))", "color=(1, 2, 300) should be three", 0),
            ("PadSquare(0)", "size=0", 0),
            ("CenterCrop(0)", "size=0", 0),
            ("RandomCrop((1, 2, 3))", "should be a number or (height, width)", 0),
            ("RandomCrop(3, -1)", "padding=-1", 0),
            ("RandomCrop(3, (1, 2))", "(left, top, right, bottom)", 0),
            ("RandomScale(0, 3)", "min_size=0", 0),
            ("RandomScale(5, 3)", "max_size=3 should be an integer from 5", 0),
            (
                "RandomScale(3, 5, ar=5)",
                "ar=5 should be a number or a pair low <= high in ]0.2, 5[",
                0,
            ),
            ("RandomScale(3, 5, ar=(2, 1))", "a pair low <= high", 0),
            ("RandomScale(3, 5, ar=('a', 1))", "ar=('a', 1) should be a number", 0),
            ("RandomRotation(-1)", "degrees=-1 should be a number from 0 to 180", 0),
            ("RandomRotation(1, LANCZOS)", "should be one of NEAREST, BILINEAR, BICUBIC", 0),
            ("RandomTilting(2)", "magnitude=2", 0),
            (
                "RandomTilting(0.5, 'left, lift')",
                "'left, lift' should be 'all', or some of left",
                0,
            ),
            ("RandomTilting(0.5, '')", "directions='' should be 'all', or some of left", 0),
            ("Scale(8, can_upscale='no')", "can_upscale='no' should be True or False", 0),
            ("RandomScale(1, 2, largest=3)", "largest=3 should be True or False", 0),
            ("Scale(1e400)", "size=inf, a float, multiplies the sides", 0),
            ("Pad(10**9)", "found 10**9", 4),
            ("Scale(2 * '3')", "expected a product of numbers", 6),
            ("Scale(2 * 10000000000)", "expected a product of numbers up to 1,000,000,000", 6),
            ("Scale(1" + "*1" * 20 + ")", "expected a number", 6),
            ("Normalize((1, 2))", "mean=(1, 2) should be three numbers, or mean", 0),
            ("Pad(1000000000)", "size=1000000000 should be an integer from 1 to 65535", 0),
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

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (f"Scale(0x{'f' * 5000})", "size=<int too long to show> should be"),
            (f"Scale(1{'0' * 5000})", "syntax error: Exceeds the limit"),
            (f"Scale('{'x' * 5000}')", "size='xxx"),
            (f"ColorJitter(1{'0' * 400})", "brightness=1000"),
            (f"Pad(3, (1{'0' * 400}, 0, 0))", "color=(1000"),
            (f"Scale((1{', 1' * 3000}))", "size=(1, 1"),
            (f"RandomTilting(0.1, '{'x,' * 500}')", "directions='x,x"),
            (f"Scale({'x' * 3000}=1)", "Scale has no argument xxx"),
            (f"{'x' * 3000}(1)", "no transform named xxx"),
            ("Scale(1), " * 10_000, "at most 20,000 characters are read"),
        ],
        ids=range(10),
    )
    def test_long_arguments_are_shortened(self, text, words):
        with pytest.raises(UserError) as caught:
            parse_transforms(text)
        assert words in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert all(
            line.count("0") + line.count("x") <= 210 for line in str(caught.value).split("\n")
        )

    def test_nothing_is_evaluated(self, tmp_path):
        witness = tmp_path / "witness"
        with pytest.raises(UserError, match="found __import__"):
            parse_transforms(f"Pad(8), __import__('os').system('touch {witness}')")
        assert not witness.exists()


class TestTheOriginalsTexts:
    @pytest.mark.parametrize(
        ("text", "same"),
        [
            ("Scale(2*512)", "Scale(1024)"),
            ("Scale(0.5 * 3), Pad(2*2*-1*-8)", "Scale(1.5), Pad(32)"),
            ("Scale(input_size)", "Scale(224)"),
            ("Scale((2 * 8, input_size))", "Scale((16, 224))"),
        ],
    )
    def test_products_and_the_input_size(self, text, same):
        assert parse_transforms(text) == parse_transforms(same)

    @pytest.mark.parametrize(
        "end", ["ToTensor()", "ToTensor(), Normalize(mean=mean, std=std)",
                "ToTensor(), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])"],
    )  # fmt: skip
    def test_to_tensor_and_normalize_change_nothing(self, end):
        chain = parse_transforms(f"Scale(30), {end}")
        chain.check_normalize("it", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        assert parse_transforms(repr(chain)) == chain
        image = picture(60, 40)
        assert_same(apply(chain, image), apply(parse_transforms("Scale(30)"), image))

    def test_another_normalisation_than_the_models(self):
        chain = parse_transforms("ToTensor(), Normalize((0.5, 0.5, 0.5), std)")
        with pytest.raises(UserError, match=r"it: Normalize.*: the model's mean is \[0\.4, 0\.4"):
            chain.check_normalize("it", mean=(0.4, 0.4, 0.4), std=(1, 1, 1))

    @pytest.mark.parametrize("text", ["ToTensor(), Scale(3)", "Normalize(mean, std), ToTensor()"])
    def test_they_come_last(self, text):
        with pytest.raises(UserError, match="must come last, but"):
            parse_transforms(text)
