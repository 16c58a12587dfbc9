"""Fetching one file over HTTP, so that bytes which came once need not come again.

They are kept in a part file, `NAME.partial`. Beside it `NAME.partial.json` says which file they
are of, so that a file which has changed at the server is begun anew instead of mixed with the old.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

from tqdm import tqdm

from dir_jax.runtime.files import write_text

_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 5  # in a row without a byte more
_PAUSE = 1.0  # seconds after the first of them; doubled with each
_CHUNK = 1 << 18  # bytes
_PASSING = (408, 425, 429)  # statuses below 500 that another attempt may not meet
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class TransferError(Exception):
    """The file did not come; the message says why, for a sentence that says what to do."""


class NotOfferedError(TransferError):
    """The server answers, but has no such file for us."""


class _BrokenError(Exception):
    """An attempt that ended early; another may bring the rest."""


@dataclasses.dataclass(frozen=True)
class Version:
    """Which file the bytes of a part are of, in the server's words.

    Attributes:
      url: what was asked for.
      source: what answered, which is another address where the server redirects.
      etag: its ETag, if any.
      modified: its Last-Modified, if any.
      size: of the whole file in bytes; None while it is not known.
    """

    url: str
    source: str
    etag: str | None
    modified: str | None
    size: int | None

    @property
    def validator(self) -> str | None:
        """What If-Range can ask for: a strong ETag or a date."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified

    def differs(self, headers: Message) -> bool:
        """Whether an answer is of another file. Not every server that knows ranges asks itself."""
        pairs = ((self.etag, headers["ETag"]), (self.modified, headers["Last-Modified"]))
        return any(ours and theirs and ours != theirs for ours, theirs in pairs)


def part_of(file: Path) -> Path:
    """Where the bytes of a file are kept until it is complete."""
    return file.with_name(f"{file.name}.partial")


def discard(part: Path) -> None:
    """Deletes a part and what is known of it, if they are there."""
    part.unlink(missing_ok=True)  # first: what is known is of no use without it
    _facts(part).unlink(missing_ok=True)


def fetch(url: str, part: Path, *, progress: bool = True) -> Version:
    """Brings the whole file to `part`, from where an earlier attempt or run was broken off.

    A part that is complete is not asked for again. The length is checked, nothing else.

    Args:
      url: http or https.
      part: what `part_of` gives; its folder must be there.
      progress: show a bar with the rate in bytes.

    Returns:
      What the server says of the file; `size` is known.

    Raises:
      NotOfferedError: the server refuses, as with HTTP 404.
      TransferError: several attempts in a row brought nothing; what had come is kept.
      OSError, UserError: the disk is full, or cannot be written.
    """
    _, furthest = _kept(url, part)
    failures = 0
    while True:
        try:
            return _attempt(url, part, progress)
        except _BrokenError as e:
            reason = e
        _, have = _kept(url, part)
        failures = 0 if have > furthest else failures + 1
        furthest = max(furthest, have)
        if failures == _ATTEMPTS:
            kept = f" ({have:,} bytes are kept)" if have else ""
            raise TransferError(f"{reason}, {_ATTEMPTS} times in a row{kept}") from reason
        time.sleep(_PAUSE * 2 ** max(failures - 1, 0))


def _attempt(url: str, part: Path, progress: bool) -> Version:
    version, have = _kept(url, part)
    if version and version.size == have:
        return version
    with _ask(url, version, have) as response:
        if response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _nothing_further(url, part, version, have, response.headers)
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            version = _rest(url, part, version, have, response.headers)
        elif response.status == http.HTTPStatus.OK:  # all of it, wanted or not
            tag, date = response.headers["ETag"], response.headers["Last-Modified"]
            version = Version(url, response.url, tag, date, response.length)
            have = 0
            part.write_bytes(b"")  # first: these bytes would be taken for the new file's
            _note(part, version)
        else:
            raise _BrokenError(f"{url} answers HTTP {response.status}")
        have += _append(part, response, version, have, progress)
    if version.size is None:
        version = dataclasses.replace(version, size=have)
        _note(part, version)
    elif have < version.size:
        raise _BrokenError(f"{url} ended after {have:,} of {version.size:,} bytes")
    elif have > version.size:
        discard(part)
        raise _BrokenError(f"{url} sent {have:,} bytes instead of {version.size:,}")
    return version


def _ask(url: str, version: Version | None, have: int) -> http.client.HTTPResponse:
    """The answer to a request for the bytes from number `have` on: HTTP 200, 206 or 416."""
    request = urllib.request.Request(url, headers={"User-Agent": "dir_jax"})
    if version and version.validator and have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version.validator)
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return e  # type: ignore[return-value]  # it has all that is used of an answer
        e.close()
        if e.code >= 500 or e.code in _PASSING:
            raise _BrokenError(f"{url} answers HTTP {e.code} {e.reason}") from e
        raise NotOfferedError(f"{url} answers HTTP {e.code} {e.reason}") from e
    except (OSError, http.client.HTTPException) as e:
        raise _BrokenError(f"no answer from {url} ({_reason(e)})") from e


def _rest(url: str, part: Path, version: Version | None, have: int, headers: Message) -> Version:
    """The version that an HTTP 206 goes on with, if it is the part's."""
    start, total = _range(headers)
    if (
        version is None
        or version.differs(headers)
        or start != have
        or (None not in (total, version.size) and total != version.size)
    ):
        discard(part)
        raise _BrokenError(f"{url} has changed, or comes from another byte than asked for")
    if version.size is None and total is not None:
        version = dataclasses.replace(version, size=total)
        _note(part, version)
    return version


def _nothing_further(
    url: str, part: Path, version: Version | None, have: int, headers: Message
) -> Version:
    """After HTTP 416: either the part is complete, or it is of a longer file than there is now."""
    _, total = _range(headers)
    if version is None or version.differs(headers) or total != have or version.size is not None:
        discard(part)
        raise _BrokenError(f"{url} is shorter than announced, or has changed")
    version = dataclasses.replace(version, size=have)
    _note(part, version)
    return version


def _append(
    part: Path, response: http.client.HTTPResponse, version: Version, have: int, progress: bool
) -> int:
    added = 0
    with (
        part.open("ab") as stream,
        tqdm(
            total=version.size,
            initial=have,
            desc=part.name.removesuffix(".partial"),
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            disable=not progress,
        ) as bar,
    ):
        for chunk in _chunks(response, version.url):
            stream.write(chunk)
            stream.flush()  # a process that is killed shall have kept it
            added += len(chunk)
            bar.update(len(chunk))
    return added


def _chunks(response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as e:
            raise _BrokenError(f"{url} broke off ({_reason(e)})") from e
        if not chunk:
            return
        yield chunk


def _range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and whole length that Content-Range speaks of."""
    match = _RANGE.fullmatch(headers["Content-Range"] or "")
    start, total = match.groups() if match else (None, None)
    return (int(start) if start else None), (int(total) if total and total != "*" else None)


def _reason(e: Exception) -> str:
    inner = getattr(e, "reason", None) or e
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _facts(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _note(part: Path, version: Version) -> None:
    write_text(_facts(part), json.dumps(dataclasses.asdict(version), indent=1))


def _kept(url: str, part: Path) -> tuple[Version | None, int]:
    """Which file a part is of, and how many of its bytes can be used; (None, 0) without any."""
    try:
        version = Version(**json.loads(_facts(part).read_text()))
        have = part.stat().st_size
    except (FileNotFoundError, ValueError, TypeError):
        return None, 0
    usable = version.url == url and (version.validator or version.size == have)
    return (version, have) if usable else (None, 0)
