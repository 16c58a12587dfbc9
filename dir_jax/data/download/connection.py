"""One request with requests, which ends even if the server never does.

requests' own time limit is for each read alone, and nothing limits `100 Continue` or the body of a
redirect. Here what a socket receives is limited in bytes beside the content, and in time.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import Any

import requests

PATIENCE = 30.0  # seconds in which a server must answer, and in which it must send PROGRESS
PROGRESS = 1 << 14  # bytes
_OVERHEAD = 1 << 18  # bytes that may come beside the content at once: headers, sizes of chunks


class Connection(requests.adapters.HTTPAdapter):
    """requests' way to a server, with limits; for one request and its redirects."""

    _stream: _Stream  # of the latest answer

    def get(self, url: str, headers: dict[str, str]) -> requests.Response:
        """Sends a request; the body of the answer is left to `read`.

        Raises:
          ValueError: the address is invalid, or redirects to one that is, or from https to http.
          OSError: there is no answer, or it is not HTTP.
        """
        with requests.Session() as session:
            session.max_redirects = 10
            session.mount("http://", self)
            session.mount("https://", self)
            hooks = {"response": _close_redirect}
            return session.get(url, headers=headers, hooks=hooks, stream=True, timeout=PATIENCE)

    def read(self, response: requests.Response, size: int) -> bytes:
        """At most `size` bytes of the body, as they were sent; none at its end.

        Raises:
          OSError, http.client.HTTPException, urllib3.exceptions.HTTPError: it ended early, came too
            slowly, or brought too much that is not content.
        """
        self._stream.left = size + _OVERHEAD
        return response.raw.read1(size, decode_content=False)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """requests' own, whose connections are read through `_Stream`."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        connection = self

        class Response(http.client.HTTPResponse):
            def __init__(self, *args: Any, **kwargs: Any):
                super().__init__(*args, **kwargs)
                connection._stream = _Stream(self.fp.detach())
                self.fp: Any = io.BufferedReader(connection._stream)

        pool.ConnectionCls = type("Watched", (pool.ConnectionCls,), {"response_class": Response})
        return pool


class _Stream(io.RawIOBase):
    """What a socket receives.

    Attributes:
      left: the number of bytes that may still come.
    """

    def __init__(self, stream: Any):
        self.left = _OVERHEAD
        self._stream = stream
        self._came, self._since = 0, time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size: int = self._stream.readinto(buffer) or 0
        self.left -= size
        self._came += size
        if self.left < 0:
            raise http.client.HTTPException(f"more than {_OVERHEAD:,} bytes of headers")
        if time.monotonic() > self._since + PATIENCE:
            if self._came < PROGRESS:
                raise TimeoutError(f"only {self._came:,} bytes in {PATIENCE:g} seconds")
            self._came, self._since = 0, time.monotonic()
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


def _close_redirect(response: requests.Response, **_: Any) -> None:
    """Keeps requests from reading the body of a redirect, and from leaving https."""
    if response.is_redirect:
        target = response.headers["Location"]
        response.close()
        if response.url.startswith("https:") and target.lower().startswith("http:"):
            raise requests.exceptions.InvalidSchema(f"a redirect from https to {target[:100]!r}")


def reason_of(error: BaseException) -> str:
    """The first cause of an error of requests, in one line."""
    for inner in (error.__cause__, getattr(error, "reason", None), *error.args[-1:]):
        if isinstance(inner, BaseException):
            return reason_of(inner)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)[:200]
