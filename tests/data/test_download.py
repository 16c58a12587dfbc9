"""The downloader against real servers on this machine, which break, lie, change and are hostile."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dir_jax.data import download
from dir_jax.data.download import DOWNLOADABLE, __main__, download_dataset, transfer
from dir_jax.errors import UserError

OXFORD = "/vgg/oxbuildings/oxbuild_images.tgz"
BLURRED = "/vgg/oxbuildings/oxbuild_images-v1.tgz"
PARIS = ("/vgg/parisbuildings/paris_1.tgz", "/vgg/parisbuildings/paris_2.tgz")
TRUTHS = {name: f"/gnd/{name.lower()}/gnd_{name.lower()}.pkl" for name in DOWNLOADABLE}


def noise(size: int, seed: object) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def file_member(name: str, content: bytes = b"picture") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def other_member(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The same bytes at any time, and as many for members of the same sizes."""
    return gzip.compress(tar(*members), 0, mtime=0)


def truth(names: list[str], queries: list[str]) -> bytes:
    gnd = [{"bbx": [0, 0, 5, 5], "ok": [0], "junk": []} for _ in queries]
    return pickle.dumps({"imlist": names, "qimlist": queries, "gnd": gnd}, protocol=2)


# 512 bytes a block: sizes around a block's, and larger than what is read at once.
OXFORD_IMAGES = {
    f"hall_{i:06}.jpg": noise(size, i)
    for i, size in enumerate((1, 511, 512, 513, 8192, 70_000, 0, 130_000))
}
PARIS_IMAGES = {f"paris_louvre_{i:06}.jpg": noise(3000 + i, f"p{i}") for i in range(6)}


def tag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def date_of(content: bytes) -> str:
    return f"Mon, 03 Jan 2022 00:00:{hashlib.md5(content).digest()[0] % 60:02} GMT"


def nothing_of(content: bytes) -> None:
    return None


