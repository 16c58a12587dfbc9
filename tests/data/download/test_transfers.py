"""Servers that break off, change, refuse, lie, or never end."""

from __future__ import annotations

import io
import json
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler

import pytest
import requests
import urllib3

from dir_jax.data import download
from dir_jax.data.download import connection
from tests.data.download import serving
from tests.data.download.serving import BLURRED, NO_IMAGES, OXFORD, OXFORD_IMAGES, PARIS, TRUTH


class TestBrokenTransfers:
    def test_resume_where_they_stopped(self, server):
        size = len(server.files[OXFORD])
        places = sorted(random.Random(0).sample(range(0, size, 17_000), 12))  # more than attempts
        server.cut_images(*(b - a for a, b in zip([0, *places], places, strict=False)))
        server.fetch()
        assert server.images() == OXFORD_IMAGES
        assert server.starts() == [0, *places]
        assert server.sent == size + len(server.files[TRUTH])

    @pytest.mark.parametrize("way", ["end", "reset", "silence", "no ranges"])
    def test_ways_to_break_off(self, server, monkeypatch, way):
        if way == "silence":
            monkeypatch.setattr(connection, "PATIENCE", 0.5)
            server.hold.clear()
        server.reset, server.ranges = way == "reset", way != "no ranges"
        server.cut_images(90_000)
        server.fetch()
        assert len(server.starts()) == 2
        assert way == "reset" or server.starts() == [0, 90_000]  # a reset can lose bytes
        assert server.images() == OXFORD_IMAGES

    def test_another_run_resumes(self, server):
        server.cut_images()
        message = server.fails(rf"{server.address}{OXFORD} broke off \(")
        assert "5 times in a row (90,000 bytes are kept); run this again later" in message
        part = server.folder / "oxbuild_images.tgz.partial"
        assert part.read_bytes() == server.files[OXFORD][:90_000]
        assert server.starts() == [0] + [90_000] * 5
        server.recover()
        server.fetch()
        assert server.starts() == [90_000]
        assert server.images() == OXFORD_IMAGES

    def test_pauses_grow(self, server, monkeypatch):
        pauses: list[float] = []
        monkeypatch.setattr(download.fetch, "_PAUSE", 1.0)
        monkeypatch.setattr(time, "sleep", pauses.append)
        server.failures = [503] * 5
        server.fails("pkl answers HTTP 503 Service Unavailable, 5 times in")
        assert server.paths == [TRUTH] * 5
        assert pauses == [1, 2, 4, 8]

    def test_passing_failures(self, server):
        server.failures = [500, 503, 429, 408]
        server.fetch()
        assert server.paths == [TRUTH] * 5 + [OXFORD]

    def test_server_without_ranges_that_always_breaks_off(self, server):
        server.ranges = False
        server.cut_images(90_000, 80_000, 70_000, 120_000, *[120_000] * 20)
        server.fails("5 times in a row")
        assert len(server.starts()) == 4 + 5  # the fourth brought more than any before


# What a server says about the version of a file.
MARKS = {
    "etag": lambda c: {"ETag": serving.tag_of(c)},
    "date": lambda c: {"Last-Modified": serving.date_of(c)},
    "date beside a weak etag":
        lambda c: {"ETag": f"W/{serving.tag_of(c)}", "Last-Modified": serving.date_of(c)},
    "nothing": lambda c: {},
}  # fmt: skip


