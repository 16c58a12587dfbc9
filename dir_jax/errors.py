"""The one exception that a user is meant to read, and suggestions for its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, with a message made for the person who gave it.

    Commands print it as one line on standard error and exit with code 2, without a traceback. The
    message says what is wrong, where (file, flag or config key), and what to do about it.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A phrase that suggests the known name nearest to `name`; '' where none is near."""
    by_letters = {candidate.strip("-").lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.strip("-").lower(), by_letters, n=1)
    return f"; did you mean {by_letters[near[0]]}?" if near else ""
