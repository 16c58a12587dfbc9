"""Downloads the Oxford and Paris sets: `python -m dir_jax.data.download --dataset ROxford5K`.

The pictures are VGG's (Oxford), the ground truth is CTU Prague's. What is broken off goes on where
it was when run again; nothing counts as there before it is complete. Nobody publishes check sums,
so those of the first download are kept in downloads.json, and later ones must agree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from dir_jax.data.download.archives import ArchiveError, extract_pictures
from dir_jax.data.download.records import Record, add_records, check_record, measure
from dir_jax.data.download.transfer import (
    NotOfferedError,
    TransferError,
    discard,
    fetch,
    part_of,
)
from dir_jax.data.ground_truth import read_ground_truth
from dir_jax.errors import UserError

log = logging.getLogger(__name__)

# What `base_urls` replaces, such as by a mirror's.
BASE_URLS: Mapping[str, str] = {
    "pictures": "https://www.robots.ox.ac.uk/~vgg/data",
    "ground_truth": "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test",
}

_FOLDERS = {
    "Oxford5K": "oxford5k",
    "ROxford5K": "oxford5k",
    "Paris6K": "paris6k",
    "RParis6K": "paris6k",
}
# Of each folder: below the pictures' address, and without `.tgz`.
_ARCHIVES = {
    "oxford5k": ("oxbuildings/oxbuild_images",),
    "paris6k": ("parisbuildings/paris_1", "parisbuildings/paris_2"),
}
_BLURRED = "-v1"  # with faces made unrecognisable, since 2022
_MOST_BYTES = 8 << 30  # that archives may decompress to; Paris has under 3 GB

DOWNLOADABLE: tuple[str, ...] = tuple(_FOLDERS)


def download_dataset(
    name: str,
    db_root: str,
    *,
    base_urls: Mapping[str, str] | None = None,
    progress: bool = True,
) -> None:
    """Completes a data set's folder under `db_root`; without any request if it is complete.

    It is complete when the ground truth is there, and every image that it names is in `jpg/`.
    Images that are there already stay as they are. An archive that somebody put into the folder
    is used in place of the download, and left there.

    Args:
      name: one of DOWNLOADABLE.
      db_root: the folder of the data sets; made if it is not there.
      base_urls: other addresses for keys of BASE_URLS.
      progress: show bars.

    Raises:
      UserError: something cannot be fetched, trusted or written. What has come is kept, unless it
        is itself at fault.
    """
    if name not in _FOLDERS:
        raise UserError(f"{name!r} is none of what can be downloaded: {', '.join(DOWNLOADABLE)}")
    bases = {**BASE_URLS, **(base_urls or {})}
    if bases.keys() != BASE_URLS.keys() or not all(b.startswith("http") for b in bases.values()):
        raise UserError(f"base_urls: expected http addresses for {', '.join(BASE_URLS)}")
    plan = _plan(name, Path(db_root), bases)
    try:
        if plan.truth.is_file() and not _missing(plan):
            return
        plan.folder.mkdir(parents=True, exist_ok=True)
        with _alone(plan.folder):
            if not plan.truth.is_file():
                _add_truth(plan, progress)
            if _missing(plan):
                _add_pictures(plan, progress)
    except OSError as e:  # those of the network are others by now
        raise UserError(
            f"cannot read or write {e.filename or plan.folder}: {e.strerror or e}; make room, or "
            f"choose another folder than {db_root}; what has been fetched is kept"
        ) from e


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Where a data set is from and goes to.

    Attributes:
      folder: of the data set.
      truth: the ground truth's file.
      truth_url: its address.
      archives: of each archive the addresses to try, best first.
    """

    folder: Path
    truth: Path
    truth_url: str
    archives: tuple[tuple[str, ...], ...]

    @property
    def pictures(self) -> Path:
        return self.folder / "jpg"

    def file(self, url: str) -> Path:
        return self.folder / url.rpartition("/")[2]


def _plan(name: str, root: Path, bases: Mapping[str, str]) -> _Plan:
    folder, lower = _FOLDERS[name], name.lower()
    pictures, truths = bases["pictures"], bases["ground_truth"]
    return _Plan(
        root / folder,
        root / folder / f"gnd_{lower}.pkl",
        f"{truths}/{lower}/gnd_{lower}.pkl",
        tuple(
            (f"{pictures}/{archive}.tgz", f"{pictures}/{archive}{_BLURRED}.tgz")
            for archive in _ARCHIVES[folder]
        ),
    )


def _missing(plan: _Plan) -> set[str]:
    """The images that the ground truth names and `jpg/` does not have."""
    try:
        truth = read_ground_truth(str(plan.truth))
    except UserError as e:
        raise UserError(f"{e}; delete {plan.truth} to have it fetched again") from e
    there = set()
    if plan.pictures.is_dir():
        with os.scandir(plan.pictures) as entries:
            there = {entry.name for entry in entries if entry.is_file()}
    return {*truth.names, *truth.query_names} - there


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from filling the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UserError(
                f"another process is downloading into {folder}; run this again once it has ended"
            ) from e
        except OSError:  # some network file systems have no locks
            log.debug("%s cannot be locked", folder)
        yield
    finally:
        os.close(descriptor)


