"""Images by number, and the check that all of them are there."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from dir_jax.data.datasets import create_dataset
from dir_jax.data.headers import check_dataset
from dir_jax.data.images import ImageDataset, _formats
from dir_jax.data.labelled import LabelledDataset
from dir_jax.errors import UserError
from tests.data.pictures import write_image


class TestImages:
    def test_opens_any_mode_as_rgb(self, tmp_path):
        for i, mode in enumerate(("L", "RGBA", "P", "1", "CMYK")):
            Image.new(mode, (5, 4)).save(tmp_path / f"{i}.{'tif' if mode == 'CMYK' else 'png'}")
        dataset = ImageDataset(["0.png", "1.png", "2.png", "3.png", "4.tif"], str(tmp_path))
        for i in range(5):
            assert dataset.open(i).mode == "RGB"
            assert dataset.open(i).size == dataset.size(i) == (5, 4)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
    def test_orientation_is_ignored_in_every_format(self, tmp_path, suffix, orientation):
        pixels = np.zeros((16, 24, 3), np.uint8)
        pixels[:8, :12] = 255  # the corner tells a turn from every other
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
        dataset = ImageDataset([f"a.{suffix}"], str(tmp_path))
        assert dataset.size(0) == (24, 16)
        np.testing.assert_array_equal(np.asarray(dataset.open(0)) > 127, pixels > 127)

    @pytest.mark.parametrize(
        ("suffix", "scale", "kind"),
        [
            ("png", 257, np.uint16),
            ("tif", 257, np.uint16),
            ("tif", 16, np.uint16),  # 12 bits
            ("tif", 1, np.uint16),  # 8 bits
            ("tif", 1, np.int32),
            ("tif", 257, np.int32),
            ("tif", (2**31 - 1) / 255, np.int32),
            ("tif", 1 / 255, np.float32),
        ],
    )
    def test_numbers_of_more_than_8_bits_are_scaled(self, tmp_path, suffix, scale, kind):
        """Pillow itself would cut them off at 255: white or black."""
        grey = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
        grey[0, 0] = 255
        Image.fromarray((grey * np.float64(scale)).astype(kind)).save(tmp_path / f"a.{suffix}")
        image = ImageDataset([f"a.{suffix}"], str(tmp_path)).open(0)
        expected = np.repeat(grey[..., None], 3, axis=2)
        np.testing.assert_allclose(np.asarray(image).astype(int), expected, atol=scale == 16)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([-1, 300], "of mode I, go from -1 to 300; expected 0 to 255, 4095, 65535 or"),
            ([0, 2**20], "of mode I, go from 0 to 1048576"),
            ([0.0, 255.0], r"of mode F, go from 0\.0 to 255\.0; expected 0 to 1"),
            ([0.0, np.nan], "of mode F, go from nan to nan"),
        ],
    )
    def test_numbers_of_no_usual_range(self, tmp_path, values, message):
        kind = np.float32 if isinstance(values[0], float) else np.int32
        Image.fromarray(np.array([values], kind)).save(tmp_path / "a.tif")
        dataset = ImageDataset(["a.tif"], str(tmp_path))
        with pytest.raises(UserError, match=rf"a\.tif cannot be read: its pixels, {message}"):
            dataset.open(0)

    def test_more_pixels_than_are_decoded(self, tmp_path, monkeypatch, recwarn):
        write_image(tmp_path / "a.png", (30, 20))
        dataset = ImageDataset(["a.png"], str(tmp_path))
        _formats.cache_clear()  # pytest has reset Python's filters of warnings
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # Pillow warns
        assert dataset.open(0).size == (30, 20)
        monkeypatch.setattr("dir_jax.data.pixels._LARGEST", 400)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # and refuses twice as many
        with pytest.raises(UserError, match=r"a\.png has 30 x 20 pixels, more than the 400 that"):
            dataset.open(0)
        assert not recwarn.list

    @pytest.mark.parametrize("call", [ImageDataset.open, ImageDataset.size])
    def test_names_the_file_that_fails(self, tmp_path, call):
        (tmp_path / "text.jpg").write_text("hello")
        (tmp_path / "folder.jpg").mkdir()
        dataset = ImageDataset(["none.jpg", "text.jpg", "folder.jpg"], str(tmp_path))
        for i, message in enumerate(("no image file .*none", "text.jpg is not an image",
                                     "folder.jpg cannot be read: it is a folder")):  # fmt: skip
            with pytest.raises(UserError, match=message):
                call(dataset, i)

    @pytest.mark.parametrize("suffix", ["jpg", "eps", "png"])
    def test_postscript_starts_no_program(self, tmp_path, monkeypatch, suffix):
        """Pillow would hand it to Ghostscript, which is looked for on the PATH."""
        program = tmp_path / "gs"
        program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'it_ran'}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", str(program))
        file = tmp_path / f"a.{suffix}"
        file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshow\n")
        dataset = ImageDataset([file.name], str(tmp_path))
        for call in (dataset.open, dataset.size):
            with pytest.raises(UserError, match=r"not an image in a supported format: JPEG"):
                call(0)
        assert not (tmp_path / "it_ran").exists()

    def test_pipes_and_devices_are_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "s.jpg"))
        dataset = ImageDataset(["pipe.jpg", "s.jpg", "/dev/zero", "/dev/full"], str(tmp_path))
        for i in range(4):
            for call in (dataset.open, dataset.size):
                with pytest.raises(UserError, match=r"cannot be read: .*(pipe|No such device)"):
                    call(i)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "avif"])
    def test_formats(self, tmp_path, suffix):
        write_image(tmp_path / f"a.{suffix}")
        dataset = ImageDataset([f"a.{suffix}"], str(tmp_path))
        assert dataset.size(0) == dataset.open(0).size == (12, 8)
        np.testing.assert_allclose(np.asarray(dataset.open(0))[4, 6], (200, 10, 30), atol=12)

    def test_cut_file(self, tmp_path):
        path = Path(write_image(tmp_path / "a.jpg", (200, 100)))
        path.write_bytes(path.read_bytes()[:-100])
        dataset = ImageDataset(["a.jpg"], str(tmp_path))
        assert dataset.size(0) == (200, 100)
        with pytest.raises(UserError, match=r"a\.jpg cannot be read: .*truncated"):
            dataset.open(0)

    def test_pickles(self, tmp_path):
        write_image(tmp_path / "a.png")
        again = pickle.loads(pickle.dumps(ImageDataset(["a.png"], str(tmp_path))))
        assert again.open(0).getpixel((0, 0)) == (200, 10, 30)


class SlowDataset(ImageDataset):
    """Slow enough for a progress bar, which a quick check does without."""

    def size(self, i):
        time.sleep(0.03)
        return super().size(i)


class TestCheck:
    def test_sizes(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        names = [f"{i}.png" for i in range(600)]  # more than a thread's share
        for i, name in enumerate(names):
            write_image(tmp_path / name, (1 + i % 50, 2 + i // 50))
        sizes = check_dataset(SlowDataset(names, str(tmp_path)))
        assert sizes.dtype == np.int32
        np.testing.assert_array_equal(sizes, [(1 + i % 50, 2 + i // 50) for i in range(600)])
        assert "/600 [" in capsys.readouterr().err
        check_dataset(ImageDataset(names[:3], str(tmp_path)))  # too quick for a bar
        assert capsys.readouterr().err == ""

    def test_real_photographs(self, shared_data):
        root = shared_data / "caltech101"
        dataset = create_dataset(f"ImageListLabels('{root}/test.txt', '{root}')")
        assert isinstance(dataset, LabelledDataset)
        assert (len(dataset), len(dataset.classes)) == (2614, 37)
        sizes = check_dataset(dataset)
        for i in range(0, 2614, 400):
            assert dataset.open(i).size == tuple(sizes[i])

    def test_failures(self, tmp_path):
        for i in range(10):
            write_image(tmp_path / f"{i}.png")
        (tmp_path / "1.png").unlink()
        (tmp_path / "7.png").write_text("x")
        dataset = ImageDataset([f"{i}.png" for i in range(10)], str(tmp_path))
        message = (
            r"2 of 10 images cannot be used: .*no image file .*/1\.png; .*/7\.png is not an image"
        )
        with pytest.raises(UserError, match=message + r"[^;]*$"):
            check_dataset(dataset)

    def test_many_failures(self, tmp_path):
        with pytest.raises(UserError, match=r"700 of 700 .*root right.*and 695 more$") as caught:
            check_dataset(ImageDataset([f"{i}.png" for i in range(700)], str(tmp_path)))
        assert str(caught.value).count("no image file") == 5
        assert "\n" not in str(caught.value)

    def test_roots_are_not_blamed_for_damaged_files(self, tmp_path):
        (tmp_path / "0.png").write_text("x")
        with pytest.raises(UserError, match=r"1 of 1 images cannot be used: .*is not an image"):
            check_dataset(ImageDataset(["0.png"], str(tmp_path)))

    def test_empty(self):
        with pytest.raises(UserError, match="no images"):
            check_dataset(ImageDataset([]))
