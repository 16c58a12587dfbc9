"""Global features in a kapture dataset: written whole or not at all, and only inside it."""

import os
import signal
import subprocess
import sys
import tarfile

import kapture
import numpy as np
import pytest
from kapture.io.csv import get_all_tar_handlers, global_features_from_dir
from kapture.io.features import get_global_features_fullpath, image_global_features_from_file

from dir_jax.describe.kapture_features import GlobalFeatures
from dir_jax.errors import UserError

HEADER = "# kapture format: 1.1\n"
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
NAMES = ["a.jpg", "b/ü.jpg", "b/c/d e.jpg"]


@pytest.fixture
def folder(tmp_path):
    """Where the features of the type 'net' are, not made yet; the dataset is `tmp_path`."""
    return tmp_path / "reconstruction" / "global_features" / "net"


def write(root, names=NAMES):
    features = GlobalFeatures(str(root), "net")
    features.check(names, 4)
    with features.writing(4) as put:
        for name, row in zip(names, ROWS, strict=False):
            put(name, row)


def describe_type(folder, row="dir_jax, float32, 4, L2", header=HEADER):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "global_features.txt").write_text(f"{header}{row}\n")


def pack(folder):
    """Moves the features into an archive."""
    with tarfile.open(folder / "global_features.tar", "w") as tar:
        for file in folder.rglob("*.gfeat"):
            tar.add(file, file.relative_to(folder))
            file.unlink()


def read_back(root):
    """Name -> (1, D) array, by the kapture package."""
    with get_all_tar_handlers(str(root)) as tars:
        features = global_features_from_dir("net", str(root), None, tars)
        assert (features.type_name, features.metric_type) == ("dir_jax", "L2")
        paths = {n: get_global_features_fullpath("net", str(root), n, tars) for n in features}
        return {
            name: image_global_features_from_file(path, features.dtype, features.dsize)
            for name, path in paths.items()
        }


def assert_complete(root):
    there = read_back(root)
    assert there.keys() == set(NAMES)
    for name, row in zip(NAMES, ROWS, strict=True):
        np.testing.assert_array_equal(there[name], row[None])


def snapshot(root):
    return {path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
            for path in root.rglob("*")}  # fmt: skip


def test_the_package_reads_them(tmp_path, folder):
    assert GlobalFeatures(str(tmp_path), "net").missing(NAMES) == NAMES
    write(tmp_path)
    assert_complete(tmp_path)
    assert GlobalFeatures(str(tmp_path), "net").missing(NAMES) == []
    assert (folder / "global_features.txt").read_text() == (
        HEADER + "# name, dtype, dsize, metric_type\ndir_jax, float32, 4, L2\n"
    )
    assert len(list(folder.rglob("*"))) == 2 + len(NAMES) + 1  # two folders, no scratch file


def test_what_the_package_wrote_is_continued(tmp_path, folder):
    from kapture.io.csv import global_features_to_file
    from kapture.io.features import image_global_features_to_file

    kind = kapture.GlobalFeatures("dirtorch", np.dtype("float32"), 4, "L2")
    global_features_to_file(str(folder / "global_features.txt"), kind)
    image_global_features_to_file(str(folder / "a.jpg.gfeat"), ROWS[0])
    features = GlobalFeatures(str(tmp_path), "net")
    assert features.missing(NAMES) == NAMES[1:]
    features.check(NAMES[1:], 4)
    with features.writing(4) as put:
        put(NAMES[1], ROWS[1])
    assert "dirtorch" in (folder / "global_features.txt").read_text()
    assert GlobalFeatures(str(tmp_path), "net").missing(NAMES) == NAMES[2:]


def test_an_archive(tmp_path, folder):
    write(tmp_path, NAMES[:2])
    pack(folder)
    assert GlobalFeatures(str(tmp_path), "net").missing(NAMES) == NAMES[2:]
    features = GlobalFeatures(str(tmp_path), "net")
    with features.writing(4) as put:
        put(NAMES[2], ROWS[2])
        assert GlobalFeatures(str(tmp_path), "net").missing(NAMES) == NAMES[2:]
    assert_complete(tmp_path)
    assert sorted(os.listdir(folder)) == ["b", "global_features.tar", "global_features.txt"]


def test_an_archive_without_a_description(tmp_path, folder):
    write(tmp_path)
    pack(folder)
    (folder / "global_features.txt").unlink()
    assert GlobalFeatures(str(tmp_path), "net").missing(NAMES) == NAMES
    write(tmp_path)
    assert_complete(tmp_path)
    assert not list(folder.rglob("*.gfeat"))


