"""Makes an index of images, or changes one: `dir-jax index --dataset photos/
--checkpoint models/ap_gem --output my.index`.

The images are described as `dir-jax extract-features` does it: a run that was stopped or killed
resumes where it stopped. --add describes the images of --dataset that the index does not have yet,
or whose files have changed; --remove takes images out. Whatever ends a change, the index is as it
was before or as it is after.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dir_jax.commands.flags import (
    add_model_flags,
    create_describer,
    open_index,
    recipe_changes,
    set_up_devices,
)
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError, shown

if TYPE_CHECKING:
    from dir_jax.data.images import ImageDataset
    from dir_jax.describe.describer import Describer
    from dir_jax.describe.descriptors import Descriptors

_NAMED = 5  # images without a descriptor that are named
_OPTIONS = ("center_bias", "dtype", "precision")  # of a network; they change its descriptors
_RECIPE = ("trfs", "multiscale", "exif", "pooling", "gemp", "whiten", "whitenp", "whitenv",
           "whitenm", *_OPTIONS)  # fmt: skip


def main(prog: str | None = None) -> int:
    """Makes or changes an index; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.index_images", __doc__)
    add = parser.add_argument
    add(
        "--dataset",
        "-d",
        metavar="DATASET",
        help='the images: a folder, or a list such as \'ImageList("list.txt", "folder")\'',
    )
    add("--db-root", metavar="DIR", help="folder of the named data sets (default: $DB_ROOT)")
    add("--output", required=True, metavar="INDEX", help="the index, a folder")
    add("--engine", metavar="ENGINE",
        help="what finds descriptors: exact (the default); faiss:SPEC with any index-factory "
        "string, such as faiss:IVF1024,SQ8; or milvus:URI, a file of Milvus Lite or the address of "
        "a server. Without --dataset, an index gets this one instead of its own")  # fmt: skip
    add("--thumbnails", action="store_true", help="also keeps small copies of the images")
    add("--load-feats", metavar="PATH",
        help="takes the descriptors of --dataset from the folder of extract_features --shards, or "
        "from its .npy file, instead of describing the images; --checkpoint made them")  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--add", action="store_true", help="adds the images of --dataset to the index")
    how.add_argument("--remove", nargs="*", metavar="NAME",
        help="removes the images of these names from the index, or those of --dataset")  # fmt: skip
    how.add_argument("--overwrite", action="store_true", help="replaces the index if it exists")
    add_model_flags(parser, optional=True)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.data.datasets import create_dataset
    from dir_jax.search.building import add_images, change_index, changing, images_of, remove_images
    from dir_jax.search.engines import check_engine

    if args.engine:
        check_engine(args.engine)
    dataset = create_dataset(args.dataset, db_root=args.db_root) if args.dataset else None
    changes_engine = args.engine and not dataset and not args.overwrite and args.remove is None
    if not (args.add or changes_engine or args.remove is not None):
        _create(args, dataset)
        return
    if args.engine and not changes_engine:
        raise UserError("--engine is of a new index, or changes that of one without --dataset")
    if args.load_feats:
        raise UserError("--load-feats is of a new index; --add describes the images that are new")
    if args.thumbnails:
        raise UserError("--thumbnails is of a new index; an index keeps small copies or does not")
    with changing(args.output) as before:
        if changes_engine:
            set_up_devices(args)
            change_index(before, engine=args.engine)
            print(f"wrote {args.output}: {len(before)} images, {args.engine}")
        elif args.add:
            if dataset is None:
                raise UserError("--add needs --dataset, the images to add")
            if given := [name for name in _RECIPE if getattr(args, name) is not None]:
                flag = given[0].replace("_", "-")
                raise UserError(f"--{flag} is of a new index; this one has its recipe already")
            index = open_index(args, args.output)
            describer = index.describer(skip_failures=args.on_error == "skip")
            print("Descriptors:", describer)
            partial = f"{args.output.rstrip('/')}.partial"
            added, again, failed = add_images(before, dataset, describer, partial)
            note = f"; {failed} could not be described" if failed else ""
            print(f"added {added} images to {args.output}, {again} of them in place of files that "
                  f"have changed{note}")  # fmt: skip
        else:
            names = args.remove or (
                images_of(dataset, before.about["root"]).names if dataset else []
            )
            if not names:
                raise UserError("--remove needs the names of images, or --dataset")
            set_up_devices(args)
            print(f"removed {remove_images(before, names)} images from {args.output}")


