"""Data sets that come in many archives: where they are, and how a few are fetched at a time.

Each archive is resumed, checked and unpacked by itself. Beside the images it leaves a listing, from
which a later run, and whoever reads the data set, knows that it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from dir_jax.data import google_landmarks, structure_from_motion
from dir_jax.data.download.archives import extract_images
from dir_jax.data.download.connection import BrokenError, Connection, TransferError
from dir_jax.data.download.fetch import discard, fetch_file, part_of
from dir_jax.data.fetched_parts import DISTRACTOR_ARCHIVES
from dir_jax.errors import UserError, quoted, shown
from dir_jax.runtime.files import take_lock, write_text
from dir_jax.runtime.progress import progress_bar
from dir_jax.runtime.reading import read_text

_AT_ONCE = 4  # archives
_MOST = 64 << 30  # bytes of an archive, packed or unpacked
_MOST_LIST = 4 << 30  # bytes of a list
_FETCHING = ".fetching"  # the folder, beside the images, of what is not complete


class Collection(NamedTuple):
    """A data set that comes in archives.

    Attributes:
      base: the address that the others are relative to.
      folder: the folder in DB_ROOT.
      lists: the address of each list or annotation -> its path in the folder.
      archives: the number of each archive, as `--archives` names it -> its address.
      images: the folder of the images in `folder`.
      place: the path in `images` of an archive's member, by its name; None for what is no image.
      checksums: the address of an archive -> that of its MD5, where there are such.
    """

    base: str
    folder: str
    lists: Mapping[str, str]
    archives: Mapping[int, str]
    images: str
    place: Callable[[str], str | None]
    checksums: Callable[[str], str] | None = None


def _place_landmark(name: str) -> str | None:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    is_image = dot and suffix == "jpg" and google_landmarks.IMAGE.fullmatch(stem)
    return google_landmarks.path_of(stem) if is_image else None


def _place_sfm(name: str) -> str | None:
    image = name.rpartition("/")[2]
    is_image = re.fullmatch(r"[0-9A-Za-z]{6,64}", image)
    return structure_from_motion.path_of(image).removeprefix("ims/") if is_image else None


def _place_distractor(name: str) -> str | None:
    name = re.sub(r"^(\./)?(revisitop1m/)?(jpg/)?", "", name)
    return name if name.lower().endswith((".jpg", ".jpeg", ".png")) else None


def _landmarks(split: str, lists: Sequence[str]) -> Collection:
    count = google_landmarks.ARCHIVES[split]
    return Collection(
        "https://s3.amazonaws.com/google-landmark",
        "gldv2",
        {name: name for name in lists},
        {n: f"{split}/images_{n:03}.tar" for n in range(count)},
        split,
        _place_landmark,
        lambda archive: f"md5sum/{archive.replace('images', 'md5.images')}".replace(".tar", ".txt"),
    )


def _sfm(*names: str) -> Collection:
    files = {f"dbs/{name}.pkl": f"{name.removesuffix('-whiten')}/{name}.pkl" for name in names}
    return Collection(
        "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train",
        "train", files, {0: "ims/ims.tar.gz"}, "retrieval-SfM-120k/ims", _place_sfm,
    )  # fmt: skip


COLLECTIONS: Mapping[str, Collection] = {
    "SfM120k": _sfm("retrieval-SfM-120k", "retrieval-SfM-120k-whiten"),
    "SfM30k_whiten": _sfm("retrieval-SfM-30k-whiten"),
    "GLDv2_train": _landmarks("train", ("metadata/train.csv", "metadata/train_clean.csv")),
    "GLDv2_index": _landmarks(
        "index", ("metadata/index.csv", "metadata/index_image_to_landmark.csv")
    ),
    "GLDv2_test": _landmarks(
        "test",
        (
            "metadata/test.csv",
            "ground_truth/retrieval_solution_v2.1.csv",
            "ground_truth/recognition_solution_v2.1.csv",
        ),
    ),
    "R1M": Collection(
        "http://ptak.felk.cvut.cz/revisitop/revisitop1m",
        "revisitop1m",
        {"revisitop1m.txt": "revisitop1m.txt"},
        {n: f"jpg/revisitop1m.{n}.tar.gz" for n in DISTRACTOR_ARCHIVES},
        "jpg",
        _place_distractor,
    ),
}
"""What `dir-jax download` fetches in archives; a part, such as SfM120k_val, has its set's."""