def test_an_archive_whose_writer_was_killed(tmp_path, folder):
    write(tmp_path, NAMES[:2])
    pack(folder)
    file = folder / "global_features.tar"
    with tarfile.open(file) as tar:
        end = tar.getmembers()[-1].offset_data + 512
    with open(file, "r+b") as stream:
        stream.truncate(end)  # complete files, but no end mark
    write(tmp_path, NAMES)
    assert_complete(tmp_path)
    for cut in (end - 300, end - 512):
        with open(file, "r+b") as stream:
            stream.truncate(cut)
        with pytest.raises(UserError, match=r"the archive .*global_features\.tar is damaged"):
            GlobalFeatures(str(tmp_path), "net")


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", os.urandom(5000), bytes(100), b"\x1f\x8b" + bytes(600)],
    ids=["empty", "text", "noise", "short", "gzip"],
)
def test_what_is_no_archive(tmp_path, folder, content):
    describe_type(folder)
    (folder / "global_features.tar").write_bytes(content)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"global_features\.tar is damaged"):
        GlobalFeatures(str(tmp_path), "net")
    assert snapshot(tmp_path) == before


def header_of(name, **attributes):
    member = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        header_of("a.jpg.gfeat", size=-1024) + bytes(2048),
        header_of("a", size=0) + header_of("b", size=-512) + bytes(2048),
        header_of("a", size=0) + header_of("b", size=-1536) + bytes(2048),
        header_of("a", size=0) + b"x" * 512 + bytes(2048),
        header_of("x", size=1 << 30, type=b"x") + bytes(2048),
        header_of("L", size=1 << 30, type=b"L") + bytes(2048),
        header_of("a.jpg.gfeat", size=1 << 60),
    ],
    ids=["negative", "back by one", "back", "noise after", "huge pax", "huge name", "huge"],
)
def test_archives_that_mean_no_good(tmp_path, folder, content):
    describe_type(folder)
    file = folder / "global_features.tar"
    file.write_bytes(content)
    with open(file, "r+b") as stream:
        stream.truncate(1 << 33)  # sparse, so that what a header claims is there
    with pytest.raises(UserError, match=r"global_features\.tar is damaged"):
        GlobalFeatures(str(tmp_path), "net")


def test_links_in_an_archive_are_no_features(tmp_path, folder):
    describe_type(folder)
    with tarfile.open(folder / "global_features.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg.gfeat")
        link.type, link.linkname, link.size = tarfile.SYMTYPE, "/etc/passwd", 16
        tar.addfile(link)
    assert GlobalFeatures(str(tmp_path), "net").missing(["a.jpg"]) == ["a.jpg"]


RUNS = "__import__('pathlib').Path('canary').touch()"


@pytest.mark.parametrize(
    "dtype", [RUNS, f"{RUNS} or float32", "float", "int32", "uint8", "Float32", "", "x" * 9000]
)
def test_the_dtype_is_a_word_of_a_list(tmp_path, folder, monkeypatch, dtype):
    monkeypatch.chdir(tmp_path)
    describe_type(folder, f"dir_jax, {dtype}, 4, L2")
    with pytest.raises(UserError, match=r"line 2: the dtype is .*; expected float32 or float64$"):
        GlobalFeatures(str(tmp_path), "net")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("", "expected one row"),
        ("dir_jax, float32, 4, L2\ndir_jax, float32, 4, L2", "expected one row"),
        ("dir_jax, float32, 4", "3 fields; expected name, dtype, length, metric"),
        ("dir_jax, float32, 0, L2", "the length is '0'; expected a positive integer"),
        ("dir_jax, float32, -4, L2", "the length is '-4'"),
        ("dir_jax, float32, 4.0, L2", "the length is '4.0'"),
        ("dir_jax, float32, ٤, L2", "the length is"),
        (f"dir_jax, float32, {10**12}, L2", "the length is '1000000000000'"),
        ("dir_jax, float32, 4, L2\0", "it has a NUL byte"),
    ],
)
def test_bad_descriptions(tmp_path, folder, row, message):
    describe_type(folder, row)
    with pytest.raises(UserError) as e:
        GlobalFeatures(str(tmp_path), "net")
    assert message in str(e.value)


@pytest.mark.parametrize(
    ("row", "header", "message"),
    [
        ("dir_jax, float32, 8, L2", HEADER, "are 8 float32; these would be 4 float32: give"),
        ("dir_jax, float64, 4, L2", HEADER, "are 4 float64; these would be 4 float32"),
        ("dir_jax, float32, 4, cosine", HEADER, "are 4 float32 compared by 'cosine'; these"),
        ("netvlad, float32, 4, L2", HEADER, "are 4 float32 by 'netvlad'; these"),
        ("x\x1b[31m, float32, 4, L2", "", r"by 'x\x1b[31m'; these"),
    ],
)  # fmt: skip
def test_features_of_another_kind(tmp_path, folder, row, header, message):
    describe_type(folder, row, header)
    before = snapshot(tmp_path)
    features = GlobalFeatures(str(tmp_path), "net")
    with pytest.raises(UserError) as e:
        features.check(features.missing(NAMES), 4)
    assert message in str(e.value)
    assert snapshot(tmp_path) == before


def test_features_without_a_description(tmp_path, folder):
    folder.mkdir(parents=True)
    (folder / "a.jpg.gfeat").write_bytes(bytes(32))
    with pytest.raises(UserError, match=r"such as that of 'a\.jpg', which are not 4 float32"):
        GlobalFeatures(str(tmp_path), "net").check(NAMES, 4)
    GlobalFeatures(str(tmp_path), "net").check(NAMES, 8)


