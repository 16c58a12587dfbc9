"""Describes images: `python -m dir_jax.extract_features --dataset 'ImageList("list.txt", "photos")'
--checkpoint models/ap_gem --output descriptors.npy`.

Writes (N, D) float32 in the order of the list; or, if the file name ends in .h5, a group for each
image name with `global_descriptor`, as hloc reads it. For a data set with queries of its own there
are two files, NAME.dbdescs and NAME.qdescs. FILE.recipe.json says how the images were described. A
run that was stopped or killed resumes where it stopped.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import sys

from dir_jax.commands.flags import (
    add_dataset_flags,
    add_model_flags,
    create_describer,
    recipe_changes,
)
from dir_jax.commands.running import Parser, run_parsed


def main(prog: str | None = None) -> int:
    """Describes as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.extract_features", __doc__)
    add_dataset_flags(parser)
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="the file to write, .npy or .h5"
    )
    add_model_flags(parser)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.data.datasets import create_dataset
    from dir_jax.describe.describer import describe_with_queries, queries_of
    from dir_jax.describe.feature_files import extracted_paths, make_folder, save_descriptors
    from dir_jax.model_recipe import write_recipe

    changes = recipe_changes(args)
    dataset = create_dataset(args.dataset, db_root=args.db_root)
    paths = extracted_paths(args.output, queries_of(dataset) is not None)
    describer = create_describer(args, changes)
    make_folder(args.output)
    described = describe_with_queries(describer, dataset, partial=f"{args.output}.partial")
    for path, descriptors in zip(paths, described.lists, strict=True):
        save_descriptors(path, descriptors)
        write_recipe(path, describer.recipe)
        failed = len(descriptors.failures)
        note = f"; {failed} could not be described, see {path}.failed.txt" if failed else ""
        print(f"wrote {path}: {len(descriptors)} images{note}")
    described.delete_partial()


if __name__ == "__main__":
    sys.exit(main())
