"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from dir_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to instead of `path`, which it replaces once complete.

    Raises:
      UserError: the file cannot be written; what `path` held before is still there.
    """
    target = Path(path)
    scratch = target.with_name(f".{os.getpid()}.{target.name}")  # keeps the suffix
    try:
        yield scratch
        os.replace(scratch, target)
    except OSError as e:
        raise UserError(f"cannot write {target}: {e.strerror or e}") from e
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replaces a file's contents at once: a reader sees the old text or the new, never a part.

    Raises:
      UserError: the file cannot be written.
    """
    with replacing(path) as scratch:
        scratch.write_text(text)
