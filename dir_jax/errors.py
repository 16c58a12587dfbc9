"""The one exception that a user is meant to read, and what its messages are made of."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

_LONGEST = 200  # characters of the input that a message repeats


class UserError(Exception):
    """Bad input, with a message made for the person who gave it.

    Commands print it as one line on standard error and exit with code 2, without a traceback. The
    message says what is wrong, where (file, flag or config key), and what to do about it.
    """


class ImageError(UserError):
    """An image file, which is named, is missing, damaged, or of a kind that is not read."""


class NotFiniteError(UserError):
    """A network's parameters, statistics or descriptors are not all finite numbers."""


def shown(value: object) -> str:
    """A value from a file, fit for a message of one line: short, and without control characters.

    What is too long lacks its middle, because the end of a path tells the most.
    """
    return _short(value, str)


def quoted(value: object) -> str:
    """As `shown`, but texts are in quotes, so that they stand out from the message."""
    return _short(value, repr)


def _short(value: object, write: Callable[[object], str]) -> str:
    try:
        text = write(value)
    except (ValueError, RecursionError):  # of integers of more than 4,300 digits; of deep lists
        text = f"<{type(value).__name__} too long to show>"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _LONGEST else f"{text[:139]}…{text[-60:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A phrase that suggests the known name nearest to `name`; '' where none is near."""
    by_letters = {candidate.strip("-").lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.strip("-").lower(), by_letters, n=1)
    return f"; did you mean {by_letters[near[0]]}?" if near else ""
