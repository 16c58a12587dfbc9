"""Fetches one file over HTTP, resumes it, and remembers what it was.

The bytes are kept in `NAME.partial`. `downloads.json` beside it records which version of the file
they belong to, so that a file that changes on the server is not mixed with the old one, and the
hash of every file that proved to be good: nobody publishes checksums of these files, so the first
download is trusted and later ones must agree.

requests does the talking. It does not resume, would unpack a `.tgz` that is sent with
`Content-Encoding: gzip`, and follows a server that never ends; that is what the code here is for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

import requests
import urllib3

from dir_jax.data.download.connection import PROGRESS, Connection, reason_of
from dir_jax.errors import UserError
from dir_jax.runtime.files import write_text
from dir_jax.runtime.progress import progress_bar

_ATTEMPTS = 5  # in a row that bring less than PROGRESS
_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
_CHUNK = 1 << 18  # bytes
_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)")
_PASSING = (408, 425, 429)  # statuses below 500 that another attempt may not meet


class TransferError(Exception):
    """The file was not fetched; the message says why, for a sentence that says what to do."""


class NotOfferedError(TransferError):
    """The server answers, but does not offer this file."""


class _BrokenError(Exception):
    """An attempt that ended early; another may bring the rest."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known about a file: one entry of `downloads.json`.

    Attributes:
      url: the address that was requested.
      size: the size of the whole file in bytes; None while it is unknown.
      sha256: the hash in hexadecimal digits; None while the file is incomplete.
      source: the address that answered, which is another one after a redirect.
      validator: the value for If-Range, a strong ETag or a date; None if there is neither.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    source: str = ""
    validator: str | None = None

    def __post_init__(self) -> None:
        texts = (self.url, self.source, self.sha256 or "", self.validator or "")
        if not all(isinstance(t, str) for t in texts) or type(self.size) not in (int, type(None)):
            raise TypeError


def part_of(file: Path) -> Path:
    """The path that holds a file's bytes until they are complete and checked."""
    return file.with_name(f"{file.name}.partial")


def discard(part: Path) -> None:
    """Deletes a part and what is known about it, if they exist."""
    part.unlink(missing_ok=True)  # first: what is known about it is useless without it
    update_records(part.parent, {part.name: None})


def fetch_file(url: str, part: Path, *, limit: int, progress: bool = True) -> Record:
    """Fetches a whole file into `part`, from where an earlier attempt or run stopped.

    A complete part is not requested again.

    Args:
      url: an http or https address.
      part: the path that `part_of` gives; its folder must exist.
      limit: the largest size that is accepted, in bytes.
      progress: whether progress is shown.

    Returns:
      The file's record, complete, to be kept under the file's name once its content is checked.

    Raises:
      NotOfferedError: the server refuses, for example with HTTP 404.
      TransferError: the address or an answer is invalid, the file is larger than `limit`, or
        several attempts in a row brought nothing. In the last case the bytes are kept.
      OSError: the disk is full or cannot be written. The bytes are kept.
      UserError: the file is not what it was at an earlier download, or `downloads.json` cannot be
        read or written.
    """
    _, furthest = _kept(url, part)
    failures = 0
    while True:
        try:
            return _checked(part, _attempt(url, part, limit, progress))
        except _BrokenError as e:
            reason = e
        _, have = _kept(url, part)
        failures = 0 if have >= furthest + PROGRESS else failures + 1
        furthest = max(furthest, have)
        if failures == _ATTEMPTS:
            kept = f" ({have:,} bytes are kept)" if have else ""
            raise TransferError(f"{reason}, {_ATTEMPTS} times in a row{kept}") from reason
        time.sleep(_PAUSE * 2 ** max(failures - 1, 0))


def _attempt(url: str, part: Path, limit: int, progress: bool) -> Record:
    record, have = _kept(url, part)
    if record and record.size == have:
        return record
    connection = Connection()
    with _ask(connection, url, record, have) as response:
        record, have = _start(url, part, limit, record, have, response)
        end = limit + 1 if record.size is None else record.size
        name = part.name.removesuffix(".partial")
        with part.open("ab") as stream, progress_bar(name, record.size, "B", progress, have) as bar:
            while have < end:
                try:
                    chunk = connection.read(response, min(_CHUNK, end - have))
                except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as e:
                    raise _BrokenError(f"{url} broke off ({reason_of(e)})") from e
                if not chunk:
                    break
                stream.write(chunk)
                stream.flush()  # so that a process that is killed has kept it
                have += len(chunk)
                bar.update(len(chunk))
    if have > limit:
        discard(part)
        raise TransferError(f"{url} has more than the {limit:,} bytes that are accepted")
    if record.size is not None and have < record.size:
        raise _BrokenError(f"{url} ended after {have:,} of {record.size:,} bytes")
    return dataclasses.replace(record, size=have)


