"""Describes images: `python -m dir_jax.extract_features --dataset 'ImageList("list.txt", "photos")'
--checkpoint models/ap_gem --output descriptors.npy`.

Writes (N, D) float32 in the order of the list; or, if the file name ends in .h5, a group for each
image name with `global_descriptor`, as hloc reads it. For a data set with queries of its own there
are two files, NAME.dbdescs and NAME.qdescs. FILE.recipe.json says how the images were described. A
run that was stopped or killed resumes where it stopped. A file that is there already is not touched
without --overwrite, or --append for .h5.

With --shards the output is a folder, which `dir_jax.open_descriptors` opens as one array. Each
shard can be described by another machine, or all of them by as many processes as there are.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import os
import sys

from dir_jax.commands.flags import (
    add_dataset_flags,
    add_model_flags,
    create_describer,
    recipe_changes,
)
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.commands.sharded import check_shard_flags, extract_shards
from dir_jax.errors import UserError


def main(prog: str | None = None) -> int:
    """Describes as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.extract_features", __doc__)
    add_dataset_flags(parser)
    parser.add_argument(
        "--output", required=True, metavar="FILE",
        help="the file to write, .npy or .h5; with --shards a folder",
    )  # fmt: skip
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--overwrite", action="store_true", help="replaces the file if it exists")
    kept.add_argument("--append", action="store_true",
        help="adds to the .h5 file if it exists; it may not have any of the images")  # fmt: skip
    for flag, kind in (("--out-json", "store"), ("--detailed", "store_true")):
        parser.add_argument(flag, action=kind, help="accepted, as the original takes it, and "
            "without effect")  # fmt: skip
    group = parser.add_argument_group("shards", "Parts of a long list, for many machines.")
    add = group.add_argument
    add("--shards", type=int, metavar="S", help="into how many parts the list is divided")
    add("--shard", type=int, metavar="I",
        help="the part to describe, from 0 (default: $SLURM_ARRAY_TASK_ID or "
        "$JOB_COMPLETION_INDEX, and where there is neither, all in turn)")  # fmt: skip
    add("--engine", choices=("local", "ray"), default="local",
        help="what describes the shards: this process, or the devices of a Ray cluster "
        "(default: local)")  # fmt: skip
    add("--workers", type=int, metavar="N",
        help="how many workers of the Ray cluster to use (default: one a device)")  # fmt: skip
    add_model_flags(parser)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.data.datasets import create_dataset
    from dir_jax.describe.describer import describe_with_queries, queries_of
    from dir_jax.describe.feature_files import (
        check_output,
        extracted_paths,
        make_folder,
        save_descriptors,
        wrote,
    )
    from dir_jax.describe.hdf5 import check_can_be_added
    from dir_jax.describe.stored_rows import check_same_model
    from dir_jax.model_recipe import model_beside, recipe_beside, write_recipe

    changes = recipe_changes(args)
    if check_shard_flags(args):
        extract_shards(args, changes)
        return
    dataset = create_dataset(args.dataset, db_root=args.db_root, on_duplicate=args.on_duplicate)
    queries = queries_of(dataset)
    lists = [dataset] if queries is None else [dataset, queries]
    paths = extracted_paths(args.output, queries is not None)
    partial = f"{args.output}.partial"
    resumes = os.path.exists(partial)
    for path, images in zip(paths, lists, strict=True):
        check_output(path, images.names, overwrite=args.overwrite, append=args.append,
                     resumes=resumes)  # fmt: skip
    describer = create_describer(args, changes)
    if args.append:
        for path, images in zip(paths, lists, strict=True):
            check_can_be_added(path, images.names, describer.finished_size, again=resumes)
            if recipe_beside(path) not in (None, describer.recipe):
                raise UserError(
                    f"{path} cannot be added to: its images were described by another recipe, "
                    f"{recipe_beside(path)}"
                )
            model = model_beside(path)
            check_same_model(path, model, describer.model_digest(), args.checkpoint)
    make_folder(args.output)
    described = describe_with_queries(describer, dataset, partial)
    for path, descriptors in zip(paths, described.lists, strict=True):
        save_descriptors(path, descriptors, append=args.append)
        write_recipe(path, describer.recipe, describer.model_digest())
        print(wrote(path, descriptors))
    described.delete_partial()


if __name__ == "__main__":
    sys.exit(main())
