"""Servers that break off, change, refuse, lie, or never end."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
import requests

from dir_jax.data import download
from dir_jax.data.download import connection, download_dataset
from dir_jax.errors import UserError
from tests.data.download.serving import (
    BLURRED,
    CHANGED,
    CHANGED_IMAGES,
    NO_IMAGES,
    OXFORD,
    OXFORD_IMAGES,
    PARIS,
    TRUTH,
    TRUTHS,
    date_of,
    fetch,
    images,
    listing,
    tag_of,
)  # fmt: skip


class TestBrokenTransfers:
    def test_resume_where_they_stopped(self, server, tmp_path):
        size = len(server.files[OXFORD])
        places = sorted(random.Random(0).sample(range(0, size, 17_000), 12))  # more than attempts
        server.cut_images(*(b - a for a, b in zip([0, *places], places, strict=False)))
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES
        assert server.starts() == [0, *places]
        assert server.sent == size + len(server.files[TRUTH])

    @pytest.mark.parametrize("way", ["end", "reset", "silence", "no ranges"])
    def test_ways_to_break_off(self, server, tmp_path, monkeypatch, way):
        if way == "silence":
            monkeypatch.setattr(connection, "PATIENCE", 0.5)
            server.hold.clear()
        server.reset, server.ranges = way == "reset", way != "no ranges"
        server.cut_images(90_000)
        fetch(server, tmp_path)
        assert len(server.starts()) == 2
        assert way == "reset" or server.starts() == [0, 90_000]  # a reset can lose bytes
        assert images(tmp_path) == OXFORD_IMAGES

    def test_another_run_resumes(self, server, tmp_path):
        server.cut_images()
        with pytest.raises(UserError) as e:
            fetch(server, tmp_path)
        assert f"{server.address}{OXFORD} broke off (" in str(e.value)
        assert "5 times in a row (90,000 bytes are kept); run this again to resume" in str(e.value)
        part = tmp_path / "oxford5k" / "oxbuild_images.tgz.partial"
        assert part.read_bytes() == server.files[OXFORD][:90_000]
        assert server.starts() == [0] + [90_000] * 5
        server.recover()
        fetch(server, tmp_path)
        assert server.starts() == [90_000]
        assert images(tmp_path) == OXFORD_IMAGES

    def test_pauses_grow(self, server, tmp_path, monkeypatch):
        pauses: list[float] = []
        monkeypatch.setattr(download.fetch, "_PAUSE", 1.0)
        monkeypatch.setattr(time, "sleep", pauses.append)
        server.failures = [503] * 5
        with pytest.raises(UserError, match="pkl answers HTTP 503 Service Unavailable, 5 times in"):
            fetch(server, tmp_path)
        assert server.paths == [TRUTH] * 5
        assert pauses == [1, 2, 4, 8]

    def test_passing_failures(self, server, tmp_path):
        server.failures = [500, 503, 429, 408]
        fetch(server, tmp_path)
        assert server.paths == [TRUTH] * 5 + [OXFORD]

    def test_server_without_ranges_that_always_breaks_off(self, server, tmp_path):
        server.ranges = False
        server.cut_images(90_000, 80_000, 70_000, 120_000, *[120_000] * 20)
        with pytest.raises(UserError, match="5 times in a row"):
            fetch(server, tmp_path)
        assert len(server.starts()) == 4 + 5  # the fourth brought more than any before


class TestChangedFiles:
    @pytest.mark.parametrize("if_range", [True, False])
    @pytest.mark.parametrize("mark", ["etag", "date", "date beside a weak etag"])
    def test_are_not_mixed(self, server, tmp_path, mark, if_range):
        server.if_range = if_range
        old, tag, date = server.files[OXFORD], tag_of, date_of
        marks, validator = {
            "etag": (lambda c: {"ETag": tag(c)}, tag(old)),
            "date": (lambda c: {"Last-Modified": date(c)}, date(old)),
            "date beside a weak etag": (
                lambda c: {"ETag": f"W/{tag(c)}", "Last-Modified": date(c)}, date(old)
            ),
        }[mark]  # fmt: skip
        server.headers = lambda content, n: marks(content) | {"Content-Length": n}
        server.cut_images()
        with pytest.raises(UserError, match="5 times"):
            fetch(server, tmp_path)
        server.files[OXFORD] = CHANGED
        server.recover()
        fetch(server, tmp_path)
        assert images(tmp_path) == CHANGED_IMAGES
        assert server.starts() == ([90_000] if if_range else [90_000, 0])
        assert server.requests[0][2] == validator

    def test_without_a_validator(self, server, tmp_path):
        server.headers = lambda content, n: {"Content-Length": n}
        server.cut_images(*[90_000] * 5)
        with pytest.raises(UserError, match="5 times"):
            fetch(server, tmp_path)
        server.files[OXFORD] = CHANGED
        server.cuts.clear()
        fetch(server, tmp_path)
        assert server.starts() == [0] * 6
        assert images(tmp_path) == CHANGED_IMAGES

    @pytest.mark.parametrize(
        "content_range", [lambda t: None, lambda t: t.replace("bytes 9", "bytes 8"), lambda t: "?"]
    )
    def test_another_range_than_requested(self, server, tmp_path, content_range):
        server.content_range = content_range
        server.cut_images(90_000)
        fetch(server, tmp_path)
        assert server.starts() == [0, 90_000, 0]
        assert images(tmp_path) == OXFORD_IMAGES

    @pytest.mark.parametrize("entry", [None, {"url": "http://mirror/"}, {"size": 10**6}])
    def test_part_of_something_else(self, server, tmp_path, entry):
        part = tmp_path / "oxford5k" / "oxbuild_images.tgz.partial"
        part.parent.mkdir()
        part.write_bytes(server.files[OXFORD] + b"more")
        if entry is not None:
            known = {"url": server.address + OXFORD, "validator": tag_of(server.files[OXFORD])}
            records = json.dumps({part.name: known | entry})
            (part.parent / "downloads.json").write_text(records)
        fetch(server, tmp_path)
        longer = len(server.files[OXFORD]) + 4  # where the server has nothing more
        assert server.starts() == ([longer, 0] if entry and "size" in entry else [0])
        assert images(tmp_path) == OXFORD_IMAGES

    def test_unknown_length(self, server, tmp_path):
        server.headers = lambda content, n: {"ETag": tag_of(content)}
        fetch(server, tmp_path)
        assert images(tmp_path) == OXFORD_IMAGES


class TestRefusals:
    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_not_offered(self, server, tmp_path, status):
        for path in (OXFORD, BLURRED):
            server.scripts[path] = lambda handler: handler.send_error(status)
        with pytest.raises(UserError) as e:
            fetch(server, tmp_path)
        pictures = [f"{server.address}{path}" for path in (OXFORD, BLURRED)]
        for url in pictures:
            assert f"{url} answers HTTP {status} " in str(e.value)
        folder = tmp_path / "oxford5k"
        assert str(e.value).endswith(
            f"; put into {folder} by hand: {pictures[0]} (or {pictures[1]})"
        )
        assert server.paths == [TRUTH, OXFORD, BLURRED]

    def test_only_the_ground_truth_is_not_offered(self, server, tmp_path):
        fetch(server, tmp_path)
        del server.files[TRUTHS["Oxford5K"]]
        with pytest.raises(UserError, match=r"by hand: \S+/gnd_oxford5k\.pkl$"):
            fetch(server, tmp_path, "Oxford5K")

    def test_no_network(self, server, tmp_path):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            bases = {"pictures": f"{base}/vgg", "ground_truth": f"{base}/gnd"}
            with pytest.raises(UserError) as e:
                download_dataset("RParis6K", str(tmp_path), base_urls=bases)
        message = str(e.value)
        truth = base + TRUTHS["RParis6K"]
        assert f"no answer from {truth} (Connection refused), 5 times" in message
        assert f"put into {tmp_path}/paris6k by hand: {truth}, " in message
        for path in PARIS:
            assert f"{base}{path} (or {base}{path.replace('.tgz', '-v1.tgz')})" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        "base", ["http://no-such-host.invalid", "http://", "http://[::1", "http://x:y", "http://a..b",
                 "http://a b", "https://%zz", "httpx://a"],
    )  # fmt: skip
    def test_bad_hosts(self, server, tmp_path, base):
        refused(server, tmp_path, f"{base}/roxford5k/gnd", ground_truth=base)

    @pytest.mark.parametrize(
        "target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[::1", "http://x:y/", OXFORD]
    )
    def test_bad_redirects(self, server, tmp_path, target):
        server.redirect(TRUTH, TRUTH if target == OXFORD else target)  # in a circle
        refused(server, tmp_path, f"{TRUTH} cannot be fetched")
        assert len(server.requests) == (11 if target == OXFORD else 1)

    def test_redirects_from_https_to_http(self):
        def redirect(url: str) -> None:
            headers, closed = {"Location": "HTTP://x/"}, []
            connection._close_redirect(
                SimpleNamespace(
                    is_redirect=True, url=url, headers=headers, close=lambda: closed.append(1)
                )
            )
            assert closed

        redirect("http://x/")
        with pytest.raises(requests.exceptions.InvalidSchema, match="https to 'HTTP://x/'"):
            redirect("https://x/")


def refused(server, root, message: str, **bases: str) -> str:
    """Checks that a download fails with one short line, and leaves no file."""
    with pytest.raises(UserError) as e:
        download_dataset("ROxford5K", str(root), base_urls=server.base_urls | bases, progress=False)
    assert message in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 1000
    assert set(listing(root)) <= {"downloads.json", "gnd_roxford5k.pkl.partial"}
    return str(e.value)


class TestLies:
    def test_length_is_too_large(self, server, tmp_path):
        server.headers = lambda content, n: {"ETag": tag_of(content), "Content-Length": n + 7}
        refused(server, tmp_path, "gnd_roxford5k.pkl broke off (")

    def test_length_is_too_small(self, server, tmp_path):
        server.headers = lambda content, n: {"Content-Length": n - 7 if n > 10_000 else n}
        with pytest.raises(UserError, match=r"oxbuild_images\.tgz cannot be used, and was deleted"):
            fetch(server, tmp_path)
        assert listing(tmp_path) == NO_IMAGES

    @pytest.mark.parametrize("length", ["abc", "-5", "1_0", "9" * 5000, "5, 6", "٣"])
    def test_length_is_not_a_number(self, server, tmp_path, length):
        script(server, f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhello".encode())
        refused(server, tmp_path, "gnd_roxford5k.pkl")

    def test_validator_that_cannot_be_sent_back(self, server, tmp_path):
        server.headers = lambda content, n: {"ETag": '"\x01"', "Content-Length": n}
        server.cut_images(90_000)
        fetch(server, tmp_path)
        assert server.starts() == [0, 0]

    @pytest.mark.parametrize(
        "answer", [b"HTTP/9.9 hello\r\n\r\n", b"\x1b[2J\0\r\n\r\n", b"HTTP/1.1 999\r\n\r\n", b"",
                   b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                   b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n",
                   b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000],
    )  # fmt: skip
    def test_not_http(self, server, tmp_path, answer):
        script(server, answer)
        assert refused(server, tmp_path, "gnd_roxford5k.pkl ").isprintable()


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FOREVER = {
    "a status line": (b"HTTP", b"x" * 4096, "line"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "262,144 bytes of headers"),
    "a 100 Continue": (b"HTTP/1.1 100 Continue\r\n", b"a: b\r\n", "headers"),
    "headers": (OK, b"a: b\r\n", "headers"),
    "a body": (OK + b"\r\n", b"x" * 65536, "more than the 50,000 bytes"),
    "a body that is announced": (OK + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536,
                                 "has 1,000,000,000,000 bytes; at most 50,000 are accepted"),
    "chunks": (CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n", "more than the 50,000 bytes"),
    "the size of a chunk": (CHUNKED, b"1;" + b"x" * 4096, "broke off"),
    "a trailer": (CHUNKED + b"0\r\n", b"a: b\r\n" * 100, "262,144 bytes of headers"),
    "a refusal": (b"HTTP/1.1 404 No\r\n\r\n", b"x" * 65536, "answers HTTP 404 Not Found"),
    "a redirect": (b"HTTP/1.1 302 No\r\nLocation: ftp://x/\r\n\r\n", b"x" * 65536, "ftp://x/"),
}  # fmt: skip


def script(server, head: bytes, endless: bytes = b"", pause: float = 0, path: str = TRUTH):
    """Answers with bytes as they are; with `endless`, until the client has had enough."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while endless and not enough.is_set():
            handler.wfile.write(endless)
            if pause:
                time.sleep(pause)

    enough = threading.Event()
    server.scripts[path] = answer
    return enough