class Server:
    """Files over HTTP, and what may go wrong with that.

    Attributes:
      files: content by path; others are HTTP 404.
      requests: (path, value of Range) of each request.
      sent: bytes of bodies that went out.
      cuts: bytes after which each next answer breaks off, while there are any.
      failures: statuses that each next answer has, while there are any.
      reset: break off by a reset, not by an orderly end.
      hold: once a cut is reached, wait for this before breaking off.
      ranges, if_range: whether these headers are heeded.
      asked: the value of If-Range of each request.
      tags, dates: give ETag and Last-Modified from the content.
      length: what Content-Length says, from the true one; None sends none.
      content_range: what Content-Range says, from the true one.
      redirects: paths that are elsewhere.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.asked: list[str | None] = []
        self.sent = 0
        self.cuts: list[int] = []
        self.failures: list[int] = []
        self.reset = False
        self.hold: threading.Event | None = None
        self.ranges = self.if_range = True
        self.tags, self.dates = tag_of, nothing_of
        self.length = lambda n: n
        self.content_range = lambda text: text
        self.redirects: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with contextlib.suppress(ConnectionError):
                    server.answer(self)
                self.close_connection = True

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    @property
    def base_urls(self) -> dict[str, str]:
        return {"pictures": f"{self.address}/vgg", "ground_truth": f"{self.address}/gnd"}

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def close(self):
        if self.hold:
            self.hold.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler):
        path, wanted = handler.path, handler.headers["Range"]
        self.requests.append((path, wanted))
        self.asked.append(handler.headers["If-Range"])
        if path in self.redirects:
            handler.send_response(301)
            handler.send_header("Location", self.redirects[path])
            handler.end_headers()
            return
        if self.failures:
            return handler.send_error(self.failures.pop(0))
        if path not in self.files:
            return handler.send_error(404)
        content = self.files[path]
        tag, date = self.tags(content), self.dates(content)
        if not self.ranges or (self.if_range and handler.headers["If-Range"] not in (tag, date)):
            wanted = None
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        beyond = start >= len(content) > 0
        handler.send_response(416 if beyond else 206 if wanted else 200)
        if wanted:
            spans = "*" if beyond else f"{start}-{len(content) - 1}"
            text = self.content_range(f"bytes {spans}/{len(content)}")
            if text:
                handler.send_header("Content-Range", text)
        body = b"" if beyond else content[start:]
        for name, value in (
            ("ETag", tag), ("Last-Modified", date), ("Content-Length", self.length(len(body)))
        ):  # fmt: skip
            if value is not None:
                handler.send_header(name, str(value))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts and not beyond else None
        body = body[:cut]
        for i in range(0, len(body), 4096):
            handler.wfile.write(body[i : i + 4096])
            self.sent += len(body[i : i + 4096])
        if cut is not None:
            if self.hold:
                self.hold.wait(60)
            if self.reset:
                linger = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "_PAUSE", 0)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("DB_ROOT", raising=False)
    serving = Server()
    names = [name.removesuffix(".jpg") for name in OXFORD_IMAGES]
    paris = [name.removesuffix(".jpg") for name in PARIS_IMAGES]
    members = [file_member(f"./{name}", content) for name, content in OXFORD_IMAGES.items()]
    halves: list[list] = [[], []]
    for i, (name, content) in enumerate(PARIS_IMAGES.items()):
        halves[i % 2].append(file_member(f"paris/louvre/{name}", content))
    serving.files = {
        OXFORD: tgz(*members),
        PARIS[0]: tgz(other_member("paris/", tarfile.DIRTYPE), *halves[0]),
        PARIS[1]: tgz(*halves[1]),
        TRUTHS["Oxford5K"]: truth(names, names[:3]),
        TRUTHS["ROxford5K"]: truth(names[:4], names[4:]),
        TRUTHS["Paris6K"]: truth(paris, paris[:1]),
        TRUTHS["RParis6K"]: truth(paris[1:], paris[:1]),
    }
    yield serving
    serving.close()


def fetch(server: Server, root: Path, name: str = "ROxford5K"):
    download_dataset(name, str(root), base_urls=server.base_urls, progress=False)


def images(root: Path, folder: str = "oxford5k") -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (root / folder / "jpg").iterdir()}


def listing(root: Path, folder: str = "oxford5k") -> list[str]:
    return sorted(file.name for file in (root / folder).iterdir())


COMPLETE = ["downloads.json", "gnd_roxford5k.pkl", "jpg"]
NO_PICTURES = ["downloads.json", "gnd_roxford5k.pkl"]


class TestWhatThereIs:
    @pytest.mark.parametrize("name", DOWNLOADABLE)
    def test_layout(self, server, tmp_path, name):
        folder, archives, pictures = (
            ("oxford5k", [OXFORD], OXFORD_IMAGES) if "Oxford" in name
            else ("paris6k", list(PARIS), PARIS_IMAGES)
        )  # fmt: skip
        fetch(server, tmp_path / "new" / "root", name)
        root = tmp_path / "new" / "root"
        assert server.paths == [TRUTHS[name], *archives]
        assert images(root, folder) == pictures
        file = TRUTHS[name].rpartition("/")[2]
        assert (root / folder / file).read_bytes() == server.files[TRUTHS[name]]
        assert listing(root, folder) == ["downloads.json", file, "jpg"]
        records = json.loads((root / folder / "downloads.json").read_text())
        assert records == {
            path.rpartition("/")[2]: {
                "url": server.address + path,
                "size": len(server.files[path]),
                "sha256": hashlib.sha256(server.files[path]).hexdigest(),
            }
            for path in (TRUTHS[name], *archives)
        }

    def test_nothing_is_asked_for_twice(self, server, tmp_path):
        fetch(server, tmp_path)
        server.requests.clear()
        fetch(server, tmp_path)
        assert server.requests == []
        fetch(server, tmp_path, "Oxford5K")  # has the same pictures
        assert server.paths == [TRUTHS["Oxford5K"]]
        records = json.loads((tmp_path / "oxford5k" / "downloads.json").read_text())
        assert sorted(records) == ["gnd_oxford5k.pkl", "gnd_roxford5k.pkl", "oxbuild_images.tgz"]

    @pytest.mark.parametrize("missing", ["gnd_roxford5k.pkl", "jpg/hall_000001.jpg"])
    def test_one_file_is_missing(self, server, tmp_path, missing):
        fetch(server, tmp_path)
        (tmp_path / "oxford5k" / missing).unlink()
        kept = tmp_path / "oxford5k" / "jpg" / "hall_000002.jpg"
        kept.write_bytes(b"somebody's own")
        server.requests.clear()
        fetch(server, tmp_path)
        assert server.paths == [TRUTHS["ROxford5K"] if "gnd" in missing else OXFORD]
        assert images(tmp_path) == OXFORD_IMAGES | {kept.name: b"somebody's own"}
        assert listing(tmp_path) == COMPLETE

    def test_link_to_nowhere_is_no_image(self, server, tmp_path):
        fetch(server, tmp_path)
        image = tmp_path / "oxford5k" / "jpg" / "hall_000001.jpg"
        image.unlink()
        image.symlink_to(tmp_path / "nowhere")
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES

    @pytest.mark.parametrize("path", [OXFORD, BLURRED])
    def test_archive_put_there_by_hand(self, server, tmp_path, path, caplog):
        archive = tmp_path / "oxford5k" / path.rpartition("/")[2]
        archive.parent.mkdir()
        archive.write_bytes(server.files[OXFORD])
        fetch(server, tmp_path)
        assert server.paths == [TRUTHS["ROxford5K"]]
        assert images(tmp_path) == OXFORD_IMAGES
        assert archive.read_bytes() == server.files[OXFORD]
        assert ("blurred" in caplog.text) == (path == BLURRED)

    def test_blurred_pictures(self, server, tmp_path, caplog):
        server.files[BLURRED] = server.files.pop(OXFORD)
        fetch(server, tmp_path)
        assert server.paths == [TRUTHS["ROxford5K"], OXFORD, BLURRED]
        assert images(tmp_path) == OXFORD_IMAGES
        assert caplog.messages == [
            "oxbuild_images-v1.tgz has its faces blurred: pixels differ from the original's, and "
            "mAP may do so too"
        ]

    def test_blurred_pictures_that_were_begun(self, server, tmp_path):
        server.files[BLURRED] = server.files.pop(OXFORD)
        cut_pictures(server, 90_000, 0, 0, 0, 0, 0)
        with pytest.raises(UserError, match="90,000 bytes are kept"):
            fetch(server, tmp_path)
        server.cuts.clear()
        server.requests.clear()
        fetch(server, tmp_path)
        assert server.requests == [(BLURRED, "bytes=90000-")]
        assert images(tmp_path) == OXFORD_IMAGES
        assert listing(tmp_path) == COMPLETE

    def test_redirection_to_blurred_pictures(self, server, tmp_path, caplog):
        server.files["/thor/oxbuild_images-v1.tgz"] = server.files.pop(OXFORD)
        server.redirects[OXFORD] = f"{server.address}/thor/oxbuild_images-v1.tgz"
        server.cuts = [10**9, 20_000]
        fetch(server, tmp_path)
        assert [r for p, r in server.requests if p == OXFORD] == [None, "bytes=20000-"]
        assert images(tmp_path) == OXFORD_IMAGES
        assert "oxbuild_images.tgz has its faces blurred" in caplog.text

    def test_no_warning_without_reason(self, server, tmp_path, caplog):
        fetch(server, tmp_path)
        assert caplog.messages == []

    def test_other_members_are_left_out(self, server, tmp_path):
        server.files[OXFORD] = tgz(
            other_member("a", tarfile.DIRTYPE),
            file_member("README.txt"),
            file_member("a/notes.jpg.txt"),
            other_member("a/l.jpg", tarfile.SYMTYPE, "../README.txt"),
            other_member("m.jpg", tarfile.LNKTYPE, "README.txt"),
            *(file_member(f"a/b{i}/{n}", c) for i, (n, c) in enumerate(OXFORD_IMAGES.items())),
        )
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES

    def test_the_real_ground_truth(self, server, tmp_path, shared_data):
        content = (shared_data / "revisitop" / "gnd_roxford5k.pkl").read_bytes()
        listed = pickle.loads(content)
        names = [f"{n}.jpg" for n in listed["imlist"] + listed["qimlist"]]
        server.files[TRUTHS["ROxford5K"]] = content
        server.files[OXFORD] = tgz(*(file_member(name, b"") for name in names))
        fetch(server, tmp_path)
        assert len(images(tmp_path)) == len(set(names)) == 5063

    def test_bad_arguments(self, server, tmp_path):
        with pytest.raises(UserError, match=r"'Oxford105K' is none of .*: Oxford5K, ROxford5K, P"):
            fetch(server, tmp_path, "Oxford105K")
        for urls in ({"picture": server.address}, {"pictures": "file:///tmp"}):
            with pytest.raises(UserError, match="expected http addresses for pictures, ground_tr"):
                download_dataset("Oxford5K", str(tmp_path), base_urls=urls)
        assert server.requests == list(tmp_path.iterdir()) == []


def cut_pictures(server: Server, *cuts: int):
    """Lets the ground truth come whole, then breaks off."""
    server.cuts = [10**9, *cuts]


def change_pictures(server: Server) -> dict[str, bytes]:
    """Puts others of the same names and sizes there, and returns them."""
    old = server.files[OXFORD]
    pictures = {name: content[::-1] for name, content in OXFORD_IMAGES.items()}
    server.files[OXFORD] = tgz(*(file_member(*item) for item in pictures.items()))
    assert len(server.files[OXFORD]) == len(old)
    assert date_of(server.files[OXFORD]) != date_of(old)
    return pictures


def starts(server: Server, path: str = OXFORD) -> list[int]:
    """The first byte that each request for a file wanted."""
    wanted = [r for p, r in server.requests if p == path]
    return [int(re.fullmatch(r"bytes=(\d+)-", r)[1]) if r else 0 for r in wanted]


class TestBrokenTransfers:
    @pytest.mark.parametrize("seed", range(3))
    def test_goes_on_where_it_was(self, server, tmp_path, seed):
        size = len(server.files[OXFORD])
        places = sorted(random.Random(seed).sample(range(size), 12))  # more than attempts allowed
        cut_pictures(server, *(b - a for a, b in zip([0, *places], places, strict=False)))
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES
        assert starts(server) == [0, *places]
        assert server.sent == size + len(server.files[TRUTHS["ROxford5K"]])

    def test_reset_connections(self, server, tmp_path):
        server.reset = True
        cut_pictures(server, 50_000, 1, 30_000, 60_000)
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES
        assert len(starts(server)) == 5
        assert starts(server) == sorted(starts(server))

    def test_another_run_goes_on(self, server, tmp_path):
        cut_pictures(server, 100_000, 0, 0, 0, 0, 0)
        part = tmp_path / "oxford5k" / "oxbuild_images.tgz.partial"
        with pytest.raises(UserError) as e:
            fetch(server, tmp_path)
        assert f"{OXFORD} ended after 100,000 of " in str(e.value)
        assert "5 times in a row (100,000 bytes are kept); run this again to go on" in str(e.value)
        assert part.read_bytes() == server.files[OXFORD][:100_000]
        assert starts(server) == [0] + [100_000] * 5
        server.cuts.clear()
        server.requests.clear()
        fetch(server, tmp_path)
        assert starts(server) == [100_000]
        assert images(tmp_path) == OXFORD_IMAGES

    def test_range_is_ignored(self, server, tmp_path):
        server.ranges = False
        cut_pictures(server, 90_000)
        fetch(server, tmp_path)
        assert starts(server) == [0, 90_000]
        assert images(tmp_path) == OXFORD_IMAGES

    def test_range_is_ignored_for_ever(self, server, tmp_path):
        server.ranges = False
        cut_pictures(server, 90_000, 80_000, 70_000, 95_000, *[95_000] * 20)
        with pytest.raises(UserError, match="5 times in a row"):
            fetch(server, tmp_path)
        assert len(starts(server)) == 4 + 5  # the fourth brought more than any before

    @pytest.mark.parametrize(
        "content_range", [lambda t: None, lambda t: t.replace("bytes 9", "bytes 8"), lambda t: "?"]
    )
    def test_another_range(self, server, tmp_path, content_range):
        server.content_range = content_range
        cut_pictures(server, 90_000)
        fetch(server, tmp_path)
        assert starts(server) == [0, 90_000, 0]
        assert images(tmp_path) == OXFORD_IMAGES

    @pytest.mark.parametrize("if_range", [True, False])
    @pytest.mark.parametrize("mark", ["etag", "date", "date beside a weak etag"])
    def test_file_changes(self, server, tmp_path, mark, if_range):
        server.if_range = if_range
        server.tags, server.dates, known = {
            "etag": (tag_of, nothing_of, tag_of),
            "date": (nothing_of, date_of, date_of),
            "date beside a weak etag": (lambda c: f"W/{tag_of(c)}", date_of, date_of),
        }[mark]
        cut_pictures(server, 90_000, 0, 0, 0, 0, 0)
        with pytest.raises(UserError, match="5 times"):
            fetch(server, tmp_path)
        old = server.files[OXFORD]
        pictures = change_pictures(server)
        server.cuts, server.requests, server.asked = [], [], []
        fetch(server, tmp_path)
        assert images(tmp_path) == pictures
        assert starts(server) == ([90_000] if if_range else [90_000, 0])
        assert server.asked[0] == known(old)

    def test_file_cannot_be_known_again(self, server, tmp_path):
        server.tags = nothing_of
        cut_pictures(server, *[90_000] * 5)
        with pytest.raises(UserError, match="5 times"):
            fetch(server, tmp_path)
        pictures = change_pictures(server)
        server.cuts.clear()
        fetch(server, tmp_path)
        assert starts(server) == [0] * 6
        assert images(tmp_path) == pictures

    def test_part_without_its_facts(self, server, tmp_path):
        part = tmp_path / "oxford5k" / "oxbuild_images.tgz.partial"
        for facts in (None, "{", "[1]", '{"url": 1}'):
            part.parent.mkdir(exist_ok=True)
            part.write_bytes(b"of who knows what")
            if facts:
                Path(f"{part}.json").write_text(facts)
            server.requests.clear()
            fetch(server, tmp_path)
            assert starts(server) == [0]
            assert images(tmp_path) == OXFORD_IMAGES
            (tmp_path / "oxford5k" / "jpg").rename(tmp_path / f"old {facts and len(facts)}")

    def test_part_of_another_address(self, server, tmp_path):
        cut_pictures(server, 90_000, 0, 0, 0, 0, 0)
        with pytest.raises(UserError, match="5 times"):
            fetch(server, tmp_path)
        server.cuts.clear()
        server.requests.clear()
        server.files["/mirror" + OXFORD] = server.files[OXFORD]
        bases = server.base_urls | {"pictures": f"{server.address}/mirror/vgg"}
        download_dataset("ROxford5K", str(tmp_path), base_urls=bases, progress=False)
        assert starts(server, "/mirror" + OXFORD) == [0]
        assert images(tmp_path) == OXFORD_IMAGES

    def test_complete_part_of_unknown_length(self, server, tmp_path):
        server.length = lambda n: None
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES
        # As after a run that was killed before it saw the end.
        (tmp_path / "oxford5k" / "jpg").rename(tmp_path / "old")
        self.put_part(server, tmp_path, server.files[OXFORD], None)
        server.requests.clear()
        server.sent = 0
        fetch(server, tmp_path)
        assert starts(server) == [len(server.files[OXFORD])]
        assert server.sent == 0
        assert images(tmp_path) == OXFORD_IMAGES

    @pytest.mark.parametrize("size", [None, 10**6])
    def test_part_is_longer_than_the_file(self, server, tmp_path, size):
        server.if_range = False
        self.put_part(server, tmp_path, server.files[OXFORD] + b"more", size)
        fetch(server, tmp_path)
        assert starts(server) == [len(server.files[OXFORD]) + 4, 0]
        assert images(tmp_path) == OXFORD_IMAGES

    def test_part_is_of_another_file_of_that_length(self, server, tmp_path):
        server.if_range = False
        self.put_part(server, tmp_path, server.files[OXFORD], None)
        pictures = change_pictures(server)
        fetch(server, tmp_path)
        assert starts(server) == [len(server.files[OXFORD]), 0]
        assert images(tmp_path) == pictures

    @staticmethod
    def put_part(server, root, content, size):
        part = root / "oxford5k" / "oxbuild_images.tgz.partial"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(content)
        url = server.address + OXFORD
        facts = {"url": url, "source": url, "etag": server.tags(server.files[OXFORD])}
        Path(f"{part}.json").write_text(json.dumps(facts | {"modified": None, "size": size}))

    def test_announced_length_is_too_large(self, server, tmp_path):
        server.length = lambda n: n + 7
        with pytest.raises(UserError, match=r"pkl is shorter than announced, or has .*, 5 times"):
            fetch(server, tmp_path)
        assert not (tmp_path / "oxford5k" / "gnd_roxford5k.pkl").exists()

    def test_announced_length_is_too_small(self, server, tmp_path):
        server.length = lambda n: n - 7 if n > 10_000 else n
        with pytest.raises(UserError, match=r"oxbuild_images\.tgz cannot be used, and was deleted"):
            fetch(server, tmp_path)
        assert listing(tmp_path) == NO_PICTURES

    @pytest.mark.parametrize("status", [500, 503, 429, 408])
    def test_passing_failures(self, server, tmp_path, status):
        server.failures = [status] * 4
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES
        assert server.paths == [TRUTHS["ROxford5K"]] * 5 + [OXFORD]

    def test_lasting_failures(self, server, tmp_path):
        server.failures = [503] * 5
        with pytest.raises(UserError, match="pkl answers HTTP 503 Service Unavailable, 5 times in"):
            fetch(server, tmp_path)
        assert server.paths == [TRUTHS["ROxford5K"]] * 5

    def test_the_pause_grows(self, server, tmp_path, monkeypatch):
        pauses: list[float] = []
        monkeypatch.setattr(transfer, "_PAUSE", 1.0)
        monkeypatch.setattr(time, "sleep", pauses.append)
        server.failures = [503] * 5
        with pytest.raises(UserError, match="5 times"):
            fetch(server, tmp_path)
        assert pauses == [1, 2, 4, 8]

    def test_silence_is_a_broken_connection(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(transfer, "_TIMEOUT", 0.7)
        server.hold = threading.Event()
        cut_pictures(server, 90_000)
        fetch(server, tmp_path)
        assert starts(server)[:2] == [0, 90_000]
        assert images(tmp_path) == OXFORD_IMAGES

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_not_offered(self, server, tmp_path, status):
        del server.files[OXFORD]
        usual = server.answer

        def answer(handler):
            if "oxbuild" in handler.path:
                server.failures = [status]
            usual(handler)

        server.answer = answer
        with pytest.raises(UserError) as e:
            fetch(server, tmp_path)
        pictures = [f"{server.address}{path}" for path in (OXFORD, BLURRED)]
        for url in pictures:
            assert f"{url} answers HTTP {status} " in str(e.value)
        folder = tmp_path / "oxford5k"
        assert str(e.value).endswith(
            f"; put into {folder} by hand: {pictures[0]} (or {pictures[1]})"
        )
        assert server.paths == [TRUTHS["ROxford5K"], OXFORD, BLURRED]

    def test_no_network(self, tmp_path, monkeypatch, server):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            bases = {"pictures": f"{base}/vgg", "ground_truth": f"{base}/gnd"}
            with pytest.raises(UserError) as e:
                download_dataset("RParis6K", str(tmp_path), base_urls=bases)
        message = str(e.value)
        assert f"no answer from {base}{TRUTHS['RParis6K']} (Connection refused), 5 times" in message
        assert f"put into {tmp_path}/paris6k by hand: {base}{TRUTHS['RParis6K']}, " in message
        for path in PARIS:
            assert f"{base}{path} (or {base}{path.replace('.tgz', '-v1.tgz')})" in message
        assert "\n" not in message

    def test_only_the_ground_truth_is_not_to_be_had(self, server, tmp_path):
        fetch(server, tmp_path)
        del server.files[TRUTHS["Oxford5K"]]
        with pytest.raises(UserError, match=r"by hand: \S+/gnd_oxford5k\.pkl$"):
            fetch(server, tmp_path, "Oxford5K")

    def test_unknown_host(self, tmp_path, server):
        bases = server.base_urls | {"ground_truth": "http://no-such-host.invalid"}
        with pytest.raises(
            UserError, match=r"no answer from http://no-such-host\.invalid/roxford5"
        ):
            download_dataset("ROxford5K", str(tmp_path), base_urls=bases)


def end_of(content: bytes, name: str) -> int:
    """Where the header of a tar's member is."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getmember(name).offset


