"""Trains a network: `python -m dir_jax.train --config experiments/ap_gem.py --workdir runs/ap_gem`.

The config is a Python file with a `get_config()`; any of its keys can be set on the command line,
as in `--config.batch_size=1024`. The same command resumes a run that was stopped or killed.
"""

from __future__ import annotations

import sys

from absl import flags
from ml_collections import config_flags

from dir_jax.commands.running import require_flag, run_command
from dir_jax.errors import UserError
from dir_jax.runtime.allocator import restart_with_allocator
from dir_jax.runtime.compiler import set_up_jax

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="The experiment: a Python file with a get_config().", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, metrics and pictures go; resumes what is there."
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Keeps compiled programs for the next run; by default in the user's cache folder, '' for none.",
)
_LOG_COMPILES = flags.DEFINE_bool("log_compiles", False, "Say what is compiled.")


def main() -> int:
    """Trains, and returns the process's exit code."""
    config = require_flag("config", _CONFIG.value, "experiments/ap_gem.py")
    workdir = require_flag("workdir", _WORKDIR.value, "runs/ap_gem")
    try:
        config.lock()
    except OSError as e:  # how ml_collections says, at first use, that the file is not there
        raise UserError(f"--config cannot be read: {str(e).splitlines()[-1].strip()}") from e
    set_up_jax(_CACHE.value, log_compiles=_LOG_COMPILES.value, asynchronous=False)
    from dir_jax.training.recipe import train

    return train(config, workdir)


if __name__ == "__main__":
    restart_with_allocator()
    sys.exit(run_command(main, __doc__))