class TestChangedFiles:
    @pytest.mark.parametrize("if_range", [True, False])
    @pytest.mark.parametrize("mark", MARKS)
    def test_are_not_mixed(self, server, mark, if_range):
        server.if_range = if_range
        validator = [None, *MARKS[mark](server.files[OXFORD]).values()][-1]
        start = 90_000 if validator else 0
        server.headers = lambda content, n: MARKS[mark](content) | {"Content-Length": n}
        server.cut_images(90_000, *[90_000 - start] * 5)
        server.fails("5 times")
        server.files[OXFORD] = serving.CHANGED
        server.recover()
        server.fetch()
        assert server.images() == serving.CHANGED_IMAGES
        assert server.starts() == ([start] if if_range or not validator else [start, 0])
        assert server.requests[0][2] == validator

    @pytest.mark.parametrize(
        "content_range", [lambda t: None, lambda t: t.replace("bytes 9", "bytes 8"), lambda t: "?"]
    )
    def test_another_range_than_requested(self, server, content_range):
        server.content_range = content_range
        server.cut_images(90_000)
        server.fetch()
        assert server.starts() == [0, 90_000, 0]
        assert server.images() == OXFORD_IMAGES

    @pytest.mark.parametrize("entry", ["none", "another address", "longer than the server's"])
    def test_part_of_something_else(self, server, entry):
        name, content = "oxbuild_images.tgz.partial", server.files[OXFORD]
        url = "http://mirror/" if entry == "another address" else server.address + OXFORD
        known = {name: {"url": url, "validator": serving.tag_of(content), "size": 10**6}}
        server.folder.mkdir()
        (server.folder / name).write_bytes(content + b"more")
        (server.folder / "downloads.json").write_text(json.dumps({} if entry == "none" else known))
        server.fetch()
        assert server.starts() == ([len(content) + 4, 0] if "longer" in entry else [0])
        assert server.images() == OXFORD_IMAGES

    def test_unknown_length(self, server):
        server.headers = lambda content, n: MARKS["etag"](content)
        server.fetch()
        assert server.images() == OXFORD_IMAGES


class TestRefusals:
    def test_a_page_instead_of_the_file(self, server):
        server.cut_images(90_000, 0, 0, 0, 0, 0)
        server.fails("90,000 bytes are kept")
        server.recover()
        files = dict(server.files)
        server.files[OXFORD] = b"<html><title>Please log in</title></html>"
        server.fails(
            f"^{server.address}{OXFORD} gives a page, 'Please log in', instead of the file; "
        )
        server.recover()
        server.files = files
        server.fetch()
        assert server.starts() == [90_000]  # what was there is still there

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_not_offered(self, server, status):
        server.scripts = dict.fromkeys((OXFORD, BLURRED), lambda h: h.send_error(status))
        message = server.fails()
        pictures = [f"{server.address}{path}" for path in (OXFORD, BLURRED)]
        for url in pictures:
            assert f"{url} answers HTTP {status} " in message
        assert f"fetch what {server.folder} lacks yourself: " in message
        assert message.endswith(f"{server.address}{TRUTH}, {pictures[0]} (or {pictures[1]})")
        assert server.paths == [TRUTH, OXFORD, BLURRED]

    def test_no_network(self, server):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            bases = {"pictures": f"{base}/vgg", "ground_truth": f"{base}/gnd"}
            message = server.fails(".", "RParis6K", **bases)
        truth = base + serving.TRUTHS["RParis6K"]
        assert f"no answer from {truth} (Connection refused), 5 times" in message
        assert f"fetch what {server.root}/paris6k lacks yourself: {truth}, " in message
        for path in PARIS:
            assert f"{base}{path} (or {base}{path.replace('.tgz', '-v1.tgz')})" in message

    @pytest.mark.parametrize(
        "base", ["http://no-such-host.invalid", "http://", "http://[::1", "http://x:y", "http://a..b",
                 "http://a b", "https://%zz", "httpx://a"],
    )  # fmt: skip
    def test_bad_hosts(self, server, base):
        assert f"{base}/roxford5k/gnd" in refused(server, ground_truth=base)

    @pytest.mark.parametrize(
        "target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[::1", "http://x:y/", TRUTH]
    )
    def test_bad_redirects(self, server, target):
        server.redirect(TRUTH, target)
        refused(server, f"{TRUTH} cannot be fetched")
        assert len(server.requests) == (11 if target == TRUTH else 1)  # it is a circle

    def test_redirects_to_http(self, monkeypatch):
        """They are followed, but not from https."""
        asked: list[str] = []

        def send(self, request, **kwargs):
            asked.append(request.url)
            answer = requests.Response()
            answer.status_code = 200 if request.url == "http://x/2" else 301
            answer.headers["Location"] = "HTTP://x/2"
            answer.url, answer.request = request.url, request
            answer.raw = urllib3.HTTPResponse(io.BytesIO(), preload_content=False)
            return answer

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
        connection.Connection().get("http://x/1", {})
        with pytest.raises(connection.TransferError, match="https://x/1 cannot be fetched"):
            connection.Connection().get("https://x/1", {})
        assert asked == ["http://x/1", "http://x/2", "https://x/1"]


