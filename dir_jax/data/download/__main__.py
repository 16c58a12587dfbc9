"""Downloads a data set: `python -m dir_jax.data.download ROxford5K [--db-root DIR]`.

Images, lists and ground truth go where the other commands look for them. An interrupted download
resumes when it is run again; where everything is there, nothing is requested. SfM120k,
SfM30k_whiten, GLDv2_train, GLDv2_index, GLDv2_test and R1M come in archives, which are fetched a
few at a time: `--archives 1-9` fetches some of them, whose images the data set then consists of.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program()

import argparse
import os
import sys

from dir_jax.commands.running import Parser, run_parsed
from dir_jax.data.datasets import NAMED
from dir_jax.data.download import DOWNLOADABLE, download_dataset
from dir_jax.errors import UserError, did_you_mean, quoted


def main(prog: str | None = None) -> int:
    """Downloads as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    parser = Parser("dir_jax.data.download", __doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the data set")
    parser.add_argument("--dataset", metavar="NAME", help="the same")
    parser.add_argument(
        "--archives", metavar="N-M", help="the numbers of the archives, such as 0-9 or 3,7,20-24"
    )
    parser.add_argument(
        "--db-root", metavar="DIR", help="the folder of the data sets (default: $DB_ROOT)"
    )
    return run_parsed(parser, _main, prog)


def _main(args: argparse.Namespace) -> None:
    from dir_jax.data.download.collections import (
        COLLECTIONS,
        collection_of,
        download_collection,
    )

    if (args.name is None) == (args.dataset is None):
        raise UserError(
            "required: --dataset, or a name alone: give one data set to download, such as ROxford5K"
        )
    name = args.name or args.dataset
    collection, known = collection_of(name), (*DOWNLOADABLE, *COLLECTIONS)
    if parts := [each for each in known if each.startswith(f"{name}_")]:
        if collection is None:
            raise UserError(f"{name} has several parts: download one of {', '.join(parts)}")
    elif collection is None and name not in DOWNLOADABLE:
        meant = "" if name in NAMED else did_you_mean(name, known)
        raise UserError(
            f"{quoted(name)} cannot be downloaded{meant}; those that can be: "
            f"{', '.join(known)}; the documentation says where others are published"
        )
    root = args.db_root or os.environ.get("DB_ROOT")
    if not root:
        raise UserError(
            "--db-root is missing: give the folder of the data sets, or set it once with "
            "export DB_ROOT=/path/to/datasets"
        )
    if collection is not None:
        print(download_collection(collection, root, archives=args.archives))
    elif args.archives:
        raise UserError(f"--archives: {name} does not come in archives to choose from")
    else:
        download_dataset(name, root)
        print(f"{name} is complete under {root}")


if __name__ == "__main__":
    sys.exit(main())
