"""What is refused before anything is looked at, and what browsers are told with each answer."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dir_jax.errors import UserError, quoted, shown

# The page runs its own script and style, and shows pictures of its own and of the user's.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI writes styles into its elements.
_POLICY_OF_DOCS = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def check_origin(text: str) -> str:
    """An origin such as https://photos.example.org, as browsers write it.

    Raises:
      UserError: it is not one.
    """
    try:
        parts = urlsplit(text.rstrip("/").lower())
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or text.rstrip("/").lower() != f"{parts.scheme}://{parts.netloc}":
        raise UserError(f"--allow-origin is {quoted(text)}; expected such as https://example.org")
    usual = {"http": ":80", "https": ":443"}[parts.scheme]  # which browsers leave out
    return text.rstrip("/").lower().removesuffix(usual)


class Guard:
    """Refuses requests that another site has a browser make, and those for another host.

    A name that somebody makes point to this machine (DNS rebinding) is another host: only
    addresses, this machine's names and the allowed origins' names are not.
    """

    def __init__(self, app: ASGIApp, host: str, origins: Iterable[str]):
        """`host` is the one that is listened on; `origins` may ask, too, from `check_origin`."""
        self._app, self._origins = app, frozenset(origins)
        self._hosts = {"localhost", host.lower(), socket.gethostname().lower()}
        self._hosts |= {urlsplit(origin).hostname or "" for origin in self._origins}
        self._policy = "cross-origin" if self._origins else "same-origin"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            docs = scope["path"].startswith("/docs")

            async def send_more(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    headers.update(_HEADERS)
                    headers["Content-Security-Policy"] = _POLICY_OF_DOCS if docs else _POLICY
                    headers["Cross-Origin-Resource-Policy"] = self._policy
                await send(message)

            status, problem = self._problem(Headers(scope=scope), scope["method"])
            answer = JSONResponse({"error": problem}, status) if problem else self._app
            await answer(scope, receive, send_more)
        else:
            await self._app(scope, receive, send)

    def _problem(self, headers: Headers, method: str) -> tuple[int, str]:
        host, referer = headers.get("host", "").lower(), headers.get("referer", "").lower()
        try:
            name = urlsplit(f"//{host}").hostname or ""
            before = "://".join(urlsplit(referer)[:2])
        except ValueError:
            return 400, "the host or the referer of the request is not an address"
        if name not in self._hosts and not _is_address(name):
            return 421, f"there is no host {shown(name)} here; --allow-origin allows another name"
        origin = headers.get("origin", "").lower()
        if (origin or before) in self._origins:
            return 0, ""
        where, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        # A link that somebody follows to the page is no harm.
        if method == "GET" and mode == "navigate" and headers.get("sec-fetch-dest") == "document":
            return 0, ""
        own = not origin or origin.partition("://")[2] == host
        if not own or where in ("cross-site", "same-site"):
            return 403, "another site asks, which is not allowed; --allow-origin allows one"
        return 0, ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
