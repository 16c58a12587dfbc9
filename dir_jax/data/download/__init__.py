"""Downloads the Oxford and Paris sets: `python -m dir_jax.data.download --dataset ROxford5K`.

The images are VGG's (Oxford), the ground truth is CTU Prague's. An interrupted download resumes
when it is run again, and nothing is put in its place before it is complete and checked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dir_jax.data.download.archives import extract_images
from dir_jax.data.download.connection import BrokenError, TransferError
from dir_jax.data.download.fetch import accept, discard, fetch_file, part_of, read_records
from dir_jax.errors import UserError
from dir_jax.runtime.files import take_lock

if TYPE_CHECKING:
    from dir_jax.data.ground_truth import RelevantsDataset

log = logging.getLogger(__name__)

# The addresses that `base_urls` can replace, for example by a mirror's.
BASE_URLS: Mapping[str, str] = {
    "pictures": "https://www.robots.ox.ac.uk/~vgg/data",
    "ground_truth": "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test",
}

_OXFORD = ("oxbuildings/oxbuild_images",)
_PARIS = ("parisbuildings/paris_1", "parisbuildings/paris_2")
# Each data set's folder, ground truth, and archives of images (without `.tgz`).
SOURCES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "Oxford5K": ("oxford5k", "oxford5k/gnd_oxford5k.pkl", _OXFORD),
    "ROxford5K": ("oxford5k", "roxford5k/gnd_roxford5k.pkl", _OXFORD),
    "Paris6K": ("paris6k", "paris6k/gnd_paris6k.pkl", _PARIS),
    "RParis6K": ("paris6k", "rparis6k/gnd_rparis6k.pkl", _PARIS),
}
DOWNLOADABLE: tuple[str, ...] = tuple(SOURCES)

_BLURRED = "-v1"  # the variant of an archive with faces made unrecognisable, since 2022
_MOST_TRUTH = 50_000_000  # bytes
_MOST_ARCHIVE = 4 << 30  # bytes; Oxford has 2 GB
_MOST_UNPACKED = 8 << 30  # bytes, of an archive


def download_dataset(
    name: str, db_root: str, *, base_urls: Mapping[str, str] | None = None
) -> None:
    """Completes a data set's folder under `db_root`; requests nothing if it is complete.

    It is complete when the ground truth is there, and every image that it names is in `jpg/`.
    Images that are there already stay as they are. An archive that somebody put into the folder
    is used instead of the download, and left there.

    Args:
      name: one of DOWNLOADABLE.
      db_root: the folder of the data sets, which is made if it does not exist.
      base_urls: other addresses for keys of BASE_URLS.

    Raises:
      UserError: something cannot be fetched, trusted or written. What was fetched is kept, unless
        it is itself at fault.
    """
    if name not in SOURCES:
        raise UserError(f"{name!r} cannot be downloaded; expected one of {', '.join(SOURCES)}")
    bases = {**BASE_URLS, **(base_urls or {})}
    if bases.keys() != BASE_URLS.keys() or not all(b.startswith("http") for b in bases.values()):
        raise UserError(f"base_urls: expected http addresses for {', '.join(BASE_URLS)}")
    where, truth, archives = SOURCES[name]
    folder = Path(db_root, where)
    truth = f"{bases['ground_truth']}/{truth}"
    archives = tuple(f"{bases['pictures']}/{archive}" for archive in archives)
    try:
        _complete(folder, truth, archives)
    except TransferError as e:
        files = ", ".join([truth, *(f"{a}.tgz (or {a}{_BLURRED}.tgz)" for a in archives)])
        raise UserError(
            f"{e}; run this again later, or fetch what {folder} lacks yourself: {files}"
        ) from e
    except OSError as e:  # of the disk: those of the network are TransferErrors
        raise UserError(
            f"cannot read or write {e.filename or folder}: {e.strerror or e}; make room, or choose "
            f"another folder than {db_root}; what has been fetched is kept"
        ) from e


def _complete(folder: Path, truth_url: str, archives: Sequence[str]) -> None:
    truth = folder / truth_url.rpartition("/")[2]
    if truth.is_file() and not _missing(truth):
        return
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process is downloading into {folder}; run this again when it has ended"
    lock = take_lock(folder / ".download.lock", busy)
    try:
        if not truth.is_file():
            part = _fetch(folder, [truth_url], _MOST_TRUTH)
            with _deleted_if_bad(part):
                _read_truth(part)
            accept(part)
            part.rename(truth)
            discard(part)
        if _missing(truth):
            tries = [[f"{a}.tgz", f"{a}{_BLURRED}.tgz"] for a in archives]  # best first
            parts = [_fetch(folder, urls, _MOST_ARCHIVE) for urls in tries]
            _add_images(truth, parts)
            for part in folder.glob("*.tgz.partial"):
                discard(part)
    finally:
        lock.release()


def _read_truth(path: Path) -> RelevantsDataset:
    # Imported late, because NumPy takes longer than the command's --help may.
    from dir_jax.data.ground_truth import read_ground_truth

    return read_ground_truth(str(path))


def _missing(truth: Path) -> set[str]:
    """The images that the ground truth names and `jpg/` does not have."""
    try:
        found = _read_truth(truth)
    except UserError as e:
        raise UserError(f"{e}; delete {truth} to have it fetched again") from e
    there = set()
    with contextlib.suppress(FileNotFoundError), os.scandir(truth.with_name("jpg")) as entries:
        there = {entry.name for entry in entries if entry.is_file()}
    return {*found.names, *found.queries.names} - there


def _fetch(folder: Path, urls: list[str], limit: int) -> Path:
    """A file that somebody put there, or a complete part from the first address that works."""
    for url in urls:
        if (file := folder / url.rpartition("/")[2]).is_file():
            return file
    refusals = []
    # A part comes first: where it was begun, the addresses before it did not work.
    for url in sorted(urls, key=lambda url: not part_of(url, folder).exists()):
        try:
            return fetch_file(url, folder, limit=limit)
        except BrokenError:
            raise
        except TransferError as e:
            refusals.append(str(e))
    raise TransferError("; ".join(refusals))


@contextlib.contextmanager
def _deleted_if_bad(file: Path) -> Iterator[None]:
    """Deletes a fetched file whose content turns out to be unusable, so that it comes again."""
    try:
        yield
    except UserError as e:
        if file.suffix != ".partial":
            raise UserError(f"{file} cannot be used: {e}; delete or replace it") from e
        url = read_records(file.parent)[file.name]["url"]
        discard(file)
        raise TransferError(f"{url} cannot be used, and was deleted: {e}") from e


def _add_images(truth: Path, archives: list[Path]) -> None:
    folder, images, scratch = truth.parent, truth.with_name("jpg"), truth.with_name("jpg.partial")
    fetched = [archive for archive in archives if archive.suffix == ".partial"]
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    try:
        scratch.mkdir()
        for archive in archives:
            source = read_records(folder)[archive.name]["source"] if archive in fetched else None
            if _BLURRED in archive.name + (source or "").rpartition("/")[2]:
                name = archive.name.removesuffix(".partial")
                log.warning("%s has blurred faces: mAP may differ from the originals'", name)
            with _deleted_if_bad(archive):
                extract_images(archive, scratch, _MOST_UNPACKED)
        found = set(os.listdir(scratch))
        if lacking := sorted(_missing(truth) - found):
            raise UserError(
                f"{len(lacking)} of the images that {truth} names are not in "
                f"{' and '.join(map(str, archives))}, such as {lacking[0]}; delete the file that "
                "is wrong, and run this again"
            )
        for archive in fetched:
            accept(archive)
        if not images.exists():
            scratch.rename(images)
        for image in found:
            if not (images / image).exists():
                (scratch / image).rename(images / image)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
