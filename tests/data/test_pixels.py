"""Pictures turned by their EXIF data, HEIC, and pictures too large to be decoded whole."""

import math
import struct
import sys
import types

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps

from dir_jax.data.ground_truth import QueryDataset
from dir_jax.data.images import ImageDataset, _formats
from dir_jax.data.loader import BatchLoader
from dir_jax.data.pixels import as_rgb, pillow_unlimited
from dir_jax.data.samplers import Shuffle
from dir_jax.data.transforms import parse_transforms
from dir_jax.describe.image_lists import read_list
from dir_jax.errors import UserError


def write_turned(path, orientation, **options):
    """A picture that is stored as a camera held on its side stores it; returns it upright."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :12] = 255  # the corner tells a turn from every other
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = Image.fromarray(pixels)
    stored.save(path, exif=exif, quality=100, **options)
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(stored)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_turns_every_format(tmp_path, suffix, orientation):
    upright = write_turned(tmp_path / f"a.{suffix}", orientation)
    dataset = ImageDataset([f"a.{suffix}"], str(tmp_path)).with_exif(True)
    assert dataset.size(0) == dataset.open(0).size == upright.size
    bright = np.asarray(upright) > 127
    np.testing.assert_array_equal(np.asarray(dataset.open(0)) > 127, bright)
    assert ImageDataset.size(dataset.with_exif(False), 0) == (24, 16)


def test_a_querys_box_is_that_of_the_turned_picture(tmp_path):
    upright = write_turned(tmp_path / "a.png", 6)
    queries = QueryDataset(["a.png"], str(tmp_path), np.array([[6.0, 0, 16, 10]]))
    queries = queries.with_exif(True)
    assert queries.size(0) == (10, 10)
    expected = np.asarray(upright.crop((6, 0, 16, 10)))
    np.testing.assert_array_equal(np.asarray(queries.open(0)), expected)


class TestHeic:
    HEADER = struct.pack(">I", 24) + b"ftypheic" + bytes(12)

    def test_without_the_package(self, tmp_path, monkeypatch):
        (tmp_path / "a.heic").write_bytes(self.HEADER)
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        _formats.cache_clear()
        for call in (ImageDataset.open, ImageDataset.size):
            with pytest.raises(UserError, match=r"a\.heic is a HEIC .*pip install pillow-heif"):
                call(ImageDataset(["a.heic"], str(tmp_path)), 0)
        _formats.cache_clear()

    @pytest.mark.parametrize("exif", [False, True])
    def test_the_package_has_turned_it(self, tmp_path, monkeypatch, exif):
        """Stands for pillow-heif, which turns a picture and says by what it was turned."""

        class Heif(ImageFile.ImageFile):
            format = "HEIF"

            def _open(self):
                self._size, self._mode = (16, 24), "RGB"
                self.info["original_orientation"] = 6

            def load(self):
                self.im = upright.im
                return self.im

        def register():
            Image.register_open("HEIF", Heif, lambda prefix: prefix[4:12] == b"ftypheic")

        upright = write_turned(tmp_path / "a.png", 6)
        (tmp_path / "a.heic").write_bytes(self.HEADER)
        package = types.SimpleNamespace(register_heif_opener=register)
        monkeypatch.setitem(sys.modules, "pillow_heif", package)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
        _formats.cache_clear()
        try:
            found = ImageDataset(["a.heic"], str(tmp_path)).with_exif(exif)
            same = ImageDataset(["a.png"], str(tmp_path)).with_exif(exif)
            assert found.size(0) == same.size(0) == ((16, 24) if exif else (24, 16))
            np.testing.assert_array_equal(np.asarray(found.open(0)), np.asarray(same.open(0)))
        finally:
            Image.OPEN.pop("HEIF", None)
            _formats.cache_clear()


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Pictures of 600 × 400 pixels where 32,768 are decoded whole: smooth, with a bright corner."""
    x, y = np.meshgrid(np.linspace(0, 1, 600), np.linspace(0, 1, 400))
    waves = np.stack([np.sin(9 * x), np.sin(7 * y), np.sin(5 * x * y)], axis=-1)
    pixels = (127 + 120 * waves).astype(np.uint8)
    pixels[:100, :200] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = Image.fromarray(pixels)
    for suffix in ("jpg", "png", "tif"):
        picture.save(tmp_path / f"a.{suffix}", quality=95, exif=exif)
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 14)
    monkeypatch.setattr("dir_jax.data.pixels._LARGEST", 1 << 15)
    monkeypatch.setattr("dir_jax.data.pixels._STRIP", 1 << 12)
    return tmp_path


