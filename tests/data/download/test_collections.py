"""Data sets in many archives, from a server of this machine: parts, checks, resumption, room."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from dir_jax.data.datasets import create_dataset
from dir_jax.data.download import __main__ as command
from dir_jax.data.download import collections, fetch
from dir_jax.data.download.collections import (
    COLLECTIONS,
    collection_of,
    download_collection,
    parse_archives,
)
from dir_jax.errors import UserError
from tests.data import published
from tests.data.download.serving import member, noise, tar, tgz

IDS = published.landmark_ids(0, 6)
PATHS = [f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in IDS]


@pytest.fixture
def gldv2(server, tmp_path, monkeypatch):
    """A server with GLDv2's training images in three archives of two; their MD5, and the lists."""
    row = COLLECTIONS["GLDv2_train"]
    three = row._replace(
        base=f"{server.address}/gl", archives={n: row.archives[n] for n in range(3)}
    )
    monkeypatch.setattr(collections, "COLLECTIONS", {**COLLECTIONS, "GLDv2_train": three})
    published.write_landmarks(tmp_path / "source")
    for name in ("train", "train_clean"):
        content = (tmp_path / f"source/gldv2/metadata/{name}.csv").read_bytes()
        server.files[f"/gl/metadata/{name}.csv"] = content
    for n in range(3):
        images = [member(f"./{PATHS[i]}", noise(3000 + i, i)) for i in (2 * n, 2 * n + 1)]
        content = tar(member("a/", kind=b"5"), *images, member("README", b"no image"))
        server.files[f"/gl/train/images_{n:03}.tar"] = content
        md5 = f"{hashlib.md5(content).hexdigest()}  images_{n:03}.tar\n".encode()
        server.files[f"/gl/md5sum/train/md5.images_{n:03}.txt"] = md5
    return server


def images(server) -> set[str]:
    folder = server.root / "gldv2/train"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}


def archives_asked_for(server) -> list[str]:
    return sorted({path[-7:-4] for path in server.paths if path.endswith(".tar")})


def test_a_part_and_then_the_rest(gldv2, capsys):
    root = str(gldv2.root)
    line = download_collection("GLDv2_train", root, archives="0-1")
    assert line == f"GLDv2_train: 2 of 3 archives, 4 images, in {root}/gldv2/train"
    assert images(gldv2) == set(PATHS[:4])
    assert len(create_dataset("GLDv2_train_clean", db_root=root)) == 4
    assert (gldv2.root / "gldv2/train" / PATHS[3]).read_bytes() == noise(3003, 3)
    assert archives_asked_for(gldv2) == ["000", "001"]
    gldv2.recover()
    assert download_collection("GLDv2_train", root, archives="1") == line
    assert gldv2.paths == []
    assert "3 of 3 archives, 6 images" in download_collection("GLDv2_train", root)
    assert archives_asked_for(gldv2) == ["002"]
    assert images(gldv2) == set(PATHS)
    left = {path.name for path in (gldv2.root / "gldv2/train").iterdir() if path.is_file()}
    assert left == {".download.lock", "images_000.txt", "images_001.txt", "images_002.txt"}
    assert "download GLDv2_train" in capsys.readouterr().err


def test_another_checksum_keeps_the_archive_aside(gldv2):
    gldv2.files["/gl/md5sum/train/md5.images_001.txt"] = b"0" * 32
    with pytest.raises(UserError, match=r"its MD5 is .*, expected 0000") as e:
        download_collection("GLDv2_train", str(gldv2.root))
    refused = gldv2.root / "gldv2/train/images_001.tar.refused"
    assert str(refused) in str(e.value)
    assert refused.read_bytes() == gldv2.files["/gl/train/images_001.tar"]
    assert not images(gldv2) & set(PATHS[2:4])


def test_one_that_is_gone_does_not_stop_the_others(gldv2):
    del gldv2.files["/gl/train/images_000.tar"]
    with pytest.raises(UserError, match=r"1 of 3 archives could not be fetched: .*images_000"):
        download_collection("GLDv2_train", str(gldv2.root))
    assert images(gldv2) == set(PATHS[2:])


def test_an_archive_is_resumed(gldv2, monkeypatch):
    monkeypatch.setattr(fetch, "_ATTEMPTS", 1)
    root, path = str(gldv2.root), "/gl/train/images_000.tar"
    download_collection("GLDv2_train", root, archives="2")
    gldv2.recover()
    gldv2.cuts = [0, 5000]  # the answer that only says the size, and the first of the archive
    with pytest.raises(UserError, match=r"5,000 bytes are kept"):
        download_collection("GLDv2_train", root, archives="0")
    gldv2.recover()
    download_collection("GLDv2_train", root, archives="0")
    assert gldv2.starts(path) == [0, 5000]
    assert images(gldv2) == {*PATHS[:2], *PATHS[4:]}


