"""Headless Chromium, controlled through a pipe: no driver, no port, no network."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dir_jax.data.labelled import LabelledDataset

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "headless_shell",
)
_PATIENCE = 60  # seconds, for an answer; the machine may be busy

_READ = """
[...document.querySelectorAll('article')]
  .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
  .map(article => ({
    name: article.querySelector('h3').textContent,
    aps: [...article.querySelectorAll('.aps > div')].map(e => e.innerText.replace(/\\s+/g, ' ')),
    results: [...article.querySelectorAll('.results li')].map(li => {
      const marks = [...li.querySelectorAll('.verdict')].filter(e => e.checkVisibility());
      const frame = getComputedStyle(marks[0], '::before');
      return {
        marks: marks.map(e => e.innerText),
        frame: [frame.borderTopColor, frame.borderTopStyle, frame.borderTopWidth],
        score: li.querySelector('.score').innerText,
        name: li.querySelector('.name').title,
        missing: !!li.querySelector('.missing'),
      };
    }),
  }))
"""
_DECODE = """
Promise.all([...document.images].map(async image => {
  image.loading = 'eager';
  await image.decode();
  return [image.naturalWidth, image.naturalHeight, image.alt];
}))
"""


class Browser:
    """A Chromium with one page open, which records its complaints and requests.

    Attributes:
      complaints: the console's messages, uncaught exceptions and log entries since `load`.
      requests: the addresses requested since `load`, except the page's own and data: URIs.
    """

    def __init__(self, program: str, profile: Path):
        # Chromium reads commands from descriptor 3 and answers on 4, a NUL after each.
        from_us, self._to_chromium = map(_high, os.pipe())
        self._from_chromium, to_us = map(_high, os.pipe())
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{from_us} 4>&{to_us}',
                "bash",
                program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self._page = ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def load(
        self, page: Path, *, width: int = 1280, height: int = 1000, dark: bool = False
    ) -> None:
        """Opens a file in a window of the given size and waits until it is loaded."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints, self.requests = [], []
        self._page, self._loaded = page.as_uri(), False
        self.command("Page.navigate", url=self._page)
        deadline = time.monotonic() + _PATIENCE
        while not self._loaded:
            self._receive(deadline)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        result = self.command(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._to_chromium)  # upon which Chromium ends
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from_chromium)

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command of the DevTools protocol and waits for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_chromium, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = max(deadline - time.monotonic(), 0)
            assert select.select([self._from_chromium], [], [], left)[0], "Chromium does not answer"
            chunk = os.read(self._from_chromium, 1 << 20)
            assert chunk, f"Chromium ended, with status {self._process.wait()}"
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, params: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(params))
        elif event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url != self._page and not url.startswith("data:"):
                self.requests.append(url)


class ReportBrowser(Browser):
    """A browser that knows the parts of a report."""

    def load(self, page: Path, **options: Any) -> None:
        """Loads a page and lays out all of it, not only the part in the window."""
        super().load(page, **options)
        self.evaluate(
            "document.querySelectorAll('article')"
            ".forEach(e => e.style.contentVisibility = 'visible')"
        )

    def assert_quiet(self) -> None:
        """Checks that there is no complaint, no request and no sideways scrolling."""
        assert not self.complaints
        assert not self.requests
        assert self.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def articles(self) -> list[dict[str, Any]]:
        """What each query shows at the chosen level, from the top of the page to the bottom."""
        return self.evaluate(_READ)

    def decoded_images(self) -> list[list[Any]]:
        """Width, height and alternative text of each picture, once it is decoded."""
        return self.evaluate(_DECODE)


def _high(descriptor: int) -> int:
    """The same descriptor under a number above 4; Chromium uses 3 and 4."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return copy


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportBrowser]:
    """One browser for all tests."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium to load the page in (looked for {', '.join(_NAMES)})")
    chromium = ReportBrowser(program, tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


def _write_images(folder: Path, names: list[str]) -> None:
    """Writes JPEG files of one colour each, in four sizes, each with a comment."""
    rng = np.random.default_rng(len(names))
    for i, name in enumerate(names):
        size = [(300, 200), (200, 300), (40, 30), (900, 12)][i % 4]
        image = Image.new("RGB", size, tuple(rng.integers(0, 256, 3).tolist()))
        image.save(folder / name, "JPEG", comment=b"whose secret is this")


@pytest.fixture(scope="session", name="write_images")
def writer_of_images() -> Callable[[Path, list[str]], None]:
    """A function that writes JPEG files with the given names to a folder."""
    return _write_images


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The input of pages of labelled images: 130 names of twelve files."""
    folder = tmp_path_factory.mktemp("labelled")
    files = [f"{i}.jpg" for i in range(12)]
    _write_images(folder, files)
    labels = [f"<class {i % 5}>" for i in range(130)]
    queries = LabelledDataset(
        ["0.jpg", "1.jpg"],
        ["<class 3>", "only here"],
        str(folder),
        [f"<class {i}>" for i in range(5)] + ["only here"],
    )
    names = [files[i % 12] for i in range(130)]
    return {"folder": folder, "names": names, "labels": labels, "queries": queries}
