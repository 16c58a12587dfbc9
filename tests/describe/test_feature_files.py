"""Files of descriptors: what is written is read back, and what is something else is refused."""

import numpy as np
import pytest

from dir_jax.data.images import ImageDataset
from dir_jax.describe.describer import Descriptors
from dir_jax.describe.feature_files import load_descriptors, save_descriptors, saved_paths
from dir_jax.errors import UserError

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def descriptors(failures):
    dataset = ImageDataset([f"{i}.jpg" for i in range(4)])
    rows = ROWS.copy()
    rows[list(failures)] = np.nan
    return Descriptors(dataset, failures, [rows], lambda scales: scales[0])


def test_read_back(tmp_path):
    path = saved_paths(f"{tmp_path}/x", has_queries=True)[1]
    assert path == f"{tmp_path}/x.qdescs.npy"
    save_descriptors(path, descriptors({2: "torn\npaper"}))
    found = load_descriptors(path, 4, 3)
    np.testing.assert_array_equal(found[[0, 1, 3]], ROWS[[0, 1, 3]])
    assert np.isnan(found[2]).all()
    failed = tmp_path / "x.qdescs.npy.failed.txt"
    assert failed.read_text() == "2.jpg\ttorn paper\n"
    save_descriptors(path, descriptors({}))
    assert not failed.exists()


def declared(shape):
    """A file that declares more than it holds."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an array"),
        (b"PK\x05\x06" + bytes(18), "an archive"),
        (b"text", "is not an array"),
        (declared((1 << 40, 3)), "is not an array"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, message):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_descriptors(str(tmp_path / "x.npy"), 4, 3)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no file .*/x\.npy"):
        load_descriptors(str(tmp_path / "x.npy"), 4, 3)
