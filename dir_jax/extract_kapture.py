"""Adds global features to a kapture dataset: `python -m dir_jax.extract_kapture --kapture-root DIR
--checkpoint models/ap_gem`.

Describes the images of the dataset's cameras that have no features of this type yet. Needs the
kapture package: pip install kapture.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import os
import shutil
import sys

from dir_jax.commands.flags import add_model_flags, create_describer, recipe_of
from dir_jax.commands.running import Parser, run_parsed
from dir_jax.errors import UserError
from dir_jax.runtime.allocator import restart_with_allocator


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
    add_model_flags(parser, whiten=None, whitenp=0.5)
    return parser


def _main(args: argparse.Namespace) -> None:
    from dir_jax.data.images import ImageDataset
    from dir_jax.describe.kapture_features import KaptureFeatures

    recipe = recipe_of(args)
    name = args.global_features_type
    if not name:
        name = os.path.splitext(os.path.basename(os.path.normpath(args.checkpoint)))[0]
        print(f"global_features_type set to {name}")
    if os.path.basename(name) != name or name in (".", ".."):
        raise UserError(f"--global-features-type {name!r} is not a valid folder name")
    with KaptureFeatures(args.kapture_root, name) as dataset:
        images = dataset.missing_images()
        if not images:
            print("All global features are already extracted")
            return
        describer = create_describer(args, recipe)
        dataset.check_width(describer.finished_size)
        # Named after its list, which is another one once some of the images have features.
        digest = hashlib.sha256("\n".join(images).encode()).hexdigest()[:12]
        partial = os.path.join(args.kapture_root, f".dir_jax-{name}-{digest}.partial")
        described = describer.describe(
            [("describe", ImageDataset(images, dataset.image_folder))], partial
        )
        dataset.write(described.lists[0])
        described.delete_partial()
    pattern = os.path.join(glob.escape(args.kapture_root), f".dir_jax-{glob.escape(name)}-*")
    for stale in glob.glob(pattern):
        shutil.rmtree(stale, ignore_errors=True)
    failed = described.lists[0].failures
    for reason in failed.values():
        print(f"left out: {reason}", file=sys.stderr)
    print(f"Features extracted: {len(images) - len(failed)} images")


if __name__ == "__main__":
    restart_with_allocator()
    sys.exit(main())
