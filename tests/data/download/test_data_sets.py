"""What a download leaves in the folder, what it takes from there, and the command."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dir_jax.data import download
from dir_jax.data.download import DOWNLOADABLE, __main__, download_dataset
from dir_jax.errors import UserError
from tests.data.download.serving import (
    BLURRED,
    CHANGED,
    CHANGED_IMAGES,
    COMPLETE,
    OXFORD,
    OXFORD_IMAGES,
    OXFORD_MEMBERS,
    PARIS,
    PARIS_IMAGES,
    TRUTH,
    TRUTHS,
    fetch,
    images,
    listing,
    member,
    tgz,
    truth,
)  # fmt: skip


@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_layout(server, tmp_path, name):
    folder, archives, pictures = (
        ("oxford5k", [OXFORD], OXFORD_IMAGES) if "Oxford" in name
        else ("paris6k", list(PARIS), PARIS_IMAGES)
    )  # fmt: skip
    root = tmp_path / "new" / "root"
    fetch(server, root, name)
    assert server.paths == [TRUTHS[name], *archives]
    assert images(root, folder) == pictures
    file = TRUTHS[name].rpartition("/")[2]
    assert (root / folder / file).read_bytes() == server.files[TRUTHS[name]]
    assert listing(root, folder) == ["downloads.json", file, "jpg"]
    records = json.loads((root / folder / "downloads.json").read_text())
    assert {name: (r["url"], r["size"], r["sha256"]) for name, r in records.items()} == {
        path.rpartition("/")[2]: (server.address + path, len(content), sha256(content))
        for path in (TRUTHS[name], *archives)
        for content in (server.files[path],)
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_nothing_is_requested_twice(server, tmp_path):
    fetch(server, tmp_path)
    server.requests.clear()
    fetch(server, tmp_path)
    assert server.requests == []
    fetch(server, tmp_path, "Oxford5K")  # has the same images
    assert server.paths == [TRUTHS["Oxford5K"]]
    records = json.loads((tmp_path / "oxford5k" / "downloads.json").read_text())
    assert sorted(records) == ["gnd_oxford5k.pkl", "gnd_roxford5k.pkl", "oxbuild_images.tgz"]


@pytest.mark.parametrize("missing", ["gnd_roxford5k.pkl", "jpg/hall_000001.jpg", "a link"])
def test_one_file_is_missing(server, tmp_path, missing):
    fetch(server, tmp_path)
    pictures = tmp_path / "oxford5k" / "jpg"
    if missing == "a link":  # to nowhere is not an image
        (pictures / "hall_000001.jpg").unlink()
        (pictures / "hall_000001.jpg").symlink_to(tmp_path / "nowhere")
    else:
        (tmp_path / "oxford5k" / missing).unlink()
    (pictures / "hall_000002.jpg").write_bytes(b"somebody's own")
    server.requests.clear()
    fetch(server, tmp_path)
    assert server.paths == [TRUTH if "gnd" in missing else OXFORD]
    assert images(tmp_path) == OXFORD_IMAGES | {"hall_000002.jpg": b"somebody's own"}
    assert listing(tmp_path) == COMPLETE


@pytest.mark.parametrize("path", [OXFORD, BLURRED])
def test_archive_put_there_by_hand(server, tmp_path, path, caplog):
    archive = tmp_path / "oxford5k" / path.rpartition("/")[2]
    archive.parent.mkdir()
    archive.write_bytes(server.files[OXFORD])
    fetch(server, tmp_path)
    assert server.paths == [TRUTH]
    assert images(tmp_path) == OXFORD_IMAGES
    assert archive.read_bytes() == server.files[OXFORD]
    assert ("blurred" in caplog.text) == (path == BLURRED)


class TestBlurredImages:
    def test_are_the_second_choice(self, server, tmp_path, caplog):
        server.files[BLURRED] = server.files.pop(OXFORD)
        fetch(server, tmp_path)
        assert server.paths == [TRUTH, OXFORD, BLURRED]
        assert images(tmp_path) == OXFORD_IMAGES
        (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("dir_jax")]
        assert message == (
            "oxbuild_images-v1.tgz has its faces blurred: pixels differ from the original's, and "
            "mAP may differ too"
        )

    def test_resume(self, server, tmp_path):
        server.files[BLURRED] = server.files.pop(OXFORD)
        server.cut_images()
        with pytest.raises(UserError, match="90,000 bytes are kept"):
            fetch(server, tmp_path)
        server.recover()
        fetch(server, tmp_path)
        assert server.paths == [BLURRED]
        assert server.starts(BLURRED) == [90_000]
        assert listing(tmp_path) == COMPLETE

    def test_behind_a_redirect(self, server, tmp_path, caplog):
        server.files["/thor/oxbuild_images-v1.tgz"] = server.files.pop(OXFORD)
        server.redirect(OXFORD, "/thor/oxbuild_images-v1.tgz")
        server.cut_images(20_000)
        fetch(server, tmp_path)
        assert server.starts() == [0, 20_000]
        assert images(tmp_path) == OXFORD_IMAGES
        assert "oxbuild_images.tgz has its faces blurred" in caplog.text

    def test_no_warning_without_reason(self, server, tmp_path, caplog):
        fetch(server, tmp_path)
        assert "blurred" not in caplog.text


def test_the_real_ground_truth(server, tmp_path, shared_data):
    content = (shared_data / "revisitop" / "gnd_roxford5k.pkl").read_bytes()
    listed = pickle.loads(content)
    names = [f"{n}.jpg" for n in listed["imlist"] + listed["qimlist"]]
    server.files[TRUTH] = content
    server.files[OXFORD] = tgz(*(member(name, b"") for name in names))
    fetch(server, tmp_path)
    assert len(images(tmp_path)) == len(set(names)) == 5063


def test_images_are_missing(server, tmp_path):
    server.files[OXFORD] = tgz(*OXFORD_MEMBERS[:2], *OXFORD_MEMBERS[4:])
    folder = tmp_path / "oxford5k"
    part = folder / "oxbuild_images.tgz.partial"
    with pytest.raises(UserError) as e:
        fetch(server, tmp_path)
    assert str(e.value) == (
        f"2 of the images that {folder}/gnd_roxford5k.pkl names are not in {part}, such as "
        "hall_000002.jpg; delete the file that is wrong, and run this again"
    )
    assert not (folder / "jpg").exists()
    part.unlink()
    server.files[OXFORD] = tgz(*OXFORD_MEMBERS[:-1])  # the last is a query
    with pytest.raises(UserError, match=r"1 of the images .*, such as hall_000007\.jpg"):
        fetch(server, tmp_path)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Hostile()), r"\.system"),
        (b"<html>", "damaged"),
        (pickle.dumps({"imlist": ["a"]}), "'qimlist'"),
        (truth(["a"], ["b"])[:-9], "damaged"),
    ],
)
def test_ground_truth_is_checked(server, tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    good, server.files[TRUTH] = server.files[TRUTH], content
    with pytest.raises(UserError, match=rf"5k\.pkl cannot be used, and was deleted: .*{reason}"):
        fetch(server, tmp_path)
    assert set(listing(tmp_path)) <= {"downloads.json"}
    assert not (tmp_path / "executed").exists()
    server.files[TRUTH] = good
    fetch(server, tmp_path)
    assert listing(tmp_path) == COMPLETE


def test_damaged_ground_truth_is_there(server, tmp_path):
    file = tmp_path / "oxford5k" / "gnd_roxford5k.pkl"
    file.parent.mkdir()
    file.write_bytes(b"?")
    with pytest.raises(UserError, match=rf"; delete {file} to have it fetched again"):
        fetch(server, tmp_path)
    assert server.requests == []


class TestRecords:
    def test_change_is_found_and_accepted(self, server, tmp_path):
        fetch(server, tmp_path)
        folder = tmp_path / "oxford5k"
        records = json.loads((folder / "downloads.json").read_text())
        (folder / "jpg").rename(tmp_path / "old")
        old, server.files[OXFORD] = server.files[OXFORD], CHANGED
        for _ in range(2):  # it is found every time
            with pytest.raises(UserError) as e:
                fetch(server, tmp_path)
            message = str(e.value)
            assert f"{server.address}{OXFORD} has changed" in message
            for expected in (sha256(old), sha256(CHANGED), f"{len(old):,}"):
                assert expected in message
            assert f"delete {folder}/downloads.json, otherwise delete {folder}/oxbui" in message
            assert json.loads((folder / "downloads.json").read_text()).items() >= records.items()
            assert not (folder / "jpg").exists()
        assert server.starts() == [0, 0]  # the changed file came once
        (folder / "downloads.json").unlink()
        fetch(server, tmp_path)
        assert images(tmp_path) == CHANGED_IMAGES
        new = json.loads((folder / "downloads.json").read_text())
        assert new["oxbuild_images.tgz"]["sha256"] == sha256(CHANGED)

    def test_change_is_not_wanted(self, server, tmp_path):
        fetch(server, tmp_path)
        (tmp_path / "oxford5k" / "gnd_roxford5k.pkl").unlink()
        good, server.files[TRUTH] = server.files[TRUTH], truth(["hall_000000"], ["hall_000001"])
        with pytest.raises(UserError, match=r"gnd_roxford5k\.pkl has changed") as e:
            fetch(server, tmp_path)
        server.files[TRUTH] = good
        Path(re.search(r"otherwise delete (\S+\.partial); then", str(e.value))[1]).unlink()
        fetch(server, tmp_path)
        assert (tmp_path / "oxford5k" / "gnd_roxford5k.pkl").read_bytes() == good
        assert listing(tmp_path) == COMPLETE

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            "[]",
            '{"a": 3}',
            '{"a": {"size": 3}}',
            '{"a": {"url": "b", "size": "c"}}',
            "[" * 99999,
        ],
    )
    def test_damaged(self, server, tmp_path, content):
        (tmp_path / "oxford5k").mkdir()
        (tmp_path / "oxford5k" / "downloads.json").write_text(content)
        with pytest.raises(UserError, match=r"downloads\.json is damaged: expected .*; delete it"):
            fetch(server, tmp_path)


def test_bad_arguments(server, tmp_path):
    with pytest.raises(
        UserError, match="'Oxford105K' cannot be downloaded; expected one of Oxford5K, "
    ):
        fetch(server, tmp_path, "Oxford105K")
    for urls in ({"picture": server.address}, {"pictures": "file:///tmp"}):
        with pytest.raises(UserError, match="expected http addresses for pictures, ground_tr"):
            download_dataset("Oxford5K", str(tmp_path), base_urls=urls)
    assert server.requests == list(tmp_path.iterdir()) == []


class TestCommand:
    def run(self, monkeypatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["download", *arguments])
        return __main__.main()

    @pytest.mark.parametrize("terminal", [False, True])
    def test_downloads(self, server, tmp_path, monkeypatch, capsys, terminal):
        monkeypatch.setattr(download, "BASE_URLS", server.base_urls)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        assert self.run(monkeypatch, "--dataset", "Paris6K", "--db-root", str(tmp_path)) == 0
        captured = capsys.readouterr()
        assert captured.out == f"Paris6K is complete under {tmp_path}\n"
        if terminal:
            assert re.search(r"\rparis_2\.tgz:.*B/s\]", captured.err)
        else:
            assert re.search(r"^paris_2\.tgz: .*k of .*k B, .*B/s$", captured.err, re.MULTILINE)
            assert "\r" not in captured.err
        assert images(tmp_path, "paris6k") == PARIS_IMAGES
        server.requests.clear()
        monkeypatch.setenv("DB_ROOT", str(tmp_path))
        assert self.run(monkeypatch, "--dataset", "Paris6K") == 0
        assert server.requests == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dataset", "Paris6K"], "--db-root is missing: .* export DB_ROOT=/path/to/datasets"),
            (["--dataset", "Paris6K", "--db-root", ""], "--db-root is missing"),
            (["--dataset", "Paris"], r"invalid choice: 'Paris' \(choose from .*RParis6K"),
            ([], "required: --dataset"),
            (["--dataset", "Paris6K", "extra"], "unrecognized arguments: extra"),
        ],
    )  # fmt: skip
    def test_mistakes(self, server, monkeypatch, capsys, arguments, message):
        assert self.run(monkeypatch, *arguments) == 2
        captured = capsys.readouterr()
        assert re.fullmatch(rf"error: .*{message}.*\n", captured.err)
        assert captured.out == ""

    def test_failure_is_one_line(self, server, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(download, "BASE_URLS", server.base_urls)
        server.files[OXFORD] = b"?"
        assert self.run(monkeypatch, "--dataset", "Oxford5K", "--db-root", str(tmp_path)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]

    def test_help(self):
        command = [sys.executable, "-X", "importtime", "-m", "dir_jax.data.download", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "--db-root DIR" in done.stdout
        modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "dir_jax.data.download" in modules
        assert not modules & {"jax", "torch", "tensorflow_datasets", "grain", "flax"}

    def test_addresses(self):
        """The whole addresses, of which the tests above replace the beginnings."""
        vgg, cmp = download.BASE_URLS["pictures"], download.BASE_URLS["ground_truth"]
        assert [vgg + path.removeprefix("/vgg") for path in (OXFORD, PARIS[0])] == [
            "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images.tgz",
            "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/paris_1.tgz",
        ]
        assert cmp + TRUTH.removeprefix("/gnd") == (
            "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test/roxford5k/gnd_roxford5k.pkl"
        )
