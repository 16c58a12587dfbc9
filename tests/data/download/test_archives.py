"""Archives that are damaged, hostile, or not archives."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from dir_jax.data import download
from dir_jax.data.download import archives
from dir_jax.errors import quoted
from tests.data.download import serving
from tests.data.download.serving import NO_IMAGES, OXFORD, OXFORD_IMAGES, member, tar, tgz

WHOLE = tar(*serving.OXFORD_MEMBERS)
PACKED = gzip.compress(WHOLE, 1, mtime=0)
with tarfile.open(fileobj=io.BytesIO(WHOLE)) as opened:
    LAST = opened.getmembers()[-1].offset  # of the last image's header; 130,048 bytes follow it


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


DAMAGED = {
    "nothing": b"",
    "no tar": gzip.compress(serving.noise(30_000, 1)),
    "an empty gzip": gzip.compress(b""),
    "cut within the gzip's trailer": PACKED[:-3],
    "cut without the gzip's trailer": PACKED[:-8],
    "cut by half": PACKED[: len(PACKED) // 2],
    "cut in its header": PACKED[:5],
    "a wrong checksum": flip(PACKED, len(PACKED) - 6),
    "a wrong length": flip(PACKED, len(PACKED) - 2),
    "a flip at a third": flip(PACKED, len(PACKED) // 3),
    "a flip near the end": flip(PACKED, len(PACKED) - 200),
    "a tar without its end mark": gzip.compress(WHOLE[: LAST + 512 + 130_048]),
    "a tar cut within an image": gzip.compress(WHOLE[: LAST + 5000]),
    "a tar cut within a header": gzip.compress(WHOLE[: LAST + 100]),
    "a damaged header in the tar": gzip.compress(flip(WHOLE, LAST + 5)),
    "garbage after the tar": gzip.compress(WHOLE + b"x"),
    "garbage after the gzip": PACKED + b"garbage",
}
LONG = "d/" * 80 + "../" * 90 + "x.jpg"  # takes a header of its own
SYM, LINK = tarfile.SYMTYPE, tarfile.LNKTYPE
ESCAPES = {
    "an absolute name": member("/tmp/x.jpg"),
    "a parent": member("../x.jpg"),
    "a parent within": member("a/../../x.jpg"),
    "a parent that stays": member("a/../x.jpg"),
    "a parent at the end": member("a/..", kind=tarfile.DIRTYPE),
    "a parent in a long name": member(LONG),
    "Windows' parent": member("..\\x.jpg"),
    "Windows' parent within": member("a\\..\\..\\x.jpg"),
    "Windows' drive": member("C:\\x.jpg"),
    "Windows' drive, relative": member("c:x.jpg"),
    "Windows' share": member("\\\\host\\share\\x.jpg"),
    "an absolute link": member("x.jpg", kind=SYM, target="/etc/passwd"),
    "a link to a parent": member("a/x.jpg", kind=SYM, target="../../x"),
    "a link to the parent": member("x", kind=SYM, target=".."),
    "a link by Windows' names": member("x.jpg", kind=SYM, target="..\\x"),
    "a link to Windows' drive": member("x.jpg", kind=SYM, target="C:\\x"),
    "an absolute hard link": member("x.jpg", kind=LINK, target="/etc/passwd"),
    "a hard link to a parent": member("a/b/x.jpg", kind=LINK, target="../x"),
    "a character device": member("x.jpg", kind=tarfile.CHRTYPE),
    "a block device": member("x.jpg", kind=tarfile.BLKTYPE),
    "a pipe": member("x.jpg", kind=tarfile.FIFOTYPE),
    "an unknown kind": member("x.jpg", kind=b"Z"),
}


def sparse(size: int):
    """One block of data, and holes: PAX's sparse files, version 1."""
    content = b"1\n0\n512\n".ljust(512, b"\0") + serving.noise(512, 1)
    info, data = member("GNUSparseFile.0/x.jpg", content)
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
        "GNU.sparse.name": "x.jpg", "GNU.sparse.realsize": str(size),
    }  # fmt: skip
    return info, data


