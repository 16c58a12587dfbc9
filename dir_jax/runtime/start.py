"""What a program does before anything else."""

from __future__ import annotations

import signal

from dir_jax.runtime.allocator import restart_with_allocator
from dir_jax.runtime.signals import hold_signals, leave


def start_program(*, computes: bool = False) -> None:
    """Makes Ctrl-C end this process at once, until `run_parsed` takes over.

    To be called before other imports, which take time. A program that `computes` is started again
    with the allocator's settings.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, leave)
    hold_signals(False)
    if computes:
        restart_with_allocator()