def refused(server, message: str = ".", **bases: str) -> str:
    """Checks that a ground truth is not fetched, and leaves no file; returns the message."""
    found = server.fails(".", **bases)
    assert {*server.listing()} <= {"downloads.json", "gnd_roxford5k.pkl.partial"}
    return found


class TestLies:
    def test_length_is_too_large(self, server):
        server.headers = lambda content, n: {"ETag": "a", "Content-Length": n + 7}
        refused(server, "gnd_roxford5k.pkl broke off (")

    def test_length_is_too_small(self, server):
        server.headers = lambda content, n: {"Content-Length": n - 7 if n > 10_000 else n}
        server.fails(r"oxbuild_images\.tgz cannot be used, and was deleted")
        assert server.listing() == NO_IMAGES

    def test_validator_that_cannot_be_sent_back(self, server):
        server.headers = lambda content, n: {"ETag": '"\x01"', "Content-Length": n}
        server.cut_images(90_000)
        server.fetch()
        assert server.starts() == [0, 0]

    @pytest.mark.parametrize(
        "answer", [*(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhello".encode()
                     for length in ("abc", "-5", "1_0", "9" * 5000, "5, 6", "٣")),
                   b"HTTP/9.9 hello\r\n\r\n", b"\x1b[2J\0\r\n\r\n", b"HTTP/1.1 999\r\n\r\n", b"",
                   b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                   b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n",
                   b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000],
    )  # fmt: skip
    def test_not_http(self, server, answer):
        script(server, answer)
        refused(server, "gnd_roxford5k.pkl ")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
FOREVER = {
    "a status line": (b"HTTP", b"x" * 4096, "line"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "262,144 bytes of headers"),
    "a 100 Continue": (b"HTTP/1.1 100 Continue\r\n", b"a: b\r\n", "headers"),
    "headers": (OK, b"a: b\r\n", "headers"),
    "a body": (OK + b"\r\n", b"x" * 65536, "more than the 50,000 bytes"),
    "a body that is announced": (OK + b"Content-Length: 1000000000000\r\n\r\n", b"x" * 65536,
                                 "'1000000000000'; at most 50,000 are accepted"),
    "chunks": (CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n", "more than the 50,000 bytes"),
    "the size of a chunk": (CHUNKED, b"1;" + b"x" * 4096, "broke off"),
    "a trailer": (CHUNKED + b"0\r\n", b"a: b\r\n" * 100, "262,144 bytes of headers"),
    "a refusal": (b"HTTP/1.1 404 No\r\n\r\n", b"x" * 65536, "answers HTTP 404 Not Found"),
    "a redirect": (b"HTTP/1.1 302 No\r\nLocation: ftp://x/\r\n\r\n", b"x" * 65536, "ftp://x/"),
}  # fmt: skip


def script(server, head: bytes, endless: bytes = b"", pause: float = 0) -> threading.Event:
    """Answers with bytes as they are; with `endless`, until the client has had enough."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while endless and not enough.is_set():
            handler.wfile.write(endless)
            if pause:
                time.sleep(pause)

    enough = threading.Event()
    server.scripts[TRUTH] = answer
    return enough


class TestServersThatNeverEnd:
    @pytest.mark.parametrize("case", FOREVER)
    def test_flood(self, server, monkeypatch, case):
        monkeypatch.setattr(download, "_MOST_TRUTH", 50_000)
        head, endless, message = FOREVER[case]
        enough = script(server, head, endless)
        refused(server, message)
        enough.set()

    @pytest.mark.parametrize("case", ["100 Continue", "headers", "a body", "chunks"])
    def test_drip(self, server, monkeypatch, case):
        """Each read brings something in time, but all of them together do not."""
        monkeypatch.setattr(connection, "PATIENCE", 0.1)
        monkeypatch.setattr(download.fetch, "_ATTEMPTS", 2)
        head, endless, _ = FOREVER[case]
        drop = b"x" if case == "a body" else endless[:25] if case == "100 Continue" else b"a"
        enough = script(server, head, drop, pause=0.02)
        message = refused(server, "2 times in a row")
        enough.set()
        assert "bytes in 0.1 seconds" in message or "timed out" in message

    def test_slow_but_good(self, server, monkeypatch):
        monkeypatch.setattr(connection, "PATIENCE", 0.2)
        server.pause = 0.01
        server.fetch()
        assert server.starts() == [0]
