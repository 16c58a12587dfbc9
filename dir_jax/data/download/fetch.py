"""Fetches one file over HTTP, resumes it, and remembers what it was.

The bytes are kept in `NAME.partial`. `downloads.json` beside it records which version of the file
they belong to, so that a file that changes on the server is not mixed with the old one, and the
hash of every file that proved to be good: nobody publishes checksums of these files, so the first
download is trusted and later ones must agree.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Protocol

import requests

from dir_jax.data.download.connection import PROGRESS, BrokenError, Connection, TransferError
from dir_jax.data.download.pages import MOST_PAGE, PageError, is_page
from dir_jax.errors import UserError, quoted
from dir_jax.runtime.files import write_text
from dir_jax.runtime.progress import progress_bar
from dir_jax.runtime.reading import read_json

_ATTEMPTS = 5  # in a row that bring less than PROGRESS
_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
_CHUNK = 1 << 18  # bytes

Record = dict[str, Any]  # what is known about a file: an entry of `downloads.json`


class Bar(Protocol):
    """What counts the bytes of several files; its `update` may raise to stop."""

    def update(self, count: int) -> None: ...


_KEYS = {
    "url": str,  # the address that was requested
    "source": str | None,  # the address that answered, which is another one after a redirect
    "validator": str | None,  # for If-Range: a strong ETag or a date, if there is one
    "size": int | None,  # of the whole file in bytes; None while it is unknown
    "sha256": str | None,  # in hexadecimal digits; None while the file is incomplete
}


def part_of(url: str, folder: Path, name: str | None = None) -> Path:
    """The path in `folder` for a file's bytes until they are complete and checked.

    The file's `name` is by default the last part of its address.
    """
    return folder / f"{name or url.rpartition('/')[2]}.partial"


def fetch_file(
    url: str,
    folder: Path,
    *,
    limit: int,
    name: str | None = None,
    at: str | None = None,
    bar: Bar | None = None,
) -> Path:
    """Fetches a whole file from where an earlier attempt or run stopped; returns its `part_of`.

    A complete part is not requested again.

    Args:
      url: the address by which the file is known.
      folder: where the part is kept.
      limit: the largest size that is accepted, in bytes.
      name: the file's name, see `part_of`.
      at: an address that is requested instead, such as `PageError.confirmed`.
      bar: counts the bytes that come, instead of a bar of this file's own.

    Raises:
      PageError: the address gives a web page. The bytes that there are are kept.
      TransferError: the address does not offer the file, or one that is too large.
      BrokenError: several attempts in a row brought nothing. The bytes are kept.
      OSError: the disk cannot be written. The bytes are kept.
      UserError: the file has changed since an earlier download, or `downloads.json` is damaged.
    """
    part = part_of(url, folder, name)
    furthest, failures = _kept(url, part)[1], 0
    while True:
        try:
            _compare(part, _attempt(url, part, limit, at or url, bar))
            return part
        except BrokenError as e:
            reason = e
        have = _kept(url, part)[1]
        failures = 0 if have >= furthest + PROGRESS else failures + 1
        furthest = max(furthest, have)
        if failures == _ATTEMPTS:
            kept = f" ({have:,} bytes are kept)" if have else ""
            raise BrokenError(f"{reason}, {_ATTEMPTS} times in a row{kept}") from reason
        time.sleep(_PAUSE * 2 ** max(failures - 1, 0))


def accept(part: Path) -> None:
    """Records a part under its file's name, now that its content is checked."""
    _record(part.parent, part.stem, read_records(part.parent)[part.name])


def discard(part: Path) -> None:
    """Deletes a part and what is known about it, if they exist."""
    part.unlink(missing_ok=True)  # first: what is known about it is useless without it
    _record(part.parent, part.name, None)


def _kept(url: str, part: Path) -> tuple[Record | None, int]:
    """The version that a part belongs to, and how many of its bytes can be used."""
    record = read_records(part.parent).get(part.name)
    have = part.stat().st_size if part.exists() else 0
    usable = record and record["url"] == url and (record["validator"] or record["size"] == have)
    return (record, have) if usable and have else (None, 0)