def _ask(connection: Connection, url: str, record: Record | None, have: int) -> requests.Response:
    """The answer to a request for the bytes from number `have` on: HTTP 200, 206 or 416."""
    headers = {"User-Agent": "dir_jax", "Accept-Encoding": "identity"}
    if record and record.validator and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": record.validator}
    try:
        response = connection.get(url, headers)
    except (ValueError, requests.TooManyRedirects) as e:  # of an address, a redirect or a header
        raise TransferError(f"{url} cannot be fetched ({reason_of(e)})") from e
    except (OSError, urllib3.exceptions.HTTPError) as e:  # requests' errors are OSErrors
        raise _BrokenError(f"no answer from {url} ({reason_of(e)})") from e
    status = response.status_code
    if status in (200, 206) or (status == 416 and have):
        return response
    response.close()
    answer = f"{url} answers HTTP {status} {http.client.responses.get(status, '')}".rstrip()
    raise _BrokenError(answer) if status >= 500 or status in _PASSING else NotOfferedError(answer)


def _start(
    url: str,
    part: Path,
    limit: int,
    record: Record | None,
    have: int,
    response: requests.Response,
) -> tuple[Record, int]:
    """The version that an answer is about, and the number of its bytes that are there already."""
    headers = response.headers
    marks = (headers.get("ETag", ""), headers.get("Last-Modified", ""))
    validator = next((m for m in marks if m.isprintable() and m[:2] not in ("", "W/")), None)
    if response.status_code == 200:  # the whole file, requested or not
        record = Record(url, _length(url, headers), None, response.url, validator)
        if record.size is not None and record.size > limit:
            raise TransferError(f"{url} has {record.size:,} bytes; at most {limit:,} are accepted")
        part.write_bytes(b"")  # first: these bytes would be taken for the new version's
        update_records(part.parent, {part.name: record})
        return record, 0
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if (
        record is None
        or validator not in (None, record.validator)  # some servers ignore If-Range
        or not found
        or found[1] != str(have)
    ):
        discard(part)
        raise _BrokenError(f"{url} has changed, or the answer has other bytes than requested")
    return record, have


def _length(url: str, headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length")
    if text is None or "Transfer-Encoding" in headers:
        return None
    if not re.fullmatch("[0-9]{1,18}", text):
        raise TransferError(f"{url} has the invalid Content-Length {text[:200]!r}")
    return int(text)


def _kept(url: str, part: Path) -> tuple[Record | None, int]:
    """The version that a part belongs to, and how many of its bytes can be used."""
    record = read_records(part.parent).get(part.name)
    have = part.stat().st_size if part.exists() else 0
    usable = record and record.url == url and (record.validator or record.size == have)
    return (record, have) if usable and have else (None, 0)


def _checked(part: Path, record: Record) -> Record:
    """The record with its hash, which must be that of an earlier download of this file."""
    update_records(part.parent, {part.name: record})
    with part.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    record = dataclasses.replace(record, sha256=digest)
    name, file = part.name.removesuffix(".partial"), part.with_name("downloads.json")
    before = read_records(part.parent).get(name, record)
    if (before.size, before.sha256) != (record.size, digest):
        raise UserError(
            f"{record.url} has changed: it has {record.size:,} bytes and SHA-256 {digest}, but "
            f"{file} records {before.size:,} bytes and {before.sha256}; to accept the change, "
            f"delete {file}, otherwise delete {part}; then run this again"
        )
    return record


def read_records(folder: Path) -> dict[str, Record]:
    """The entries of `downloads.json`, by the files' names; none if there is no such file.

    Raises:
      UserError: it is damaged.
    """
    file = folder / "downloads.json"
    try:
        return {name: Record(**entry) for name, entry in json.loads(file.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(
            f"{file} is damaged: expected the url, size and sha256 of each download; delete it, "
            "and later downloads are recorded again"
        ) from e


def update_records(folder: Path, changes: dict[str, Record | None]) -> None:
    """Adds entries to `downloads.json`, or removes those that are None.

    Raises:
      UserError: it is damaged or cannot be written.
    """
    before = read_records(folder)
    after = {name: record for name, record in {**before, **changes}.items() if record}
    if after != before:
        entries = {name: dataclasses.asdict(record) for name, record in after.items()}
        write_text(folder / "downloads.json", json.dumps(entries, indent=1, sort_keys=True) + "\n")
