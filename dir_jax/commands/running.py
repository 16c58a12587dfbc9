"""What the commands share: flags into values, errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from dir_jax.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """Parses a command's flags; a mistake is a UserError of one line.

    Flags are listed with hyphens, and accepted with hyphens or underscores.
    """

    def __init__(self, module: str, doc: str | None):
        """Makes the parser of the command `python -m MODULE`, without any flags.

        Args:
          module: the command's module.
          doc: the module's docstring, which --help shows as it is written.
        """
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def called(self, prog: str) -> None:
        """Has the usage and the description say how the command was called.

        Args:
          prog: such as 'dir-jax train'.
        """
        self.description = (self.description or "").replace(self.prog, prog)
        self.prog = prog

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The flags' values.

        Args:
          arguments: the command line, without the command itself.

        Raises:
          UserError: there is no such flag, which is reported before any other mistake; or a flag
            lacks its value, has a wrong one, or is missing.
        """
        if any(argument in ("-h", "--help") for argument in arguments):
            self.print_help()
            raise SystemExit(0)
        arguments = [with_hyphens(argument) for argument in arguments]
        for argument in arguments:
            self._check_flag(argument)
        args, rest = self.parse_known_args(arguments)
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}: flags begin with --")
        return args

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message} (--help lists the flags)")

    def _check_flag(self, argument: str) -> None:
        flag = argument.partition("=")[0]
        is_flag = re.match(r"--\w|-[^\W\d]", flag) and " " not in flag
        known = self._option_string_actions
        if not is_flag or flag in known or (flag[1] != "-" and flag[:2] in known):
            return
        raise UserError(
            f"there is no flag {flag}{did_you_mean(flag, known)} (--help lists the flags)"
        )


def with_hyphens(argument: str) -> str:
    """A flag with hyphens for underscores.

    Its value is left alone, and so are the keys of `--config.KEY` and arguments that are no flags.
    """
    name = re.match(r"--\w[\w-]*(?=[.=]|$)", argument)
    if not name:
        return argument
    return name[0].replace("_", "-") + argument[name.end() :]


def run_parsed(
    parser: Parser,
    main: Callable[[argparse.Namespace], int | None],
    prog: str | None = None,
) -> int:
    """Parses the command line, runs a command, and returns its exit code.

    A mistake of the user's is one line on standard error and exit code 2; Ctrl-C is 130. Any other
    error is a bug of ours, and keeps its traceback.

    Args:
      parser: the command's flags.
      main: the command, a function of their values; returns an exit code, where None is 0.
      prog: how the command was called, such as 'dir-jax train'; by default `python -m MODULE`.
    """
    if prog:
        parser.called(prog)
    try:
        return main(parser.parse(sys.argv[1:])) or 0
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
