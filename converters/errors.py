"""What is wrong with a checkpoint file."""

from __future__ import annotations

from dir_jax.errors import UserError

_LONGEST_NAME = 80


class CheckpointFileError(UserError):
    """A file that is no checkpoint, is damaged, or asks for what no checkpoint needs."""


def shown(text: object) -> str:
    """A name taken from a file, fit for an error of one line: short, without control characters."""
    text = str(text)
    short = text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
    return short if short.isprintable() else ascii(short)


def some(names: list[str], limit: int = 5) -> str:
    """The first few of a list of names that come from a file."""
    return ", ".join(map(shown, names[:limit])) + (", …" if len(names) > limit else "")
