"""Files of descriptors: what is written is read back, and what is something else is refused."""

import os

import numpy as np
import pytest

from dir_jax.data.images import ImageDataset
from dir_jax.describe.describer import Descriptors
from dir_jax.describe.feature_files import (
    check_groups,
    load_descriptors,
    save_descriptors,
    saved_paths,
)
from dir_jax.errors import UserError

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
NAMES = [f"{i}.jpg" for i in range(4)]


def descriptors(failures):
    dataset = ImageDataset(NAMES)
    rows = ROWS.copy()
    rows[list(failures)] = np.nan
    return Descriptors(dataset, failures, [rows], lambda scales: scales[0])


def test_read_back(tmp_path):
    path = saved_paths(f"{tmp_path}/x", has_queries=True)[1]
    assert path == f"{tmp_path}/x.qdescs.npy"
    save_descriptors(path, descriptors({2: "torn\npaper"}))
    found, reasons = load_descriptors(path, NAMES, 3)
    np.testing.assert_array_equal(found[[0, 1, 3]], ROWS[[0, 1, 3]])
    assert np.isnan(found[2]).all()
    assert reasons == {2: "torn paper"}
    failed = tmp_path / "x.qdescs.npy.failed.txt"
    assert failed.read_text() == "2.jpg\ttorn paper\n"
    save_descriptors(path, descriptors({}))
    assert not failed.exists()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_kinds_of_floats(tmp_path, dtype, order):
    np.save(tmp_path / "x.npy", np.asarray(ROWS.astype(dtype), order=order))
    found, _ = load_descriptors(str(tmp_path / "x.npy"), NAMES, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROWS)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_rows_that_are_not_finite(tmp_path, value):
    rows = ROWS.astype(np.float64)
    rows[[1, 3], 2] = value
    path = str(tmp_path / "x.npy")
    np.save(path, rows)
    (tmp_path / "x.npy.failed.txt").write_text("1.jpg\ttorn paper\n")
    with pytest.raises(UserError, match=r"1 of 4 rows .*first: 3 \('3.jpg'\)"):
        load_descriptors(path, NAMES)
    found, reasons = load_descriptors(path, NAMES, skip_failures=True)
    assert np.isnan(found[[1, 3]]).all()
    assert reasons.keys() == {1, 3}
    assert reasons[1] == "torn paper"
    assert "not finite" in reasons[3]


def test_a_finished_descriptor_that_is_not_finite(tmp_path):
    images = Descriptors(ImageDataset(NAMES), {}, [ROWS], lambda scales: scales[0] + [0, np.inf, 0])
    with pytest.raises(UserError, match=r"the image 0\.jpg is not finite"):
        save_descriptors(str(tmp_path / "x.npy"), images)
    assert not list(tmp_path.iterdir())


def headed(header, start=b"\x93NUMPY\x01\x00"):
    """A .npy file with 48 bytes of numbers and a header of one's own."""
    content = header.ljust(117).encode() + b"\n"
    size = len(content).to_bytes(2 if start[6] == 1 else 4, "little")
    return start + size + content + bytes(48)


def declared(shape):
    return headed(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an array"),
        (b"PK\x03\x04" + bytes(18), "an archive"),
        (b"text", "is not an array"),
        (declared((1 << 40, 3)), r"of shape \(1099511627776, 3\); expected"),
        (declared((4, 10**20)), "of shape"),
        (declared((4, -3)), "of shape"),
        (declared((4, 1 << 60)), "of shape"),
        (declared((4, 3))[:-1], "cut off"),
        (declared("(" * 100), "is not an array"),
        (declared("-" * 9000 + "1"), "is not an array"),
        (declared("1," * 30_000), "is not an array"),
        (headed("(4, 3)" * 9000, b"\x93NUMPY\x02\x00"), "is not an array"),
        (headed("{'descr': '|O', 'fortran_order': False, 'shape': (4, 3)}"), "holds object"),
        (headed("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4, 3)}"), "holds"),
        (headed("__import__('os').abort()"), "is not an array"),
        (headed("{}", b"\x93NUMPY\x09\x09"), "is not an array"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, message):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        load_descriptors(str(tmp_path / "x.npy"), NAMES, 3)
    assert len(str(e.value)) < 600
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_not_a_file(tmp_path, kind):
    path = tmp_path / "x.npy"
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}
    make[kind](path)
    with pytest.raises(UserError, match="not a regular file"):
        load_descriptors(str(path), NAMES, 3)


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "/a.jpg", "a/../../b.jpg", ".", "a.jpg/global_descriptor", "a\0b", "\ud800"],
)
def test_names_that_are_no_groups(name):
    check_groups("x.npy", ["a.jpg", name])
    with pytest.raises(UserError, match=r"--output x\.h5: .*not .*name"):
        check_groups("x.h5", ["a.jpg", name])
    check_groups("x.h5", ["a.jpg", "./a.jpg", "a/b.jpg", "ü 1.jpg"])


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no file .*/x\.npy"):
        load_descriptors(str(tmp_path / "x.npy"), NAMES, 3)
