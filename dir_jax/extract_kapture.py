"""Adds global features to a kapture dataset: `python -m dir_jax.extract_kapture --kapture-root DIR
--checkpoint models/ap_gem`.

Describes the images of the dataset's cameras that have no features of this type yet. A run that was
stopped or killed resumes where it stopped.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, so that Ctrl-C ends them quietly
    from dir_jax.runtime.start import start_program

    start_program(computes=True)

import argparse
import os
import re
import sys
from collections.abc import Mapping

from dir_jax.commands.flags import add_model_flags, create_describer, recipe_changes
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError


def main(prog: str | None = None) -> int:
    """Describes as the command line says; returns the exit code. For `prog` see `run_parsed`."""
    return run_parsed(_parser(), _main, prog)


def _parser() -> Parser:
    parser = Parser("dir_jax.extract_kapture", __doc__)
    parser.add_argument(
        "--kapture-root", required=True, metavar="DIR", help="the kapture dataset, with sensors/"
    )
    parser.add_argument(
        "--global-features-type", metavar="NAME",
        help="the name of these features in the dataset (default: the checkpoint's base name)",
    )  # fmt: skip
    add_model_flags(parser)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.data.images import ImageDataset
    from dir_jax.data.kapture import image_folder, read_images
    from dir_jax.describe.describer import NoUsableImageError
    from dir_jax.describe.feature_files import save_kapture
    from dir_jax.describe.kapture_features import GlobalFeatures
    from dir_jax.published import published_name
    from dir_jax.published.hub import SCHEME

    changes = recipe_changes(args)
    name = args.global_features_type
    if not name:
        name = os.path.basename(os.path.normpath(args.checkpoint))
        if not (published_name(args.checkpoint) or args.checkpoint.startswith(SCHEME)):
            name = os.path.splitext(name)[0]  # the others have dots, but no suffix
        print(f"global_features_type set to {name}")
    if re.search(r"[/\\]", name) or name in ("", ".", ".."):
        raise UserError(f"--global-features-type {name!r} is not a valid folder name")
    images = read_images(args.kapture_root)
    features = GlobalFeatures(args.kapture_root, name)
    missing = features.missing(images)
    if not missing:
        print("All global features are already extracted")
        return
    describer = create_describer(args, changes)
    features.check(missing, describer.finished_size)
    dataset = ImageDataset(missing, image_folder(args.kapture_root))
    try:
        described = describer.describe(
            [("describe", dataset)], features.partial_folder(), images_may_change=True
        )
    except NoUsableImageError as e:
        if len(missing) == len(images):
            raise
        _print_left_out(e.failures)
        print("All global features are already extracted, but for the images left out")
        return
    save_kapture(features, described.lists[0], describer.finished_size)
    described.delete_partial()
    failed = described.lists[0].failures
    _print_left_out(failed)
    print(f"Features extracted: {len(missing) - len(failed)} images")


def _print_left_out(failures: Mapping[int, str]) -> None:
    for reason in failures.values():
        print(f"left out: {reason}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
