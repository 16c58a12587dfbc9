"""Puts the tables that benchmarks measured into benchmarks/RESULTS.md.

    python -m benchmarks.results runs/bench/*.json

What NAME.json holds replaces what stands between `<!-- NAME -->` and `<!-- end of NAME -->`; the
words around the tables are written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dir_jax.runtime.files import write_text

RESULTS = Path(__file__).with_name("RESULTS.md")


def write_figures(
    file: Path | None, machine: Mapping[str, Any], table: str, **figures: Any
) -> None:
    """Writes what a benchmark measured, for `--json` (None: nowhere) and for this script.

    Args:
      file: the JSON file; its folder is made.
      machine: as `side_by_side.machine` gives it.
      table: Markdown.
      figures: whatever else is to be kept.
    """
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, **figures, "table": table}
    write_text(file, json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Replaces tables in RESULTS.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="from --json")
    args = parser.parse_args(arguments)
    text = RESULTS.read_text()
    for file in args.files:
        figures = json.loads(file.read_text())
        if figures.get("trial"):
            print(f"{file}: a trial at small size, which is no result; left out", file=sys.stderr)
            continue
        text = _replace(text, file.stem, section(figures))
    write_text(RESULTS, text)


def section(figures: Mapping[str, Any]) -> str:
    """What RESULTS.md says of one benchmark: how it was measured, then the table."""
    on = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    commit = f" at commit {on['commit']}" if on.get("commit") else ""
    how = f"`{on['command']}`, {on['date']}{commit}: {describe_machine(on)}; Python {on['python']}"
    return f"{how}, {versions}.\n\n{figures['table']}"


def describe_machine(on: Mapping[str, Any]) -> str:
    """One line on where figures were measured."""
    speeds = ", ".join(
        f"{speed:.0f} GFLOP/s in {dtype}" for dtype, speed in on["device"]["gigaflops"].items()
    )
    processor = f"{on['processor']}, {on['cores']} cores"
    device = "" if on["device"]["platform"] == "cpu" else f", {on['device']['kind']}"
    if "gigabytes_a_second" in on["device"]:
        speeds += f"; copies: {on['device']['gigabytes_a_second']:.0f} GB/s"
    return f"{processor}{device} (matrix products: {speeds})"


def _replace(text: str, name: str, content: str) -> str:
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"error: {RESULTS.name} has no place for {name!r}: {start} … {end}")
    return pattern.sub(lambda _: f"{start}\n{content}\n{end}", text)


if __name__ == "__main__":
    main()
