"""Downloads a data set: `python -m dir_jax.data.download --dataset ROxford5K [--db-root DIR]`.

The images and the ground truth go where the other commands look for them. An interrupted download
resumes when it is run again; where everything is there, nothing is requested.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program()

import argparse
import os
import sys

from dir_jax.commands.running import Parser, run_parsed
from dir_jax.data.download import DOWNLOADABLE, download_dataset
from dir_jax.errors import UserError


def main(prog: str | None = None) -> int:
    """Downloads as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    parser = Parser("dir_jax.data.download", __doc__)
    parser.add_argument("--dataset", required=True, choices=DOWNLOADABLE, help="what to download")
    parser.add_argument(
        "--db-root", metavar="DIR", help="the folder of the data sets (default: $DB_ROOT)"
    )
    return run_parsed(parser, _main, prog)


def _main(args: argparse.Namespace) -> None:
    root = args.db_root or os.environ.get("DB_ROOT")
    if not root:
        raise UserError(
            "--db-root is missing: give the folder of the data sets, or set it once with "
            "export DB_ROOT=/path/to/datasets"
        )
    download_dataset(args.dataset, root)
    print(f"{args.dataset} is complete under {root}")


if __name__ == "__main__":
    sys.exit(main())
