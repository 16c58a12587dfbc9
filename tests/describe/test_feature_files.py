"""Files of descriptors: what is written is read back, and what is something else is refused."""

import io
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from dir_jax.data.images import ImageDataset
from dir_jax.describe.descriptors import Descriptors
from dir_jax.describe.feature_files import (
    check_output,
    load_descriptors,
    save_descriptors,
    saved_paths,
)
from dir_jax.describe.hdf5 import check_can_be_added
from dir_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
NAMES = [f"{i}.jpg" for i in range(4)]


def descriptors(failures, names=NAMES, rows=ROWS):
    rows = rows.copy()
    rows[list(failures)] = np.nan
    return Descriptors(ImageDataset(names), failures, [rows], lambda scales: scales[0])


def test_read_back(tmp_path):
    path = saved_paths(f"{tmp_path}/x", has_queries=True)[1]
    assert path == f"{tmp_path}/x.qdescs.npy"
    save_descriptors(path, descriptors({2: "torn\npaper"}))
    found, reasons = load_descriptors(path, NAMES)
    assert reasons == {2: "torn paper"}
    np.testing.assert_array_equal(found[[0, 1, 3]], ROWS[[0, 1, 3]])
    assert np.isnan(found[2]).all()
    failed = tmp_path / "x.qdescs.npy.failed.txt"
    assert failed.read_text() == "2.jpg\ttorn paper\n"
    save_descriptors(path, descriptors({}))
    assert not failed.exists()
    assert Path(path).read_bytes() == as_saved(ROWS)


def as_saved(array):
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array", [ROWS.astype(">f4"), ROWS.astype(np.float64), ROWS.astype(np.float16), ROWS.T.copy().T]
)
def test_any_floats_are_read(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    found, reasons = load_descriptors(str(tmp_path / "x.npy"), NAMES)
    assert reasons == {}
    np.testing.assert_array_equal(found, ROWS)
    assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)


def declared(shape, descr="<f4", ending="}"):
    """A file that declares more than it holds."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}{ending}".ljust(117)
    return b"\x93NUMPY\x01\x00v\x00" + header.encode() + b"\n" + bytes(64)


def with_header(text):
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text.encode() + bytes(64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an array"),
        (b"PK\x05\x06" + bytes(18), "an archive"),
        (b"PK\3\4", "an archive"),
        (b"text", "is not an array"),
        (b"\x93NUMPY\x03\x00" + bytes(100), "is not an array"),
        (b"\x93NUMPY\x01\x00v", "header"),
        (declared((4, 1 << 40)), "is damaged"),
        (declared((4, -3)), "is damaged"),
        (declared((4, 0)), "holds float32 of shape"),
        (declared((1 << 40, 3)), "holds float32 of shape"),
        (declared((4, 10**20)), "is damaged"),
        (declared((5, 4, 10**20)), "holds float32 of shape"),
        (declared((4, 3), ending=""), "header"),
        (declared((4, 3), descr="|O"), "holds object of shape"),
        (declared((4, 3), descr="<i4"), "holds int32 of shape"),
        (as_saved(ROWS)[:-1], "is damaged"),
        (with_header("(" * 9000), "header"),
        (with_header("-" * 9000 + "1"), "header"),
        (with_header(" " * 60_000), "header"),
        (with_header("{'descr': __import__('os').getpid(), 'shape': (4, 3)}"), "header"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, message):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        load_descriptors(str(tmp_path / "x.npy"), NAMES)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600


def test_rows_that_are_not_finite(tmp_path):
    """Those of images that could not be described are allowed, others where they are skipped."""
    path = str(tmp_path / "x.npy")
    save_descriptors(path, descriptors({2: "torn"}))
    rows = np.load(path)
    rows[3, 1] = np.inf
    np.save(path, rows)
    with pytest.raises(UserError, match=r"1 of 4 .* list their images: rows 3 \(3\.jpg\); .* skip"):
        load_descriptors(path, NAMES)
    found, reasons = load_descriptors(path, NAMES, skip_failures=True)
    assert np.isnan(found).all(axis=1).tolist() == [False, False, True, True]
    assert reasons == {2: "torn", 3: f"3.jpg: its row in {path} is not finite"}
    rows[1] = np.nan  # as many as are listed, but others
    np.save(path, rows[[0, 1, 0, 0]])
    with pytest.raises(UserError, match=r"does not list their images: rows 1 \(1\.jpg\)"):
        load_descriptors(path, NAMES)
    (tmp_path / "x.npy.failed.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"failed\.txt, line 1: it is not UTF-8"):
        load_descriptors(path, NAMES)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no file .*/x\.npy"):
        load_descriptors(str(tmp_path / "x.npy"), NAMES)
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(UserError, match="not a regular file"):
        load_descriptors(str(tmp_path / "x.npy"), NAMES)


def groups(path):
    """Name -> descriptor, as hloc reads it."""
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, item: found.update(
            {name.rsplit("/", 1)[0]: item[()]} if isinstance(item, h5py.Dataset) else {}
        ))  # fmt: skip
        return found


MORE = [f"query/{i}.jpg" for i in range(4)]


def test_adding_to_hdf5(tmp_path):
    path = str(tmp_path / "x.h5")
    save_descriptors(path, descriptors({0: "torn"}), append=True)
    save_descriptors(path, descriptors({1: "gone"}, MORE, ROWS + 100), append=True)
    found = groups(path)
    assert found.keys() == {*NAMES[1:], *MORE[:1], *MORE[2:]}
    np.testing.assert_array_equal(found["query/3.jpg"], ROWS[3] + 100)
    assert (tmp_path / "x.h5.failed.txt").read_text() == "0.jpg\ttorn\nquery/1.jpg\tgone\n"
    check_can_be_added(path, ["0.jpg", "query/1.jpg"], 3, again=False)
    with pytest.raises(UserError, match=r"already has 3 of these images, such as 1\.jpg; leave"):
        check_can_be_added(path, NAMES, 3, again=False)
    with pytest.raises(UserError, match=r"shape \(3,\); these are of \(4,\)"):
        check_can_be_added(path, ["new.jpg"], 4, again=False)
    # The repeated run of a command that was killed after it had written the file.
    check_can_be_added(path, NAMES, 3, again=True)
    before = groups(path)
    save_descriptors(path, descriptors({}), append=True)
    assert groups(path).keys() == before.keys() | {"0.jpg"}
    assert (tmp_path / "x.h5.failed.txt").read_text() == "query/1.jpg\tgone\n"
    content = (tmp_path / "x.h5").read_bytes()
    with pytest.raises(UserError, match=r"already has another descriptor of 0\.jpg"):
        save_descriptors(path, descriptors({}, rows=ROWS + 1), append=True)
    assert (tmp_path / "x.h5").read_bytes() == content
    save_descriptors(path, descriptors({}))
    assert groups(path).keys() == set(NAMES)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(2000)])
def test_adding_to_what_is_no_hdf5(tmp_path, content):
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.h5 cannot be added to: ") as e:
        check_can_be_added(str(tmp_path / "x.h5"), NAMES, 3, again=False)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("suffix", "name", "message"),
    [
        (".npy", "a\0.jpg", "control characters or surrogates"),
        (".npy", "\ud800.jpg", "control characters or surrogates"),
        (".h5", "\ud800.jpg", "control characters or surrogates"),
        (".h5", "../x.jpg", "is not a name inside"),
        (".h5", "/abs/x.jpg", "is not a name inside"),
        (".h5", ".", "cannot be the name of a group"),
        (".h5", "a/global_descriptor", "cannot be the name of a group"),
    ],
)
def test_names_are_checked_first(tmp_path, suffix, name, message):
    with pytest.raises(UserError, match=message):
        check_output(f"{tmp_path}/x{suffix}", ["good.jpg", name],
                     overwrite=False, append=False, resumes=False)  # fmt: skip
    good = ["good.jpg", "./a.jpg", "a b/ü.jpg"] + ["/abs/x.jpg"] * (suffix == ".npy")
    check_output(f"{tmp_path}/x{suffix}", good, overwrite=False, append=False, resumes=False)


# Runs in a process of its own, in a folder where there is space for 300 kB in all or in each file.
FULL_DISK = """
import os, sys
import numpy as np
from pathlib import Path
from dir_jax.data.transforms import Identity
from dir_jax.describe.feature_files import save_descriptors
from dir_jax.describe.image_lists import ImageList, Pass
from dir_jax.describe.padded_shapes import Batch
from dir_jax.describe.resume import PartialDescriptors
from dir_jax.data.images import ImageDataset
from dir_jax.errors import UserError

