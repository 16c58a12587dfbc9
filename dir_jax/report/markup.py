"""Text and numbers as HTML."""

from __future__ import annotations

import html
import math
import unicodedata


def escape(text: str) -> str:
    """Text that means itself in HTML and in a quoted attribute, whatever it holds.

    Control characters and lone surrogates (bytes of a file's name that are no UTF-8) cannot stand
    in a page: they become U+FFFD.
    """
    clean = (
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" else c for c in text
    )
    return html.escape("".join(clean), quote=True)


def name(text: str) -> str:
    """A name, whose direction of writing is its own."""
    return f"<bdi>{escape(text)}</bdi>"


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] in per cent, without the sign; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}"


def count(number: int, what: str) -> str:
    """'1 query', '1,200 queries'."""
    if number == 1:
        return f"1 {what}"
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {plural}"


def list_of(words: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
