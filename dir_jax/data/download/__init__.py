"""Downloads the Oxford and Paris sets: `python -m dir_jax.data.download --dataset ROxford5K`.

The images are VGG's (Oxford), the ground truth is CTU Prague's. An interrupted download resumes
when it is run again, and nothing is put in its place before it is complete and checked.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from dir_jax.data.download.archives import ArchiveError, extract_images
from dir_jax.data.download.fetch import (
    NotOfferedError,
    Record,
    TransferError,
    discard,
    fetch_file,
    part_of,
    update_records,
)
from dir_jax.data.ground_truth import read_ground_truth
from dir_jax.errors import UserError
from dir_jax.runtime.files import take_lock

log = logging.getLogger(__name__)

# The addresses that `base_urls` can replace, for example by a mirror's.
BASE_URLS: Mapping[str, str] = {
    "pictures": "https://www.robots.ox.ac.uk/~vgg/data",
    "ground_truth": "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be downloaded.

    Attributes:
      folder: its folder below the folder of the data sets.
      truth: the address of the ground truth, below BASE_URLS["ground_truth"].
      archives: the addresses of the images, below BASE_URLS["pictures"], without `.tgz`.
    """

    folder: str
    truth: str
    archives: tuple[str, ...]


_OXFORD = ("oxbuildings/oxbuild_images",)
_PARIS = ("parisbuildings/paris_1", "parisbuildings/paris_2")
SOURCES: Mapping[str, Source] = {
    "Oxford5K": Source("oxford5k", "oxford5k/gnd_oxford5k.pkl", _OXFORD),
    "ROxford5K": Source("oxford5k", "roxford5k/gnd_roxford5k.pkl", _OXFORD),
    "Paris6K": Source("paris6k", "paris6k/gnd_paris6k.pkl", _PARIS),
    "RParis6K": Source("paris6k", "rparis6k/gnd_rparis6k.pkl", _PARIS),
}
DOWNLOADABLE: tuple[str, ...] = tuple(SOURCES)

_BLURRED = "-v1"  # the variant of an archive with faces made unrecognisable, since 2022
_MOST_TRUTH = 50_000_000  # bytes
_MOST_ARCHIVE = 4 << 30  # bytes; Oxford has 2 GB
_MOST_UNPACKED = 8 << 30  # bytes, of an archive


def download_dataset(
    name: str,
    db_root: str,
    *,
    base_urls: Mapping[str, str] | None = None,
    progress: bool = True,
) -> None:
    """Completes a data set's folder under `db_root`; requests nothing if it is complete.

    It is complete when the ground truth is there, and every image that it names is in `jpg/`.
    Images that are there already stay as they are. An archive that somebody put into the folder
    is used instead of the download, and left there.

    Args:
      name: one of DOWNLOADABLE.
      db_root: the folder of the data sets, which is made if it does not exist.
      base_urls: other addresses for keys of BASE_URLS.
      progress: whether progress is shown.

    Raises:
      UserError: something cannot be fetched, trusted or written. What was fetched is kept, unless
        it is itself at fault.
    """
    if name not in SOURCES:
        raise UserError(f"{name!r} cannot be downloaded; expected one of {', '.join(SOURCES)}")
    bases = {**BASE_URLS, **(base_urls or {})}
    if bases.keys() != BASE_URLS.keys() or not all(b.startswith("http") for b in bases.values()):
        raise UserError(f"base_urls: expected http addresses for {', '.join(BASE_URLS)}")
    download = _Download(SOURCES[name], Path(db_root), bases, progress)
    try:
        download.run()
    except OSError as e:  # of the disk: those of the network are caught in `fetch_file`
        raise UserError(
            f"cannot read or write {e.filename or download.folder}: {e.strerror or e}; make room, "
            f"or choose another folder than {db_root}; what has been fetched is kept"
        ) from e


