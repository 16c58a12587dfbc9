"""A progress bar in a terminal, and plain lines anywhere else."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from dir_jax.runtime.processes import is_first


class _Lines:
    """Standard error for tqdm: what would overwrite a line becomes a line of its own."""

    def write(self, text: str) -> None:
        if line := text.replace("\x1b[A", "").strip():  # without the way back up from a second bar
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(
    name: str, total: int | None, unit: str, shown: bool, done: int = 0, *, delay: float = 0
) -> tqdm:
    """A bar with the rate; where standard error is not a terminal, a line every ten seconds.

    `unit` is 'B' for bytes, or what is counted, such as 'img'; `done` of them were done by an
    earlier run. What is usually quick appears only after `delay` seconds. Of several processes that
    train together, the first one shows it.
    """
    look: dict[str, Any] = {"leave": False, "delay": delay}
    if not sys.stderr.isatty():
        number = "{n_fmt}" if unit == "B" else "{n:.0f}"
        line = "{desc}: " + number + " of {total_fmt} {unit}, {rate_fmt}, {remaining} left{postfix}"
        look |= {"file": _Lines(), "mininterval": 10, "bar_format": line, "leave": True}
    scale = {"unit_scale": True, "unit_divisor": 1024} if unit == "B" else {}
    return tqdm(
        desc=name,
        total=total,
        initial=done,
        unit=unit,
        disable=not (shown and is_first()),
        **look,
        **scale,
    )
