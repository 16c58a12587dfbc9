"""What the site takes from the code while it is built, so that it cannot say anything else.

`{{ help: train }}` is what `dir-jax train --help` prints; `{{ source: MODULE:NAME }}` is the source
of a module's function or constant; `{{ commands }}` and `{{ recipes }}` are lists of them.
"""

import ast
import contextlib
import importlib.util
import io
import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page: fills in what stands between double braces."""
    return re.sub(r"\{\{ *(\w+)(?:: *(\S+))? *\}\}", lambda m: _fill(m[1], m[2]), markdown)


def _fill(what: str, name: str | None) -> str:
    if what == "commands":
        return _fenced(_printed())
    if what == "help" and name:
        return _fenced(_printed(name, "--help"))
    if what == "recipes":
        from dir_jax.commands.recipes import recipes

        rows = [f"| `{name}` | {_first_line(path)} |" for name, path in recipes().items()]
        return "\n".join(["| recipe | what it trains |", "|---|---|", *rows])
    if what == "source" and name:
        return _fenced(_source(*name.split(":")), "python")
    raise ValueError(f"a page asks for {what}: {name}, which docs/hooks.py does not know")


def _fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _printed(*arguments: str) -> str:
    from dir_jax.commands.main import main

    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["dir-jax", *arguments]),
        mock.patch.dict(os.environ, {"COLUMNS": "80"}),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        main()
    return output.getvalue()


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0].rstrip(".")


def _source(module: str, name: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {module}")
    text = Path(spec.origin).read_text()
    for node in ast.parse(text).body:
        targets = getattr(node, "targets", [getattr(node, "target", node)])
        if name in (getattr(node, "name", None), *(getattr(t, "id", None) for t in targets)):
            return ast.get_source_segment(text, node) or ""
    raise ValueError(f"{module} has no {name}")