class _Download:
    """The steps that complete one data set's folder."""

    def __init__(self, source: Source, root: Path, bases: Mapping[str, str], progress: bool):
        self.folder = root / source.folder
        self.images = self.folder / "jpg"
        self.truth_url = f"{bases['ground_truth']}/{source.truth}"
        self.truth = self._file(self.truth_url)
        archives = [f"{bases['pictures']}/{archive}" for archive in source.archives]
        # The addresses to try for each archive, best first.
        self.archives = [(f"{a}.tgz", f"{a}{_BLURRED}.tgz") for a in archives]
        self.progress = progress
        self.fetched: dict[Path, Record] = {}  # the parts that are complete, and not yet in use

    def run(self) -> None:
        if self.truth.is_file() and not self._missing():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = (
            f"another process is downloading into {self.folder}; run this again when it has ended"
        )
        lock = take_lock(self.folder / ".download.lock", busy)
        try:
            if not self.truth.is_file():
                self._add_truth()
            if self._missing():
                self._add_images()
        finally:
            lock.release()

    def _file(self, url: str) -> Path:
        return self.folder / url.rpartition("/")[2]

    def _missing(self) -> set[str]:
        """The images that the ground truth names and `jpg/` does not have."""
        try:
            truth = read_ground_truth(str(self.truth))
        except UserError as e:
            raise UserError(f"{e}; delete {self.truth} to have it fetched again") from e
        there = set()
        if self.images.is_dir():
            with os.scandir(self.images) as entries:
                there = {entry.name for entry in entries if entry.is_file()}
        return {*truth.names, *truth.query_names} - there

    def _add_truth(self) -> None:
        part = self._fetch((self.truth_url,), _MOST_TRUTH)
        try:
            read_ground_truth(str(part))
        except UserError as e:
            raise self._rejected(part, e) from e
        self._keep_records()
        part.rename(self.truth)
        discard(part)

    def _add_images(self) -> None:
        archives = [self._fetch(addresses, _MOST_ARCHIVE) for addresses in self.archives]
        scratch = self.folder / "jpg.partial"
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        try:
            scratch.mkdir()
            for archive in archives:
                try:
                    extract_images(archive, scratch, _MOST_UNPACKED, progress=self.progress)
                except ArchiveError as e:
                    raise self._rejected(archive, e) from e
            found = set(os.listdir(scratch))
            if lacking := sorted(self._missing() - found):
                files = " and ".join(str(archive) for archive in archives)
                raise UserError(
                    f"{len(lacking)} of the images that {self.truth} names are not in {files}, "
                    f"such as {lacking[0]}; delete the file that is wrong, and run this again"
                )
            self._keep_records()
            if self.images.exists():
                for image in sorted(found):
                    if not (self.images / image).exists():
                        (scratch / image).rename(self.images / image)
            else:
                scratch.rename(self.images)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        for addresses in self.archives:
            for url in addresses:
                discard(part_of(self._file(url)))

    def _fetch(self, addresses: tuple[str, ...], limit: int) -> Path:
        """The file that somebody put there, or a complete part from the first working address."""
        for url in addresses:
            if (file := self._file(url)).is_file():
                _warn_if_blurred(file.name)
                return file
        refusals = []
        # A part comes first: where it was begun, the addresses before it did not work.
        for url in sorted(addresses, key=lambda url: not part_of(self._file(url)).exists()):
            part = part_of(self._file(url))
            try:
                self.fetched[part] = fetch_file(url, part, limit=limit, progress=self.progress)
            except NotOfferedError as e:
                refusals.append(str(e))
                continue
            except TransferError as e:
                raise UserError(f"{e}; run this again to resume, or {self._by_hand()}") from e
            _warn_if_blurred(self._file(url).name, self.fetched[part].source)
            return part
        raise UserError(f"{'; '.join(refusals)}; {self._by_hand()}")

    def _keep_records(self) -> None:
        names = {part.name.removesuffix(".partial"): r for part, r in self.fetched.items()}
        update_records(self.folder, dict(names))

    def _rejected(self, file: Path, reason: Exception) -> UserError:
        """The error about a file whose content is not usable; a fetched one is deleted."""
        if file not in self.fetched:
            return UserError(f"{file} cannot be used: {reason}; delete or replace it")
        discard(file)
        return UserError(
            f"{self.fetched[file].url} cannot be used, and was deleted: {reason}; run this again "
            f"to fetch it once more, or {self._by_hand()}"
        )

    def _by_hand(self) -> str:
        """Which files to put where on a machine without a network."""
        wanted: list[tuple[str, ...]] = []
        if not self.truth.is_file():
            wanted.append((self.truth_url,))
        if self.truth.is_file() or not self.images.exists():
            wanted += [a for a in self.archives if not any(self._file(url).is_file() for url in a)]
        files = ", ".join(" (or ".join(a) + ")" * (len(a) - 1) for a in wanted)
        return f"put into {self.folder} by hand: {files}"


def _warn_if_blurred(*names: str) -> None:
    if any(_BLURRED in name.rpartition("/")[2] for name in names):
        log.warning(
            "%s has its faces blurred: pixels differ from the original's, and mAP may differ too",
            names[0],
        )
