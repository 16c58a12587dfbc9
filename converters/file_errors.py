"""What is wrong with a checkpoint file."""

from __future__ import annotations

from dir_jax.errors import UserError, shown


class CheckpointFileError(UserError):
    """A file that is not a checkpoint, is damaged, or asks for what no checkpoint needs."""


def some(names: list[str], limit: int = 5) -> str:
    """The first few of a list of names that come from a file."""
    return ", ".join(map(shown, names[:limit])) + (", …" if len(names) > limit else "")