def whole(path):
    """The picture as Pillow decodes it without a limit."""
    with pillow_unlimited(), Image.open(path) as image:
        return as_rgb(image, exif=False)


def nearly_equal(a, b):
    difference = np.abs(np.asarray(a).astype(int) - np.asarray(b)[..., :3].astype(int))
    return a.size == b.size and difference.mean() < 1.5


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "palette.png", "deep.png"])
@pytest.mark.parametrize("text", ["Scale(48)", "Scale(0.1, interpolation=BICUBIC)", "Scale(140)"])
def test_a_large_picture_is_scaled_while_it_is_decoded(large, name, text):
    transform, rng = parse_transforms(text), np.random.default_rng(0)
    images = read_list("all", ImageDataset([name], str(large)))
    images.check(transform)
    found = transform.view(images.dataset.view(0), rng).image()
    assert (found.size,) * 2 == transform.output_size((600, 400), (600, 400))
    assert nearly_equal(found, transform(whole(large / name), rng))
    assert not images.unreadable


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_a_large_picture_is_turned_and_cut_to_a_query(large, name):
    boxes = np.array([[20.0, 30, 380, 590]])
    queries = QueryDataset([name], str(large), boxes).with_exif(True)
    assert queries.size(0) == (360, 560)
    upright = whole(large / name).transpose(Image.Transpose.ROTATE_270)
    expected = upright.resize((36, 56), Image.Resampling.BILINEAR, boxes[0])
    assert nearly_equal(queries.view(0).resize((36, 56), Image.Resampling.BILINEAR), expected)


def test_jpeg_is_never_decoded_whole(large, monkeypatch):
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda image: (decoded.append(image.size), load(image))[1]
    )
    ImageDataset(["a.jpg"], str(large)).view(0).resize((24, 16), Image.Resampling.BILINEAR)
    assert set(decoded) == {(75, 50)}


@pytest.mark.parametrize("text", ["", "Scale(390)", "CenterCrop(32)", "Scale(700)"])
def test_a_large_picture_that_is_not_scaled_down_first(large, text):
    images = read_list("all", ImageDataset(["a.png"], str(large)))
    message = r"a\.png has \d+ x \d+ pixels, more than the 32,768 that are decoded as they are; ma"
    with pytest.raises(UserError, match=message):
        images.check(parse_transforms(text))
    with pytest.raises(UserError, match="600 x 400 pixels, more than the 32,768"):
        images.dataset.open(0)


def test_too_large_even_to_be_scaled_down(large, monkeypatch):
    monkeypatch.setattr("dir_jax.data.pixels._LARGEST_TO_SHRINK", 1 << 16)
    assert ImageDataset(["a.jpg"], str(large)).size(0) == (600, 400)
    with pytest.raises(UserError, match=r"a\.png cannot be read: it has 600 x 400 pixels, more"):
        ImageDataset(["a.png"], str(large)).size(0)


def test_a_large_picture_in_training_and_as_a_thumbnail(large):
    dataset = ImageDataset(["a.png"], str(large))
    transform = parse_transforms("RandomScale(40, 60), RandomCrop(32)")
    read_list("train", dataset).check(transform)
    with BatchLoader(dataset, transform, Shuffle(1, 1, 0), seed=0, rows=np.arange(1), unit=1,
                     start_step=0, stop_step=1, num_workers=0, prefetch=1) as batches:  # fmt: skip
        assert next(batches).shape == (1, 32, 32, 3)
    assert dataset.view(0).small(64).size == (64, 43)
    assert math.prod(dataset.view(0).size) == 240_000