def long_header():
    info, content = member("x.jpg", b"x" * (3 << 20))
    info.type = tarfile.GNUTYPE_LONGNAME
    return tgz((info, content), member("y.jpg"))


HOSTILE = {
    "two images of one name": (tgz(member("a/x.jpg"), member("b/x.jpg")), "'b/x.jpg' has"),
    "a large image": (tgz(member("x.jpg", bytes(2_000_000))), "holds more than 1,000,000 bytes"),
    "a large file": (tgz(member("x.txt", bytes(2_000_000))), "holds more than 1,000,000 bytes"),
    "zeros after the end": (gzip.compress(WHOLE + bytes(2_000_000)), "more than 1,000,000 bytes"),
    "an image with holes": (tgz(sparse(1 << 40)), "holds more than 1,000,000 bytes"),
    "a large header": (long_header(), "a header in it claims 3,145,728 bytes"),
    "many members": (tgz(*(member(f"{i}") for i in range(101))), "has more than 100 members"),
}  # fmt: skip
for escape, (info, _) in ESCAPES.items():
    HOSTILE[escape] = (tgz(*serving.OXFORD_MEMBERS, (info, _)), f"its member {quoted(info.name)} ")


@pytest.mark.parametrize("case", [*DAMAGED, *HOSTILE])
def test_is_refused_and_replaced(server, monkeypatch, case):
    monkeypatch.setattr(download, "_MOST_UNPACKED", 1_000_000)
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 100)
    outside, server.root = server.root, server.root / "a" / "b"
    good = server.files[OXFORD]
    server.files[OXFORD], reason = HOSTILE.get(case) or (DAMAGED[case], "")
    assert reason in server.fails(f"^{server.address}{OXFORD} cannot be used, and was deleted: ")
    assert server.listing() == NO_IMAGES
    files = {f.name for f in outside.rglob("*") if f.is_symlink() or not f.is_dir()}
    assert files == {*NO_IMAGES, ".download.lock"}  # nor is anything outside
    assert list(server.records()) == ["gnd_roxford5k.pkl"]
    server.files[OXFORD] = good
    server.fetch()
    assert server.images() == OXFORD_IMAGES


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_other_members_are_left_out(server, monkeypatch, form):
    monkeypatch.setattr(tarfile.TarFile, "format", form)
    server.files[OXFORD] = tgz(
        member("./", kind=tarfile.DIRTYPE),
        member("README.txt"),
        member("a/notes.jpg.txt"),
        member("a/l.jpg", kind=SYM, target="../README.txt"),
        member("m.jpg", kind=LINK, target="README.txt"),
        *(member(f"a/b{i}/{n}", c) for i, (n, c) in enumerate(OXFORD_IMAGES.items())),
    )
    server.fetch()
    assert server.images() == OXFORD_IMAGES


def test_these_are_good_without_the_damage(server):
    server.files[OXFORD] = PACKED
    server.fetch()
    assert server.images() == OXFORD_IMAGES
    assert len(WHOLE) > LAST + 512 + 130_048  # the end mark is after all images


def test_by_hand(server):
    server.folder.mkdir()
    archive = server.folder / "oxbuild_images.tgz"
    archive.write_bytes(PACKED[:-3])
    server.fails(rf"{archive} cannot be used: .*; delete or replace it")
    assert archive.read_bytes() == PACKED[:-3]


def test_one_name_in_two_archives(server):
    name = next(iter(serving.PARIS_IMAGES))
    server.files[serving.PARIS[1]] = tgz(member(name, b"2"))
    server.fails(rf"its member '{name}' has the name of another", "Paris6K")
    parts = [f for f in server.listing("paris6k") if f.endswith(".partial")]
    assert parts == ["paris_1.tgz.partial"]  # the first is not at fault