def test_room_is_checked_before_an_archive_is_fetched(gldv2, monkeypatch):
    usage = shutil.disk_usage(gldv2.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0\.0 GB of free space, and 3 archives need about"):
        download_collection("GLDv2_train", str(gldv2.root))
    assert images(gldv2) == set()
    assert not (gldv2.root / "gldv2/train/.fetching").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar(member("../../a.jpg")), "is refused: .* is not a name inside"),
        (tar(member("README")), "it has no image"),
        (tar(member(PATHS[0]), member(f"x/{PATHS[0]}")), "has the name of another"),
        (b"<html>please confirm</html>" * 100, "gives a page instead of the file"),
    ],
)
def test_hostile_archives_and_pages(gldv2, content, message):
    gldv2.files["/gl/train/images_000.tar"] = content
    md5 = hashlib.md5(content).hexdigest().encode()
    gldv2.files["/gl/md5sum/train/md5.images_000.txt"] = md5
    with pytest.raises(UserError, match=message):
        download_collection("GLDv2_train", str(gldv2.root), archives="0")
    assert images(gldv2) == set()
    assert not list(gldv2.root.parent.glob("a.jpg"))


def test_a_page_instead_of_a_list(gldv2):
    gldv2.files["/gl/metadata/train.csv"] = b"\n<!doctype html><html>Sign in</html>"
    with pytest.raises(UserError, match=r"train\.csv gives a page instead of the file"):
        download_collection("GLDv2_train", str(gldv2.root))
    assert not (gldv2.root / "gldv2/metadata/train.csv").exists()


def test_an_archive_that_somebody_put_there(gldv2):
    folder = gldv2.root / "gldv2/train"
    folder.mkdir(parents=True)
    (folder / "images_001.tar").write_bytes(gldv2.files["/gl/train/images_001.tar"])
    download_collection("GLDv2_train", str(gldv2.root), archives="1")
    assert archives_asked_for(gldv2) == []
    assert images(gldv2) == set(PATHS[2:4])
    assert (folder / "images_001.tar").exists()


def test_other_layouts(server, tmp_path):
    published.write_sfm(tmp_path / "source")
    published.write_distractors(tmp_path / "source")
    source = tmp_path / "source/train"
    for name in ("120k/retrieval-SfM-120k", "120k/retrieval-SfM-120k-whiten"):
        content = (source / f"retrieval-SfM-{name}.pkl").read_bytes()
        server.files[f"/sfm/dbs/{Path(name).name}.pkl"] = content
    ids = [published.sfm_id(i) for i in range(8)]
    server.files["/sfm/ims/ims.tar.gz"] = tgz(*(member(f"ims/ef/cd/ab/{i}") for i in ids))
    root = str(server.root)
    line = download_collection("SfM120k", root, base=f"{server.address}/sfm")
    assert "1 of 1 archives, 8 images" in line
    dataset = create_dataset("SfM120k_train", db_root=root)
    assert all(Path(dataset.path(i)).is_file() for i in range(8))
    server.files["/r1m/revisitop1m.txt"] = b"0/a.jpg\n0/b.jpg\n1/c.png\n"
    server.files["/r1m/jpg/revisitop1m.7.tar.gz"] = tgz(member("0/a.jpg"), member("jpg/1/c.png"))
    download_collection("R1M", root, archives="7", base=f"{server.address}/r1m")
    dataset = create_dataset("R1M", db_root=root)
    assert dataset.names == ["0/a.jpg", "1/c.png"]
    assert all(Path(dataset.path(i)).is_file() for i in range(2))


def test_names_and_numbers_of_archives():
    assert collection_of("SfM120k_val") == collection_of("SfM120k_whiten") == "SfM120k"
    assert collection_of("GLDv2_train_clean") == "GLDv2_train"
    assert collection_of("GLDv2") is collection_of("CUB200_train") is None
    assert parse_archives("3, 1,7-9", range(10)) == [1, 3, 7, 8, 9]
    for text in ("", "a", "5-3", "0-10", "-1", "1-", "10", "1,,2"):
        with pytest.raises(UserError, match="numbered 0 to 9; expected numbers and ranges"):
            parse_archives(text, range(10))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["GLDv2"], "several parts: download one of GLDv2_train, GLDv2_index, GLDv2_test"),
        (["CUB200_test"], "'CUB200_test' cannot be downloaded"),
        (["Rparis6k"], "did you mean RParis6K?"),
        (["ROxford5K", "--archives", "1"], "ROxford5K does not come in archives"),
        (["R1M", "--archives", "0-9"], "numbered 1 to 100"),
        ([], "give one data set"),
        (["R1M", "--dataset", "R1M"], "give one data set"),
    ],
)
def test_the_command_refuses(flags, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["download", "--db-root", str(tmp_path), *flags])
    assert command.main() == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
