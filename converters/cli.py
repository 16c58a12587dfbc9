"""What the converters' commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from dir_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """Whose mistakes are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message} (--help lists the flags)")


def run_command(parser: Parser, main: Callable[[argparse.Namespace], None]) -> int:
    """Parses the command line, runs a command, and returns its exit code.

    A mistake of the user's is one line on standard error and exit code 2; Ctrl-C is 130. Anything
    else is ours, and keeps its traceback.
    """
    try:
        main(parser.parse_args())
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