@dataclasses.dataclass(frozen=True)
class _Fetched:
    """A file that is complete, and not yet in use.

    Attributes:
      path: where it is.
      name: what the server calls it.
      record: None for a file that somebody put there.
    """

    path: Path
    name: str
    record: Record | None


def _add_truth(plan: _Plan, progress: bool) -> None:
    fetched = _fetch(plan, (plan.truth_url,), progress)
    try:
        read_ground_truth(str(fetched.path))
    except UserError as e:
        discard(fetched.path)
        raise UserError(
            f"{plan.truth_url} is no ground truth, and was deleted ({e}); run this again to fetch "
            f"it once more, or {_by_hand(plan)}"
        ) from e
    _keep_records(plan, [fetched])
    fetched.path.rename(plan.truth)
    discard(fetched.path)


def _add_pictures(plan: _Plan, progress: bool) -> None:
    archives = [_fetch(plan, addresses, progress) for addresses in plan.archives]
    scratch = plan.folder / "jpg.partial"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    try:
        scratch.mkdir()
        found = _extract(plan, archives, scratch, progress)
        if lacking := sorted(_missing(plan) - found):
            files = " and ".join(str(archive.path) for archive in archives)
            raise UserError(
                f"{len(lacking)} of the images that {plan.truth} names are not in {files}, such as "
                f"{lacking[0]}; delete whichever of these files is wrong, and run this again"
            )
        _keep_records(plan, archives)
        if plan.pictures.exists():
            for image in sorted(found):
                if not (plan.pictures / image).exists():
                    (scratch / image).rename(plan.pictures / image)
        else:
            scratch.rename(plan.pictures)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for addresses in plan.archives:
        for url in addresses:
            discard(part_of(plan.file(url)))


def _extract(plan: _Plan, archives: list[_Fetched], folder: Path, progress: bool) -> set[str]:
    """Fills `folder`; returns the names of its files."""
    members: dict[str, str] = {}
    left = _MOST_BYTES
    for archive in archives:
        try:
            left -= extract_pictures(archive.path, folder, members, left, progress=progress)
        except ArchiveError as e:
            if archive.record is None:
                raise UserError(f"{archive.path} cannot be used: {e}; delete or replace it") from e
            discard(archive.path)
            raise UserError(
                f"{archive.record.url} cannot be used, and was deleted: {e}; run this again to "
                f"fetch it once more, or {_by_hand(plan)}"
            ) from e
    return set(members)


def _fetch(plan: _Plan, addresses: tuple[str, ...], progress: bool) -> _Fetched:
    """Completes the part of the first address that has something, and compares it with its record.

    Raises:
      UserError: no address has it, or it is not what it was at an earlier download.
    """
    for url in addresses:
        if (file := plan.file(url)).is_file():
            _warn_if_blurred(file.name)
            return _Fetched(file, file.name, None)
    refusals = []
    # What was begun goes first: then the ones before it were not to be had.
    for url in sorted(addresses, key=lambda url: not part_of(plan.file(url)).exists()):
        part = part_of(plan.file(url))
        try:
            version = fetch(url, part, progress=progress)
        except NotOfferedError as e:
            refusals.append(str(e))
            continue
        except TransferError as e:
            raise UserError(f"{e}; run this again to go on, or {_by_hand(plan)}") from e
        _warn_if_blurred(plan.file(url).name, version.source)
        record = measure(version.source, part)
        check_record(plan.folder, plan.file(url).name, part, record)
        return _Fetched(part, plan.file(url).name, record)
    raise UserError(f"{'; '.join(refusals)}; {_by_hand(plan)}")


def _warn_if_blurred(*names: str) -> None:
    if any(_BLURRED in name.rpartition("/")[2] for name in names):
        log.warning(
            "%s has its faces blurred: pixels differ from the original's, and mAP may do so too",
            names[0],
        )


def _by_hand(plan: _Plan) -> str:
    """What to put where for a machine without a network."""
    wanted: list[tuple[str, ...]] = []
    if not plan.truth.is_file():
        wanted.append((plan.truth_url,))
    if plan.truth.is_file() or not plan.pictures.exists():
        wanted += [a for a in plan.archives if not any(plan.file(url).is_file() for url in a)]
    files = ", ".join(" (or ".join(a) + ")" * (len(a) - 1) for a in wanted)
    return f"put into {plan.folder} by hand: {files}"


def _keep_records(plan: _Plan, files: list[_Fetched]) -> None:
    add_records(plan.folder, {f.name: f.record for f in files if f.record})
