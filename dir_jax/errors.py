"""The one exception that a user is meant to read, and what its messages are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 80  # characters of a name that a message repeats


class UserError(Exception):
    """Bad input, with a message made for the person who gave it.

    Commands print it as one line on standard error and exit with code 2, without a traceback. The
    message says what is wrong, where (file, flag or config key), and what to do about it.
    """


def shown(text: object) -> str:
    """A name taken from a file, fit for a message of one line: short, no control characters."""
    text = str(text)
    short = text if len(text) <= _LONGEST_NAME else text[:_LONGEST_NAME] + "…"
    return short if short.isprintable() else ascii(short)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A phrase that suggests the known name nearest to `name`; '' where none is near."""
    by_letters = {candidate.strip("-").lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.strip("-").lower(), by_letters, n=1)
    return f"; did you mean {by_letters[near[0]]}?" if near else ""
