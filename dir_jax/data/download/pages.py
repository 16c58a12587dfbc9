"""Web pages that come instead of a file, and the one that only asks whether it is wanted.

Google Drive answers with such a page where a file is too large for it to look for viruses.
"""

from __future__ import annotations

import contextlib
import html.parser
import re
import urllib.parse

from dir_jax.data.download.connection import TransferError
from dir_jax.errors import quoted

MOST_PAGE = 1 << 16  # bytes; Drive's has 3 kB
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_TRUSTED = (".google.com", ".googleusercontent.com")  # where Drive's page may lead


class PageError(TransferError):
    """An address gives a web page instead of a file.

    Attributes:
      confirmed: the address of the file, where the page only asks to confirm; None elsewhere.
    """

    def __init__(self, url: str, source: str, page: bytes):
        found = _Page(page[:MOST_PAGE].decode(errors="replace"))
        title = " ".join(found.title.split())
        says = f", {quoted(title)}," if title else ""
        super().__init__(f"{url} gives a page{says} instead of the file")
        self.confirmed = found.confirmed(source)


def is_page(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a web page."""
    return _PAGE.match(head) is not None


class _Page(html.parser.HTMLParser):
    """The title of a page, and the form or link in it that confirms a download."""

    def __init__(self, text: str):
        super().__init__()
        self.title, self._in_title = "", False
        self._action, self._fields = "", {}  # type: str, dict[str, str]
        self._link: str | None = None
        with contextlib.suppress(AssertionError):  # at a section that makes no sense
            self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._in_title = tag == "title"
        if tag == "form" and "confirm" not in self._fields:
            self._action, self._fields = found.get("action", ""), {}
        elif tag == "input" and found.get("name"):
            self._fields.setdefault(found["name"], found.get("value", ""))
        elif tag == "a" and "confirm=" in found.get("href", ""):
            self._link = found["href"]

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        self.title += data if self._in_title else ""

    def confirmed(self, page: str) -> str | None:
        """The address that the page at `page` leads to, if it is one that can be trusted."""
        link = self._link
        if "confirm" in self._fields:
            link = f"{self._action}?{urllib.parse.urlencode(self._fields)}"
        if link is None:
            return None
        with contextlib.suppress(ValueError):  # of what is no address
            address = urllib.parse.urljoin(page, link)
            there, here = urllib.parse.urlsplit(address), urllib.parse.urlsplit(page)
            if there.scheme == here.scheme and (
                there.netloc == here.netloc or (there.hostname or "").endswith(_TRUSTED)
            ):
                return address
        return None
