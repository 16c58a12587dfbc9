"""Learns a whitening: `python -m dir_jax.whiten --checkpoint runs/mine --name mine --dataset
'ImageList("list.txt")'`.

Describes the images as the model describes any, before whitening, and adds the whitening to the
model beside those it has; `--whiten NAME` of the other commands then applies it. The method `pca`
needs images alone; `pairs` needs matching pairs, which SfM30k_whiten lists, or labels. A model that
is not a folder, such as a .pt file, stays as it is: --output names the folder to write.
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
from dir_jax.errors import UserError, quoted, shown


def main(prog: str | None = None) -> int:
    """Learns as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.whiten", __doc__)
    add_dataset_flags(parser)
    add = parser.add_argument
    add("--name", required=True, help="what the whitening is called in the model")
    add("--method", choices=("pca", "pairs"), default="pca",
        help="what it is learned from: all images, or matching pairs (default: pca)")  # fmt: skip
    add("--dims", type=int, metavar="N", help="dimensions that it keeps (default: all)")
    add("--output", metavar="DIR", help="writes a new model there, instead of adding to this one")
    add("--load-feats", metavar="DIR",
        help="learns from the descriptors of the images in this folder, which extract_features "
        "--shards --whiten '' wrote, instead of describing them")  # fmt: skip
    add("--overwrite", action="store_true", help="replaces a whitening of this name")
    add_model_flags(parser, whitens=False)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.checkpoint import find_checkpoint, save_model
    from dir_jax.data.datasets import create_dataset
    from dir_jax.describe.learned_whitening import learn_from_images
    from dir_jax.description import notes_of
    from dir_jax.loading import load_model
    from dir_jax.published import published_name
    from dir_jax.published.hub import SCHEME
    from dir_jax.retrieval.whitening import WHITENING_NAME

    changes = recipe_changes(args)
    if not WHITENING_NAME.fullmatch(args.name):
        raise UserError(
            f"--name {quoted(args.name)}: expected letters, digits, spaces and _+.,()-, at most 100"
        )
    if args.output and os.path.lexists(args.output):
        raise UserError(f"--output {args.output} exists already; choose another folder")
    target = args.output
    if not target:
        advice = "name a folder for the model with the whitening by --output DIR"
        if os.path.isfile(args.checkpoint):
            raise UserError(f"nothing can be added to the file {args.checkpoint}; {advice}")
        name = not os.path.exists(args.checkpoint) and published_name(args.checkpoint)
        shared = os.path.join(args.checkpoint, "model.safetensors")
        if name or args.checkpoint.startswith(SCHEME) or os.path.isfile(shared):
            what = f"the published model {shown(args.checkpoint)}"
            raise UserError(f"nothing can be added to {what}; {advice}")
        target = find_checkpoint(args.checkpoint)
        if (target / "train").exists():
            raise UserError(f"{target} is a step of a training run and stays as it is; {advice}")
    dataset = create_dataset(
        args.dataset,
        db_root=args.db_root,
        labelled=args.method == "pairs",
        on_duplicate=args.on_duplicate,
    )
    describer = create_describer(args, changes | {"whiten": ""})
    if args.name in load_model(args.checkpoint).whitenings and not args.overwrite:
        raise UserError(
            f"the model has a whitening {args.name!r} already; choose another --name, or replace "
            "it with --overwrite"
        )
    whitening = learn_from_images(
        describer, dataset, method=args.method, dims=args.dims, folder=args.load_feats
    )
    found = load_model(args.checkpoint)  # as it is on disk, whatever --dtype says
    save_model(
        target,
        found.model,
        preprocessing=found.preprocessing,
        whitenings={**found.whitenings, args.name: whitening},
        recipe=found.recipe,
        notes=notes_of(found.description),
        overwrite=not args.output,
    )
    kept, width = whitening.components_.shape
    print(f"wrote {target}: whitening {args.name!r}, {kept} of {width} dimensions")


if __name__ == "__main__":
    sys.exit(main())