folder, after = Path(sys.argv[1]), sys.argv[2]
os.chdir(folder)
dataset = ImageDataset([f"{i}.jpg" for i in range(1000)])
rows = np.random.default_rng(0).standard_normal((1000, 100)).astype(np.float32)
class Described:
    dataset, failures = dataset, {}
    def __len__(self): return 1000
    def blocks(self):
        for i in range(0, 1000, 100):
            yield i, rows[i : i + 100]
images = ImageList("database", dataset, np.zeros((1000, 2)))
batches = [Batch((8, 8), 100, np.arange(i, i + 100), True) for i in range(0, 1000, 100)]
def keep():
    store = PartialDescriptors("x.partial", {}, [Pass("database", images, Identity(), batches, {})])
    try:
        sink = store.sink(store._passes[0], 100)
        for i, batch in enumerate(batches):
            sink.write(i, batch.places, rows[batch.places], {})
    finally:
        store.close()
kinds = {"x.npy": lambda: save_descriptors("x.npy", Described()),
         "x.h5": lambda: save_descriptors("x.h5", Described()), "x.partial": keep}
for name, write in kinds.items():
    try:
        write()
        print(name, "was written")
    except UserError as e:
        print(e)
    print(sorted(os.listdir()))
exec(after)
for name, write in kinds.items():
    write()
    print(name, "has" if os.path.exists(name) else "lacks")
"""
NOTHING_IS_LEFT = """cannot write x.npy: {why}
[]
cannot write x.h5: {why}
[]
cannot write x.partial/database.npy: {why}
[]
x.npy has
x.h5 has
x.partial has
"""


def full_disk(folder, after, *before, limit="pass"):
    command = [*before, sys.executable, "-c", f"{limit}\n{FULL_DISK}", str(folder), after]
    found = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)},
                           capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout


def test_a_full_disk(tmp_path):
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    tmpfs = f"mount -t tmpfs -o size=300k none {tmp_path}"
    try:
        allowed = subprocess.run([*mount, tmpfs], check=False, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        allowed = None
    if allowed is None or allowed.returncode:
        pytest.skip("mounting is not allowed here")
    enlarge = f"import subprocess; subprocess.run(['mount', '-o', 'remount,size=9m', '{tmp_path}'])"
    found = full_disk(tmp_path, enlarge, *mount, f'{tmpfs} && exec "$@"', "sh")
    assert found == NOTHING_IS_LEFT.format(why="No space left on device")


def test_files_that_may_not_be_as_large(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({}, -1))"
    found = full_disk(tmp_path, limit.format(-1), limit=limit.format(300_000))
    assert found == NOTHING_IS_LEFT.format(why="File too large")
