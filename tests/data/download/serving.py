"""Small data sets on a server of this machine, which breaks, lies and changes as real ones do."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import pickle
import random
import re
import socket
import struct
import tarfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dir_jax.data.download import DOWNLOADABLE, download_dataset
from dir_jax.errors import UserError

OXFORD = "/vgg/oxbuildings/oxbuild_images.tgz"
BLURRED = "/vgg/oxbuildings/oxbuild_images-v1.tgz"
PARIS = ("/vgg/parisbuildings/paris_1.tgz", "/vgg/parisbuildings/paris_2.tgz")
TRUTHS = {name: f"/gnd/{name.lower()}/gnd_{name.lower()}.pkl" for name in DOWNLOADABLE}
TRUTH = TRUTHS["ROxford5K"]


def noise(size: int, seed: object) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def member(name: str, content: bytes = b"picture", kind: bytes = tarfile.REGTYPE, target: str = ""):
    """A member of a tar: its header and its content, which only regular files have."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    content = content if kind == tarfile.REGTYPE else b""
    info.size = len(content)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tgz(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Always the same bytes, and as many for members of the same sizes."""
    return gzip.compress(tar(*members), 0, mtime=0)


def truth(names: list[str], queries: list[str]) -> bytes:
    gnd = [{"bbx": [0, 0, 5, 5], "ok": [0], "junk": []} for _ in queries]
    return pickle.dumps({"imlist": names, "qimlist": queries, "gnd": gnd}, protocol=2)


# A tar has blocks of 512 bytes: sizes around a block's, and some larger than one read.
OXFORD_IMAGES = {
    f"hall_{i:06}.jpg": noise(size, i)
    for i, size in enumerate((1, 511, 512, 513, 8192, 70_000, 0, 130_000))
}
PARIS_IMAGES = {f"paris_louvre_{i:06}.jpg": noise(3000 + i, f"p{i}") for i in range(6)}
OXFORD_MEMBERS = [member(f"./{name}", content) for name, content in OXFORD_IMAGES.items()]
CHANGED_IMAGES = {name: content[::-1] for name, content in OXFORD_IMAGES.items()}
CHANGED = tgz(*(member(f"./{name}", content) for name, content in CHANGED_IMAGES.items()))


def tag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def date_of(content: bytes) -> str:
    return f"Mon, 03 Jan 2022 00:00:{hashlib.md5(content).digest()[0] % 60:02} GMT"


class Server:
    """Files over HTTP, what may go wrong with that, and a folder that they are fetched into.

    Attributes:
      root: the folder of the data sets; `folder` is Oxford's.
      files: the content of each path; others are HTTP 404.
      scripts: for each path, what is done instead of serving a file.
      requests: the path, Range and If-Range of each request.
      sent: the number of bytes of bodies that were sent.
      cuts: after how many bytes each of the next answers breaks off.
      failures: the statuses of the next answers.
      pause: seconds before each 4 KB of a body.
      reset: break off with a reset instead of an orderly end.
      hold: once a cut is reached, wait for this before breaking off.
      ranges, if_range: whether these headers are heeded.
      headers: the headers of an answer, from the content and the number of bytes sent.
      content_range: the value of Content-Range, from the true one.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "oxford5k"
        names = [name.removesuffix(".jpg") for name in OXFORD_IMAGES]
        paris = [name.removesuffix(".jpg") for name in PARIS_IMAGES]
        halves = [member(f"paris/louvre/{n}", c) for n, c in PARIS_IMAGES.items()]
        self.files = {
            OXFORD: tgz(*OXFORD_MEMBERS),
            PARIS[0]: tgz(member("paris/", kind=tarfile.DIRTYPE), *halves[::2]),
            PARIS[1]: tgz(*halves[1::2]),
            TRUTHS["Oxford5K"]: truth(names, names[:3]),
            TRUTHS["ROxford5K"]: truth(names[:4], names[4:]),
            TRUTHS["Paris6K"]: truth(paris, paris[:1]),
            TRUTHS["RParis6K"]: truth(paris[1:], paris[:1]),
        }
        self.scripts: dict[str, Callable[[BaseHTTPRequestHandler], object]] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.sent, self.pause = 0, 0.0
        self.cuts: list[int] = []
        self.failures: list[int] = []
        self.reset, self.hold = False, threading.Event()
        self.hold.set()
        self.ranges = self.if_range = True
        self.headers = lambda content, n: {"ETag": tag_of(content), "Content-Length": n}
        self.content_range = lambda text: text
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

    def fetch(self, name: str = "ROxford5K", **bases: str) -> None:
        """Downloads a data set into `root`."""
        bases = self.base_urls | bases
        download_dataset(name, str(self.root), base_urls=bases)

    def fails(self, message: str = ".", name: str = "ROxford5K", **bases: str) -> str:
        """Checks that a download fails with one short line that has a pattern; returns the line."""
        with pytest.raises(UserError, match=message) as e:
            self.fetch(name, **bases)
        assert str(e.value).isprintable()
        assert len(str(e.value)) < 1000
        return str(e.value)

    def images(self, folder: str = "oxford5k") -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (self.root / folder / "jpg").iterdir()}

    def listing(self, folder: str = "oxford5k") -> list[str]:
        """The names in a data set's folder, but for the lock."""
        names = sorted(file.name for file in (self.root / folder).iterdir())
        return [name for name in names if name != ".download.lock"]

    def records(self, folder: str = "oxford5k") -> dict[str, dict]:
        return json.loads((self.root / folder / "downloads.json").read_text())

    @property
    def paths(self) -> list[str]:
        return [path for path, *_ in self.requests]

    def starts(self, path: str = OXFORD) -> list[int]:
        """The first byte that each request for a file asked for."""
        wanted = [r for p, r, _ in self.requests if p == path]
        return [int(re.fullmatch(r"bytes=(\d+)-", r)[1]) if r else 0 for r in wanted]

    def cut_images(self, *cuts: int) -> None:
        """Sends the ground truth whole, then breaks off; without `cuts`, as often as is tried."""
        self.cuts = [10**9, *(cuts or [90_000, 0, 0, 0, 0, 0])]

    def recover(self) -> None:
        """Serves whole files again, and forgets what happened before."""
        self.cuts, self.requests, self.sent, self.failures = [], [], 0, []

    def redirect(self, path: str, target: str) -> None:
        answer = f"HTTP/1.1 301 Moved\r\nLocation: {target}\r\n\r\n".encode()
        self.scripts[path] = lambda handler: handler.wfile.write(answer)

    def close(self) -> None:
        self.hold.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> object:
        path, wanted, version = (handler.path, *map(handler.headers.get, ("Range", "If-Range")))
        self.requests.append((path, wanted, version))
        if path in self.scripts:
            return self.scripts[path](handler)
        if self.failures or path not in self.files:
            return handler.send_error(self.failures.pop(0) if self.failures else 404)
        content = self.files[path]
        if not self.ranges or (self.if_range and version not in self.headers(content, 0).values()):
            wanted = None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        beyond = start >= len(content) > 0
        handler.send_response(416 if beyond else 206 if wanted else 200)
        body = b"" if beyond else content[start:]
        headers = self.headers(content, len(body))
        if wanted:
            spans = "*" if beyond else f"{start}-{len(content) - 1}"
            headers["Content-Range"] = self.content_range(f"bytes {spans}/{len(content)}")
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name, str(value))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts and not beyond else None
        body = body[:cut]
        for i in range(0, len(body), 4096):
            time.sleep(self.pause)
            handler.wfile.write(body[i : i + 4096])
            self.sent += len(body[i : i + 4096])
        if cut is not None:
            self.hold.wait(60)
            if self.reset:
                linger = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return None


COMPLETE = ["downloads.json", "gnd_roxford5k.pkl", "jpg"]
NO_IMAGES = ["downloads.json", "gnd_roxford5k.pkl"]
