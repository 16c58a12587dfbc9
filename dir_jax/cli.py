"""What the commands share: flags into values, errors into one line, jax's settings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dir_jax.errors import UserError

# glibc gives large arrays back to the system at every call, and gets them again page by page; what
# other threads than the first allocate, too. From one heap that never shrinks, in pages of two
# megabytes where the system allows, ResNet-50 takes a sixth less time, and as little after a pause.
# Without caches of small pieces: of a program's temporaries a few bytes are left over, and once
# given out as such a piece, that much room is never free again in one, and the heap doubles.
ALLOCATOR = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (
        ("arena_max", 1),
        ("mmap_max", 0),
        ("trim_threshold", 1 << 40),
        ("hugetlb", 1),
        ("tcache_count", 0),
        ("mxfast", 0),
    )
)


def restart_with_allocator() -> None:
    """Starts this command again with `ALLOCATOR`, which is read only as a process starts.

    Does nothing where there is no glibc, or where $GLIBC_TUNABLES says something already.
    """
    names = getattr(os, "confstr_names", {})
    if "CS_GNU_LIBC_VERSION" not in names or "GLIBC_TUNABLES" in os.environ:
        return
    environment = {**os.environ, "GLIBC_TUNABLES": ALLOCATOR}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


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


def set_up_jax(cache: str | None, *, log_compiles: bool = False, asynchronous: bool = True) -> None:
    """Keeps compiled programs on disk, so that a second run of the same thing starts fast.

    Call it before jax's first work.

    Args:
      cache: the folder; None is `dir_jax/xla` in the user's cache folder, '' keeps none.
      log_compiles: log each compilation.
      asynchronous: a CPU computes while the host goes on. Not worth it where the host has nothing
        else to do: programs sent ahead have their memory at once, from whatever is free by then.
    """
    import jax

    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache = str(Path(home) / "dir_jax" / "xla")
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        # All of them: the many small ones take as long together as one network.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_log_compiles", log_compiles)
    jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
