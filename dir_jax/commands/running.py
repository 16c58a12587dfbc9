"""What the commands share: flags into values, errors into one line and an exit code."""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from dir_jax.errors import UserError, did_you_mean, quoted, shown
from dir_jax.runtime.signals import Interrupts

_PATHS = ("DIR", "FILE", "PATH", "RECIPE")  # how the metavar of a flag that takes a path begins


class Parser(argparse.ArgumentParser):
    """Parses a command's flags; a mistake is a UserError of one line.

    Flags are listed with hyphens, and accepted with hyphens or underscores.
    """

    def __init__(self, module: str, doc: str | None):
        """The parser of `python -m MODULE`; --help shows `doc`, the module's docstring."""
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The flags' values, from the command line without the command itself.

        Raises UserError for a mistake; an unknown flag is reported before any other.
        """
        if any(argument in ("-h", "--help") for argument in arguments):
            self.print_help()
            raise SystemExit(0)
        arguments = [with_hyphens(argument) for argument in arguments]
        for argument in arguments:
            self._check_flag(argument)
        args, rest = self.parse_known_args(arguments)
        if rest:
            expanded = os.path.exists(rest[0])
            hint = "; put a pattern such as 'photos/*.jpg' in quotes, or a shell makes many of one"
            raise UserError(f"unexpected argument {quoted(rest[0])}: flags begin with --"
                            + hint * expanded)  # fmt: skip
        for action in self._actions:
            value = getattr(args, action.dest, None)
            if isinstance(value, str) and str(action.metavar).startswith(_PATHS):
                setattr(args, action.dest, os.path.expanduser(value))  # not by a shell after a =
        return args

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{shown(message)} (--help lists the flags)")

    def _check_flag(self, argument: str) -> None:
        flag = argument.partition("=")[0]
        is_flag = re.match(r"--\w|-[^\W\d]", flag) and " " not in flag
        known = self._option_string_actions
        if not is_flag or flag in known or (flag[1] != "-" and flag[:2] in known):
            return
        self.error(f"there is no flag {shown(flag)}{did_you_mean(flag, known)}")


def with_hyphens(argument: str) -> str:
    """The argument, with hyphens for underscores in a flag's name, but not in its value or key."""
    return re.sub(r"^--\w[\w-]*(?=[.=]|$)", lambda name: name[0].replace("_", "-"), argument)


def run_parsed(
    parser: Parser, main: Callable[[argparse.Namespace], int | None], prog: str | None = None
) -> int:
    """Parses the command line, runs a command, and returns its exit code.

    A mistake of the user's is one line on standard error and exit code 2; Ctrl-C is 130. Any other
    error is a bug of ours, and keeps its traceback. `main` gets the flags' values; None is 0.
    `prog` is how the command was called, such as 'dir-jax train'; by default `python -m MODULE`.
    """
    if prog:
        parser.description = (parser.description or "").replace(parser.prog, prog)
        parser.prog = prog
    # JAX and Flax make very many objects as they are imported and as they trace a network, and none
    # of these is garbage: looking for it as often as Python does takes a tenth of that time.
    gc.set_threshold(10_000)
    with Interrupts() as interrupts:
        try:
            try:
                return main(parser.parse(sys.argv[1:])) or 0
            except UserError as e:
                print(f"error: {e}", file=sys.stderr)
                return 2
            except BrokenPipeError:  # whoever read the output has had enough, as `head` has
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 141
        except BaseException as e:
            if not isinstance(e, KeyboardInterrupt) and not interrupts.received:
                raise
            print("interrupted", file=sys.stderr)
            return 130
