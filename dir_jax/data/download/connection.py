"""One HTTP request that ends even if the server never does.

requests' own timeout is for each read alone, and nothing limits `100 Continue`, trailers or the
body of a redirect. Here all bytes from the socket are counted in one place, which limits what comes
beside the content, and the time without progress.
"""

from __future__ import annotations

import http.client
import time
from typing import Any

import requests
import urllib3

PATIENCE = 30.0  # seconds in which a server must answer, and in which it must send PROGRESS
PROGRESS = 1 << 14  # bytes
_OVERHEAD = 1 << 18  # bytes that may come beside the content at once: headers, sizes of chunks


class TransferError(Exception):
    """An address does not give a usable file; the message says why."""


class BrokenError(TransferError):
    """An attempt ended early; another may bring the rest."""


class Connection(requests.adapters.HTTPAdapter):
    """requests' way to a server, with limits; for one request and its redirects."""

    def get(self, url: str, headers: dict[str, str]) -> requests.Response:
        """An answer with HTTP status 200, 206 or 416, whose body is still to be read.

        Raises:
          TransferError: the address is invalid or not offered, or redirects to one that is.
          BrokenError: the server does not answer, or not with HTTP, or reports a passing failure.
        """
        headers = {"User-Agent": "dir_jax", "Accept-Encoding": "identity", **headers}
        # Otherwise requests would read the whole body of a redirect.
        hooks = {"response": lambda answer, **_: answer.close() if answer.is_redirect else None}
        schemes = ("https://",) if url.startswith("https:") else ("https://", "http://")
        try:
            with requests.Session() as session:
                session.max_redirects = 10
                session.adapters = dict.fromkeys(schemes, self)  # none leads from https to http
                answer = session.get(
                    url, headers=headers, hooks=hooks, stream=True, timeout=PATIENCE
                )
        except (ValueError, requests.TooManyRedirects) as e:
            raise TransferError(f"{url} cannot be fetched ({_reason_of(e)})") from e
        except (OSError, urllib3.exceptions.HTTPError) as e:  # requests' errors are OSErrors
            raise BrokenError(f"no answer from {url} ({_reason_of(e)})") from e
        status = answer.status_code
        if status in (200, 206, 416):
            return answer
        answer.close()
        error = BrokenError if status >= 500 or status in (408, 425, 429) else TransferError
        raise error(f"{url} answers HTTP {status} {http.client.responses.get(status, '')}".rstrip())

    def read(self, answer: requests.Response, size: int) -> bytes:
        """At most `size` bytes of the body, as they were sent; none at its end.

        Raises:
          BrokenError: it ended early, came too slowly, or brought too much that is not content.
        """
        self._left = size + _OVERHEAD
        try:
            return answer.raw.read1(size, decode_content=False)
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as e:
            raise BrokenError(f"{answer.url} broke off ({_reason_of(e)})") from e

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """requests' own, whose answers are counted."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = type("_", (pool.ConnectionCls,), {"response_class": self._counted})
        return pool

    def _counted(self, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
        """http.client's answer, which counts what its socket receives."""
        answer = http.client.HTTPResponse(*args, **kwargs)
        socket: Any = answer.fp.raw
        receive = socket.readinto
        self._left, came, since = _OVERHEAD, 0, time.monotonic()

        def readinto(buffer: Any) -> int:
            nonlocal came, since
            size: int = receive(buffer) or 0
            self._left -= size
            came += size
            if self._left < 0:
                raise http.client.HTTPException(f"more than {_OVERHEAD:,} bytes of headers")
            if time.monotonic() > since + PATIENCE:
                if came < PROGRESS:
                    raise TimeoutError(f"only {came:,} bytes in {PATIENCE:g} seconds")
                came, since = 0, time.monotonic()
            return size

        socket.readinto = readinto
        return answer


def _reason_of(error: BaseException) -> str:
    """The first cause of an error of requests, in one line."""
    for inner in (error.__cause__, getattr(error, "reason", None), *error.args[-1:]):
        if isinstance(inner, BaseException):
            return _reason_of(inner)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)[:200]