def _attempt(url: str, part: Path, limit: int, at: str, all_files: Bar | None) -> Record:
    record, have = _kept(url, part)
    if record and record["size"] == have:
        return record
    connection = Connection()
    rest = {"Range": f"bytes={have}-", "If-Range": record["validator"]} if record else {}
    with connection.get(at, rest) as answer:
        version, head = _version(url, limit, answer), b""
        if answer.status_code == 200:  # the whole file, requested or not
            head = connection.read(answer, min(_CHUNK, limit + 1))
            if is_page(head):
                while len(head) < MOST_PAGE and (chunk := connection.read(answer, _CHUNK)):
                    head += chunk
                raise PageError(url, answer.url, head)
            record, have = version, 0
            part.write_bytes(b"")  # first: these bytes would be taken for the new version's
            _record(part.parent, part.name, record)
        elif (
            record is None
            or version["validator"] not in (None, record["validator"])  # some ignore If-Range
            or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        ):
            discard(part)
            raise BrokenError(f"{url} has changed, or the answer has other bytes than requested")
        size = record["size"]
        end = limit + 1 if size is None else size
        own = progress_bar(part.stem, size, "B", all_files is None, have)
        with part.open("ab") as stream, own as bar:
            while have < end and (
                chunk := head or connection.read(answer, min(_CHUNK, end - have))
            ):
                head = b""
                stream.write(chunk)
                stream.flush()  # so that a process that is killed has kept it
                have += len(chunk)
                (all_files or bar).update(len(chunk))
    if have > limit:
        discard(part)
        raise TransferError(f"{url} has more than the {limit:,} bytes that are accepted")
    if have < (size or 0):
        raise BrokenError(f"{url} ended after {have:,} of {size:,} bytes")
    return record | {"size": have}


def _version(url: str, limit: int, answer: requests.Response) -> Record:
    """What an answer says about its file."""
    headers = answer.headers
    length = None if "Transfer-Encoding" in headers else headers.get("Content-Length")
    if length and not (re.fullmatch("[0-9]{1,18}", length) and int(length) <= limit):
        raise TransferError(
            f"{url} has the Content-Length {quoted(length)}; at most {limit:,} are accepted"
        )
    marks = (headers.get("ETag", ""), headers.get("Last-Modified", ""))
    validator = next((m for m in marks if m.isprintable() and m[:2] not in ("", "W/")), None)
    size = int(length) if length else None
    return {"url": url, "source": answer.url, "validator": validator, "size": size}


def _compare(part: Path, record: Record) -> None:
    """Records the hash of a complete part, which must be that of an earlier download."""
    folder = part.parent
    with part.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    before = read_records(folder).get(part.stem)
    if before and before["sha256"] != digest:
        raise UserError(
            f"{record['url']} has changed: its SHA-256 is {digest}, but {folder}/downloads.json "
            f"records {before['sha256']}; to accept the change, delete {folder}/downloads.json, "
            f"otherwise delete {part}; then run this again"
        )
    _record(folder, part.name, record | {"sha256": digest})


def read_records(folder: Path) -> dict[str, Record]:
    """The entries of `downloads.json`, by the files' names; none if there is no such file.

    Raises:
      UserError: it is damaged.
    """
    file = folder / "downloads.json"
    if not os.path.lexists(file):
        return {}
    advice = "delete it, and later downloads are recorded again"
    try:
        content = read_json(file)
    except UserError as e:
        raise UserError(f"{e}; {advice}") from e
    records = content.values() if isinstance(content, dict) else [None]
    if not all(
        isinstance(r, dict) and all(isinstance(r.get(key), kind) for key, kind in _KEYS.items())
        for r in records
    ):
        raise UserError(
            f"{file} is damaged: expected the url, size and sha256 of each download; {advice}"
        )
    return {name: {key: record.get(key) for key in _KEYS} for name, record in content.items()}


def _record(folder: Path, name: str, record: Record | None) -> None:
    """Sets an entry of `downloads.json`, or removes it."""
    records = {key: r for key, r in {**read_records(folder), name: record}.items() if r}
    write_text(folder / "downloads.json", json.dumps(records, indent=1, sort_keys=True) + "\n")