WHOLE = tar(*(file_member(*item) for item in OXFORD_IMAGES.items()))
PACKED = gzip.compress(WHOLE, 1, mtime=0)
LAST = end_of(WHOLE, list(OXFORD_IMAGES)[-1])


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


DAMAGED = {
    "a web page": b"<html>Please log in</html>",
    "nothing": b"",
    "no tar": gzip.compress(noise(30_000, 1)),
    "an empty gzip": gzip.compress(b""),
    "cut within the gzip's trailer": PACKED[:-3],
    "cut without the gzip's trailer": PACKED[:-8],
    "cut by half": PACKED[: len(PACKED) // 2],
    "cut in its header": PACKED[:5],
    "a wrong check sum": flip(PACKED, len(PACKED) - 6),
    "a wrong length": flip(PACKED, len(PACKED) - 2),
    "a flip at a third": flip(PACKED, len(PACKED) // 3),
    "a flip near the end": flip(PACKED, len(PACKED) - 200),
    "a tar without its end mark": gzip.compress(WHOLE[: LAST + 512 + 130_048]),
    "a tar cut within a picture": gzip.compress(WHOLE[: LAST + 5000]),
    "a tar cut within a header": gzip.compress(WHOLE[: LAST + 100]),
    "a damaged header in the tar": gzip.compress(flip(WHOLE, LAST + 5)),
    "garbage after the tar": gzip.compress(WHOLE + b"x"),
    "garbage after the gzip": PACKED + b"garbage",
}


class TestDamagedArchives:
    @pytest.mark.parametrize("damage", DAMAGED)
    def test_is_found_and_mended(self, server, tmp_path, damage):
        good, server.files[OXFORD] = server.files[OXFORD], DAMAGED[damage]
        with pytest.raises(UserError) as e:
            fetch(server, tmp_path)
        assert f"{server.address}{OXFORD} cannot be used, and was deleted: it " in str(e.value)
        assert listing(tmp_path) == NO_PICTURES
        assert list(json.loads((tmp_path / "oxford5k" / "downloads.json").read_text())) == [
            "gnd_roxford5k.pkl"
        ]
        server.files[OXFORD] = good
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES

    def test_these_are_good_without_the_damage(self, server, tmp_path):
        server.files[OXFORD] = PACKED
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES
        # The pictures all come before what is damaged in the worst of the cases above.
        assert len(WHOLE) > LAST + 512 + 130_048

    def test_by_hand(self, server, tmp_path):
        archive = tmp_path / "oxford5k" / "oxbuild_images.tgz"
        archive.parent.mkdir()
        archive.write_bytes(PACKED[:-3])
        with pytest.raises(UserError, match=rf"{archive} cannot be used: .*; delete or replace it"):
            fetch(server, tmp_path)
        assert archive.read_bytes() == PACKED[:-3]

    def test_images_are_missing(self, server, tmp_path):
        members = [file_member(*item) for item in OXFORD_IMAGES.items()]
        server.files[OXFORD] = tgz(*members[:2], *members[4:])
        with pytest.raises(UserError) as e:
            fetch(server, tmp_path)
        folder = tmp_path / "oxford5k"
        assert str(e.value) == (
            f"2 of the images that {folder}/gnd_roxford5k.pkl names are not in "
            f"{folder}/oxbuild_images.tgz.partial, such as hall_000002.jpg; delete whichever of "
            "these files is wrong, and run this again"
        )
        assert not (folder / "jpg").exists()
        # A query that is missing counts as well.
        (folder / "oxbuild_images.tgz.partial").unlink()
        server.files[OXFORD] = tgz(*members[:-1])
        with pytest.raises(UserError, match=r"1 of the images .*, such as hall_000007\.jpg"):
            fetch(server, tmp_path)

    def test_same_name_twice(self, server, tmp_path):
        server.files[OXFORD] = tgz(file_member("a/x.jpg", b"1"), file_member("b/x.jpg", b"2"))
        with pytest.raises(UserError, match=r"'b/x\.jpg' and 'a/x\.jpg' would both become x\.jpg"):
            fetch(server, tmp_path)
        assert listing(tmp_path) == NO_PICTURES

    def test_same_name_in_two_archives(self, server, tmp_path):
        name = next(iter(PARIS_IMAGES))
        server.files[PARIS[1]] = tgz(file_member(name, b"2"))
        with pytest.raises(UserError, match=rf"'{name}' and 'paris/louvre/{name}' would both"):
            fetch(server, tmp_path, "Paris6K")
        # The first is not at fault.
        assert [f for f in listing(tmp_path, "paris6k") if f.endswith(".partial")] == [
            "paris_1.tgz.partial"
        ]


LONG = "d/" * 80 + "../" * 90 + "x.jpg"  # takes a header of its own
ESCAPES = {
    "an absolute name": [file_member("/tmp/x.jpg")],
    "a parent": [file_member("../x.jpg")],
    "a parent of parents": [file_member("../../../x.jpg")],
    "a parent within": [file_member("a/../../x.jpg")],
    "a parent that stays": [file_member("a/../x.jpg")],
    "a parent at the end": [other_member("a/..", tarfile.DIRTYPE)],
    "a parent in a long name": [file_member(LONG)],
    "Windows' parent": [file_member("..\\x.jpg")],
    "Windows' parent within": [file_member("a\\..\\..\\x.jpg")],
    "Windows' drive": [file_member("C:\\x.jpg")],
    "Windows' drive, relative": [file_member("c:x.jpg")],
    "Windows' root": [file_member("\\x.jpg")],
    "Windows' share": [file_member("\\\\host\\share\\x.jpg")],
    "an absolute link": [other_member("x.jpg", tarfile.SYMTYPE, "/etc/passwd")],
    "a link to a parent": [other_member("a/x.jpg", tarfile.SYMTYPE, "../../x")],
    "a link to the parent": [other_member("x", tarfile.SYMTYPE, "..")],
    "a link by Windows' names": [other_member("x.jpg", tarfile.SYMTYPE, "..\\x")],
    "a link to Windows' drive": [other_member("a/x.jpg", tarfile.SYMTYPE, "C:\\x")],
    "an absolute hard link": [other_member("x.jpg", tarfile.LNKTYPE, "/etc/passwd")],
    "a hard link to a parent": [other_member("a/b/x.jpg", tarfile.LNKTYPE, "../x")],
    "a way through a link": [
        other_member("x", tarfile.SYMTYPE, "/tmp"),
        file_member("x/y.jpg"),
    ],
    "a character device": [other_member("x.jpg", tarfile.CHRTYPE)],
    "a block device": [other_member("x.jpg", tarfile.BLKTYPE)],
    "a pipe": [other_member("x.jpg", tarfile.FIFOTYPE)],
    "an unknown kind": [other_member("x.jpg", b"Z")],
}


class TestHostileArchives:
    @pytest.mark.parametrize("escape", ESCAPES)
    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_escapes(self, server, tmp_path, escape, form, monkeypatch):
        monkeypatch.setattr(tarfile.TarFile, "format", form)
        good = server.files[OXFORD]
        server.files[OXFORD] = tgz(
            *(file_member(*item) for item in OXFORD_IMAGES.items()), *ESCAPES[escape]
        )
        with pytest.raises(UserError) as e:
            fetch(server, tmp_path / "a" / "b")
        name = ESCAPES[escape][0][0].name
        assert f"{OXFORD} cannot be used, and was deleted: its member {name!r} " in str(e.value)
        assert listing(tmp_path / "a" / "b") == NO_PICTURES
        # Nor is anything outside.
        files = [f.name for f in tmp_path.rglob("*") if f.is_symlink() or not f.is_dir()]
        assert sorted(files) == NO_PICTURES
        server.files[OXFORD] = good
        fetch(server, tmp_path / "a" / "b")
        assert images(tmp_path / "a" / "b") == OXFORD_IMAGES

    @pytest.mark.parametrize("name", ["big.jpg", "big.txt"])
    def test_too_large(self, server, tmp_path, monkeypatch, name):
        monkeypatch.setattr(download, "_MOST_BYTES", 1_000_000)
        server.files[OXFORD] = gzip.compress(tar(file_member(name, bytes(1_000_001))))
        assert len(server.files[OXFORD]) < 10_000
        with pytest.raises(UserError, match="it holds more than 1,000,000 bytes, which is refused"):
            fetch(server, tmp_path)
        assert listing(tmp_path) == NO_PICTURES

    def test_too_large_together(self, server, tmp_path, monkeypatch):
        sizes = [len(gzip.decompress(server.files[path])) for path in PARIS]
        monkeypatch.setattr(download, "_MOST_BYTES", sum(sizes) - 1)
        with pytest.raises(UserError, match=rf"2\.tgz .* more than {sizes[1] - 1:,} bytes"):
            fetch(server, tmp_path, "Paris6K")
        monkeypatch.setattr(download, "_MOST_BYTES", sum(sizes))
        fetch(server, tmp_path, "Paris6K")
        assert images(tmp_path, "paris6k") == PARIS_IMAGES

    def test_too_large_after_the_end(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(download, "_MOST_BYTES", 1_000_000)
        server.files[OXFORD] = gzip.compress(WHOLE + bytes(1_000_000), 1)
        with pytest.raises(UserError, match="more than 1,000,000 bytes"):
            fetch(server, tmp_path)

    def test_too_large_a_header(self, server, tmp_path):
        info, _ = other_member("x", tarfile.GNUTYPE_LONGNAME)
        info.size = 3 << 20
        server.files[OXFORD] = tgz((info, b"x" * info.size), file_member("y.jpg"))
        with pytest.raises(UserError, match="a header in it claims 3,145,728 bytes"):
            fetch(server, tmp_path)

    def test_too_large_by_holes(self, server, tmp_path):
        # One block of data at the start, and a file size of 1 TiB: PAX's sparse files, version 1.
        data = b"1\n0\n512\n".ljust(512, b"\0") + noise(512, 1)
        info, _ = file_member("GNUSparseFile.0/x.jpg", data)
        info.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
            "GNU.sparse.name": "x.jpg", "GNU.sparse.realsize": str(1 << 40),
        }  # fmt: skip
        server.files[OXFORD] = tgz((info, data))
        with pytest.raises(UserError, match="more than 8,589,934,592 bytes, which is refused"):
            fetch(server, tmp_path)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch executed",)


class TestGroundTruth:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (pickle.dumps(Hostile()), r"refused: \w+\.system"),
            (b"<html>", "damaged"),
            (pickle.dumps({"imlist": ["a"]}), "no 'qimlist' and no 'gnd'"),
            (truth(["a"], ["b"])[:-9], "damaged"),
        ],
    )
    def test_is_checked(self, server, tmp_path, monkeypatch, content, reason):
        monkeypatch.chdir(tmp_path)
        good, server.files[TRUTHS["ROxford5K"]] = server.files[TRUTHS["ROxford5K"]], content
        with pytest.raises(UserError, match=rf"gnd_roxford5k\.pkl is no ground truth.*{reason}"):
            fetch(server, tmp_path)
        assert listing(tmp_path) == []
        assert not (tmp_path / "executed").exists()
        server.files[TRUTHS["ROxford5K"]] = good
        fetch(server, tmp_path)
        assert listing(tmp_path) == COMPLETE

    def test_damaged_one_is_there(self, server, tmp_path):
        file = tmp_path / "oxford5k" / "gnd_roxford5k.pkl"
        file.parent.mkdir()
        file.write_bytes(b"?")
        with pytest.raises(UserError, match=rf"; delete {file} to have it fetched again"):
            fetch(server, tmp_path)
        assert server.requests == []