def test_damaged_features_are_missing(tmp_path, folder, caplog):
    write(tmp_path)
    (folder / "a.jpg.gfeat").write_bytes(b"torn")
    (folder / "b" / "ü.jpg.gfeat").unlink()
    (folder / "b" / "ü.jpg.gfeat").mkdir()
    assert GlobalFeatures(str(tmp_path), "net").missing(NAMES) == NAMES[:2]
    assert (
        "features of 1 images are damaged and will be replaced; the first: 'a.jpg'" in caplog.text
    )


@pytest.mark.parametrize("name", ["../x.jpg", "/tmp/x.jpg", "a/../../x.jpg", "a/\0.jpg"])
@pytest.mark.parametrize("archive", [False, True])
def test_names_that_lead_out(tmp_path, folder, name, archive):
    if archive:
        folder.mkdir(parents=True)
        tarfile.open(folder / "global_features.tar", "w").close()
    features = GlobalFeatures(str(tmp_path), "net")
    with pytest.raises(UserError, match="is not a name"), features.writing(4) as put:
        put(name, ROWS[0])
    assert not list(tmp_path.rglob("*.gfeat"))
    assert not (folder / "global_features.txt").exists()


@pytest.mark.parametrize("link", ["", "b", "b/c", "global_features.tar"])
@pytest.mark.parametrize("dangling", [False, True])
def test_links_that_lead_out(tmp_path, folder, link, dangling):
    root, outside = tmp_path / "set", tmp_path / "outside"
    place = root / "reconstruction" / "global_features" / "net" / link
    place.parent.mkdir(parents=True)
    if not dangling and link.endswith(".tar"):
        tarfile.open(outside, "w").close()
    elif not dangling:
        outside.mkdir()
    place.symlink_to(outside)
    with pytest.raises(UserError, match=r"leads to .*, outside the dataset"):
        GlobalFeatures(str(root), "net").check(NAMES, 4)
    features = GlobalFeatures(str(root), "net")
    with pytest.raises(UserError, match="outside the dataset"), features.writing(4) as put:
        put(NAMES[2], ROWS[2])
    assert {path for path in snapshot(tmp_path) if outside in path.parents} == set()
    assert outside.exists() != dangling


def test_links_inside_are_followed(tmp_path, folder):
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path / "elsewhere")
    write(tmp_path)
    assert_complete(tmp_path)


def test_a_planted_link_is_replaced_not_followed(tmp_path, folder):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder.mkdir(parents=True)
    for name in (".dir_jax.writing", "a.jpg.gfeat", "global_features.txt"):
        (folder / name).symlink_to(tmp_path / "nothing" if name.endswith("txt") else victim)
    features = GlobalFeatures(str(tmp_path), "net")
    with features.writing(4) as put:
        for name, row in zip(NAMES, ROWS, strict=True):
            put(name, row)
    assert victim.read_text() == "mine"
    assert_complete(tmp_path)


def test_a_full_disk_is_one_line(tmp_path, folder, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    write(tmp_path, NAMES[:1])
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match=r"cannot write .*net: No space left on device"):
        write(tmp_path)
    assert len(read_back(tmp_path)) == 1
    assert not (folder / ".dir_jax.writing").exists()


KILLED = """
import os, signal, sys
import numpy as np
from dir_jax.describe.kapture_features import GlobalFeatures
real, left = os.replace, int(sys.argv[2])
def replace(*paths):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*paths)
os.replace = replace
features = GlobalFeatures(sys.argv[1], "net")
with features.writing(4) as put:
    for name, row in zip(["a.jpg", "b/ü.jpg", "b/c/d e.jpg"], np.arange(12).reshape(3, 4)):
        put(name, row)
"""


def kill(root, replaced):
    """Writes all features, but the process is killed after it has put so many files in place."""
    command = [sys.executable, "-c", KILLED, str(root), str(replaced)]
    assert subprocess.run(command).returncode == -signal.SIGKILL


@pytest.mark.parametrize("replaced", [0, 2, 3])
def test_killed_while_writing(tmp_path, folder, replaced):
    kill(tmp_path, replaced)
    files = list(folder.rglob("*.gfeat"))
    assert [file.stat().st_size for file in files] == [16] * replaced
    assert not (folder / "global_features.txt").exists()  # nobody takes them for complete
    write(tmp_path)
    assert_complete(tmp_path)
    assert not (folder / ".dir_jax.writing").exists()


@pytest.mark.parametrize("replaced", [0, 1])
def test_killed_while_writing_an_archive(tmp_path, folder, replaced):
    folder.mkdir(parents=True)
    file = folder / "global_features.tar"
    with tarfile.open(file, "w") as tar:
        tar.addfile(tarfile.TarInfo("other"))
    kill(tmp_path, replaced)
    with tarfile.open(file) as tar:
        features = [member.size for member in tar if member.name.endswith(".gfeat")]
    assert features == [16] * 3 * replaced
    assert not (folder / "global_features.txt").exists()
    write(tmp_path)
    assert_complete(tmp_path)
    assert not (folder / ".dir_jax.writing").exists()
