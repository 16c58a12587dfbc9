"""Zip files that lie, bombs, other files, and files cut short."""

import os
import struct
import zipfile
import zlib

import pytest

from converters.file_errors import CheckpointFileError
from converters.reader import read_file
from torch_reference.checkpoint_files import FLOATS, legacy_file, tensor_pickle, zip_file


def good_zip(tmp_path):
    return zip_file(tmp_path / "x.pt", tensor_pickle(), {"0": FLOATS})


def edited(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


def entry(content, name):
    """Where the directory's entry of a name begins."""
    return content.rindex(name) - 46


@pytest.mark.parametrize(
    "name", ["../evil.pt", "a/../../evil.pt", "/etc/evil.pt", "..\\evil.pt", "C:/evil.pt"]
)
def test_names_that_lead_out_of_a_zip_are_refused(refused, name, tmp_path):
    path = tmp_path / "x.zip"
    info = zipfile.ZipInfo("x")
    info.filename = name  # past zipfile's own cleaning
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(info, legacy_file(tensor_pickle(), ["0"], b"\x04" + bytes(7) + FLOATS))
    assert "leads out" in refused(path)
    assert sorted(os.listdir(tmp_path)) == ["x.zip"]


def test_a_zip_bomb_is_not_unpacked(refused, tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("model.pt", bytes(100 << 20))
    assert "would unpack" in refused(path, memory=10 << 20)


def test_a_bomb_that_lies_about_its_size_is_stopped_there(refused, tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("model.pt", bytes(50 << 20))
    edited(path, lambda c: struct.pack_into("<I", c, entry(c, b"model.pt") + 24, 1000))
    refused(path, memory=10 << 20)


def test_members_that_overlap_are_refused(refused, tmp_path):
    path = tmp_path / "x.zip"
    kernel = zlib.compress(bytes(1000))
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("a/data.pkl", b"x" * 100 + kernel)
        z.writestr("a/data/0", kernel)

    def longer(content):  # the first reaches over the second's header
        for offset in (20, 24):
            struct.pack_into(
                "<I", content, entry(content, b"a/data.pkl") + offset, 140 + len(kernel)
            )

    assert "overlaps" in refused(edited(path, longer))


def test_two_names_for_one_content_are_refused(refused, tmp_path):
    def same_place(content):
        struct.pack_into("<I", content, entry(content, b"archive/data/0") + 42, 0)

    refused(edited(good_zip(tmp_path), same_place))


@pytest.mark.parametrize(
    ("offset", "kind", "value"),
    [
        (8, "<H", 1),  # encrypted
        (10, "<H", 12),  # bzip2
        (10, "<H", 8),  # deflated, which torch never does
        (16, "<I", 1234),  # checksum
        (20, "<I", 1 << 30),  # packed size
        (20, "<I", 0xFFFFFFFF),  # ZIP64, without the field for it
        (24, "<I", 1 << 30),  # unpacked size
        (24, "<I", 3),
        (28, "<H", 0xFFFF),  # length of the name
        (30, "<H", 0xFFFF),  # length of the extra field
        (42, "<I", 1 << 31),  # place
        (42, "<I", 7),
    ],
)
@pytest.mark.parametrize("member", [b"archive/data.pkl", b"archive/data/0"])
def test_lies_in_a_zip_directory_are_refused(refused, offset, kind, value, member, tmp_path):
    path = edited(
        good_zip(tmp_path), lambda c: struct.pack_into(kind, c, entry(c, member) + offset, value)
    )
    refused(path)


@pytest.mark.parametrize(
    ("offset", "kind", "value"),
    [
        (10, "<H", 0xFFFE),  # entries
        (10, "<H", 0xFFFF),  # ZIP64, which is not there
        (12, "<I", 1 << 31),  # the directory's size
        (16, "<I", 1 << 31),  # and place
        (16, "<I", 0),
    ],
)
def test_lies_at_the_end_of_a_zip_are_refused(refused, offset, kind, value, tmp_path):
    path = edited(
        good_zip(tmp_path),
        lambda c: struct.pack_into(kind, c, c.rindex(b"PK\5\6") + offset, value),
    )
    refused(path)


def test_zips_that_hold_anything_else_are_refused(refused, tmp_path):
    def zipped(name, members):
        with zipfile.ZipFile(tmp_path / name, "w") as z:
            for member, content in members.items():
                z.writestr(member, content)
        return tmp_path / name

    inner = good_zip(tmp_path).read_bytes()
    assert "2 checkpoints" in refused(zipped("two.zip", {"a.pt": inner, "b.pt": inner}))
    assert "0 checkpoints" in refused(zipped("none.zip", {"folder/": ""}))
    assert "not a file that torch.save writes" in refused(zipped("text.zip", {"a.txt": "hello"}))
    nested = zipped("once.zip", {"a.pt": inner}).read_bytes()
    read_file(tmp_path / "once.zip")
    assert "data.pkl" in refused(zipped("twice.zip", {"a.zip": nested}))
    script = {"m/data.pkl": b"\x80\x02N.", "m/constants.pkl": b"", "m/code/a.py": b""}
    assert "TorchScript" in refused(zipped("script.pt", script))
    assert "storage 0 is missing" in refused(zip_file(tmp_path / "gap.pt", tensor_pickle()))
    zip_file(tmp_path / "twin.pt", tensor_pickle(), {"0": FLOATS})
    with (
        zipfile.ZipFile(tmp_path / "twin.pt", "a") as z,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        z.writestr("archive/data/0", FLOATS)
    assert "two files" in refused(tmp_path / "twin.pt")


def test_other_files_are_told_apart(refused, tmp_path):
    for content, expected in {
        b"": "empty",
        b"<!DOCTYPE html><title>Google Drive - Virus scan warning</title>": "web page",
        b"version https://git-lfs.github.com/spec/v1\n": "LFS pointer",
        b"\x1f\x8b\x08": "gzip",
        b"hello": "not a file that torch.save writes",
        bytes(1000): "not a file that torch.save writes",
        bytes(257) + b"ustar": "tar archive",
        b"PK\3\4": "the end is missing",
        b"\x80\x02K\x01.": "not one of torch.save",
        b"\x80": "truncated",
    }.items():
        (tmp_path / "x").write_bytes(content)
        assert expected in refused(tmp_path / "x")
    assert "folder" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    assert "not a file" in refused(tmp_path / "fifo")
    assert "not a file" in refused("/dev/zero")


@pytest.mark.parametrize("layout", ["legacy", "zip"])
def test_every_truncation_is_noticed(small_files, layout, tmp_path):
    content = small_files[layout].read_bytes()
    path = tmp_path / "short.pt"
    # Every byte of the smaller parts, every boundary of those that repeat.
    lengths = {
        *range(1, 400),
        *range(len(content) - 400, len(content)),
        *range(1, len(content), 61),
    }
    for marker in (b".", b"PK", b"\x80\x02", (30).to_bytes(8, "little")):
        place = content.find(marker)
        while place >= 0:
            lengths |= {place, place + 1, place + len(marker)}
            place = content.find(marker, place + 1)
    for length in sorted(lengths - {0, len(content)}):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointFileError):
            read_file(path)
