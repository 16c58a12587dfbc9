"""What the commands share: flags into values, errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from dir_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """For commands without a config; its mistakes are one line, like all others."""

    def __init__(self, module: str, doc: str | None):
        """For `python -m module`, whose docstring `doc` is shown as it is written."""
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message} (--help lists the flags)")


def run_parsed(parser: Parser, main: Callable[[argparse.Namespace], None]) -> int:
    """Parses the command line by `parser`, runs a command; returns as `run_command`."""

    def run() -> int:
        main(parser.parse_args())
        return 0

    return _exit_code(run)


def run_command(main: Callable[[], int], doc: str | None) -> int:
    """Parses absl's flags, runs a command, and returns its exit code.

    A mistake of the user's is one line on standard error and exit code 2; Ctrl-C is 130. Anything
    else is ours, and keeps its traceback.
    """

    def run() -> int:
        _parse(doc)
        return main()

    return _exit_code(run)


def _exit_code(run: Callable[[], int]) -> int:
    try:
        return run()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parse(doc: str | None) -> None:
    from absl import flags

    module = sys.modules["__main__"]
    name = getattr(getattr(module, "__spec__", None), "name", None) or sys.argv[0]
    if any(a in ("-h", "--help", "-help") for a in sys.argv[1:]):
        print((doc or "").strip() + "\n")
        print(f"flags of python -m {name}:")
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            default = "" if flag.default in (None, "") else f" (default: {flag.default})"
            print(f"  --{flag.name}: {flag.help}{default}")
        raise SystemExit(0)
    try:
        rest = flags.FLAGS(sys.argv)[1:]
    except flags.UnrecognizedFlagError as e:
        raise UserError(f"there is no flag --{e.flagname} (--help lists them)") from e
    except flags.Error as e:
        raise UserError(str(e).splitlines()[0]) from e
    except (
        OSError,
        ImportError,
        SyntaxError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as e:
        # Raised while the config file named by --config is run or changed.
        raise UserError(
            f"the config cannot be used: {type(e).__name__}: {e}; is a --config.KEY misspelt?"
        ) from e
    if rest:
        raise UserError(f"do not know what {rest[0]!r} is for; flags begin with --")


def require_flag(name: str, value: Any, example: str) -> Any:
    """The value of a flag that must be given."""
    if value is None or value == "":
        raise UserError(f"--{name} is missing; give one, such as --{name} {example}")
    return value