def _create(args: argparse.Namespace, dataset: ImageDataset | None) -> None:
    from dir_jax.describe.feature_files import make_folder
    from dir_jax.runtime.folders import check_replaceable
    from dir_jax.search.building import NewImages, create_index, images_of, marks_of
    from dir_jax.search.index import describe_model_of

    for flag, value in (("--dataset", dataset), ("--checkpoint", args.checkpoint)):
        if value is None:
            raise UserError(f"a new index needs {flag} (--help lists the flags)")
    assert dataset is not None
    output = args.output.rstrip("/")
    if os.path.exists(output) and not args.overwrite:
        raise UserError(
            f"{shown(output)} exists already; --overwrite replaces it, --add adds to it"
        )
    check_replaceable(Path(output), "index.json", "an index")
    changes, run = recipe_changes(args), None
    images = images_of(dataset, os.path.abspath(dataset.root))
    marks = marks_of(images)
    if not os.path.exists(output):
        make_folder(output)
    if args.load_feats:
        described, describer = _load(args, changes, dataset, images)
    else:
        describer = create_describer(args, changes)
        run = describer.describe([("index", images)], f"{output}.partial")
        described = run.lists[0]
    options = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    create_index(
        output,
        NewImages.of(described, marks),
        root=images.root,
        model=describe_model_of(describer, args.checkpoint, options),
        recipe=describer.recipe,
        engine=args.engine or "exact",
        thumbnails=args.thumbnails,
        overwrite=args.overwrite,
    )
    if run is not None:
        run.delete_partial()
    failures = described.failures
    for row in sorted(failures)[:_NAMED]:
        print(f"left out: {failures[row]}")
    note = f"; {len(failures)} could not be described" if failures else ""
    print(f"wrote {output}: {len(images) - len(failures)} images{note}")


def _load(
    args: argparse.Namespace, changes: dict[str, Any], dataset: ImageDataset, images: ImageDataset
) -> tuple[Descriptors, Describer]:
    """The descriptors of --load-feats, of `images`, which `dataset` may name twice."""
    import numpy as np

    from dir_jax.commands.stored_features import as_made
    from dir_jax.describe.descriptors import Descriptors
    from dir_jax.describe.stored_rows import StoredRows, check_same_model
    from dir_jax.search.building import names_in

    try:
        stored = StoredRows(args.load_feats)
        if stored.recipe is None or stored.model is None:
            raise UserError(f"it is not known which model made {stored.path}, and how; give what "
                            "extract_features has written, with FILE.recipe.json")  # fmt: skip
        failures = stored.failures(dataset.names, skip_failures=args.on_error == "skip")
    except UserError as e:
        raise UserError(f"--load-feats: {e}") from e
    describer = create_describer(args, as_made(changes, stored.recipe, finished=True))
    check_same_model(stored.path, stored.model, describer.model_digest(), args.checkpoint)
    rows: dict[str, int] = {}
    for row, name in enumerate(names_in(images.root, dataset)):
        rows.setdefault(name, row)
    own = np.array([rows[name] for name in images.names])
    failed = {i: failures[row] for i, row in enumerate(own.tolist()) if row in failures}
    return Descriptors(images, failed, [own], lambda parts: stored[parts[0]]), describer


if __name__ == "__main__":
    sys.exit(main())
