"""What a download leaves in the folder, what it takes from there, and the command."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dir_jax.data import download
from dir_jax.data.download import DOWNLOADABLE, __main__
from tests.data.download import serving
from tests.data.download.serving import BLURRED, COMPLETE, OXFORD, OXFORD_IMAGES, PARIS, TRUTH


@pytest.mark.parametrize("name", DOWNLOADABLE)
def test_layout(server, name):
    folder, archives, pictures = (
        ("oxford5k", [OXFORD], OXFORD_IMAGES) if "Oxford" in name
        else ("paris6k", list(PARIS), serving.PARIS_IMAGES)
    )  # fmt: skip
    truth = serving.TRUTHS[name]
    file = truth.rpartition("/")[2]
    server.root /= "new/root"
    server.fetch(name)
    assert server.paths == [truth, *archives]
    assert server.images(folder) == pictures
    assert (server.root / folder / file).read_bytes() == server.files[truth]
    assert server.listing(folder) == ["downloads.json", file, "jpg"]
    found = {n: (r["url"], r["size"], r["sha256"]) for n, r in server.records(folder).items()}
    assert found == {
        path.rpartition("/")[2]: (server.address + path, len(content), sha256(content))
        for path in (truth, *archives)
        for content in (server.files[path],)
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_nothing_is_requested_twice(server, caplog):
    server.fetch()
    assert "blurred" not in caplog.text
    server.requests.clear()
    server.fetch()
    assert server.requests == []
    server.fetch("Oxford5K")  # has the same images
    assert server.paths == [serving.TRUTHS["Oxford5K"]]
    assert [*server.records()] == ["gnd_oxford5k.pkl", "gnd_roxford5k.pkl", "oxbuild_images.tgz"]


@pytest.mark.parametrize("missing", ["gnd_roxford5k.pkl", "jpg/hall_000001.jpg", "a link"])
def test_one_file_is_missing(server, missing):
    server.fetch()
    pictures = server.folder / "jpg"
    (server.folder / (missing if "." in missing else "jpg/hall_000001.jpg")).unlink()
    if missing == "a link":  # to nowhere is not an image
        (pictures / "hall_000001.jpg").symlink_to(server.root / "nowhere")
    (pictures / "hall_000002.jpg").write_bytes(b"somebody's own")
    server.requests.clear()
    server.fetch()
    assert server.paths == [TRUTH if "gnd" in missing else OXFORD]
    assert server.images() == OXFORD_IMAGES | {"hall_000002.jpg": b"somebody's own"}
    assert server.listing() == COMPLETE


@pytest.mark.parametrize("path", [OXFORD, BLURRED])
def test_archive_put_there_by_hand(server, path, caplog):
    archive = server.folder / path.rpartition("/")[2]
    server.folder.mkdir()
    archive.write_bytes(server.files[OXFORD])
    server.fetch()
    assert server.paths == [TRUTH]
    assert server.images() == OXFORD_IMAGES
    assert archive.read_bytes() == server.files[OXFORD]
    assert ("blurred" in caplog.text) == (path == BLURRED)


def test_blurred_images_are_the_second_choice(server, caplog):
    server.files[BLURRED] = server.files.pop(OXFORD)
    server.cut_images()
    server.fails("90,000 bytes are kept")
    assert server.paths == [TRUTH, OXFORD] + [BLURRED] * 6
    server.recover()
    server.fetch()
    assert server.paths == [BLURRED]
    assert server.starts(BLURRED) == [90_000]
    assert server.images() == OXFORD_IMAGES
    assert server.listing() == COMPLETE
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("dir_jax")]
    assert message.startswith("oxbuild_images-v1.tgz has blurred faces")


def test_blurred_images_behind_a_redirect(server, caplog):
    server.files["/thor/oxbuild_images-v1.tgz"] = server.files.pop(OXFORD)
    server.redirect(OXFORD, "/thor/oxbuild_images-v1.tgz")
    server.cut_images(20_000)
    server.fetch()
    assert server.starts() == [0, 20_000]
    assert server.images() == OXFORD_IMAGES
    assert "oxbuild_images.tgz has blurred faces" in caplog.text


def test_the_real_ground_truth(server, shared_data):
    content = (shared_data / "revisitop" / "gnd_roxford5k.pkl").read_bytes()
    listed = pickle.loads(content)
    names = [f"{n}.jpg" for n in listed["imlist"] + listed["qimlist"]]
    server.files[TRUTH] = content
    server.files[OXFORD] = serving.tgz(*(serving.member(name, b"") for name in names))
    server.fetch()
    assert len(server.images()) == len(set(names)) == 5063


def test_images_are_missing(server):
    members = serving.OXFORD_MEMBERS
    server.files[OXFORD] = serving.tgz(*members[:2], *members[4:])
    part = server.folder / "oxbuild_images.tgz.partial"
    assert server.fails() == (
        f"2 of the images that {server.folder}/gnd_roxford5k.pkl names are not in {part}, such as "
        "hall_000002.jpg; delete the file that is wrong, and run this again"
    )
    assert not (server.folder / "jpg").exists()
    part.unlink()
    server.files[OXFORD] = serving.tgz(*members[:-1])  # the last is a query
    server.fails(r"1 of the images .*, such as hall_000007\.jpg")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Hostile()), r"\.system"),
        (b"no pickle", "damaged"),
        (pickle.dumps({"imlist": ["a"]}), "'qimlist'"),
        (serving.truth(["a"], ["b"])[:-9], "damaged"),
    ],
)
def test_ground_truth_is_checked(server, monkeypatch, content, reason):
    monkeypatch.chdir(server.root)
    good, server.files[TRUTH] = server.files[TRUTH], content
    server.fails(rf"5k\.pkl cannot be used, and was deleted: .*{reason}")
    assert server.listing() == ["downloads.json"]
    assert not (server.root / "executed").exists()
    server.files[TRUTH] = good
    server.fetch()
    assert server.listing() == COMPLETE


def test_damaged_ground_truth_is_there(server):
    file = server.folder / "gnd_roxford5k.pkl"
    server.folder.mkdir()
    file.write_bytes(b"?")
    server.fails(rf"; delete {file} to have it fetched again")
    assert server.requests == []


class TestRecords:
    def test_change_is_found_and_accepted(self, server):
        server.fetch()
        folder, records, changed = server.folder, server.records(), serving.CHANGED
        (folder / "jpg").rename(server.root / "old")
        old, server.files[OXFORD] = server.files[OXFORD], changed
        for _ in range(2):  # it is found every time
            message = server.fails(f"{server.address}{OXFORD} has changed")
            assert f"its SHA-256 is {sha256(changed)}, but {folder}/downloads.json" in message
            assert f"records {sha256(old)}; " in message
            assert f"delete {folder}/downloads.json, otherwise delete {folder}/oxbui" in message
            assert server.records().items() >= records.items()
            assert not (folder / "jpg").exists()
        assert server.starts() == [0, 0]  # the changed file came once
        (folder / "downloads.json").unlink()
        server.fetch()
        assert server.images() == serving.CHANGED_IMAGES
        assert server.records()["oxbuild_images.tgz"]["sha256"] == sha256(changed)

    def test_change_is_not_wanted(self, server):
        server.fetch()
        (server.folder / "gnd_roxford5k.pkl").unlink()
        changed = serving.truth(["hall_000000"], ["hall_000001"])
        good, server.files[TRUTH] = server.files[TRUTH], changed
        message = server.fails(r"gnd_roxford5k\.pkl has changed")
        server.files[TRUTH] = good
        Path(re.search(r"otherwise delete (\S+\.partial); then", message)[1]).unlink()
        server.fetch()
        assert (server.folder / "gnd_roxford5k.pkl").read_bytes() == good
        assert server.listing() == COMPLETE

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"a": 3}', '{"a": {"size": 3}}', '{"a": {"url": "b", "size": "c"}}',
                    "[" * 99999],
    )  # fmt: skip
    def test_damaged(self, server, content):
        server.folder.mkdir()
        (server.folder / "downloads.json").write_text(content)
        server.fails(r"downloads\.json is (damaged: expected|not JSON: ).*; delete it")


def test_bad_arguments(server):
    server.fails("'Oxford105K' cannot be downloaded; expected one of Oxford5K, ", "Oxford105K")
    for bases in ({"picture": server.address}, {"pictures": "file:///tmp"}):
        server.fails("expected http addresses for pictures, ground_tr", **bases)
    assert server.requests == list(server.root.iterdir()) == []


class TestCommand:
    def run(self, monkeypatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["download", *arguments])
        return __main__.main()

    @pytest.mark.parametrize("terminal", [False, True])
    def test_downloads(self, server, monkeypatch, capsys, terminal):
        monkeypatch.setattr(download, "BASE_URLS", server.base_urls)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        assert self.run(monkeypatch, "--dataset", "Paris6K", "--db-root", str(server.root)) == 0
        captured = capsys.readouterr()
        assert captured.out == f"Paris6K is complete under {server.root}\n"
        if terminal:
            assert re.search(r"\rparis_2\.tgz:.*B/s\]", captured.err)
        else:
            line = r"^paris_2\.tgz: .*k of .*k B, .*B/s, 00:00 left$"
            assert re.search(line, captured.err, re.MULTILINE)
            assert "\r" not in captured.err
        assert server.images("paris6k") == serving.PARIS_IMAGES
        server.requests.clear()
        monkeypatch.setenv("DB_ROOT", str(server.root))
        assert self.run(monkeypatch, "--dataset", "Paris6K") == 0
        assert server.requests == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--dataset Paris6K", "--db-root is missing: .* export DB_ROOT=/path/to/datasets"),
            ("--dataset Paris6K --db-root=", "--db-root is missing"),
            ("--dataset Paris", "'Paris' cannot be downloaded; .*those that can be: .*RParis6K"),
            ("", "give one data set to download"),
            ("Paris6K extra", "unexpected argument 'extra'"),
        ],
    )
    def test_mistakes(self, server, monkeypatch, capsys, arguments, message):
        assert self.run(monkeypatch, *arguments.split()) == 2
        captured = capsys.readouterr()
        assert re.fullmatch(rf"error: .*{message}.*\n", captured.err)
        assert captured.out == ""

    def test_failure_is_one_line(self, server, monkeypatch, capsys):
        monkeypatch.setattr(download, "BASE_URLS", server.base_urls)
        server.files[OXFORD] = b"?"
        assert self.run(monkeypatch, "--dataset", "Oxford5K", "--db-root", str(server.root)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:]

    def test_help(self):
        command = [sys.executable, "-X", "importtime", "-m", "dir_jax.data.download", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "--db-root DIR" in done.stdout
        modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "dir_jax.data.download" in modules
        assert not modules & {"jax", "torch", "tensorflow_datasets", "grain", "flax"}


def test_addresses():
    """The whole addresses, of which the tests above replace the beginnings."""
    vgg, cmp = download.BASE_URLS["pictures"], download.BASE_URLS["ground_truth"]
    assert f"{vgg}{OXFORD} {cmp}{TRUTH}".replace("/vgg/ox", "/ox").replace("/gnd/", "/") == (
        "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/oxbuild_images.tgz "
        "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test/roxford5k/gnd_roxford5k.pkl"
    )
