"""Images that a run cannot read and goes on without, if `config.data.on_error` is 'skip'."""

from __future__ import annotations

import logging
from pathlib import Path

import jax

from dir_jax.errors import UserError, shown
from dir_jax.runtime.reading import read_rows

log = logging.getLogger(__name__)

_NAMED = 5  # images that the log names, besides the file


class SkippedImages:
    """The list of them: `skipped_images.txt` in the run's directory, with `path<TAB>why` rows.

    It is made with the first of them. Where a run has several processes, each of the others has a
    file of its own, `skipped_images.1.txt` and so on.
    """

    def __init__(self, workdir: Path, *, resumes: bool):
        """Starts the list, or goes on with that of a run that is resumed."""
        process = jax.process_index()
        self._path = workdir / (
            f"skipped_images.{process}.txt" if process else "skipped_images.txt"
        )
        self._listed: set[str] = set()
        if not resumes:
            self._path.unlink(missing_ok=True)
        elif self._path.exists():
            self._listed = {row.split("\t")[0] for _, row in read_rows(self._path)}

    def add(self, path: str, why: str) -> None:
        """Adds an image, unless it is there. Raises UserError where the file cannot be written."""
        name = shown(path)
        if name in self._listed:
            return
        self._listed.add(name)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{name}\t{shown(why)}\n")
        except OSError as e:
            raise UserError(f"cannot write {self._path}: {e.strerror or e}") from e
        if len(self._listed) <= _NAMED:
            log.warning("%s; the run goes on without it (%s)", why, self._path)
        elif len(self._listed) == _NAMED + 1:
            log.warning("more images cannot be used; from here on, only %s names them", self._path)