class TestServersThatNeverEnd:
    @pytest.mark.parametrize("case", FOREVER)
    def test_flood(self, server, tmp_path, monkeypatch, case):
        monkeypatch.setattr(download, "_MOST_TRUTH", 50_000)
        head, endless, message = FOREVER[case]
        enough = script(server, head, endless)
        refused(server, tmp_path, message)
        enough.set()

    @pytest.mark.parametrize("case", ["100 Continue", "headers", "a body", "chunks"])
    def test_drip(self, server, tmp_path, monkeypatch, case):
        """Each read brings something in time, but all of them together do not."""
        monkeypatch.setattr(connection, "PATIENCE", 0.1)
        monkeypatch.setattr(download.fetch, "_ATTEMPTS", 2)
        head, endless, _ = FOREVER[case]
        drop = b"x" if case == "a body" else endless[:25] if case == "100 Continue" else b"a"
        enough = script(server, head, drop, pause=0.02)
        message = refused(server, tmp_path, "2 times in a row")
        enough.set()
        assert "bytes in 0.1 seconds" in message or "timed out" in message

    def test_slow_but_good(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(connection, "PATIENCE", 0.05)
        content = server.files[OXFORD]

        def answer(handler):
            handler.send_response(200)
            handler.end_headers()
            for i in range(0, len(content), 30_000):
                time.sleep(0.02)
                handler.wfile.write(content[i : i + 30_000])

        server.scripts[OXFORD] = answer
        fetch(server, tmp_path)
        assert server.starts() == [0]