class TestRecords:
    def test_change_is_found(self, server, tmp_path):
        fetch(server, tmp_path)
        folder = tmp_path / "oxford5k"
        records = (folder / "downloads.json").read_text()
        (folder / "jpg").rename(tmp_path / "old")
        old = server.files[OXFORD]
        pictures = change_pictures(server)
        for _ in range(2):  # it stays found
            with pytest.raises(UserError) as e:
                fetch(server, tmp_path)
            message = str(e.value)
            assert f"{server.address}{OXFORD} is not what it was" in message
            assert hashlib.sha256(old).hexdigest() in message
            assert f"{len(old):,}" in message
            assert hashlib.sha256(server.files[OXFORD]).hexdigest() in message
            advice = f"if you want the change, delete {folder}/downloads.json, else {folder}/oxbui"
            assert advice in message
            assert (folder / "downloads.json").read_text() == records
            assert not (folder / "jpg").exists()
        # One way out: the change is wanted. What came is used as it is.
        assert starts(server) == [0, 0]
        (folder / "downloads.json").unlink()
        fetch(server, tmp_path)
        assert starts(server) == [0, 0]
        assert images(tmp_path) == pictures
        new = json.loads((folder / "downloads.json").read_text())
        assert (
            new["oxbuild_images.tgz"]["sha256"] == hashlib.sha256(server.files[OXFORD]).hexdigest()
        )

    def test_change_is_not_wanted(self, server, tmp_path):
        fetch(server, tmp_path)
        folder = tmp_path / "oxford5k"
        (folder / "gnd_roxford5k.pkl").unlink()
        path = TRUTHS["ROxford5K"]
        good, server.files[path] = server.files[path], truth(["hall_000000"], ["hall_000001"])
        with pytest.raises(UserError, match=r"gnd_roxford5k\.pkl is not what it was") as e:
            fetch(server, tmp_path)
        server.files[path] = good
        Path(re.search(r"else (\S+\.partial); then", str(e.value))[1]).unlink()
        fetch(server, tmp_path)
        assert (folder / "gnd_roxford5k.pkl").read_bytes() == good
        assert listing(tmp_path) == COMPLETE

    @pytest.mark.parametrize("content", ["{", "[]", '{"a": 3}', '{"a": {"size": 3}}'])
    def test_damaged_records(self, server, tmp_path, content):
        (tmp_path / "oxford5k").mkdir()
        (tmp_path / "oxford5k" / "downloads.json").write_text(content)
        with pytest.raises(UserError, match=r"downloads\.json is damaged: expected .*; delete it"):
            fetch(server, tmp_path)


