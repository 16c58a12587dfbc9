"""What earlier downloads turned out to be: `downloads.json` beside them.

Nobody publishes check sums of these files. So the first download is trusted, and the others must
agree with it: a file that changes at the server, or on the way, is found out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from dir_jax.errors import UserError
from dir_jax.runtime.files import write_text


@dataclasses.dataclass(frozen=True)
class Record:
    """A file as it came.

    Attributes:
      url: the address that it came from, after redirections.
      size: bytes.
      sha256: in hexadecimal digits.
    """

    url: str
    size: int
    sha256: str


def measure(url: str, file: Path) -> Record:
    """The record of a file that came from `url`; reads it whole."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Record(url, file.stat().st_size, digest)


def check_record(folder: Path, name: str, file: Path, record: Record) -> None:
    """Compares a download with the record of the earlier one of that name, if there is any.

    Args:
      folder: of downloads.json.
      name: under which it is recorded.
      file: where the download is.
      record: of it.

    Raises:
      UserError: they differ, or the records cannot be read.
    """
    before = _read(folder).get(name, record)
    if (before.size, before.sha256) != (record.size, record.sha256):
        raise UserError(
            f"{record.url} is not what it was: it has {record.size:,} bytes and SHA-256 "
            f"{record.sha256}, where {_file(folder)} records {before.size:,} and {before.sha256}; "
            f"if you want the change, delete {_file(folder)}, else {file}; then run this again"
        )


def add_records(folder: Path, records: Mapping[str, Record]) -> None:
    """Keeps records, by the files' names, in place of earlier ones.

    Raises:
      UserError: downloads.json cannot be read or written.
    """
    if records:
        merged = {n: dataclasses.asdict(r) for n, r in ({**_read(folder), **records}).items()}
        write_text(_file(folder), json.dumps(merged, indent=1, sort_keys=True) + "\n")


def _file(folder: Path) -> Path:
    return folder / "downloads.json"


def _read(folder: Path) -> dict[str, Record]:
    try:
        content = json.loads(_file(folder).read_text())
        return {name: Record(**record) for name, record in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as e:
        raise UserError(
            f"{_file(folder)} is damaged: expected the url, size and sha256 of each download; "
            "delete it, and later downloads are recorded anew"
        ) from e