def collection_of(name: str) -> str | None:
    """The name of the collection that a data set's images are in; None where it has none."""
    return next((each for each in COLLECTIONS if f"{name}_".startswith(f"{each}_")), None)


def parse_archives(text: str, known: Sequence[int]) -> list[int]:
    """The numbers that a text such as '0-9' or '3,7,20-24' means, in their order.

    Raises:
      UserError: it is not such a text, or there is no archive of a number.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or first not in known or last not in known:
            raise UserError(
                f"--archives {quoted(text)}: {quoted(part)} is not among the archives, which are "
                f"numbered {known[0]} to {known[-1]}; expected numbers and ranges, such as 0-9"
            )
        found |= set(range(first, last + 1))
    return sorted(found)


def download_collection(
    name: str, db_root: str, *, archives: str | None = None, base: str | None = None
) -> str:
    """Completes a collection under `db_root`, or some of its archives; what is there stays.

    An archive that somebody put beside the images is used instead of the download, and left there.

    Args:
      name: a key of COLLECTIONS.
      db_root: the folder of the data sets, which is made if it does not exist.
      archives: the numbers of the archives wanted, see `parse_archives`; all by default.
      base: another address, for example a mirror's, instead of the collection's `base`.

    Returns:
      What is there now, in a line.

    Raises:
      UserError: there is too little room; or something cannot be fetched, trusted or written. What
        was fetched is kept.
    """
    found = COLLECTIONS[name]
    if base:
        found = found._replace(base=base)
    numbers = list(found.archives)
    wanted = numbers if archives is None else parse_archives(archives, numbers)
    folder = Path(db_root, found.folder)
    images = folder / found.images
    try:
        images.mkdir(parents=True, exist_ok=True)
        busy = f"another process is downloading into {images}; run this again when it has ended"
        lock = take_lock(images / ".download.lock", busy)
        try:
            for address, path in found.lists.items():
                _fetch_list(f"{found.base}/{address}", folder / path)
            left = [n for n in wanted if not _listing(images, found.archives[n]).exists()]
            _fetch_archives(name, found, images, [found.archives[n] for n in left])
        finally:
            lock.release()
        there = [each for each in found.archives.values() if _listing(images, each).exists()]
        count = sum(read_text(_listing(images, each)).count("\n") for each in there)
    except TransferError as e:
        raise UserError(
            f"{e}; run this again later, or fetch what is lacking yourself from {found.base}, and "
            f"put archives into {images}"
        ) from e
    except OSError as e:  # of the disk: those of the network are TransferErrors
        raise UserError(
            f"cannot read or write {e.filename or folder}: {e.strerror or e}; make room, or choose "
            f"another folder than {db_root}; what has been fetched is kept"
        ) from e
    return f"{name}: {len(there)} of {len(numbers)} archives, {count:,} images, in {images}"


def _listing(images: Path, archive: str) -> Path:
    """What says that an archive is complete: the paths of its images."""
    return images / (re.sub(r"\.tar(\.gz)?$", "", Path(archive).name) + ".txt")


def _fetch_list(url: str, path: Path) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = fetch_file(url, path.parent, limit=_MOST_LIST)
        part.rename(path)
        discard(part)


class _StoppedError(Exception):
    pass


class _Progress:
    """Counts the bytes of all threads in one bar, and stops them where that is asked for."""

    def __init__(self, bar: tqdm):
        self._bar, self._lock, self.stop = bar, threading.Lock(), threading.Event()

    def update(self, count: int) -> None:
        if self.stop.is_set():
            raise _StoppedError
        with self._lock:
            self._bar.update(count)


def _fetch_archives(name: str, found: Collection, images: Path, archives: list[str]) -> None:
    """Fetches, checks and unpacks archives, a few at a time.

    Where one cannot be fetched the others still are; TransferError says so at the end.
    """
    if not archives:
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sizes = dict(
            zip(archives, pool.map(lambda a: _size(found, images, a), archives), strict=True)
        )
    done = _check_room(images, sizes)
    failures: list[str] = []
    with progress_bar(f"download {name}", sum(sizes.values()), "B", True, done) as bar:
        progress = _Progress(bar)
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            tasks = [pool.submit(_complete, found, images, each, progress) for each in archives]
            for task in as_completed(tasks):
                try:
                    task.result()
                except TransferError as e:
                    failures.append(str(e))
        finally:
            progress.stop.set()
            pool.shutdown(cancel_futures=True)
    if failures:
        more = f"; and {len(failures) - 1} more" if len(failures) > 1 else ""
        raise TransferError(
            f"{len(failures)} of {len(archives)} archives could not be fetched: {failures[0]}{more}"
        )


def _size(found: Collection, images: Path, archive: str) -> int:
    """How many bytes of an archive are to be fetched, of which some may be here; 0 if unknown."""
    if (images / Path(archive).name).is_file():
        return 0
    with (
        contextlib.suppress(TransferError),
        Connection().get(f"{found.base}/{archive}", {}) as answer,
    ):
        length = answer.headers.get("Content-Length") or "0"
        return int(length) if re.fullmatch("[0-9]{1,18}", length) else 0
    return 0  # its own turn will say what is wrong


def _check_room(images: Path, sizes: Mapping[str, int]) -> int:
    """The bytes of archives that are here already; raises UserError if the rest has no room."""
    parts = (part_of(each, images / _FETCHING / Path(each).name) for each in sizes)
    done = sum(part.stat().st_size for part in parts if part.exists())
    # The images take what the archives took, and a few archives are there at once with theirs.
    need = sum(sizes.values()) - done + _AT_ONCE * max(sizes.values())
    free = shutil.disk_usage(images).free
    if need > free:
        raise UserError(
            f"{images} has {free / 1e9:.1f} GB of free space, and {len(sizes)} archives need about "
            f"{need / 1e9:.1f} GB; make room, choose another folder, or fetch a part of them with "
            "--archives, such as --archives 0-9"
        )
    return done


def _complete(found: Collection, images: Path, archive: str, progress: _Progress) -> None:
    """Fetches an archive, checks it, and puts its images into their places."""
    url, name = f"{found.base}/{archive}", Path(archive).name
    own, scratch = images / name, images / _FETCHING / name
    scratch.mkdir(parents=True, exist_ok=True)
    file = own if own.is_file() else fetch_file(url, scratch, limit=_MOST, bar=progress)
    if found.checksums:
        expected = _fetch_checksum(f"{found.base}/{found.checksums(archive)}", scratch, progress)
        digest = _md5(file, progress)
        if digest != expected:
            aside = file if file == own else images / f"{name}.refused"
            file.rename(aside)
            shutil.rmtree(scratch, ignore_errors=True)
            raise UserError(
                f"{url} is not what was published: its MD5 is {digest}, expected {expected}; it is "
                f"kept as {aside}; delete it and run this again, or use another mirror"
            )
    unpacked = scratch / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    unpacked.mkdir()
    try:
        paths = extract_images(file, unpacked, _MOST, place=found.place)
        if not paths:
            raise UserError("it has no image")
    except UserError as e:
        shutil.rmtree(unpacked, ignore_errors=True)
        if file != own:
            discard(file)
        where = f"{url}, which was deleted," if file != own else str(own)
        raise UserError(f"{where} cannot be used: {e}; run this again") from e
    for path in paths:
        target = images / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (unpacked / path).rename(target)
    write_text(_listing(images, archive), "".join(f"{path}\n" for path in sorted(paths)))
    shutil.rmtree(scratch, ignore_errors=True)


def _fetch_checksum(url: str, folder: Path, progress: _Progress) -> str:
    part = fetch_file(url, folder, limit=4096, bar=progress)
    text = read_text(part)
    discard(part)
    if not (match := re.search(r"\b[0-9a-fA-F]{32}\b", text)):
        raise BrokenError(f"{url} has no MD5: {shown(text.strip())}")
    return match[0].lower()


def _md5(file: Path, progress: _Progress) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        for block in _blocks(stream.read):
            digest.update(block)
            progress.update(0)
    return digest.hexdigest()


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    return iter(lambda: read(1 << 20), b"")