# A run in a process of its own; {before} may prepare its end.
RUN = """
import os, resource, signal, sys
from pathlib import Path
from dir_jax.errors import UserError
from dir_jax.data.download import archives, download_dataset, transfer
import dir_jax.data.download as download
transfer._PAUSE = 0
def die_at(owner, name, number, done=False):
    function, calls = getattr(owner, name), []
    def dying(*args, **kwargs):
        calls.append(1)
        if done and len(calls) == number:
            function(*args, **kwargs)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    setattr(owner, name, dying)
{before}
try:
    bases = {{"pictures": sys.argv[2] + "/vgg", "ground_truth": sys.argv[2] + "/gnd"}}
    download_dataset("ROxford5K", sys.argv[1], base_urls=bases, progress=False)
except UserError as e:
    sys.exit(str(e))
"""


def start(server: Server, root: Path, before: str = "") -> subprocess.Popen[str]:
    code = RUN.format(before=before)
    command = [sys.executable, "-c", code, str(root), server.address]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


class TestKilledProcesses:
    def test_in_the_transfer(self, server, tmp_path):
        server.hold = threading.Event()
        cut_pictures(server, 123_456)
        part = tmp_path / "oxford5k" / "oxbuild_images.tgz.partial"
        with start(server, tmp_path) as process:
            deadline = time.monotonic() + 60
            while not part.exists() or part.stat().st_size < 123_456:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "oxford5k" / "jpg").exists()
        server.hold.set()
        server.requests.clear()
        server.sent = 0
        fetch(server, tmp_path)
        assert server.requests == [(OXFORD, "bytes=123456-")]
        assert server.sent == len(server.files[OXFORD]) - 123_456
        assert images(tmp_path) == OXFORD_IMAGES
        assert listing(tmp_path) == COMPLETE

    @pytest.mark.parametrize(
        ("before", "fetched"),
        [
            (
                "die_at(transfer, '_note', 2)",
                [TRUTHS["ROxford5K"]],
            ),  # begun, and nothing is known of it
            ("die_at(transfer, '_append', 2)", [TRUTHS["ROxford5K"]]),
            ("die_at(download, 'measure', 2)", [TRUTHS["ROxford5K"], OXFORD]),
            ("die_at(archives, '_extract', 5)", [TRUTHS["ROxford5K"], OXFORD]),
            ("die_at(archives, '_check_end', 1)", [TRUTHS["ROxford5K"], OXFORD]),
            ("die_at(download, '_keep_records', 2)", [TRUTHS["ROxford5K"], OXFORD]),
            ("die_at(Path, 'rename', 1)", [TRUTHS["ROxford5K"]]),
            ("die_at(Path, 'rename', 2)", [TRUTHS["ROxford5K"], OXFORD]),
            ("die_at(Path, 'rename', 2, True)", [TRUTHS["ROxford5K"], OXFORD]),
        ],
    )
    def test_at_a_step(self, server, tmp_path, before, fetched):
        with start(server, tmp_path, before) as process:
            process.wait(60)
        assert process.returncode == -signal.SIGKILL
        pictures = tmp_path / "oxford5k" / "jpg"
        assert pictures.exists() == ("True" in before)
        server.requests.clear()
        fetch(server, tmp_path)
        assert not set(server.paths) & set(fetched)
        assert images(tmp_path) == OXFORD_IMAGES

    def test_among_pictures_that_were_there(self, server, tmp_path):
        (tmp_path / "oxford5k" / "jpg").mkdir(parents=True)
        (tmp_path / "oxford5k" / "jpg" / "hall_000000.jpg").write_bytes(b"own")
        with start(server, tmp_path, "die_at(Path, 'rename', 5)") as process:
            process.wait(60)
        assert process.returncode == -signal.SIGKILL
        assert len(images(tmp_path)) == 1 + 3  # the first was the ground truth
        server.requests.clear()
        fetch(server, tmp_path)
        assert server.requests == []
        assert images(tmp_path) == OXFORD_IMAGES | {"hall_000000.jpg": b"own"}
        assert listing(tmp_path) == COMPLETE

    def test_another_process_is_at_it(self, server, tmp_path):
        (tmp_path / "oxford5k").mkdir()
        descriptor = os.open(tmp_path / "oxford5k", os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(UserError, match=r"another process is downloading into .*oxford5k"):
                fetch(server, tmp_path)
        finally:
            os.close(descriptor)
        assert server.requests == []
        fetch(server, tmp_path)
        fetch(server, tmp_path, "Oxford5K")  # the lock is given back


class TestDisks:
    def test_full_in_the_transfer(self, server, tmp_path):
        (tmp_path / "oxford5k").mkdir()
        (tmp_path / "oxford5k" / "oxbuild_images.tgz.partial").symlink_to("/dev/full")
        with pytest.raises(
            UserError, match=r"cannot read or write .*: No space left on device; mak"
        ):
            fetch(server, tmp_path)
        assert server.paths.count(OXFORD) == 1  # another attempt would be as vain
        assert not (tmp_path / "oxford5k" / "jpg").exists()

    def test_full_in_the_extraction(self, server, tmp_path):
        archive = tmp_path / "oxford5k" / "oxbuild_images.tgz"
        archive.parent.mkdir()
        archive.write_bytes(server.files[OXFORD])
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
        with start(server, tmp_path, limit) as process:
            message = process.stderr.read()
        assert process.returncode == 1
        assert re.fullmatch(r"cannot read or write \S*oxford5k\S*: File too large; .*\n", message)
        assert listing(tmp_path) == sorted([*NO_PICTURES, "oxbuild_images.tgz"])

    @pytest.mark.parametrize("root", ["/proc/nowhere", "/dev/null/sets"])
    def test_cannot_be_written(self, server, root):
        with pytest.raises(UserError, match=rf"cannot read or write {root}.*another folder than"):
            fetch(server, Path(root))
        assert server.requests == []

    def test_a_file_is_in_the_way(self, server, tmp_path):
        (tmp_path / "oxford5k").mkdir()
        (tmp_path / "oxford5k" / "jpg").write_text("")
        with pytest.raises(UserError, match=r"cannot read or write .*oxford5k/jpg"):
            fetch(server, tmp_path)


class TestCommand:
    def run(self, monkeypatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["download", *arguments])
        return __main__.main()

    def test_downloads(self, server, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(download, "BASE_URLS", server.base_urls)
        assert self.run(monkeypatch, "--dataset", "Paris6K", "--db-root", str(tmp_path)) == 0
        captured = capsys.readouterr()
        assert captured.out == f"Paris6K is complete under {tmp_path}\n"
        assert re.search(r"\rparis_2\.tgz:.*B/s\]", captured.err)
        assert images(tmp_path, "paris6k") == PARIS_IMAGES
        server.requests.clear()
        monkeypatch.setenv("DB_ROOT", str(tmp_path))
        assert self.run(monkeypatch, "--dataset", "Paris6K") == 0
        assert server.requests == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--dataset", "Paris6K"],
                r"--db-root is missing: .* export DB_ROOT=/path/to/datasets",
            ),
            (["--dataset", "Paris6K", "--db-root", ""], "--db-root is missing"),
            (
                ["--dataset", "Paris"],
                r"--dataset: invalid choice: 'Paris' \(choose from .*RParis6K",
            ),
            ([], "required: --dataset"),
            (["--dataset", "Paris6K", "extra"], "unrecognized arguments: extra"),
        ],
    )
    def test_mistakes(self, server, monkeypatch, capsys, arguments, message):
        assert self.run(monkeypatch, *arguments) == 2
        captured = capsys.readouterr()
        assert re.fullmatch(rf"error: .*{message}.*\n", captured.err)
        assert captured.out == ""

    def test_failure_is_one_line(self, server, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(download, "BASE_URLS", server.base_urls)
        server.files[OXFORD] = b"?"
        assert self.run(monkeypatch, "--dataset", "Oxford5K", "--db-root", str(tmp_path)) == 2
        lines = capsys.readouterr().err.split("\r")[-1].splitlines()
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
        assert cmp + TRUTHS["ROxford5K"].removeprefix("/gnd") == (
            "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test/roxford5k/gnd_roxford5k.pkl"
        )
