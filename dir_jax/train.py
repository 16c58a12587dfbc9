"""Trains a network: `python -m dir_jax.train --config ap_gem --workdir runs/ap_gem`.

A recipe is a Python file with a `get_config()`; those that come with dir_jax have names. Any key
of the config can be set on the command line, as in `--config.batch_size=1024`. The same command
resumes a run that was stopped or killed.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import os
import sys

from dir_jax.commands.flags import add_cache_flag, add_process_flags
from dir_jax.commands.recipes import ConfigParser, load_config
from dir_jax.commands.running import run_parsed
from dir_jax.errors import UserError
from dir_jax.runtime.processes import start_processes
from dir_jax.runtime.together import Together


def main(prog: str | None = None) -> int:
    """Trains as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> ConfigParser:
    parser = ConfigParser("dir_jax.train", __doc__)
    help_ = "folder of checkpoints, metrics and pictures; a run that is there is resumed"
    parser.add_argument("--workdir", required=True, metavar="DIR", help=help_)
    add_cache_flag(parser)
    add_process_flags(parser)
    parser.add_argument("--log-compiles", action="store_true", help="print what is compiled")
    return parser


def _main(args: argparse.Namespace) -> int:
    if not args.workdir:
        raise UserError("--workdir is empty; give a folder, such as --workdir runs/ap_gem")
    code = args.exit_code_on_preemption
    if not 0 <= code < 256:
        raise UserError(f"--exit-code-on-preemption is {code}; expected a number from 0 to 255")
    start_processes(args.distributed, args.coordinator_address, args.num_processes, args.process_id)
    with Together() as together:
        config = load_config(args.config, args.overrides)
        from dir_jax.training.finished import is_finished

        if together.count == 1 and is_finished(config, args.workdir):
            print(f"this run is complete: {args.workdir}", file=sys.stderr)
            return 0
        from dir_jax.runtime.compiler import set_up_jax

        cache = args.compilation_cache
        if together.count > 1 and cache is None:
            cache = os.path.join(args.workdir, "xla")  # the one folder that all processes share
        set_up_jax(cache, log_compiles=args.log_compiles, asynchronous=False)
        from dir_jax.training.recipe import train

        return train(config, args.workdir, preempted=code, together=together)


if __name__ == "__main__":
    sys.exit(main())
