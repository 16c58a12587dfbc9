"""Examples in Markdown pages and in docstrings: blocks of Python, and command lines."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "experiments").glob("*.md")]
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(python|dir-jax|make|pip) ")
_INLINE = re.compile(r"`((?:python -m|dir-jax) [^`]* --[^`]*)`")
_IN_DOCSTRING = re.compile(r"^    (python -m (?:.*\\\n)*.*)$", re.MULTILINE)


class Example(NamedTuple):
    """A piece of a page, and where it is, for messages."""

    where: str
    text: str


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def python_blocks(page):
    """The Python examples of a page, in order."""
    return [e for language, e in _blocks(page) if language == "python"]


def blocks_of(page, *languages):
    """The texts of a page's blocks in some languages, in order."""
    return [example.text for language, example in _blocks(page) if language in languages]


def command_lines(page):
    """The command lines of a page, continuation lines joined; comments and output left out."""
    text = page.read_text()
    if page.suffix == ".py":
        doc = ast.get_docstring(ast.parse(text), clean=False) or ""
        return [Example(name_of(page), _joined(m[1])) for m in _IN_DOCSTRING.finditer(doc)]
    found = []
    for language, (where, block) in _blocks(page):
        rows = _joined(block).splitlines()
        if language == "bash":
            found += [Example(where, row) for row in rows if row.strip()]
        elif not language:
            found += [Example(where, row) for row in rows if _COMMAND.match(row)]
    outside = _FENCE.sub("", text)
    return found + [Example(name_of(page), m[1]) for m in _INLINE.finditer(outside)]


def _blocks(page):
    text = page.read_text()
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield match[1], Example(f"{name_of(page)}:{line}", match[2])


def _joined(text):
    return re.sub(r"\\+\n\s*", " ", text)
