"""Finds the file of a published model: in the user's folder, else on a mirror, else at its address.

The folders are `$DIR_MODELS` and `dir_jax/models` in the user's cache folder, where downloads go. A
mirror is `$DIR_MODELS_URL`, an address that has the published file names below it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from dir_jax.data.download.connection import TransferError
from dir_jax.data.download.fetch import accept, discard, fetch_file
from dir_jax.data.download.pages import PageError
from dir_jax.errors import UserError, shown
from dir_jax.published import PUBLISHED, PublishedModel
from dir_jax.runtime.files import cache_folder, take_lock

log = logging.getLogger(__name__)

_MOST = 4 << 30  # bytes; the largest has 0.3 GB
_REFUSED = ".refused"  # what is added to the name of a file that is kept aside
_UNUSABLE = (_REFUSED, ".partial", ".part", ".crdownload")
_REPACKED = (".zip", ".safetensors")  # the same weights in files of another hash


def find_file(name: str) -> Path:
    """The file of a model of `PUBLISHED`, fetched if it is nowhere; its hash is checked.

    Processes that want the same model at once fetch it once.

    Raises:
      UserError: the file cannot be fetched or is not the published one. What was fetched is kept.
    """
    model = PUBLISHED[name]
    for folder in _folders():
        if file := _in_folder(folder, name):
            return _checked(file, model, None if folder == _own_folder() else file)
    cache = cache_folder("models")
    if cache is None:
        raise UserError(
            f"the model {name} cannot be kept anywhere; set XDG_CACHE_HOME to a folder that can be "
            f"written, or DIR_MODELS to one that has {model.file}, from {model.address}"
        )
    try:
        return _fetch_once(name, model, cache)
    except TransferError as e:
        raise UserError(
            f"the model {name} is not here and cannot be fetched: {e}; put the file {model.file}, "
            f"from {model.address}, into {_own_folder() or cache}"
        ) from e
    except OSError as e:  # of the disk: those of the network are TransferErrors
        raise UserError(
            f"cannot read or write {e.filename or cache}: {e.strerror or e}; make room, or set "
            "XDG_CACHE_HOME to another folder; what has been fetched is kept"
        ) from e


def find_here(name: str) -> Path | None:
    """The file of a model where it is in one of the folders; nothing is fetched or checked."""
    return next(filter(None, (_in_folder(folder, name) for folder in _folders())), None)


def _own_folder() -> Path | None:
    """The folder that the user has set."""
    own = os.environ.get("DIR_MODELS")
    return Path(own).expanduser() if own else None


def _folders() -> Iterator[Path]:
    """Where files are looked for; those of them that there are."""
    own = _own_folder()
    if own and not own.is_dir():
        raise UserError(f"there is no folder {own}; DIR_MODELS should be a folder of models")
    yield from filter(None, (own, cache_folder("models")))


def _in_folder(folder: Path, name: str) -> Path | None:
    """The file of a model in a folder: under its published name, or its model's, any suffix."""
    model = PUBLISHED[name]
    if (published := folder / model.file).is_file():
        return published
    stems = (*model.stems, name.rpartition("/")[2])
    for entry in sorted(os.listdir(folder)):
        named = any(entry == stem or entry.startswith(f"{stem}.") for stem in stems)
        if named and not entry.endswith(_UNUSABLE) and (folder / entry).is_file():
            return folder / entry
    return None


def _checked(file: Path, model: PublishedModel, place: Path | None, source: str = "") -> Path:
    """The file, whose hash begins with the published digits, if there are any.

    Otherwise there is a warning or, for a strict family, a UserError; the file is then put aside,
    beside the `place` that it has or was to get, unless it is the user's own.
    """
    if not model.digits or file.suffix in _REPACKED:
        return file
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as e:
        raise UserError(f"{file} cannot be read: {e.strerror or e}") from e
    if digest.startswith(model.digits):
        return file
    what = (
        f"{source or file} is not the published {model.file}: its SHA-256 is {digest}, which "
        f"should begin with {model.digits}"
    )
    if not model.family.strict:
        log.warning("%s; it is used all the same", what)
        return file
    if place is None:
        raise UserError(f"{what}; replace it by the file from {model.address}")
    aside = place.with_name(place.name + _REFUSED)
    file.replace(aside)
    raise UserError(f"{what}; it is kept as {aside}, and the next try fetches the file again")


def _fetch_once(name: str, model: PublishedModel, folder: Path) -> Path:
    """The file from the first address that gives it, checked and in its place."""
    work = folder / f".{model.file}.download"  # resumed, and locked, apart from other models
    work.mkdir(exist_ok=True)
    busy = f"another process is fetching {name} into {folder}; waiting for it"
    lock = take_lock(work / "lock", busy, wait=True)
    try:
        if file := _in_folder(folder, name):  # the other process was faster
            return file
        failures = []
        for url, published in _addresses(model):
            log.warning("fetching %s from %s", name, url)
            try:
                part = _fetch(url, work, published)
            except TransferError as e:
                failures.append(str(e))
                continue
            _checked(part, model, folder / published, url)
            accept(part)
            part.rename(folder / published)
            discard(part)
            return folder / published
        raise TransferError("; ".join(failures))
    finally:
        lock.release()


def _addresses(model: PublishedModel) -> Iterator[tuple[str, str]]:
    """Where the file may be fetched, and its name there."""
    if mirror := os.environ.get("DIR_MODELS_URL"):
        if not mirror.startswith(("http://", "https://")):
            raise UserError(f"DIR_MODELS_URL is {shown(mirror)}; expected an http address")
        for file in dict.fromkeys((model.file, *model.other_files)):
            yield f"{mirror.rstrip('/')}/{file}", file
    yield model.address, model.file


def _fetch(url: str, folder: Path, name: str) -> Path:
    try:
        return fetch_file(url, folder, limit=_MOST, name=name)
    except PageError as e:
        if e.confirmed is None:
            raise
        return fetch_file(url, folder, limit=_MOST, name=name, at=e.confirmed)
