"""Long lists in shards, each a run of its own: on many machines, or one after the other.

The folder of `extract_features --output OUT --shards S`:

    OUT/manifest.json        what is described, by what, over which padded shapes
    OUT/00017/LIST.npy       (n, D) float32, rows i·N/S … (i+1)·N/S − 1 of a list of N; no file for
                             none; LIST is database, or queries where a data set has its own
    OUT/00017/LIST.names.txt the name of each row's image
    OUT/00017/LIST.failed.txt  `name<TAB>reason` rows, of images whose row is NaN
    OUT/00017.partial/       a shard that is not finished; see `resume`

As the padded shapes are those of the whole list, chosen by the first run for an evenly spread
sample of it, a shard reads the headers of its own images, and its rows are the bytes of the same
rows of one run over everything. `sharded_files` reads the folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dir_jax.data.images import ImageDataset
from dir_jax.data.lists import NamesInFile
from dir_jax.describe.describer import Describer
from dir_jax.describe.feature_files import failed_rows, make_folder
from dir_jax.describe.image_lists import read_list
from dir_jax.describe.padded_shapes import Shape
from dir_jax.describe.sharded_files import LISTS, Manifest, read_manifest, shard_folder, shard_rows
from dir_jax.errors import UserError
from dir_jax.runtime.files import BusyError, check_name, take_lock, write_text

_SECONDS_BETWEEN_LOOKS = 0.5  # at what other processes are doing


class ShardedExtraction:
    """Describes the shards of a data set, and its queries, into a folder.

    Several processes may do so at once, on any machines that share the folder.
    """

    def __init__(
        self, folder: str, datasets: Sequence[ImageDataset], count: int, describer: Describer
    ):
        """Writes the manifest, or checks that it is of the same images and the same model.

        Args:
          folder: the output.
          datasets: the data set, and its queries where it has some of its own.
          count: into how many shards it is divided.
          describer: what describes the images.

        Raises:
          UserError: the folder is of another extraction, or cannot be written; or the list has no
            images.
        """
        self._folder, self._count, self._describer = Path(folder), count, describer
        turned = [dataset.with_exif(describer.recipe.exif) for dataset in datasets]
        self._lists = list(zip(LISTS, turned, strict=False))
        for _, dataset in self._lists:
            for name in () if isinstance(dataset.names, NamesInFile) else dataset.names:
                check_name(name)
        make_folder(str(self._folder / "manifest.json"))
        self._shapes = self._agree()

    def _agree(self) -> list[Shape]:
        """The padded shapes that all shards use."""
        file = self._folder / "manifest.json"
        while not file.exists():
            with contextlib.suppress(BusyError), _locked(self._folder / "manifest.lock"):
                if not file.exists():
                    shapes = self._describer.choose_shapes(self._lists)
                    manifest = {**self._identity, "shapes": [list(shape) for shape in shapes]}
                    write_text(file, json.dumps(manifest, indent=1) + "\n")
            time.sleep(0 if file.exists() else _SECONDS_BETWEEN_LOOKS)
        there = read_manifest(self._folder)
        self._refuse_another(there)
        return there.shapes

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "shards": self._count,
            "width": self._describer.finished_size,
            "lists": {
                name: {"images": len(dataset), "names": digest_of_names(dataset.names)}
                for name, dataset in self._lists
            },
            **self._describer.identity(),
        }

    def _refuse_another(self, there: Manifest) -> None:
        here = json.loads(json.dumps(self._identity))
        differing = [key for key in here if here[key] != there.fields.get(key)]
        differing += [key for key in there.fields if key not in (*here, "shapes")]
        if "shards" in differing:
            raise UserError(
                f"{self._folder} is divided into {there.shards} shards, not {self._count}; give "
                f"--shards {there.shards}, or another folder"
            )
        if differing:
            raise UserError(
                f"{self._folder} holds an extraction that differs in {', '.join(differing)}; go on "
                "with it as it was started, or give another folder"
            )

    def is_done(self, number: int) -> bool:
        """Whether a shard is finished, or has no images."""
        empty = all(not len(shard_rows(len(d), number, self._count)) for _, d in self._lists)
        return empty or shard_folder(self._folder, number).is_dir()

    def describe(self, number: int) -> str:
        """Describes a shard unless it is finished, from where an earlier run stopped.

        Returns:
          What there is to say about it, in a line.

        Raises:
          BusyError: another process is describing it.
          UserError: as `Describer.describe`, naming the shard.
        """
        if self.is_done(number):
            return f"shard {number} is finished already"
        target = shard_folder(self._folder, number)
        lock = target.with_suffix(".lock")
        with _locked(lock, f"shard {number} is being described by another process"):
            if not target.is_dir():  # else another process has just finished it
                try:
                    images, failed = self._describe(number, target)
                except UserError as e:
                    raise type(e)(f"shard {number}: {e}") from e
            lock.unlink(missing_ok=True)  # whoever still waits for it finds the shard finished
        note = f"; {failed} could not be described" if failed else ""
        return f"wrote {target}: {images} images{note}"

    def _describe(self, number: int, target: Path) -> tuple[int, int]:
        rows = {name: shard_rows(len(d), number, self._count) for name, d in self._lists}
        parts = [
            read_list(name, dataset, np.array(rows[name]))
            for name, dataset in self._lists
            if len(rows[name])
        ]
        partial = f"{target}.partial"
        failures, store = self._describer.describe_finished(parts, self._shapes, partial)
        try:
            for part, failed in zip(parts, failures, strict=True):
                names = [part.dataset.names[i] for i in part.indices.tolist()]
                write_text(f"{partial}/{part.name}.names.txt", "".join(f"{n}\n" for n in names))
                if failed:
                    text = "".join(f"{row}\n" for row in failed_rows(names, failed))
                    write_text(f"{partial}/{part.name}.failed.txt", text)
        except BaseException:
            store.close()
            raise
        keep = [f"{p.name}{end}" for p in parts for end in (".npy", ".names.txt", ".failed.txt")]
        store.move_to(target, keep)
        return sum(map(len, parts)), sum(map(len, failures))

    def describe_all(self) -> Iterator[str]:
        """Describes all shards in turn, as `describe`, and yields what there is to say.

        Those that other processes describe are waited for, and taken over where these end.
        """
        todo = [number for number in range(self._count) if not self.is_done(number)]
        if done := self._count - len(todo):
            yield f"{done} of {self._count} shards are finished already"
        waiting = False
        while todo:
            busy = []
            for number in todo:
                try:
                    said = self.describe(number)
                except BusyError:
                    busy.append(number)
                    continue
                if not said.endswith("already"):
                    yield said
            if busy == todo:
                if not waiting:
                    yield f"waiting for other processes, which describe {len(busy)} shards"
                waiting = True
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            todo = [number for number in busy if not self.is_done(number)]


def digest_of_names(names: Sequence[str]) -> str:
    """The SHA-256 of a list's names, in their order."""
    if isinstance(names, NamesInFile):
        return names.digest
    digest = hashlib.sha256()
    for start in range(0, len(names), 1 << 14):
        digest.update("".join(f"{name}\n" for name in names[start : start + (1 << 14)]).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path, busy: str = "") -> Iterator[None]:
    lock = take_lock(path, busy)
    try:
        yield
    finally:
        lock.release()
